//! What is remembered of a key: its token, its verification, its refusal.
//!
//! Each is kept in worker memory (L1, least recently used goes first) and in the
//! host's shared data (L2, see [`slots`]), in regions of their own, so that a flood
//! of unknown keys evicts nobody's token. A key is known in all of them by its
//! digest alone. No entry is used past its end, past this configuration's TTL, or
//! before it was stored (the clock was set back).

pub mod sealed;
pub mod slots;

use std::sync::Arc;

use lru::LruCache;

use crate::api_key::format::ApiKey;
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::mac::MacKey;
use crate::signing_key::SigningKey;
use sealed::{Entry, KeyDigest, Kind, Sealer};
use slots::{SharedStore, Slots};

/// A step of the clock backwards that is still taken for a correction.
const CORRECTION_MS: u64 = 1000;

/// A token in the cache.
#[derive(Clone)]
pub struct CachedToken {
    /// The value of the `Authorization` header.
    pub authorization: Arc<str>,
    /// Keycloak's id of the owner.
    pub owner_id: Arc<str>,
}

impl std::fmt::Debug for CachedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedToken")
            .field("owner_id", &self.owner_id)
            .finish_non_exhaustive()
    }
}

/// Why a key was refused, as far as it matters for the next request with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Keycloak answered that nobody owns it.
    Unknown,
    /// It was found and is not to be used.
    Invalid,
}

/// Where an entry was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Worker memory.
    L1,
    /// The host's shared data.
    L2,
}

/// What the caches know of a key.
#[derive(Debug, Clone)]
pub enum Found {
    /// A token to forward.
    Token(CachedToken, Level),
    /// It was refused a short while ago.
    Refused(Refused),
    /// Nothing.
    Nothing,
}

/// The caches of one configuration in one worker.
#[derive(Debug)]
pub struct Cache {
    digest_key: MacKey,
    proof_key: MacKey,
    sealer: Sealer,
    ttl_ms: u64,
    negative_ttl_ms: u64,
    entries_max: usize,
    tokens: LruCache<KeyDigest, Entry<CachedToken>>,
    verified: LruCache<KeyDigest, [u8; 32]>,
    refused: LruCache<KeyDigest, Entry<Refused>>,
    shared_tokens: Slots,
    shared_verified: Slots,
    shared_refused: Slots,
}

impl Cache {
    /// Empty caches. Their secrets come from the signing key and the
    /// configuration's fingerprint, so that what another configuration stored is
    /// a miss.
    #[must_use]
    pub fn new(config: &Config, signing_key: &SigningKey) -> Self {
        let derive = |purpose: &[u8]| signing_key.derive(&[purpose, b":", &config.fingerprint]);
        Self {
            digest_key: MacKey::new(&derive(b"cache key")),
            proof_key: MacKey::new(&derive(b"proof of verification")),
            sealer: Sealer::new(&derive(b"seal")),
            ttl_ms: config.cache_ttl_ms,
            negative_ttl_ms: config.negative_ttl_ms,
            entries_max: config.l1_entries,
            tokens: LruCache::unbounded(),
            verified: LruCache::unbounded(),
            refused: LruCache::unbounded(),
            shared_tokens: Slots::new(Kind::Token, config.l2_slots),
            shared_verified: Slots::new(Kind::Verified, config.l2_slots),
            shared_refused: Slots::new(Kind::Refused, config.l2_slots),
        }
    }

    /// The digest that stands for a key here.
    #[must_use]
    pub fn digest(&self, key: &ApiKey) -> KeyDigest {
        self.digest_key.tag(&[key.expose().as_bytes()])
    }

