//! One bcrypt at a time per worker, and a bounded, fair queue behind it. A shell with threads of its
//! own for bcrypt runs one on each of them.
//!
//! No request can wake another (Kong's `set_effective_context` does nothing), so each waiting
//! request comes back from time to time and checks. A ticket that is shown no more, because its
//! request is gone, is passed over.

use std::collections::VecDeque;

use crate::clock::UnixMillis;

/// Requests that may wait behind the one that computes.
pub const QUEUE_MAX: usize = 64;
/// bcrypt rounds that may wait in all: some 7 s of an idle worker.
pub const ROUNDS_MAX: u64 = 64 * 1024;
/// Places that requests with one key id may hold. An id is public: without this, wrong secrets
/// for a single id could fill the queue. Requests over the limit wait without a place, so that
/// the right key among them is not locked out.
const PLACES_PER_ID: usize = 2;
/// After this long without a sign of life a ticket is void.
const LEASE_MS: u64 = 5000;
/// A step of the clock backwards that is still taken for a correction.
const CORRECTION_MS: u64 = 1000;

/// A place in the queue, or at the gate itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// The answer to a ticket right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Compute.
    Go,
    /// Wait: other tickets are before it.
    Wait {
        /// Tickets before it, with the one that computes.
        position: usize,
        /// bcrypt rounds of these tickets together.
        rounds_before: u64,
    },
    /// The queue is full.
    Full,
}

#[derive(Debug)]
struct Place {
    ticket: Ticket,
    key_id: String,
    rounds: u32,
    seen_at: UnixMillis,
}

/// The gate of one worker; all configurations in the worker share it.
#[derive(Debug, Default)]
pub struct Gate {
    places: VecDeque<Place>,
    tickets: u64,
    /// The number of threads for bcrypt; 0 if the worker computes bcrypt itself, in slices.
    threads: usize,
}

impl Gate {
    /// A free gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A free gate for this many threads. Each thread runs one bcrypt to its end.
    #[must_use]
    pub fn apart(threads: usize) -> Self {
        Self {
            threads,
            ..Self::default()
        }
    }

    /// Whether other threads compute bcrypt, so that the worker runs no slices.
    #[must_use]
    pub const fn is_apart(&self) -> bool {
        self.threads > 0
    }

    /// Draws a ticket, which has no place yet.
    pub fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Shows a ticket: takes a place at the first time, and gives its turn.
    pub fn show(&mut self, ticket: Ticket, key_id: &str, rounds: u32, now: UnixMillis) -> Turn {
        self.places.retain(|place| {
            place.ticket == ticket
                || (now.since_ms(place.seen_at) <= LEASE_MS
                    && place.seen_at <= now.plus_ms(CORRECTION_MS))
        });
        let at = self.places.iter().position(|place| place.ticket == ticket);
        let position = at.unwrap_or(self.places.len());
        let rounds_before: u64 = self
            .places
            .iter()
            .take(position)
            .map(|place| u64::from(place.rounds))
            .sum();
        if at.is_none() {
            if self.places.len() > QUEUE_MAX || rounds_before > ROUNDS_MAX {
                return Turn::Full;
            }
            let same_id = self.places.iter().filter(|place| place.key_id == key_id);
            if same_id.count() >= PLACES_PER_ID {
                return Turn::Wait {
                    position,
                    rounds_before,
                };
            }
            self.places.push_back(Place {
                ticket,
                key_id: key_id.to_owned(),
                rounds,
                seen_at: now,
            });
        }
        if let Some(place) = self.places.get_mut(position) {
            place.seen_at = now;
        }
        if position < self.threads.max(1) {
            Turn::Go
        } else {
            Turn::Wait {
                position,
                rounds_before,
            }
        }
    }

