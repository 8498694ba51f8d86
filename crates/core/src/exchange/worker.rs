//! The state that the requests of one worker share, for one configuration.

use std::sync::Arc;

use super::flight::Flights;
use super::lookups::{NewKeys, Refreshes};
use super::rate_limit::RateLimits;
use super::renewing::Renewing;
use super::throttle::Throttle;
use crate::cache::Cache;
use crate::calls::breaker::Breaker;
use crate::calls::in_flight::InFlight;
use crate::calls::service_token::ServiceToken;
use crate::calls::{ExchangeId, Ids};
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::revocation::{Counts, NotShared, Notice};
use crate::signing_key::SigningKey;
use crate::store::slots::SharedStore;
use crate::usage::{Usage, Used};

/// Requests of one worker that may be in an exchange at once: each holds memory
/// and a callout.
pub const PENDING_MAX: usize = 1024;

/// The state that the exchanges of one worker share.
#[derive(Debug)]
pub struct Worker {
    /// The configuration.
    pub config: Arc<Config>,
    /// The gateway's secret.
    pub signing_key: Arc<SigningKey>,
    /// The caches of tokens, verifications and refusals.
    pub cache: Cache,
    pub(super) flights: Flights,
    pub(crate) service_token: ServiceToken,
    pub(crate) renewing: Renewing,
    pub(crate) throttle: Throttle,
    pub(super) rate_limits: RateLimits,
    pub(super) new_keys: NewKeys,
    pub(super) refreshes: Refreshes,
    pub(super) in_flight: InFlight,
    pub(super) breaker: Breaker,
    pub(super) pending: usize,
    pub(crate) ids: Ids,
    pub(crate) usage: Option<Usage>,
}

/// The sizes of a worker's state; each has a bound (invariant 9).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Tokens in its memory; at most `l1_entries`.
    pub tokens: usize,
    /// Verifications in its memory; at most `l1_entries`.
    pub verified: usize,
    /// Refusals in its memory; at most `l1_entries`.
    pub refused: usize,
    /// Keys that a request exchanges now; at most [`PENDING_MAX`].
    pub flights: usize,
    /// Failures kept for followers.
    pub failures: usize,
    /// Requests in an exchange; at most [`PENDING_MAX`].
    pub pending: usize,
    /// New keys that wait for their look-up; at most
    /// [`WAITING_MAX`](super::lookups::WAITING_MAX).
    pub new_keys: usize,
    /// Look-ups and grants in flight. Only look-ups wait for the limit, at most
    /// [`LIMIT_MAX`](crate::calls::in_flight::LIMIT_MAX).
    pub calls: usize,
    /// Source addresses that failed; at most
    /// [`ADDRESSES_MAX`](super::throttle::ADDRESSES_MAX).
    pub addresses: usize,
    /// Keys in the queue for renewal; at most [`DUE_MAX`](super::renewing::DUE_MAX).
    pub renewing: usize,
    /// Keys with a rate limit; at most `l1_entries`.
    pub limited: usize,
    /// Keys with a dropped token that is remembered; at most 1024.
    pub dropped: usize,
}

impl Worker {
    /// A worker that knows nothing yet. `seed` is any bytes that no other worker
    /// has had; they need not be secret.
    #[must_use]
    pub fn new(config: Arc<Config>, signing_key: Arc<SigningKey>, seed: &[u8]) -> Self {
        let cache = Cache::new(&config, &signing_key);
        let ids = Ids::new(&signing_key, seed);
        let throttle = Throttle::new(&config, &signing_key);
        let rate_limits = RateLimits::new(&config, &signing_key);
        let new_keys = NewKeys::new(&config);
        let refreshes = Refreshes::new(&config);
        let usage = Usage::new(&config, &signing_key);
        let breaker = Breaker::new(&signing_key.derive(&[b"breaker:", seed]));
        Self {
            config,
            signing_key,
            cache,
            flights: Flights::default(),
            service_token: ServiceToken::default(),
            renewing: Renewing::default(),
            throttle,
            rate_limits,
            new_keys,
            refreshes,
            in_flight: InFlight::default(),
            breaker,
            pending: 0,
            ids,
            usage,
        }
    }

    /// Learns the node's new revocations; call it about every 200 ms. Gives a notice for the log,
    /// if there is one.
    pub fn tick(&mut self, now: UnixMillis, store: &mut dyn SharedStore) -> Option<Notice> {
        self.cache.keep_up(true, now, store);
        self.cache.revocations_mut().take_notice()
    }

    /// Counts of requests to write into the audit log; call it with each tick.
    pub fn take_usage(&mut self, now: UnixMillis, store: &mut dyn SharedStore) -> Vec<Used> {
        let usage = self.usage.as_mut();
        usage.map_or_else(Vec::new, |usage| usage.take(now, store))
    }

    /// Whether requests are counted, and the workers of the node add them up.
    #[must_use]
    pub fn tells_usage(&self) -> bool {
        self.config.usage && self.config.l2_slots > 0
    }

    /// Drops an owner's cache entries: in this worker at once, and within a tick in all workers
    /// of this node with the same realm and signing key.
    ///
    /// # Errors
    /// [`NotShared`] when the other workers could not be told.
    pub fn revoke_owner(
        &mut self,
        owner_id: &str,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Result<(), NotShared> {
        let revocations = self.cache.revocations_mut();
        revocations.revoke_owner(owner_id, now, store)
    }

    /// Whether the breaker leaves Keycloak alone.
    #[must_use]
    pub fn is_breaker_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// Revocations that this worker was the first to learn, since the last call.
    pub fn take_revoked(&mut self) -> Counts {
        self.cache.revocations_mut().take_counts()
    }

    /// Requests of keys with a rate limit that were let through with a bucket that was lost, since
    /// the last call.
    pub const fn take_lost_buckets(&mut self) -> u64 {
        self.rate_limits.take_lost()
    }

    /// The current sizes.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let [tokens, verified, refused] = self.cache.sizes();
        let (flights, failures) = self.flights.sizes();
        Sizes {
            tokens,
            verified,
            refused,
            flights,
            failures,
            pending: self.pending,
            new_keys: self.new_keys.len(),
            calls: self.in_flight.calls(),
            addresses: self.throttle.len(),
            renewing: self.renewing.len(),
            limited: self.rate_limits.len(),
            dropped: self.cache.dropped(),
        }
    }

    /// Admits a request, unless too many are pending already; [`Worker::leave`] lets it out.
    pub(crate) fn admit(&mut self) -> Option<ExchangeId> {
        if self.pending >= PENDING_MAX {
            return None;
        }
        self.pending += 1;
        Some(self.ids.exchange())
    }

    /// Lets a request out.
    pub(crate) fn leave(&mut self) {
        self.pending = self.pending.saturating_sub(1);
    }

    pub(super) fn jti(&mut self, key_id: &str, request_nonce: &[u8], now: UnixMillis) -> String {
        self.ids.jti(key_id, request_nonce, now)
    }
}