    /// What is known of a key. A find in shared data is taken into worker memory.
    pub fn find(
        &mut self,
        digest: &KeyDigest,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Found {
        let (ttl, negative_ttl) = (self.ttl_ms, self.negative_ttl_ms);
        if let Some(entry) = self.tokens.get(digest)
            && is_valid(entry, ttl, now)
        {
            return Found::Token(entry.payload.clone(), Level::L1);
        }
        if let Some(entry) = self.refused.get(digest)
            && is_valid(entry, negative_ttl, now)
        {
            return Found::Refused(entry.payload);
        }
        let read = |entry: Entry<&[u8]>| {
            is_valid(&entry, ttl, now)
                .then(|| read_token(&entry))
                .flatten()
        };
        if let Some(entry) = self.shared_tokens.find(store, &self.sealer, digest, read) {
            let token = entry.payload.clone();
            put(&mut self.tokens, self.entries_max, *digest, entry);
            return Found::Token(token, Level::L2);
        }
        let read = |entry: Entry<&[u8]>| {
            is_valid(&entry, negative_ttl, now)
                .then(|| read_refused(&entry))
                .flatten()
        };
        if let Some(entry) = self.shared_refused.find(store, &self.sealer, digest, read) {
            let refused = entry.payload;
            put(&mut self.refused, self.entries_max, *digest, entry);
            return Found::Refused(refused);
        }
        Found::Nothing
    }

    /// Remembers a token until `ends_at`, or for the TTL if that is sooner. The TTL
    /// runs from `asked_at`, when Keycloak was asked for the owner: what was revoked
    /// since is used no longer than the TTL.
    pub fn remember_token(
        &mut self,
        digest: &KeyDigest,
        token: CachedToken,
        ends_at: UnixMillis,
        asked_at: UnixMillis,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) {
        let ends_at = ends_at.min(asked_at.plus_ms(self.ttl_ms));
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

    /// Remembers that a key was refused, for the negative TTL.
    pub fn remember_refused(
        &mut self,
        digest: &KeyDigest,
        refused: Refused,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) {
        self.tokens.pop(digest);
        if self.negative_ttl_ms == 0 {
            return;
        }
        let ends_at = now.plus_ms(self.negative_ttl_ms);
        let payload = [refused_byte(refused)];
        let sealed = Entry {
            cached_at: now,
            ends_at,
            payload: &payload[..],
        };
        self.shared_refused
            .store(store, &self.sealer, digest, &sealed, now);
        let entry = Entry {
            cached_at: now,
            ends_at,
            payload: refused,
        };
        put(&mut self.refused, self.entries_max, *digest, entry);
    }

    /// Whether this key was verified against exactly this stored hash before.
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

    /// Remembers that this key was verified against this stored hash. It is bound
    /// to the very text: a changed record is verified anew.
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

fn is_valid<P>(entry: &Entry<P>, ttl_ms: u64, now: UnixMillis) -> bool {
    now < entry.ends_at
        && now < entry.cached_at.plus_ms(ttl_ms)
        && now.plus_ms(CORRECTION_MS) >= entry.cached_at
}

/// Puts an entry into worker memory; the least recently used ones leave.
fn put<V>(cache: &mut LruCache<KeyDigest, V>, entries_max: usize, digest: KeyDigest, value: V) {
    cache.put(digest, value);
    while cache.len() > entries_max {
        cache.pop_lru();
    }
}

/// The length of the owner's id (one byte), the id, the header's value.
fn write_token(token: &CachedToken) -> Vec<u8> {
    let owner = token.owner_id.as_bytes();
    let mut payload = Vec::with_capacity(1 + owner.len() + token.authorization.len());
    payload.push(u8::try_from(owner.len()).unwrap_or(0));
    payload.extend_from_slice(owner);
    payload.extend_from_slice(token.authorization.as_bytes());
    payload
}

fn read_token(entry: &Entry<&[u8]>) -> Option<Entry<CachedToken>> {
    let (&length, rest) = entry.payload.split_first()?;
    let (owner, authorization) = rest.split_at_checked(usize::from(length))?;
    let payload = CachedToken {
        authorization: std::str::from_utf8(authorization).ok()?.into(),
        owner_id: std::str::from_utf8(owner).ok()?.into(),
    };
    Some(Entry {
        cached_at: entry.cached_at,
        ends_at: entry.ends_at,
        payload,
    })
}

fn refused_byte(refused: Refused) -> u8 {
    match refused {
        Refused::Unknown => 1,
        Refused::Invalid => 2,
    }
}

fn read_refused(entry: &Entry<&[u8]>) -> Option<Entry<Refused>> {
    let payload = match entry.payload {
        [1] => Refused::Unknown,
        [2] => Refused::Invalid,
        _ => return None,
    };
    Some(Entry {
        cached_at: entry.cached_at,
        ends_at: entry.ends_at,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::slots::tests::Shared;
    use super::*;
    use crate::test_support::{config, signing_key};

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
    const DIGEST: KeyDigest = [3; 32];

    fn cache() -> Cache {
        Cache::new(&config(), &signing_key())
    }

    fn token() -> CachedToken {
        CachedToken {
            authorization: "Bearer a.b.c".into(),
            owner_id: "user-1".into(),
        }
    }

    fn level(found: &Found) -> Option<Level> {
        match found {
            Found::Token(token, level) => {
                assert_eq!(
                    (&*token.authorization, &*token.owner_id),
                    ("Bearer a.b.c", "user-1")
                );
                Some(*level)
            }
            _ => None,
        }
    }

    #[test]
    fn a_token_is_found_in_the_worker_and_by_another_worker_of_the_node() {
        let (mut one, mut other, mut shared) = (cache(), cache(), Shared::default());
        one.remember_token(&DIGEST, token(), NOW.plus_ms(60_000), NOW, NOW, &mut shared);
        assert_eq!(level(&one.find(&DIGEST, NOW, &mut shared)), Some(Level::L1));
        assert_eq!(
            level(&other.find(&DIGEST, NOW, &mut shared)),
            Some(Level::L2)
        );
        assert_eq!(
            level(&other.find(&DIGEST, NOW, &mut shared)),
            Some(Level::L1)
        );
        assert_eq!(level(&one.find(&[4; 32], NOW, &mut shared)), None);
    }

    #[test]
    fn no_token_is_used_past_its_end_the_ttl_or_before_it_was_stored() {
        let (mut one, mut shared) = (cache(), Shared::default());
        one.remember_token(&DIGEST, token(), NOW.plus_ms(60_000), NOW, NOW, &mut shared);
        for (at, expected) in [
            (NOW.plus_ms(59_999), Some(Level::L1)),
            (NOW.plus_ms(60_000), None),
            (NOW.minus_ms(500), Some(Level::L1)),
            (NOW.minus_ms(5000), None),
        ] {
            assert_eq!(
                level(&one.find(&DIGEST, at, &mut shared)),
                expected,
                "{at:?}"
            );
            let in_shared = level(&cache().find(&DIGEST, at, &mut shared)).is_some();
            assert_eq!(in_shared, expected.is_some(), "{at:?}");
        }
        one.remember_token(
            &DIGEST,
            token(),
            NOW.plus_ms(900_000),
            NOW,
            NOW,
            &mut shared,
        );
        assert!(level(&one.find(&DIGEST, NOW.plus_ms(299_999), &mut shared)).is_some());
        assert!(level(&one.find(&DIGEST, NOW.plus_ms(300_000), &mut shared)).is_none());
        one.remember_token(&[5; 32], token(), NOW, NOW, NOW, &mut shared);
        assert!(level(&one.find(&[5; 32], NOW, &mut shared)).is_none());
    }

    #[test]
    fn what_another_configuration_stored_is_a_miss() {
        let (mut one, mut shared) = (cache(), Shared::default());
        one.remember_token(&DIGEST, token(), NOW.plus_ms(60_000), NOW, NOW, &mut shared);
        let mut other = config();
        other.fingerprint = [9; 32];
        let mut other = Cache::new(&other, &signing_key());
        assert_eq!(level(&other.find(&DIGEST, NOW, &mut shared)), None);
    }

    #[test]
    fn refusals_are_remembered_apart_and_end_a_token() {
        let (mut one, mut shared) = (cache(), Shared::default());
        one.remember_token(&DIGEST, token(), NOW.plus_ms(60_000), NOW, NOW, &mut shared);
        for at in 0..20_000_u32 {
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&at.to_be_bytes());
            one.remember_refused(&digest, Refused::Unknown, NOW, &mut shared);
        }
        assert_eq!(level(&one.find(&DIGEST, NOW, &mut shared)), Some(Level::L1));
        assert_eq!((one.refused.len(), one.tokens.len()), (10_000, 1));
        one.remember_refused(&DIGEST, Refused::Invalid, NOW, &mut shared);
        let found = one.find(&DIGEST, NOW, &mut shared);
        assert!(
            matches!(found, Found::Refused(Refused::Invalid)),
            "{found:?}"
        );
        let later = one.find(&DIGEST, NOW.plus_ms(30_000), &mut Shared::default());
        assert!(matches!(later, Found::Nothing), "{later:?}");
    }

    #[test]
    fn a_verification_counts_for_that_very_hash_on_the_whole_node() {
        let (mut one, mut shared) = (cache(), Shared::default());
        assert!(!one.is_verified(&DIGEST, "$2b$a", &mut shared));
        one.remember_verified(&DIGEST, "$2b$a", NOW.plus_ms(1), NOW, &mut shared);
        assert!(one.is_verified(&DIGEST, "$2b$a", &mut shared));
        assert!(cache().is_verified(&DIGEST, "$2b$a", &mut shared));
        assert!(!cache().is_verified(&DIGEST, "$2b$b", &mut shared));
        assert!(!cache().is_verified(&[4; 32], "$2b$a", &mut shared));
    }

    #[test]
    fn a_verification_of_one_key_is_none_of_another() {
        let (mut one, mut shared) = (cache(), Shared::default());
        let proof = one.proof(&DIGEST, "$2b$a");
        let moved = Entry {
            cached_at: NOW,
            ends_at: NOW.plus_ms(1),
            payload: &proof[..],
        };
        let (slots, sealer) = (one.shared_verified.clone(), one.sealer.clone());
        slots.store(&mut shared, &sealer, &[4; 32], &moved, NOW);
        assert!(!one.is_verified(&[4; 32], "$2b$a", &mut shared));
    }

    #[test]
    fn the_readers_ttl_counts_whatever_the_writers_was() {
        let (mut one, mut shared) = (cache(), Shared::default());
        one.remember_token(
            &DIGEST,
            token(),
            NOW.plus_ms(300_000),
            NOW,
            NOW,
            &mut shared,
        );
        let mut config = config();
        config.cache_ttl_ms = 10_000;
        for (ms, level_then) in [(10_000, None), (9_999, Some(Level::L2))] {
            let mut reader = Cache::new(&config, &signing_key());
            let found = reader.find(&DIGEST, NOW.plus_ms(ms), &mut shared);
            assert_eq!(level(&found), level_then, "{ms}");
        }
    }

    #[test]
    fn a_token_ends_the_refusal_before_it() {
        let (mut one, none) = (cache(), Shared::default);
        one.remember_refused(&DIGEST, Refused::Invalid, NOW, &mut none());
        one.remember_token(&DIGEST, token(), NOW.plus_ms(9), NOW, NOW, &mut none());
        let later = one.find(&DIGEST, NOW.plus_ms(9), &mut none());
        assert!(matches!(later, Found::Nothing), "{later:?}");
    }
}
