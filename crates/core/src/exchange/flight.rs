//! One exchange at a time for one key in a worker: the other requests wait for its result.
//!
//! The first request with a key that no cache knows leads. Requests that come with the same key
//! meanwhile follow: they check the caches again after a while. A leader that fails leaves its
//! refusal for its followers, so that not each of them in turn asks a dead Keycloak.

use std::collections::HashMap;

use lru::LruCache;

use crate::calls::ExchangeId;
use crate::clock::UnixMillis;
use crate::rejection::Reason;
use crate::store::sealed::KeyDigest;

/// Failures that are kept for followers.
pub const FAILURES_MAX: usize = 1024;

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
}

impl Default for Flights {
    fn default() -> Self {
        Self {
            under_way: HashMap::new(),
            failures: LruCache::unbounded(),
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
        if self
            .under_way
            .get(digest)
            .is_some_and(|flight| flight.leader == id)
        {
            self.under_way.remove(digest);
        }
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
        if self
            .under_way
            .get(digest)
            .is_none_or(|flight| flight.leader != id)
        {
            return;
        }
        self.failures.put(*digest, (now, reason.clone()));
        while self.failures.len() > FAILURES_MAX {
            self.failures.pop_lru();
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
    fn failures_are_bounded() {
        let mut flights = Flights::default();
        for at_ms in 0..5000_u64 {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&at_ms.to_be_bytes());
            flights.claim(&digest, 1, at(0), at(9000), at(at_ms));
            flights.fail_if_leading(&digest, 1, at(at_ms), &Reason::QueueFull);
        }
        assert_eq!(flights.failures.len(), FAILURES_MAX);
    }
}
