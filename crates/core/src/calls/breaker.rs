//! Leaves an unresponsive Keycloak alone, and detects when it answers again.
//!
//! (The circuit breaker of M. Nygard, *Release It!*, 2007.) Each endpoint that a request needs
//! has a circuit. It opens when calls have failed for [`FAILING_MS`] with no good answer in
//! between: if one of several nodes of Keycloak is gone, the answers of the others keep it
//! closed. An open circuit lets nothing through for a while, then one call, the probe. The answer
//! to the probe closes the circuit, or opens it for twice as long.
//!
//! A failure may be one owner's: a token that Keycloak cannot make, a record that the host does
//! not buffer. A status that says "not now" (500 and above, 429) counts once for each key. If
//! calls of fewer than `KEYS_MIN` keys get no answer at all, the circuit opens for those keys
//! alone; the next key that fails opens it for all. The service token belongs to no key: without
//! it the circuit opens for all. Polls of events, self-checks and renewals neither ask the
//! breaker nor tell it anything.

use crate::calls::ExchangeId;
use crate::clock::UnixMillis;
use crate::keycloak::Endpoint;
use crate::store::sealed::KeyDigest;

/// Calls must fail for at least this long before the circuit opens.
pub const FAILING_MS: u64 = 1000;
/// At least this many calls must fail.
const FAILURES_MIN: usize = 3;
/// This many failing keys open it for all.
const KEYS_MIN: usize = 3;
/// The most failing keys that are told apart.
const KEYS_MAX: usize = 8;
/// The first time for which it stays open; each next one is twice as long.
const OPEN_MS_MIN: u64 = 1000;
/// The longest time for which it stays open, without the spread.
pub const OPEN_MS_MAX: u64 = 4000;
/// After it closed, all keys with a token that ended meanwhile come at once. For so long they
/// take turns.
const RECOVERY_MS: u64 = 10_000;

/// The circuits of one worker.
#[derive(Debug)]
pub struct Breaker {
    circuits: [Circuit; 3],
    /// Pseudo-random state that spreads the times for which circuits stay open.
    spread: u64,
    recovered_at: Option<UnixMillis>,
}

#[derive(Debug, Default)]
struct Circuit {
    /// The first failure since the last good answer.
    failing_since: Option<UnixMillis>,
    failures: usize,
    /// The keys that failed.
    keys: Vec<Failed>,
    open: Option<Open>,
}

/// A key with a failed call.
#[derive(Debug, Clone, Copy)]
struct Failed {
    digest: KeyDigest,
    /// The call got no answer at all, not even a status.
    gone: bool,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: UnixMillis,
    until: UnixMillis,
    for_ms: u64,
    /// For all keys, and not only for those without an answer.
    for_all: bool,
    /// The exchange that sends the probe, and the instant by which it is answered.
    probe: Option<(ExchangeId, UnixMillis)>,
}

/// Keycloak's health, as a call showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Good,
    /// It answers that it cannot do it now.
    Unwell,
    /// It does not answer.
    Gone,
}

