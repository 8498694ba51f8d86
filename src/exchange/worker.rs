//! What the requests of one worker share, for one configuration.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::breaker::Breaker;
use super::flight::{ExchangeId, Flights};
use super::renewing::Renewing;
use super::service_token::ServiceToken;
use super::throttle::{Lookups, Throttle};
use crate::cache::Cache;
use crate::cache::slots::SharedStore;
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::mac::MacKey;
use crate::revocation::poller::{PollCall, PollEnv, PollInput, Poller, Polling};
use crate::revocation::{Counts, NotShared, Notice};
use crate::sabotage::{Sabotage, is};
use crate::self_check::{CheckEnv, Findings, SelfCheck};
use crate::signing_key::SigningKey;

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
    /// What is known of keys.
    pub cache: Cache,
    pub(super) flights: Flights,
    pub(super) service_token: ServiceToken,
    pub(super) renewing: Renewing,
    pub(crate) throttle: Throttle,
    pub(super) lookups: Lookups,
    /// Turns of keys that are known here: taken after an outage alone.
    pub(super) refreshes: Lookups,
    pub(super) breaker: Breaker,
    pub(super) pending: usize,
    jti: JtiSource,
    exchanges: ExchangeId,
    poller: Poller,
    self_check: SelfCheck,
}

/// How much a worker holds: each number has a bound (invariant 9).
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
    /// Failures kept for those that follow.
    pub failures: usize,
    /// Requests in an exchange; at most [`PENDING_MAX`].
    pub pending: usize,
    /// Admin events that were acted on; a few pages.
    pub events: usize,
    /// Source addresses that failed; at most
    /// [`ADDRESSES_MAX`](super::throttle::ADDRESSES_MAX).
    pub addresses: usize,
    /// Keys whose tokens wait to be renewed; at most
    /// [`DUE_MAX`](super::renewing::DUE_MAX).
    pub renewing: usize,
    /// Keys whose dropped tokens are remembered; at most 1024.
    pub dropped: usize,
}

impl Worker {
    /// A worker that knows nothing yet. `seed` is any bytes that no other worker
    /// has had; they need not be secret.
    #[must_use]
    pub fn new(config: Arc<Config>, signing_key: Arc<SigningKey>, seed: &[u8]) -> Self {
        let cache = Cache::new(&config, &signing_key);
        let jti = JtiSource::new(&signing_key, seed);
        let poller = Poller::new(config.revocation_poll_ms, &signing_key, seed);
        let self_check = SelfCheck::new(&config, &signing_key, seed);
        let throttle = Throttle::new(&config, &signing_key);
        let lookups = Lookups::new(&config);
        let refreshes = Lookups::of_known_keys(&config);
        let breaker = Breaker::new(&signing_key.derive(&[b"breaker:", seed]));
        Self {
            config,
            signing_key,
            cache,
            flights: Flights::default(),
            service_token: ServiceToken::default(),
            renewing: Renewing::default(),
            throttle,
            lookups,
            refreshes,
            breaker,
            pending: 0,
            jti,
            exchanges: 0,
            poller,
            self_check,
        }
    }

    /// To be called every 200 ms or so: learns what was revoked on this node since. Gives
    /// what is worth a line in the log.
    pub fn tick(&mut self, now: UnixMillis, store: &mut dyn SharedStore) -> Option<Notice> {
        self.cache.keep_up(true, now, store);
        self.cache.revocations_mut().take_notice()
    }

    /// Takes what happened to the poll of Keycloak's events, and says what to call. To be
    /// told of each tick after [`Worker::tick`], and of the answer to each call.
    pub fn poll(
        &mut self,
        input: PollInput<'_>,
        now: UnixMillis,
        store: &mut dyn SharedStore,
        nonce: &dyn Fn() -> Vec<u8>,
    ) -> Option<PollCall> {
        let (jti, exchanges) = (&mut self.jti, &mut self.exchanges);
        let mut env = PollEnv {
            now,
            config: &self.config,
            signing_key: &self.signing_key,
            service_token: &mut self.service_token,
            revocations: self.cache.revocations_mut(),
            store,
            next_exchange: &mut || {
                *exchanges += 1;
                *exchanges
            },
            jti: &mut |name| jti.next(name, &nonce(), now),
        };
        self.poller.handle_input(input, &mut env)
    }

    /// Whether a poll is under way.
    #[must_use]
    pub const fn is_polling(&self) -> bool {
        self.poller.is_under_way()
    }

    /// How polling goes, if that changed since it was last asked.
    pub fn take_polling(&mut self) -> Option<Polling> {
        self.poller.take_notice()
    }

