//! Limits a worker's look-ups and grants in flight to as many as Keycloak answers without delay.
//!
//! The limit follows latency by slow start, then additive increase and multiplicative decrease, as in
//! TCP (RFC 5681; TCP's signal is loss). A round is as many answers as the limit. An answer is slow if
//! it takes longer than twice the endpoint's unhurried time plus [`SLACK_MS`], or says that Keycloak is
//! unwell or gone. If more than a quarter of a round's answers are slow, the limit falls to three
//! quarters. Otherwise the limit grows if a request found no room in the round: it doubles until the
//! first slow round, then grows by one. At [`LIMIT_MIN`] it doubles again.
//!
//! The unhurried time is the shortest seen. If Keycloak becomes slower, the time rises: with
//! [`LIMIT_MIN`] calls in flight or fewer, a longer answer raises it by an eighth of the difference.
//!
//! New keys use three quarters of the limit, so a known key finds room beside a crowd of them. A grant
//! never waits, because its look-up would be wasted. Known keys right after an outage do not wait here
//! either: they have their own rate. Polls, self-checks, the service token and renewals are one call at
//! a time. They neither wait nor count.

use crate::calls::breaker::Health;
use crate::clock::UnixMillis;
use crate::keycloak::Endpoint;

/// The limit before the first call.
pub const LIMIT_FIRST: usize = 16;
/// The lowest limit.
pub const LIMIT_MIN: usize = 4;
/// The highest limit.
pub const LIMIT_MAX: usize = 256;
/// Extra time before an answer counts as slow: workers do other work, and Keycloak collects garbage.
const SLACK_MS: u64 = 20;
/// The assumed time of a call before the first answer.
const GUESS_MS: u64 = 20;

/// The calls in flight of one worker, and their limit.
#[derive(Debug)]
pub struct InFlight {
    limit: usize,
    calls: usize,
    doubles: bool,
    /// A request found no room in this round.
    was_full: bool,
    answers: usize,
    slow: usize,
    /// The unhurried times of look-ups and of grants.
    unhurried_ms: [Option<u64>; 2],
    /// The time of the latest good answer.
    latest_ms: u64,
}

impl Default for InFlight {
    fn default() -> Self {
        Self {
            limit: LIMIT_FIRST,
            calls: 0,
            doubles: true,
            was_full: false,
            answers: 0,
            slow: 0,
            unhurried_ms: [None; 2],
            latest_ms: GUESS_MS,
        }
    }
}

impl InFlight {
    /// Whether a look-up may go out now.
    pub const fn has_room(&mut self, known: bool) -> bool {
        let most = if known {
            self.limit
        } else {
            self.limit * 3 / 4
        };
        let has_room = self.calls < most;
        self.was_full |= !has_room;
        has_room
    }

    /// The milliseconds until a look-up finds room, with `before` look-ups ahead of it. Each look-up leads to
    /// two calls.
    #[must_use]
    pub const fn wait_ms(&self, before: usize) -> u64 {
        (before as u64 + 1) * 2 * self.latest_ms / self.limit as u64
    }

    /// Counts a call that goes out.
    pub const fn sent(&mut self) {
        self.calls += 1;
    }

    /// Frees the place of a call in flight after its exchange has ended.
    pub const fn give_up(&mut self) {
        self.calls = self.calls.saturating_sub(1);
    }

    /// Handles the answer or the failure of a call.
    pub fn answered(
        &mut self,
        endpoint: Endpoint,
        health: Health,
        sent_at: UnixMillis,
        now: UnixMillis,
    ) {
        let in_flight = self.calls;
        self.give_up();
        // The clock was set back, so the time of the call is unknown.
        if now < sent_at {
            return;
        }
        let took_ms = now.since_ms(sent_at);
        self.answers += 1;
        self.slow += usize::from(health != Health::Good || self.is_slow(endpoint, took_ms));
        if health == Health::Good {
            self.latest_ms = took_ms;
            self.learn(endpoint, took_ms, in_flight <= LIMIT_MIN);
        }
        if self.answers >= self.limit {
            self.end_round();
        }
    }

    /// The current limit.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// The calls in flight.
    #[must_use]
    pub const fn calls(&self) -> usize {
        self.calls
    }