impl Health {
    /// Reads the status of an answer; none is no answer.
    #[must_use]
    pub const fn of(status: Option<u16>) -> Self {
        match status {
            // Proxies, Envoy among them, answer this when nothing behind them answers.
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

    /// Whether a call for a key may go out. Of the calls that may probe an open circuit only one
    /// goes out; it is answered before `lease_until`.
    pub fn admits(
        &mut self,
        endpoint: Endpoint,
        id: ExchangeId,
        digest: &KeyDigest,
        lease_until: UnixMillis,
        now: UnixMillis,
    ) -> bool {
        let Some(circuit) = self.circuit(endpoint) else {
            return true;
        };
        let concerned = circuit.concerns(digest);
        let Some(open) = circuit.open.as_mut().filter(|_| concerned) else {
            return true;
        };
        let admitted = open.admits(Some(id), now);
        if admitted {
            open.probe = Some((id, lease_until));
        }
        admitted
    }

    /// Whether a request with this key may begin, which needs all endpoints. Reserves nothing.
    #[must_use]
    pub fn would_admit(&self, digest: &KeyDigest, now: UnixMillis) -> bool {
        let mut circuits = self.circuits.iter();
        circuits.all(|circuit| {
            let open = circuit.open.filter(|_| circuit.concerns(digest));
            open.is_none_or(|open| open.admits(None, now))
        })
    }

    /// Whether any circuit is open for all: Keycloak is left alone, or probed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.circuits.iter().any(Circuit::is_open_for_all)
    }

    /// Takes the result of a call. `digest` is the call's key.
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
        let of_a_key = endpoint != Endpoint::ServiceToken;
        let Some(circuit) = self.circuit(endpoint) else {
            return;
        };
        if health == Health::Good {
            let was_open = circuit.is_open_for_all();
            *circuit = Circuit::default();
            if was_open {
                self.recovered_at = Some(now);
            }
            return;
        }
        let for_all = |circuit: &Circuit| !of_a_key || circuit.keys.len() >= KEYS_MIN;
        match circuit.open {
            // Sent before the circuit opened: no news.
            Some(open) if !open.is_probed_by(id) && circuit.concerns(digest) => {}
            Some(open) if open.is_probed_by(id) => {
                let for_ms = 2 * open.for_ms;
                circuit.open = Some(Open::new(for_ms, open.for_all, spread, now));
            }
            Some(_) => {
                circuit.note(digest, health);
                if for_all(circuit) {
                    circuit.open = Some(Open::new(OPEN_MS_MIN, true, spread, now));
                }
            }
            None => {
                if !circuit.note(digest, health) && health == Health::Unwell {
                    return;
                }
                circuit.failures += 1;
                let since = *circuit.failing_since.get_or_insert(now);
                // After a clock step backwards it begins anew.
                if now < since {
                    circuit.failing_since = Some(now);
                } else if circuit.failures >= FAILURES_MIN && now >= since.plus_ms(FAILING_MS) {
                    let for_all = for_all(circuit);
                    circuit.open = Some(Open::new(OPEN_MS_MIN, for_all, spread, now));
                }
            }
        }
    }

    /// The exchange that probed went away.
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

    /// Too many keys came at once: the recovery takes longer.
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

impl Circuit {
    /// Whether it may be open for this key.
    fn concerns(&self, digest: &KeyDigest) -> bool {
        let mut gone = self.keys.iter().filter(|key| key.gone);
        self.is_open_for_all() || gone.any(|key| key.digest == *digest)
    }

    fn is_open_for_all(&self) -> bool {
        self.open.is_some_and(|open| open.for_all)
    }

    /// Remembers a key that failed; true if it had not failed before.
    fn note(&mut self, digest: &KeyDigest, health: Health) -> bool {
        let gone = health == Health::Gone;
        if let Some(known) = self.keys.iter_mut().find(|key| key.digest == *digest) {
            known.gone |= gone;
            return false;
        }
        if self.keys.len() < KEYS_MAX {
            let digest = *digest;
            self.keys.push(Failed { digest, gone });
        }
        true
    }
}

impl Open {
    /// Opens now for this long, or the longest, and up to a quarter more.
    fn new(for_ms: u64, for_all: bool, spread: u64, now: UnixMillis) -> Self {
        let for_ms = for_ms.min(OPEN_MS_MAX);
        Self {
            since: now,
            until: now.plus_ms(for_ms + spread % (for_ms / 4)),
            for_ms,
            for_all,
            probe: None,
        }
    }

    fn is_probed_by(&self, id: ExchangeId) -> bool {
        self.probe.is_some_and(|(probe, _)| probe == id)
    }

    fn admits(&self, id: Option<ExchangeId>, now: UnixMillis) -> bool {
        // A clock that was set back must not keep it open.
        let over = now >= self.until || now < self.since;
        let free = self
            .probe
            .is_none_or(|(probe, until)| Some(probe) == id || now >= until || now < self.since);
        over && free
    }
}

#[cfg(test)]
mod tests;