    /// Takes what happened to the self-check, and says what to call. To be told of each
    /// tick after [`Worker::poll`], and of the answer to each call.
    pub fn self_check(
        &mut self,
        input: PollInput<'_>,
        now: UnixMillis,
        store: &mut dyn SharedStore,
        nonce: &dyn Fn() -> Vec<u8>,
    ) -> Option<PollCall> {
        let (jti, exchanges) = (&mut self.jti, &mut self.exchanges);
        let mut env = CheckEnv {
            now,
            config: &self.config,
            signing_key: &self.signing_key,
            service_token: &mut self.service_token,
            store,
            next_exchange: &mut || {
                *exchanges += 1;
                *exchanges
            },
            jti: &mut |name| jti.next(name, &nonce(), now),
        };
        self.self_check.handle_input(input, &mut env)
    }

    /// Whether the self-check waits for the answer to a call.
    #[must_use]
    pub fn is_self_check_under_way(&self) -> bool {
        self.self_check.is_under_way()
    }

    /// What the latest self-check of this worker found; all unchecked as long as another
    /// worker of the node checks.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        self.self_check.findings()
    }

    /// The same, if it is the first or says something that was not told yet.
    pub fn take_findings(&mut self) -> Option<Findings> {
        self.self_check.take_findings()
    }

    /// Drops what is cached for an owner: in this worker at once, and within a tick in
    /// all workers of this node whose configuration has the same realm and signing key.
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

    /// Whether Keycloak is left alone, since it did not answer.
    #[must_use]
    pub fn is_breaker_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// Revocations that this worker learnt first, since it was last asked.
    pub fn take_revoked(&mut self) -> Counts {
        self.cache.revocations_mut().take_counts()
    }

    /// How much it holds right now.
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
            events: self.poller.events(),
            addresses: self.throttle.len(),
            renewing: self.renewing.len(),
            dropped: self.cache.dropped(),
        }
    }

    /// Lets a request in, unless as many wait as may; [`Worker::leave`] lets it out.
    pub(crate) fn admit(&mut self) -> Option<ExchangeId> {
        if self.pending >= PENDING_MAX {
            return None;
        }
        self.pending += 1;
        Some(self.next_exchange())
    }

    /// Lets a request out.
    pub(crate) fn leave(&mut self) {
        self.pending = self.pending.saturating_sub(1);
    }

    fn next_exchange(&mut self) -> ExchangeId {
        self.exchanges += 1;
        self.exchanges
    }

    pub(super) fn jti(&mut self, key_id: &str, request_nonce: &[u8], now: UnixMillis) -> String {
        self.jti.next(key_id, request_nonce, now)
    }
}

/// Makes the ids of assertions, each of which Keycloak takes once.
///
/// They must differ, across workers and nodes too; that nobody can guess them is a
/// by-product. On Kong a host's random source can give two workers the same bytes,
/// so the worker's seed, the request's own id, the time and a counter all go in.
#[derive(Debug)]
struct JtiSource {
    key: MacKey,
    seed: Vec<u8>,
    count: u64,
}

impl JtiSource {
    fn new(signing_key: &SigningKey, seed: &[u8]) -> Self {
        Self {
            key: MacKey::new(&signing_key.derive(&[b"jti"])),
            seed: seed.to_vec(),
            count: 0,
        }
    }

    /// `<key id>.<22 characters>`: Keycloak's event log keeps it, and so tells
    /// which key was used.
    fn next(&mut self, key_id: &str, request_nonce: &[u8], now: UnixMillis) -> String {
        self.count += 1;
        if is(Sabotage::HostRandomTrusted) {
            let random = request_nonce.get(..16).unwrap_or(request_nonce);
            return format!("{key_id}.{}", URL_SAFE_NO_PAD.encode(random));
        }
        let tag = self.key.tag(&[
            &(self.seed.len() as u64).to_be_bytes(),
            &self.seed,
            &self.count.to_be_bytes(),
            &now.0.to_be_bytes(),
            request_nonce,
        ]);
        let (half, _) = tag.split_at(16);
        format!("{key_id}.{}", URL_SAFE_NO_PAD.encode(half))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::test_support::signing_key;

    #[test]
    fn assertion_ids_begin_with_the_key_and_never_repeat() {
        let now = UnixMillis(1_700_000_000_000);
        let mut seen = HashSet::new();
        for seed in [b"worker-1", b"worker-2"] {
            let mut source = JtiSource::new(&signing_key(), seed);
            for _ in 0..1000 {
                let jti = source.next("abc123def456", b"", now);
                assert!(jti.starts_with("abc123def456.") && jti.len() == 35, "{jti}");
                assert!(seen.insert(jti));
            }
        }
        // Two workers with the same seed still differ by their requests' ids.
        let mut first = JtiSource::new(&signing_key(), b"same");
        let mut second = JtiSource::new(&signing_key(), b"same");
        assert_ne!(first.next("a", b"r1", now), second.next("a", b"r2", now));
    }
}
