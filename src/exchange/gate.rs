//! One bcrypt at a time per worker, and a bounded, fair queue behind it.
//!
//! No request can wake another (Kong's `set_effective_context` does nothing), so
//! whoever waits comes back from time to time and looks. A ticket that nobody
//! shows any more, because its request is gone, is passed over.

use std::collections::VecDeque;

use crate::clock::UnixMillis;

/// Requests that may wait behind the one that computes.
pub const QUEUE_MAX: usize = 64;
/// After this long without a sign of life a ticket is void.
const LEASE_MS: u64 = 5000;
/// A step of the clock backwards that is still taken for a correction.
const CORRECTION_MS: u64 = 1000;

/// A place in the queue, or at the gate itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// What a ticket is good for right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Compute.
    Go,
    /// Wait: so many are before it.
    Wait {
        /// Tickets before it, the one that computes included.
        position: usize,
        /// bcrypt rounds that these take in all.
        rounds_before: u64,
    },
    /// The queue is full.
    Full,
}

#[derive(Debug)]
struct Place {
    ticket: Ticket,
    rounds: u32,
    seen_at: UnixMillis,
}

/// The gate of one worker; all configurations in the worker share it.
#[derive(Debug, Default)]
pub struct Gate {
    places: VecDeque<Place>,
    tickets: u64,
}

impl Gate {
    /// A gate with nobody at it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Draws a ticket, which has no place yet.
    pub fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Shows a ticket: takes a place at the first time, and says whose turn it is.
    pub fn show(&mut self, ticket: Ticket, rounds: u32, now: UnixMillis) -> Turn {
        self.places.retain(|place| {
            place.ticket == ticket
                || (now.since_ms(place.seen_at) <= LEASE_MS
                    && place.seen_at <= now.plus_ms(CORRECTION_MS))
        });
        let at = self.places.iter().position(|place| place.ticket == ticket);
        let position = at.unwrap_or(self.places.len());
        if at.is_none() {
            if self.places.len() > QUEUE_MAX {
                return Turn::Full;
            }
            self.places.push_back(Place {
                ticket,
                rounds,
                seen_at: now,
            });
        }
        let rounds_before = self
            .places
            .iter()
            .take(position)
            .map(|place| u64::from(place.rounds))
            .sum();
        if let Some(place) = self.places.get_mut(position) {
            place.seen_at = now;
        }
        if position == 0 {
            Turn::Go
        } else {
            Turn::Wait {
                position,
                rounds_before,
            }
        }
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
        assert_eq!(gate.show(a, 1024, NOW), Turn::Go);
        assert_eq!(
            gate.show(b, 4096, NOW),
            Turn::Wait {
                position: 1,
                rounds_before: 1024
            }
        );
        assert_eq!(
            gate.show(c, 16, NOW),
            Turn::Wait {
                position: 2,
                rounds_before: 5120
            }
        );
        assert_eq!(gate.show(a, 1024, NOW), Turn::Go);
        gate.leave(a);
        assert_eq!(
            gate.show(c, 16, NOW),
            Turn::Wait {
                position: 1,
                rounds_before: 4096
            }
        );
        assert_eq!(gate.show(b, 4096, NOW), Turn::Go);
        gate.leave(b);
        assert_eq!(gate.show(c, 16, NOW), Turn::Go);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut gate = Gate::new();
        for _ in 0..=QUEUE_MAX {
            let ticket = gate.ticket();
            assert_ne!(gate.show(ticket, 16, NOW), Turn::Full);
        }
        let late = gate.ticket();
        assert_eq!(gate.show(late, 16, NOW), Turn::Full);
        assert_eq!(gate.places.len(), QUEUE_MAX + 1);
    }

    #[test]
    fn a_ticket_that_nobody_shows_any_more_holds_nobody_up() {
        let mut gate = Gate::new();
        let [gone, waiting] = [gate.ticket(), gate.ticket()];
        assert_eq!(gate.show(gone, 16, NOW), Turn::Go);
        assert_ne!(gate.show(waiting, 16, NOW.plus_ms(LEASE_MS)), Turn::Go);
        assert_eq!(gate.show(waiting, 16, NOW.plus_ms(LEASE_MS + 1)), Turn::Go);
        // Its own clock step backwards must not make a dead ticket live for ever.
        let next = gate.ticket();
        assert_eq!(gate.show(next, 16, NOW.minus_ms(60_000)), Turn::Go);
    }
}
