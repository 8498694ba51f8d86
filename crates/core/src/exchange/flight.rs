//! One exchange at a time for one key in a worker: the other requests wait for its result.
//!
//! The first request with a key that no cache knows leads. Requests that come with the same key
//! meanwhile follow: they check the caches again after a while. A leader that fails leaves its
//! refusal for its followers, so that not each of them in turn asks a dead Keycloak. If the
//! client of a leader with a verified key disconnects, the next request leads after a pause. Otherwise a
//! client could cause look-ups of a good key as fast as it can reconnect.

use std::collections::HashMap;

use lru::LruCache;

use crate::cache::put;
use crate::calls::ExchangeId;
use crate::clock::UnixMillis;
use crate::rejection::Reason;
use crate::store::sealed::KeyDigest;

/// The most failures that are kept for followers, and the most pauses.
pub const KEPT_MAX: usize = 1024;

/// The pause between a disconnect of a leader's client and the next leader.
pub const PAUSE_MS: u64 = 100;

/// The part of a request in the exchange of its key.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// Go ahead.
    Lead,
    /// Wait and check again; the leader is done, or given up, by this instant.
    Follow {
        /// The leader's deadline.
        until: UnixMillis,
    },
    /// Wait until this instant and claim again: the leader's client has disconnected.
    Pause {
        /// The end of the pause.
        until: UnixMillis,
    },
    /// The leader failed while this request waited.
    Failed(Box<Reason>),
}

#[derive(Debug)]
struct Flight {
    leader: ExchangeId,
    until: UnixMillis,
}

/// The exchanges under way in one worker, by key.
#[derive(Debug)]
pub struct Flights {
    under_way: HashMap<KeyDigest, Flight>,
    failures: LruCache<KeyDigest, (UnixMillis, Reason)>,
    /// The pauses, each with its beginning.
    pauses: LruCache<KeyDigest, UnixMillis>,
}

impl Default for Flights {
    fn default() -> Self {
        Self {
            under_way: HashMap::new(),
            failures: LruCache::unbounded(),
            pauses: LruCache::unbounded(),
        }
    }
}

impl Flights {
    /// Claims the lead for a key, for a request that came at `started_at` and ends
    /// by `deadline_at`.
    pub fn claim(
        &mut self,
        digest: &KeyDigest,
        id: ExchangeId,
        started_at: UnixMillis,
        deadline_at: UnixMillis,
        now: UnixMillis,
    ) -> Claim {
        if let Some((failed_at, reason)) = self.failures.peek(digest)
            && started_at < *failed_at
            && *failed_at <= now
        {
            return Claim::Failed(Box::new(reason.clone()));
        }
        if let Some(until) = self.pause(digest, now) {
            return Claim::Pause { until };
        }
        match self.under_way.get(digest) {
            Some(flight) if flight.leader != id && now < flight.until => Claim::Follow {
                until: flight.until,
            },
            _ => {
                self.under_way.insert(
                    *digest,
                    Flight {
                        leader: id,
                        until: deadline_at,
                    },
                );
                Claim::Lead
            }
        }
    }

    /// Whether a renewal must leave this key alone: a request leads, or the key has a pause.
    #[must_use]
    pub fn is_taken(&self, digest: &KeyDigest, now: UnixMillis) -> bool {
        let flight = self.under_way.get(digest);
        flight.is_some_and(|flight| now < flight.until) || self.pause(digest, now).is_some()
    }

    /// The end of the key's pause, while it lasts.
    fn pause(&self, digest: &KeyDigest, now: UnixMillis) -> Option<UnixMillis> {
        let began = *self.pauses.peek(digest)?;
        let end = began.plus_ms(PAUSE_MS);
        (began..end).contains(&now).then_some(end)
    }

