//! Leaves a Keycloak alone that does not answer, and finds out when it does again.
//!
//! (The circuit breaker of M. Nygard, *Release It!*, 2007.) Each of the endpoints that a
//! request needs has a circuit. It opens when calls have failed for [`FAILING_MS`] with no
//! good answer in between: where one of several nodes of Keycloak is gone, the others'
//! answers keep it closed. Open, it lets nothing through for a while, then one call; that
//! call's answer closes it, or opens it for twice as long.
//!
//! A status that says "not now" (500 and above, 429) counts once for each key, so that one
//! owner whose token Keycloak cannot make takes nothing from the others. Polls of events,
//! self-checks and renewals neither ask it nor tell it anything.

use crate::cache::sealed::KeyDigest;
use crate::clock::UnixMillis;
use crate::exchange::flight::ExchangeId;
use crate::keycloak::Endpoint;
use crate::sabotage::{Sabotage, is};

/// So long calls fail, at the least, before the circuit opens.
pub const FAILING_MS: u64 = 1000;
/// So many calls fail, at the least.
const FAILURES_MIN: usize = 3;
/// Keys that failed by a status and are told apart.
const KEYS_MAX: usize = 8;
/// The first time that it stays open; each that follows is twice as long.
const OPEN_MS_MIN: u64 = 1000;
/// The longest time that it stays open, but for the spread.
pub const OPEN_MS_MAX: u64 = 4000;
/// After it closed, all whose tokens ended meanwhile come: for so long they take turns.
const RECOVERY_MS: u64 = 10_000;

/// The circuits of one worker.
#[derive(Debug)]
pub struct Breaker {
    circuits: [Circuit; 3],
    /// What the times that circuits stay open are spread by.
    spread: u64,
    recovered_at: Option<UnixMillis>,
}

#[derive(Debug, Default)]
struct Circuit {
    /// When the first call failed of those that no good answer came after.
    failing_since: Option<UnixMillis>,
    failures: usize,
    /// The keys that failed by a status.
    keys: Vec<KeyDigest>,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: UnixMillis,
    until: UnixMillis,
    for_ms: u64,
    /// Whose call finds out, and by when it is answered.
    probe: Option<(ExchangeId, UnixMillis)>,
}

/// What a call showed of Keycloak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Good,
    /// It answers that it cannot.
    Unwell,
    /// It does not answer.
    Gone,
}

impl Health {
    /// By the status of an answer; none is no answer.
    #[must_use]
    pub const fn of(status: Option<u16>) -> Self {
        match status {
            // Proxies, Envoy among them, answer so where nobody else does.
            None | Some(502..=504) => Self::Gone,
            Some(429 | 500..) => Self::Unwell,
            Some(_) => Self::Good,
        }
    }
}