    /// The number of places taken, with the one that computes; at most one more than
    /// [`QUEUE_MAX`].
    #[must_use]
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// Gives a ticket back.
    pub fn leave(&mut self, ticket: Ticket) {
        self.places.retain(|place| place.ticket != ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    #[test]
    fn first_come_first_served_and_one_at_a_time() {
        let mut gate = Gate::new();
        let [a, b, c] = [gate.ticket(), gate.ticket(), gate.ticket()];
        assert_eq!(gate.show(a, &format!("{:?}", a), 1024, NOW), Turn::Go);
        assert_eq!(
            gate.show(b, &format!("{:?}", b), 4096, NOW),
            Turn::Wait {
                position: 1,
                rounds_before: 1024
            }
        );
        assert_eq!(
            gate.show(c, &format!("{:?}", c), 16, NOW),
            Turn::Wait {
                position: 2,
                rounds_before: 5120
            }
        );
        assert_eq!(gate.show(a, &format!("{:?}", a), 1024, NOW), Turn::Go);
        gate.leave(a);
        assert_eq!(
            gate.show(c, &format!("{:?}", c), 16, NOW),
            Turn::Wait {
                position: 1,
                rounds_before: 4096
            }
        );
        assert_eq!(gate.show(b, &format!("{:?}", b), 4096, NOW), Turn::Go);
        gate.leave(b);
        assert_eq!(gate.show(c, &format!("{:?}", c), 16, NOW), Turn::Go);
    }

    #[test]
    fn threads_apart_from_the_worker_have_a_turn_each() {
        let mut gate = Gate::apart(2);
        let [a, b, c] = [gate.ticket(), gate.ticket(), gate.ticket()];
        assert_eq!(gate.show(a, "a", 1024, NOW), Turn::Go);
        assert_eq!(gate.show(b, "b", 1024, NOW), Turn::Go);
        assert_ne!(gate.show(c, "c", 1024, NOW), Turn::Go);
        gate.leave(a);
        assert_eq!(gate.show(c, "c", 1024, NOW), Turn::Go);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut gate = Gate::new();
        for _ in 0..=QUEUE_MAX {
            let ticket = gate.ticket();
            assert_ne!(
                gate.show(ticket, &format!("{:?}", ticket), 16, NOW),
                Turn::Full
            );
        }
        let late = gate.ticket();
        assert_eq!(gate.show(late, &format!("{:?}", late), 16, NOW), Turn::Full);
        assert_eq!(gate.places.len(), QUEUE_MAX + 1);
    }

    #[test]
    fn a_ticket_that_nobody_shows_any_more_holds_nobody_up() {
        let mut gate = Gate::new();
        let [gone, waiting] = [gate.ticket(), gate.ticket()];
        assert_eq!(gate.show(gone, &format!("{:?}", gone), 16, NOW), Turn::Go);
        assert_ne!(
            gate.show(
                waiting,
                &format!("{:?}", waiting),
                16,
                NOW.plus_ms(LEASE_MS)
            ),
            Turn::Go
        );
        assert_eq!(
            gate.show(
                waiting,
                &format!("{:?}", waiting),
                16,
                NOW.plus_ms(LEASE_MS + 1)
            ),
            Turn::Go
        );
        // Its own clock step backwards must not make a dead ticket live for ever.
        let next = gate.ticket();
        assert_eq!(
            gate.show(next, &format!("{:?}", next), 16, NOW.minus_ms(60_000)),
            Turn::Go
        );
    }

    #[test]
    fn one_key_id_cannot_fill_the_queue_and_nobody_of_it_is_refused() {
        let mut gate = Gate::new();
        let tickets: Vec<Ticket> = (0..100).map(|_| gate.ticket()).collect();
        for ticket in &tickets {
            assert_ne!(gate.show(*ticket, "alice", 1024, NOW), Turn::Full);
        }
        assert_eq!(gate.places.len(), 2);
        let bob = gate.ticket();
        let turn = gate.show(bob, "bob", 1024, NOW);
        assert_eq!(
            turn,
            Turn::Wait {
                position: 2,
                rounds_before: 2048
            }
        );
        gate.leave(tickets[0]);
        assert_eq!(
            gate.show(tickets[50], "alice", 1024, NOW),
            Turn::Wait {
                position: 2,
                rounds_before: 2048
            }
        );
        assert_eq!(gate.places.len(), 3);
    }

    #[test]
    fn the_rounds_that_wait_are_bounded_as_well() {
        let mut gate = Gate::new();
        let turns: Vec<Turn> = (0..8)
            .map(|at| {
                let ticket = gate.ticket();
                gate.show(ticket, &at.to_string(), 1 << 14, NOW)
            })
            .collect();
        assert_eq!(turns.iter().filter(|turn| **turn == Turn::Full).count(), 3);
    }
}