    fn unhurried(&mut self, endpoint: Endpoint) -> &mut Option<u64> {
        let [look_up, grant] = &mut self.unhurried_ms;
        if endpoint == Endpoint::Grant {
            grant
        } else {
            look_up
        }
    }

    fn is_slow(&mut self, endpoint: Endpoint, took_ms: u64) -> bool {
        self.unhurried(endpoint)
            .is_some_and(|unhurried| took_ms > 2 * unhurried + SLACK_MS)
    }

    fn learn(&mut self, endpoint: Endpoint, took_ms: u64, alone: bool) {
        let unhurried = self.unhurried(endpoint);
        let known = unhurried.unwrap_or(took_ms);
        let more = if alone {
            took_ms.saturating_sub(known).div_ceil(8)
        } else {
            0
        };
        *unhurried = Some(took_ms.min(known + more));
    }

    fn end_round(&mut self) {
        if 4 * self.slow > self.answers {
            self.limit = (self.limit * 3 / 4).max(LIMIT_MIN);
            self.doubles = self.limit == LIMIT_MIN;
        } else if self.was_full {
            let more = if self.doubles { self.limit } else { 1 };
            self.limit = (self.limit + more).min(LIMIT_MAX);
        }
        (self.answers, self.slow, self.was_full) = (0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const START: UnixMillis = UnixMillis(1_700_000_000_000);

    /// A Keycloak that works on `at_once` calls and queues the others.
    struct Keycloak {
        at_once: usize,
        call_ms: u64,
        /// The ends of all calls, running and queued.
        ends: VecDeque<UnixMillis>,
    }

    impl Keycloak {
        fn new(at_once: usize, call_ms: u64) -> Self {
            let ends = VecDeque::new();
            Self {
                at_once,
                call_ms,
                ends,
            }
        }

        fn call(&mut self, now: UnixMillis) -> UnixMillis {
            let busy = self.ends.iter().rev().nth(self.at_once - 1);
            let begins = busy.copied().unwrap_or_default().max(now);
            let end = begins.plus_ms(self.call_ms);
            self.ends.push_back(end);
            end
        }

        /// Sends look-ups for `for_ms` while there is room, and returns the number of answers.
        fn crowd(&mut self, in_flight: &mut InFlight, now: &mut UnixMillis, for_ms: u64) -> u64 {
            let mut sent: VecDeque<(UnixMillis, UnixMillis)> = VecDeque::new();
            let (until, mut answers) = (now.plus_ms(for_ms), 0);
            while *now < until {
                while in_flight.has_room(true) {
                    in_flight.sent();
                    sent.push_back((*now, self.call(*now)));
                }
                *now = now.plus_ms(1);
                while let Some(&(sent_at, end)) = sent.front()
                    && end <= *now
                {
                    sent.pop_front();
                    self.ends.pop_front();
                    in_flight.answered(Endpoint::Lookup, Health::Good, sent_at, *now);
                    answers += 1;
                }
            }
            for _ in sent {
                in_flight.give_up();
            }
            self.ends.clear();
            answers
        }
    }

    fn answer(in_flight: &mut InFlight, took_ms: u64, health: Health) {
        in_flight.sent();
        in_flight.answered(Endpoint::Lookup, health, START, START.plus_ms(took_ms));
    }

    #[test]
    fn it_doubles_while_keycloak_keeps_its_time_and_ends_at_the_highest() {
        let (mut in_flight, mut now) = (InFlight::default(), START);
        Keycloak::new(10_000, 10).crowd(&mut in_flight, &mut now, 100);
        assert_eq!(in_flight.limit(), LIMIT_MAX);
    }

    #[test]
    fn a_keycloak_with_a_bound_is_kept_busy_and_its_queue_short() {
        for (at_once, call_ms) in [(2, 5), (4, 10), (20, 10), (8, 100)] {
            let (mut in_flight, mut now) = (InFlight::default(), START);
            let mut keycloak = Keycloak::new(at_once, call_ms);
            keycloak.crowd(&mut in_flight, &mut now, 5000);
            let answers = keycloak.crowd(&mut in_flight, &mut now, 5000);
            let most = 5000 / call_ms * at_once as u64;
            assert!(answers >= most * 9 / 10, "{answers} of {most}");
            // The calls that fit into the longest time that is not slow.
            let in_time = at_once * (2 * call_ms + SLACK_MS) as usize / call_ms as usize;
            let limit = in_flight.limit();
            assert!(
                (at_once..=in_time + 2).contains(&limit),
                "{limit} {in_time}"
            );
        }
    }

    #[test]
    fn it_grows_only_where_somebody_found_no_room() {
        let mut in_flight = InFlight::default();
        for _ in 0..1000 {
            assert!(in_flight.has_room(true));
            answer(&mut in_flight, 10, Health::Good);
        }
        assert_eq!(in_flight.limit(), LIMIT_FIRST);
    }

    #[test]
    fn new_keys_leave_a_quarter_to_known_keys() {
        let mut in_flight = InFlight::default();
        let room = |in_flight: &mut InFlight, known| {
            let mut sent = 0;
            while in_flight.has_room(known) {
                in_flight.sent();
                sent += 1;
            }
            sent
        };
        assert_eq!(room(&mut in_flight, false), 12);
        assert_eq!(room(&mut in_flight, true), 4);
        // A grant goes out without room, and each call frees its place.
        in_flight.sent();
        for _ in 0..20 {
            in_flight.give_up();
        }
        assert_eq!(in_flight.calls(), 0);
    }

    #[test]
    fn a_keycloak_that_fails_takes_it_down_and_good_answers_bring_it_back() {
        let mut in_flight = InFlight::default();
        answer(&mut in_flight, 10, Health::Good);
        for health in [Health::Gone, Health::Unwell] {
            for _ in 0..2000 {
                answer(&mut in_flight, 10, health);
            }
            assert_eq!(in_flight.limit(), LIMIT_MIN);
            let mut now = START;
            Keycloak::new(10_000, 10).crowd(&mut in_flight, &mut now, 150);
            assert_eq!(in_flight.limit(), LIMIT_MAX);
        }
    }

    #[test]
    fn one_slow_answer_among_many_changes_nothing() {
        let mut in_flight = InFlight::default();
        for round in 0..100 {
            in_flight.was_full = true;
            for at in 0..in_flight.limit() {
                let took_ms = if at % 8 == 0 { 900 } else { 10 };
                answer(&mut in_flight, took_ms, Health::Good);
            }
            assert!(in_flight.limit() >= LIMIT_FIRST, "{round}");
        }
        assert_eq!(in_flight.limit(), LIMIT_MAX);
    }

    #[test]
    fn a_keycloak_that_has_become_slower_is_followed() {
        let (mut in_flight, mut now) = (InFlight::default(), START);
        Keycloak::new(100, 5).crowd(&mut in_flight, &mut now, 1000);
        let mut slower = Keycloak::new(100, 80);
        slower.crowd(&mut in_flight, &mut now, 20_000);
        let answers = slower.crowd(&mut in_flight, &mut now, 5000);
        assert!(answers >= 5600, "{answers} of 6250");
    }

    #[test]
    fn a_clock_that_steps_leaves_it_working() {
        let (mut in_flight, mut now) = (InFlight::default(), START);
        let mut keycloak = Keycloak::new(10, 30);
        for step_ms in [-3_600_000, 3_600_000, -10, 10] {
            keycloak.crowd(&mut in_flight, &mut now, 1000);
            in_flight.sent();
            let stepped = UnixMillis(now.0.saturating_add_signed(step_ms));
            in_flight.answered(Endpoint::Lookup, Health::Good, now, stepped);
            now = stepped;
            keycloak.crowd(&mut in_flight, &mut now, 5000);
            let answers = keycloak.crowd(&mut in_flight, &mut now, 3000);
            assert!(answers >= 900, "{answers} of 1000 after {step_ms}");
            assert_eq!(in_flight.calls(), 0);
        }
    }

    #[test]
    fn the_wait_for_room_follows_the_place() {
        let mut in_flight = InFlight::default();
        assert_eq!(in_flight.wait_ms(7), 20);
        answer(&mut in_flight, 4, Health::Good);
        assert_eq!((in_flight.wait_ms(1), in_flight.wait_ms(15)), (1, 8));
    }
}