impl Breaker {
    /// All circuits closed. Workers with different seeds ask at different times.
    #[must_use]
    pub fn new(seed: &[u8]) -> Self {
        let spread = seed.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            circuits: Default::default(),
            spread,
            recovered_at: None,
        }
    }

    /// Whether a call may go out; of those that find out whether Keycloak is back, one.
    /// That one is answered before `lease_until`.
    pub fn admits(
        &mut self,
        endpoint: Endpoint,
        id: ExchangeId,
        lease_until: UnixMillis,
        now: UnixMillis,
    ) -> bool {
        let Some(open) = self
            .circuit(endpoint)
            .and_then(|circuit| circuit.open.as_mut())
        else {
            return true;
        };
        let admitted = open.admits(Some(id), now);
        if admitted {
            open.probe = Some((id, lease_until));
        }
        admitted
    }

    /// Whether a request may begin that needs all endpoints. Nothing is kept of the
    /// question.
    #[must_use]
    pub fn would_admit(&self, now: UnixMillis) -> bool {
        let mut open = self.circuits.iter().filter_map(|circuit| circuit.open);
        open.all(|open| open.admits(None, now))
    }

    /// Whether any circuit is open: Keycloak is left alone, or one call finds out.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.circuits.iter().any(|circuit| circuit.open.is_some())
    }

    /// Takes what a call showed. `digest` is the key that it was for.
    pub fn heard(
        &mut self,
        endpoint: Endpoint,
        health: Health,
        id: ExchangeId,
        digest: &KeyDigest,
        now: UnixMillis,
    ) {
        self.spread = self
            .spread
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        let spread = self.spread >> 33;
        let Some(circuit) = self.circuit(endpoint) else {
            return;
        };
        if health == Health::Good {
            let was_open = circuit.open.is_some();
            *circuit = Circuit::default();
            if was_open {
                self.recovered_at = Some(now);
            }
            return;
        }
        match circuit.open {
            // Sent before it opened: says nothing new.
            Some(open) if !open.is_probed_by(id) => {}
            Some(open) => circuit.open = Some(Open::new(2 * open.for_ms, spread, now)),
            None => {
                if health == Health::Unwell {
                    if circuit.keys.contains(digest) {
                        return;
                    }
                    circuit.keys.push(*digest);
                }
                circuit.failures += 1;
                let since = *circuit.failing_since.get_or_insert(now);
                // A clock that was set back lets it begin anew.
                if now < since {
                    circuit.failing_since = Some(now);
                } else if circuit.failures >= FAILURES_MIN && now >= since.plus_ms(FAILING_MS) {
                    circuit.keys.clear();
                    circuit.open = Some(Open::new(OPEN_MS_MIN, spread, now));
                }
                circuit.keys.truncate(KEYS_MAX);
            }
        }
    }

    /// Whoever found out went away.
    pub fn give_up(&mut self, id: ExchangeId) {
        for circuit in &mut self.circuits {
            if let Some(open) = &mut circuit.open
                && open.is_probed_by(id)
            {
                open.probe = None;
            }
        }
    }

    /// Whether Keycloak has only just come back.
    #[must_use]
    pub fn is_recovering(&self, now: UnixMillis) -> bool {
        self.recovered_at
            .is_some_and(|at| (at..at.plus_ms(RECOVERY_MS)).contains(&now))
    }

    /// Too many came at once: it takes longer.
    pub const fn go_on_recovering(&mut self, now: UnixMillis) {
        self.recovered_at = Some(now);
    }

    fn circuit(&mut self, endpoint: Endpoint) -> Option<&mut Circuit> {
        let [service_token, lookup, grant] = &mut self.circuits;
        match endpoint {
            Endpoint::ServiceToken => Some(service_token),
            Endpoint::Lookup => Some(lookup),
            Endpoint::Grant => Some(grant),
            _ => None,
        }
    }
}

impl Open {
    /// Open from now on for this long, or the longest, and up to a quarter more.
    fn new(for_ms: u64, spread: u64, now: UnixMillis) -> Self {
        let for_ms = for_ms.min(OPEN_MS_MAX);
        Self {
            since: now,
            until: now.plus_ms(for_ms + spread % (for_ms / 4)),
            for_ms,
            probe: None,
        }
    }

    fn is_probed_by(&self, id: ExchangeId) -> bool {
        self.probe.is_some_and(|(probe, _)| probe == id)
    }

