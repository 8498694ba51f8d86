//! Leaves a Keycloak alone that does not answer, and finds out when it does again.
//!
//! (The circuit breaker of M. Nygard, *Release It!*, 2007.) Each of the endpoints that a
//! request needs has a circuit. It opens when calls have failed for [`FAILING_MS`] with no
//! good answer in between: where one of several nodes of Keycloak is gone, the others'
//! answers keep it closed. Open, it lets nothing through for a while, then one call; that
//! call's answer closes it, or opens it for twice as long.
//!
//! A failure may be one owner's: a token that Keycloak cannot make, a record that the host
//! does not buffer. A status that says "not now" (500 and above, 429) counts once for each
//! key. Where calls of fewer than [`KEYS_MIN`] keys are not answered at all, the circuit
//! opens for those keys alone; the next key that fails opens it for all. The service token
//! is nobody's: without it the circuit opens for all. Polls of events, self-checks and
//! renewals neither ask it nor tell it anything.

use crate::calls::ExchangeId;
use crate::clock::UnixMillis;
use crate::keycloak::Endpoint;
use crate::store::sealed::KeyDigest;

/// So long calls fail, at the least, before the circuit opens.
pub const FAILING_MS: u64 = 1000;
/// So many calls fail, at the least.
const FAILURES_MIN: usize = 3;
/// So many keys fail until it opens for all.
const KEYS_MIN: usize = 3;
/// Keys that failed and are told apart.
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
    /// The keys that failed.
    keys: Vec<Failed>,
    open: Option<Open>,
}

/// A key whose call failed.
#[derive(Debug, Clone, Copy)]
struct Failed {
    digest: KeyDigest,
    /// Not by a status alone: it got no answer.
    gone: bool,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: UnixMillis,
    until: UnixMillis,
    for_ms: u64,
    /// For all keys, and not only for those that got no answer.
    for_all: bool,
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

    /// Whether a call for a key may go out; of those that find out whether Keycloak is back,
    /// one. That one is answered before `lease_until`.
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

    /// Whether a request with this key may begin that needs all endpoints. Nothing is kept
    /// of the question.
    #[must_use]
    pub fn would_admit(&self, digest: &KeyDigest, now: UnixMillis) -> bool {
        let mut circuits = self.circuits.iter();
        circuits.all(|circuit| {
            let open = circuit.open.filter(|_| circuit.concerns(digest));
            open.is_none_or(|open| open.admits(None, now))
        })
    }

    /// Whether any circuit is open for all: Keycloak is left alone, or one call finds out.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.circuits.iter().any(Circuit::is_open_for_all)
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
            // Sent before it opened: says nothing new.
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
                // A clock that was set back lets it begin anew.
                if now < since {
                    circuit.failing_since = Some(now);
                } else if circuit.failures >= FAILURES_MIN && now >= since.plus_ms(FAILING_MS) {
                    let for_all = for_all(circuit);
                    circuit.open = Some(Open::new(OPEN_MS_MIN, for_all, spread, now));
                }
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

impl Circuit {
    /// Whether it may be open for this key.
    fn concerns(&self, digest: &KeyDigest) -> bool {
        let mut gone = self.keys.iter().filter(|key| key.gone);
        self.is_open_for_all() || gone.any(|key| key.digest == *digest)
    }

    fn is_open_for_all(&self) -> bool {
        self.open.is_some_and(|open| open.for_all)
    }

    /// Remembers a key that failed; whether it had not failed before.
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
    /// Open from now on for this long, or the longest, and up to a quarter more.
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
        // Set back, a clock must not keep it open.
        let over = now >= self.until || now < self.since;
        let free = self
            .probe
            .is_none_or(|(probe, until)| Some(probe) == id || now >= until || now < self.since);
        over && free
    }
}

#[cfg(test)]
mod tests;
