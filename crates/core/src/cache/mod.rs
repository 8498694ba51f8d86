//! The caches of a key's token, its verification and its refusal.
//!
//! Each is kept in worker memory (L1, least recently used goes first) and in the host's shared
//! data (L2, see [`crate::store::slots`]), in regions of their own, so that a flood of unknown
//! keys evicts no token of a known key. All of them know a key only by its digest. No entry is
//! used past its end, past this configuration's TTL, or before it was stored (the clock was set
//! back). No token is used if its owner was revoked after Keycloak was asked for the owner (see
//! [`crate::revocation`]).

mod payload;
pub mod renewal;

use core::hash::Hash;

use lru::LruCache;

pub use self::payload::{CachedRefusal, CachedToken};
use self::payload::{read_refusal, read_token, write_refusal, write_token};
use self::renewal::{Age, Renewals};
use crate::api_key::format::ApiKey;
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::mac::{FastMacKey, MacKey};
use crate::rejection::Refused;
use crate::revocation::{MARGIN_MS, Revocations};
use crate::signing_key::SigningKey;
use crate::store::sealed::{Entry, KeyDigest, Kind, Sealer};
use crate::store::slots::{SharedStore, Slots};

/// A step of the clock backwards that is still taken for a correction.
const CORRECTION_MS: u64 = 1000;

/// Where an entry was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Worker memory.
    L1,
    /// The host's shared data.
    L2,
}

/// The entry that the caches hold for a key.
#[derive(Debug, Clone)]
pub enum Found {
    /// A token to forward, and whether it is to be renewed.
    Token(CachedToken, Level, Age),
    /// It was refused a short while ago.
    Refused(Refused),
    /// No entry.
    Nothing,
}

/// The caches of one configuration in one worker.
#[derive(Debug)]
pub struct Cache {
    digest_key: FastMacKey,
    proof_key: MacKey,
    sealer: Sealer,
    revocations: Revocations,
    ttl_ms: u64,
    stale_ms: u64,
    negative_ttl_ms: u64,
    entries_max: usize,
    tokens: LruCache<KeyDigest, Entry<CachedToken>>,
    verified: LruCache<KeyDigest, [u8; 32]>,
    refused: LruCache<KeyDigest, Entry<CachedRefusal>>,
    shared_tokens: Slots,
    shared_verified: Slots,
    shared_refused: Slots,
    renewals: Renewals,
}

impl Cache {
    /// Empty caches. Their secrets come from the signing key and the configuration's fingerprint,
    /// so an entry of another configuration is a miss.
    #[must_use]
    pub fn new(config: &Config, signing_key: &SigningKey) -> Self {
        let derive = |purpose: &[u8]| signing_key.derive(&[purpose, b":", &config.fingerprint]);
        Self {
            digest_key: FastMacKey::new(&derive(b"cache key")),
            proof_key: MacKey::new(&derive(b"proof of verification")),
            sealer: Sealer::new(&derive(b"seal")),
            revocations: Revocations::new(&config.realm.issuer, signing_key, config.l2_slots > 0)
                .polled_every(config.revocation_poll_ms),
            ttl_ms: config.cache_ttl_ms,
            stale_ms: config.stale_if_error_ms,
            negative_ttl_ms: config.negative_ttl_ms,
            entries_max: config.l1_entries,
            tokens: LruCache::unbounded(),
            verified: LruCache::unbounded(),
            refused: LruCache::unbounded(),
            shared_tokens: Slots::new(Kind::Token, config.l2_slots),
            shared_verified: Slots::new(Kind::Verified, config.l2_slots),
            shared_refused: Slots::new(Kind::Refused, config.l2_slots),
            renewals: Renewals::new(config.l2_slots, config.cache_ttl_ms),
        }
    }

    /// The number of tokens, verifications and refusals in worker memory.
    #[must_use]
    pub fn sizes(&self) -> [usize; 3] {
        [self.tokens.len(), self.verified.len(), self.refused.len()]
    }