    fn admits(&self, id: Option<ExchangeId>, now: UnixMillis) -> bool {
        // Set back, a clock must not keep it open.
        let over = (now >= self.until || now < self.since) && !is(Sabotage::BreakerStaysOpen);
        let free = self
            .probe
            .is_none_or(|(probe, until)| Some(probe) == id || now >= until || now < self.since);
        over && free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOKUP: Endpoint = Endpoint::Lookup;

    fn at(ms: u64) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + ms)
    }

    fn fails(breaker: &mut Breaker, id: ExchangeId, ms: u64) {
        breaker.heard(LOOKUP, Health::Gone, id, &[1; 32], at(ms));
    }

    fn admits(breaker: &mut Breaker, id: ExchangeId, ms: u64) -> bool {
        let would = breaker.would_admit(at(ms));
        let admits = breaker.admits(LOOKUP, id, at(ms + 2000), at(ms));
        assert!(would == admits || breaker.circuits[1].open.unwrap().probe.is_some());
        admits
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(b"1");
        for ms in [0, 500, 1000] {
            assert!(admits(&mut breaker, 1, ms));
            fails(&mut breaker, 1, ms);
        }
        assert!(breaker.is_open());
        breaker
    }

    #[test]
    fn it_opens_when_calls_fail_for_a_second_and_no_answer_comes_in_between() {
        let mut breaker = opened();
        assert!(!admits(&mut breaker, 2, 1999));
        assert!(breaker.admits(Endpoint::Grant, 2, at(4000), at(1999)));
        // All that were under way when one node died fail together.
        let mut breaker = Breaker::new(b"1");
        for id in 0..100 {
            fails(&mut breaker, id, 999);
        }
        breaker.heard(LOOKUP, Health::Good, 7, &[1; 32], at(1000));
        for id in 0..100 {
            fails(&mut breaker, id, 1999);
        }
        fails(&mut breaker, 1, 2998);
        assert!(!breaker.is_open());
        fails(&mut breaker, 1, 2999);
        assert!(breaker.is_open());
    }

    #[test]
    fn one_call_finds_out_and_its_answer_counts() {
        let mut breaker = opened();
        assert!(admits(&mut breaker, 2, 2250));
        assert!(admits(&mut breaker, 2, 2251), "it is its own");
        assert!(!admits(&mut breaker, 3, 2252));
        // One that was sent before says nothing.
        fails(&mut breaker, 9, 2253);
        assert!(admits(&mut breaker, 2, 2254));
        fails(&mut breaker, 2, 2300);
        assert!(!admits(&mut breaker, 3, 4299));
        assert!(admits(&mut breaker, 3, 4800));
        breaker.heard(LOOKUP, Health::Good, 3, &[1; 32], at(4900));
        assert!(!breaker.is_open() && admits(&mut breaker, 4, 4900));
        assert!(breaker.is_recovering(at(14_899)) && !breaker.is_recovering(at(14_900)));
    }

    #[test]
    fn it_never_stays_open_for_longer_than_five_seconds() {
        let mut breaker = opened();
        let mut now = 1000;
        for id in 10..30 {
            let opened_at = now;
            while !admits(&mut breaker, id, now) {
                now += 10;
            }
            assert!(now - opened_at <= 5000 + 10, "{}", now - opened_at);
            fails(&mut breaker, id, now);
        }
    }

    #[test]
    fn who_finds_out_and_goes_away_or_never_answers_leaves_it_to_another() {
        let mut breaker = opened();
        assert!(admits(&mut breaker, 2, 2250));
        breaker.give_up(3);
        assert!(!admits(&mut breaker, 3, 2250));
        breaker.give_up(2);
        assert!(admits(&mut breaker, 3, 2250));
        assert!(!admits(&mut breaker, 4, 4249));
        assert!(admits(&mut breaker, 4, 4250));
    }

    #[test]
    fn one_key_that_fails_by_a_status_does_not_open_it() {
        let mut breaker = Breaker::new(b"1");
        for ms in 0..100 {
            breaker.heard(LOOKUP, Health::Unwell, 1, &[1; 32], at(100 * ms));
        }
        breaker.heard(LOOKUP, Health::Unwell, 1, &[2; 32], at(20_000));
        assert!(!breaker.is_open());
        breaker.heard(LOOKUP, Health::Unwell, 1, &[3; 32], at(20_001));
        assert!(breaker.is_open());
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_it_neither_open_nor_from_opening() {
        let mut breaker = opened();
        assert!(admits(&mut breaker, 2, 999));
        let mut breaker = Breaker::new(b"1");
        for ms in [100_000, 5_000, 5_500, 6_000] {
            fails(&mut breaker, 1, ms);
        }
        assert!(breaker.is_open());
    }

    #[test]
    fn workers_ask_at_different_times() {
        let until = |seed: &[u8]| {
            let mut breaker = Breaker::new(seed);
            for ms in [0, 500, 1000] {
                fails(&mut breaker, 1, ms);
            }
            breaker.circuits[1].open.unwrap().until
        };
        assert!((1..9_u8).any(|seed| until(&[seed]) != until(b"0")));
    }

    #[test]
    fn an_answer_shows_how_keycloak_is() {
        for (status, health) in [
            (None, Health::Gone),
            (Some(502), Health::Gone),
            (Some(504), Health::Gone),
            (Some(500), Health::Unwell),
            (Some(429), Health::Unwell),
            (Some(200), Health::Good),
            (Some(401), Health::Good),
        ] {
            assert_eq!(Health::of(status), health, "{status:?}");
        }
    }
}