    /// The number of keys under way, and of failures kept.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.under_way.len(), self.failures.len())
    }

    /// Moves the instant by which the leader is done.
    pub fn extend(&mut self, digest: &KeyDigest, id: ExchangeId, deadline_at: UnixMillis) {
        if let Some(flight) = self.under_way.get_mut(digest)
            && flight.leader == id
        {
            flight.until = deadline_at;
        }
    }

    /// Ends a leader's exchange; does nothing if the request no longer leads.
    pub fn land(&mut self, digest: &KeyDigest, id: ExchangeId) {
        if self.leads(digest, id) {
            self.under_way.remove(digest);
        }
    }

    /// Begins the key's pause, because its leader's client has disconnected. Does nothing if the request
    /// does not lead.
    pub fn pause_if_leading(&mut self, digest: &KeyDigest, id: ExchangeId, now: UnixMillis) {
        if self.leads(digest, id) {
            put(&mut self.pauses, KEPT_MAX, *digest, now);
        }
    }

    fn leads(&self, digest: &KeyDigest, id: ExchangeId) -> bool {
        let flight = self.under_way.get(digest);
        flight.is_some_and(|flight| flight.leader == id)
    }

    /// Leaves a leader's failure for the requests that wait now. A request that does not lead
    /// leaves nothing.
    pub fn fail_if_leading(
        &mut self,
        digest: &KeyDigest,
        id: ExchangeId,
        now: UnixMillis,
        reason: &Reason,
    ) {
        if self.leads(digest, id) {
            put(&mut self.failures, KEPT_MAX, *digest, (now, reason.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: KeyDigest = [1; 32];

    fn at(ms: u64) -> UnixMillis {
        UnixMillis(1_000_000 + ms)
    }

    #[test]
    fn one_leads_and_the_others_follow_until_it_lands() {
        let mut flights = Flights::default();
        let claim = |flights: &mut Flights, id| flights.claim(&DIGEST, id, at(0), at(100), at(1));
        assert_eq!(claim(&mut flights, 1), Claim::Lead);
        assert_eq!(claim(&mut flights, 2), Claim::Follow { until: at(100) });
        flights.extend(&DIGEST, 1, at(500));
        flights.extend(&DIGEST, 2, at(900));
        assert_eq!(claim(&mut flights, 2), Claim::Follow { until: at(500) });
        flights.land(&DIGEST, 2);
        assert_eq!(claim(&mut flights, 2), Claim::Follow { until: at(500) });
        flights.land(&DIGEST, 1);
        assert_eq!(claim(&mut flights, 2), Claim::Lead);
        assert_eq!(
            flights.claim(&[2; 32], 3, at(0), at(100), at(1)),
            Claim::Lead
        );
    }

    #[test]
    fn a_leader_that_is_gone_is_succeeded_after_its_deadline() {
        let mut flights = Flights::default();
        assert_eq!(
            flights.claim(&DIGEST, 1, at(0), at(100), at(0)),
            Claim::Lead
        );
        assert_eq!(
            flights.claim(&DIGEST, 2, at(0), at(200), at(100)),
            Claim::Lead
        );
        flights.land(&DIGEST, 1);
        assert_eq!(
            flights.claim(&DIGEST, 3, at(0), at(200), at(100)),
            Claim::Follow { until: at(200) }
        );
    }

    #[test]
    fn a_failure_is_for_those_that_waited_and_not_for_who_comes_later() {
        let mut flights = Flights::default();
        assert_eq!(
            flights.claim(&DIGEST, 1, at(0), at(100), at(0)),
            Claim::Lead
        );
        let reason = Reason::QueueFull;
        flights.fail_if_leading(&DIGEST, 2, at(50), &reason);
        assert_eq!(
            flights.claim(&DIGEST, 2, at(0), at(100), at(60)),
            Claim::Follow { until: at(100) }
        );
        flights.fail_if_leading(&DIGEST, 1, at(50), &reason);
        flights.land(&DIGEST, 1);
        let waited = flights.claim(&DIGEST, 2, at(49), at(100), at(60));
        assert_eq!(waited, Claim::Failed(Box::new(reason)));
        assert_eq!(
            flights.claim(&DIGEST, 3, at(50), at(100), at(60)),
            Claim::Lead
        );
    }

    #[test]
    fn after_a_leaders_client_disconnects_the_next_request_leads_after_a_pause() {
        let mut flights = Flights::default();
        let claim =
            |flights: &mut Flights, id, now| flights.claim(&DIGEST, id, at(0), at(9000), at(now));
        assert_eq!(claim(&mut flights, 1, 0), Claim::Lead);
        flights.pause_if_leading(&DIGEST, 2, at(5));
        flights.pause_if_leading(&DIGEST, 1, at(10));
        flights.land(&DIGEST, 1);
        let pause = Claim::Pause { until: at(110) };
        assert_eq!(claim(&mut flights, 2, 10), pause);
        assert_eq!(claim(&mut flights, 2, 109), pause);
        assert!(flights.is_taken(&DIGEST, at(109)));
        assert!(!flights.is_taken(&DIGEST, at(110)));
        assert_eq!(claim(&mut flights, 2, 110), Claim::Lead);
        assert!(flights.is_taken(&DIGEST, at(110)));
        flights.land(&DIGEST, 2);
        // A clock that is set back holds nobody up.
        assert_eq!(claim(&mut flights, 3, 9), Claim::Lead);
    }

    #[test]
    fn failures_and_pauses_are_bounded() {
        let mut flights = Flights::default();
        for at_ms in 0..5000_u64 {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&at_ms.to_be_bytes());
            flights.claim(&digest, 1, at(0), at(9000), at(at_ms));
            flights.fail_if_leading(&digest, 1, at(at_ms), &Reason::QueueFull);
            flights.pause_if_leading(&digest, 1, at(at_ms));
        }
        assert_eq!(flights.failures.len(), KEPT_MAX);
        assert_eq!(flights.pauses.len(), KEPT_MAX);
    }
}