    /// The number of keys with a dropped token that is remembered.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.renewals.dropped()
    }

    /// The revocations that this worker knows.
    #[must_use]
    pub const fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// The same, to add revocations.
    pub const fn revocations_mut(&mut self) -> &mut Revocations {
        &mut self.revocations
    }

    /// Reads the log of revocations, if `due`, or if it was last read too long ago to serve.
    pub fn keep_up(&mut self, due: bool, now: UnixMillis, store: &mut dyn SharedStore) {
        if self.revocations.watch_clock(now) {
            self.tokens.clear();
            self.refused.clear();
        }
        if due || self.revocations.is_behind(now) {
            self.revocations.look(now, store);
        }
    }

    /// The digest that stands for a key here.
    #[must_use]
    pub fn digest(&self, key: &ApiKey) -> KeyDigest {
        self.digest_key.tag(key.expose().as_bytes())
    }

    /// Finds a key's entry. An entry found in shared data is copied into worker memory.
    pub fn find(
        &mut self,
        digest: &KeyDigest,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Found {
        let ttl = self.ttl_ms.min(self.revocations.age_max_ms(now));
        let negative_ttl = self.negative_ttl_ms;
        if let Some(entry) = self.own_token(digest, ttl, now) {
            let age = self.renewals.age(&entry, digest, now);
            return Found::Token(entry.payload, Level::L1, age);
        }
        if let Some(entry) = self.refused.get(digest)
            && is_valid(entry, negative_ttl, now)
            && !outdated(&self.revocations, entry)
        {
            return Found::Refused(entry.payload.refused);
        }
        if let Some(entry) = self.shared_token(digest, ttl, now, store) {
            let token = entry.payload.clone();
            let age = self.renewals.age(&entry, digest, now);
            put(&mut self.tokens, self.entries_max, *digest, entry);
            return Found::Token(token, Level::L2, age);
        }
        let revocations = &self.revocations;
        let read = |entry: Entry<&[u8]>| {
            let entry = is_valid(&entry, negative_ttl, now).then(|| read_refusal(&entry))??;
            let counts =
                !revocations.distrusts_shared(entry.cached_at) && !outdated(revocations, &entry);
            counts.then_some(entry)
        };
        if let Some(entry) = self.shared_refused.find(store, &self.sealer, digest, read) {
            let refused = entry.payload.refused;
            put(&mut self.refused, self.entries_max, *digest, entry);
            return Found::Refused(refused);
        }
        Found::Nothing
    }

    /// A token past its TTL, for as long as `stale_if_error_seconds` allows: for the case that
    /// Keycloak cannot be asked. Never a token that was revoked or dropped, or that is past its
    /// own end.
    pub fn find_stale(
        &mut self,
        digest: &KeyDigest,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Option<CachedToken> {
        if self.stale_ms == 0 {
            return None;
        }
        let age_max = self.ttl_ms + self.stale_ms;
        let own = self.own_token(digest, age_max, now);
        let entry = own.or_else(|| self.shared_token(digest, age_max, now, store))?;
        Some(entry.payload)
    }

    /// The token in worker memory, if its age allows its use and it was not revoked.
    fn own_token(
        &mut self,
        digest: &KeyDigest,
        age_max_ms: u64,
        now: UnixMillis,
    ) -> Option<Entry<CachedToken>> {
        let entry = self.tokens.get(digest)?;
        let lives = is_valid(entry, age_max_ms, now)
            && !(self.revocations).kills(&entry.payload.owner_id, entry.cached_at);
        lives.then(|| entry.clone())
    }

    /// The same in shared data, if it was not dropped.
    fn shared_token(
        &self,
        digest: &KeyDigest,
        age_max_ms: u64,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Option<Entry<CachedToken>> {
        let read = |entry: Entry<&[u8]>| {
            let entry = is_valid(&entry, age_max_ms, now).then(|| read_token(&entry))??;
            let owner_id = &entry.payload.owner_id;
            let dead = self.revocations.kills_shared(owner_id, entry.cached_at)
                || self.renewals.is_dropped(digest, entry.cached_at);
            (!dead).then_some(entry)
        };
        self.shared_tokens.find(store, &self.sealer, digest, read)
    }

    /// The key was refused: no worker of this node serves its earlier token any more, even if
    /// Keycloak cannot be asked later.
    /// Returns true if the key had a token.
    fn revoke_stale(
        &mut self,
        digest: &KeyDigest,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> bool {
        let Some(token) = self.find_stale(digest, now, store) else {
            return false;
        };
        // If other workers cannot be told, each of them learns it from its own refusal.
        let _ = (self.revocations).revoke_owner(&token.owner_id, now, store);
        true
    }

    /// Remembers a token until `ends_at`, or for the TTL if that is sooner. The TTL runs from
    /// `asked_at`, when Keycloak was asked for the owner: so a revocation after that takes effect
    /// within the TTL.
    pub fn remember_token(
        &mut self,
        digest: &KeyDigest,
        token: CachedToken,
        ends_at: UnixMillis,
        asked_at: UnixMillis,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) {
        let ttl_ends_at = asked_at.plus_ms(self.ttl_ms + self.stale_ms);
        let ends_at = ends_at.min(ttl_ends_at);
        if ends_at <= now {
            return;
        }
        let payload = write_token(&token);
        let sealed = Entry {
            cached_at: asked_at,
            ends_at,
            payload: payload.as_slice(),
        };
        self.shared_tokens
            .store(store, &self.sealer, digest, &sealed, now);
        self.refused.pop(digest);
        let entry = Entry {
            cached_at: asked_at,
            ends_at,
            payload: token,
        };
        put(&mut self.tokens, self.entries_max, *digest, entry);
    }

    /// Whether this worker must renew the token of a key now: it is still cached and due, no
    /// other worker of the node has renewed it, and none is about to. Until `until` the other
    /// workers leave it to this one.
    pub fn take_renewal(
        &mut self,
        digest: &KeyDigest,
        until: UnixMillis,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> bool {
        let found = self.find(digest, now, store);
        if !matches!(found, Found::Token(_, _, Age::Due)) {
            return false;
        }
        // Another worker's newer token lies in shared data, behind this worker's own.
        let own = self.tokens.pop(digest);
        let found = self.find(digest, now, store);
        match (found, own) {
            (Found::Token(_, _, Age::Young), _) => return false,
            (Found::Token(..), _) | (_, None) => {}
            (_, Some(own)) => put(&mut self.tokens, self.entries_max, *digest, own),
        }
        self.renewals.claim(digest, until, now, &self.sealer, store)
    }

    /// Drops the token of a key, because the service refused it. At most once a minute for a key,
    /// and never a token that was asked for later. True if the token was dropped.
    pub fn drop_token(&mut self, digest: &KeyDigest, now: UnixMillis) -> bool {
        let dropped = self.renewals.drop_token(digest, now);
        if dropped {
            self.tokens.pop(digest);
        }
        dropped
    }

    /// Remembers that a key was refused, for the negative TTL. If the key has an owner, the refusal
    /// also ends when the owner is changed after `asked_at`, the instant of the look-up. So a key
    /// that is switched on again, or gets a later end, is served within a poll.
    pub fn remember_refused(
        &mut self,
        digest: &KeyDigest,
        refusal: CachedRefusal,
        asked_at: UnixMillis,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) {
        let revoked = self.revoke_stale(digest, now, store);
        self.tokens.pop(digest);
        if self.negative_ttl_ms == 0 {
            return;
        }
        let ends_at = now.plus_ms(self.negative_ttl_ms);
        let payload = write_refusal(&refusal);
        // This refusal's own revocation must not end it.
        let cached_at = if revoked {
            now.plus_ms(MARGIN_MS + 1)
        } else {
            asked_at.min(now)
        };
        let sealed = Entry {
            cached_at,
            ends_at,
            payload: payload.as_slice(),
        };
        self.shared_refused
            .store(store, &self.sealer, digest, &sealed, now);
        let entry = Entry {
            cached_at,
            ends_at,
            payload: refusal,
        };
        put(&mut self.refused, self.entries_max, *digest, entry);
    }

    /// Whether this key was verified before, against exactly this stored hash.
    pub fn is_verified(
        &mut self,
        digest: &KeyDigest,
        hash_text: &str,
        store: &mut dyn SharedStore,
    ) -> bool {
        let proof = self.proof(digest, hash_text);
        if self.verified.get(digest) == Some(&proof) {
            return true;
        }
        let read = |entry: Entry<&[u8]>| (entry.payload == proof).then_some(());
        if self
            .shared_verified
            .find(store, &self.sealer, digest, read)
            .is_none()
        {
            return false;
        }
        put(&mut self.verified, self.entries_max, *digest, proof);
        true
    }

    /// Whether this key was verified on this node before, against any hash.
    pub fn was_verified(&self, digest: &KeyDigest, store: &mut dyn SharedStore) -> bool {
        let read = |_: Entry<&[u8]>| Some(());
        self.verified.contains(digest)
            || self
                .shared_verified
                .find(store, &self.sealer, digest, read)
                .is_some()
    }

    /// Remembers that this key was verified against this stored hash. The entry is bound to the
    /// exact text: a changed record is verified anew.
    pub fn remember_verified(
        &mut self,
        digest: &KeyDigest,
        hash_text: &str,
        ends_at: UnixMillis,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) {
        let proof = self.proof(digest, hash_text);
        let sealed = Entry {
            cached_at: now,
            ends_at,
            payload: &proof[..],
        };
        self.shared_verified
            .store(store, &self.sealer, digest, &sealed, now);
        put(&mut self.verified, self.entries_max, *digest, proof);
    }

    fn proof(&self, digest: &KeyDigest, hash_text: &str) -> [u8; 32] {
        self.proof_key.tag(&[digest, hash_text.as_bytes()])
    }
}

/// Whether the owner was changed since the refusal.
fn outdated(revocations: &Revocations, refusal: &Entry<CachedRefusal>) -> bool {
    let owner_id = refusal.payload.owner_id.as_deref();
    owner_id.is_some_and(|owner_id| revocations.kills(owner_id, refusal.cached_at))
}

fn is_valid<P>(entry: &Entry<P>, ttl_ms: u64, now: UnixMillis) -> bool {
    now < entry.ends_at
        && now < entry.cached_at.plus_ms(ttl_ms)
        && now.plus_ms(CORRECTION_MS) >= entry.cached_at
}

/// Puts an entry into worker memory; the least recently used entries leave.
pub(crate) fn put<K: Hash + Eq, V>(
    cache: &mut LruCache<K, V>,
    entries_max: usize,
    key: K,
    value: V,
) {
    cache.put(key, value);
    while cache.len() > entries_max {
        cache.pop_lru();
    }
}

#[cfg(test)]
mod tests;
