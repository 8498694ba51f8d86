//! A token that a busy key is about to lose is renewed before, while no request waits.
//!
//! A request with a token from the cache that is due ([`Age::Due`](crate::cache::renewal::Age))
//! leaves the key's digest and public id here. The root context takes them up one after
//! the other: the same exchange as a request's, but for what takes the key itself. So no
//! key is kept for it, and one whose stored hash was changed is left to its next request.

use std::collections::{HashSet, VecDeque};

use super::flight::Claim;
use super::steps::WAIT_MS_MIN;
use super::{End, Env, Exchange, Output, Pending, Step};
use crate::clock::UnixMillis;
use crate::rejection::Reason;
use crate::store::sealed::KeyDigest;

/// Keys that may wait to be renewed.
pub const DUE_MAX: usize = 1024;
/// After one that failed none is renewed for so long: Keycloak is not well.
const PAUSE_MS: u64 = 1000;
/// What a renewal waits for an answer at most, but for the service token's, for which
/// requests may wait as well: it must not hold up what else the root context does, and
/// whatever takes longer a request can wait for itself.
pub const CALLOUT_MS_MAX: u64 = 1000;

/// Keys whose tokens are to be renewed, in the order in which requests showed them.
#[derive(Debug, Default)]
pub struct Renewing {
    due: VecDeque<Due>,
    waiting: HashSet<KeyDigest>,
    paused_at: Option<UnixMillis>,
}

/// A key, as far as it takes to renew its token.
struct Due {
    digest: KeyDigest,
    key_id: String,
}

impl std::fmt::Debug for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Due")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl Renewing {
    /// Notes that a key's token is due. Forgotten where too many are: then a request
    /// renews it.
    pub fn note(&mut self, digest: &KeyDigest, key_id: &str) {
        if self.due.len() < DUE_MAX && self.waiting.insert(*digest) {
            let (digest, key_id) = (*digest, key_id.to_owned());
            self.due.push_back(Due { digest, key_id });
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Lets none begin for a while.
    pub const fn pause(&mut self, now: UnixMillis) {
        self.paused_at = Some(now);
    }

    fn next(&mut self, now: UnixMillis) -> Option<Due> {
        let paused = self
            .paused_at
            .is_some_and(|at| (at..at.plus_ms(PAUSE_MS)).contains(&now));
        if paused {
            return None;
        }
        let due = self.due.pop_front()?;
        self.waiting.remove(&due.digest);
        Some(due)
    }
}

impl Exchange {
    /// Begins to renew the token of the next key that waits for it. None if there is none
    /// that this worker is to renew.
    #[must_use]
    pub fn renew(env: &mut Env<'_>) -> Option<(Self, Output)> {
        if env.worker.breaker.is_open() {
            return None;
        }
        loop {
            let due = env.worker.renewing.next(env.now)?;
            let timeout_ms = env.worker.config.callout_timeout_ms;
            let until = env.now.plus_ms(timeout_ms + 2 * CALLOUT_MS_MAX);
            let cache = &mut env.worker.cache;
            // Of one that must be verified first, a request brings the key.
            if !cache.was_verified(&due.digest, env.store)
                || !cache.take_renewal(&due.digest, until, env.now, env.store)
            {
                continue;
            }
            let mut exchange = Self::new();
            match exchange.start_renewal(due, until, env) {
                output @ (Output::Callout { .. } | Output::Yield { .. }) => {
                    return Some((exchange, output));
                }
                _ => env.worker.renewing.pause(env.now),
            }
        }
    }

    fn start_renewal(&mut self, due: Due, until: UnixMillis, env: &mut Env<'_>) -> Output {
        let Some(id) = env.worker.admit() else {
            let end = End::refused(Reason::TooManyPending);
            return self.end(end, env);
        };
        self.key_id = Some(due.key_id.clone());
        let ticket = env.gate.ticket();
        let pending = Pending::new(id, due.key_id, due.digest, ticket, until, env.now);
        self.pending = Some(pending);
        let step = self.with_pending(env, Pending::lead);
        self.settle(step, env)
    }
}

impl Pending {
    /// Leads for this key, or leaves it to whoever does.
    fn lead(&mut self, env: &mut Env<'_>) -> Step {
        self.known = true;
        let (started_at, until) = (self.started_at, self.deadline_at);
        let flights = &mut env.worker.flights;
        match flights.claim(&self.digest, self.id, started_at, until, env.now) {
            Claim::Lead => self.need_service_token(WAIT_MS_MIN, env),
            Claim::Follow { .. } => Err(End::refused(Reason::Deadline)),
            Claim::Failed(reason) => Err(End::refused(*reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_waits_once_and_no_more_than_may() {
        let mut renewing = Renewing::default();
        let digest = |number: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            digest
        };
        for number in 0..2 * DUE_MAX {
            renewing.note(&digest(number / 2), "abc123def456");
        }
        assert_eq!(renewing.len(), DUE_MAX);
        renewing.note(&digest(DUE_MAX), "abc123def456");
        assert_eq!(renewing.len(), DUE_MAX);
        let next = renewing.next(UnixMillis(5)).unwrap();
        assert_eq!(next.digest, digest(0));
        renewing.note(&digest(0), "abc123def456");
        assert_eq!(renewing.len(), DUE_MAX);
    }

    #[test]
    fn after_a_failure_none_begins_for_a_second() {
        let mut renewing = Renewing::default();
        renewing.note(&[1; 32], "abc123def456");
        renewing.pause(UnixMillis(5_000));
        assert!(renewing.next(UnixMillis(5_999)).is_none());
        // Set back, a clock holds nothing up.
        assert!(renewing.next(UnixMillis(4_999)).is_some());
        renewing.note(&[1; 32], "abc123def456");
        assert!(renewing.next(UnixMillis(6_000)).is_some());
    }
}
