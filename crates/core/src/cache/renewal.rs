//! When a cached token is renewed before its end, and by which worker of a node.
//!
//! A token is due in the last part of its time, between a tenth and a fifth. The key's digest
//! decides the exact part, so keys that were cached together are not renewed together. A worker
//! claims a renewal in shared data. If the host loses a claim, two workers renew the token, at
//! the cost of two more calls.

use lru::LruCache;

use crate::clock::UnixMillis;
use crate::store::sealed::{Entry, KeyDigest, Kind, Sealer};
use crate::store::slots::{SharedStore, Slots};

/// Slots for claims: each is held for as long as one renewal takes.
const SLOTS_MAX: u32 = 256;
/// A claim with a later end was made before the clock was set back.
const CLAIM_MS_MAX: u64 = 120_000;
/// The most keys with a dropped token that are remembered.
const DROPPED_MAX: usize = 1024;
/// After a token of a key was dropped, none of the key's next tokens is dropped for this long.
const DROP_MS: u64 = 60_000;

/// The age of a cached token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// It is used as it is.
    Young,
    /// It is used, and is to be renewed.
    Due,
}

/// The renewals of one configuration in one worker.
#[derive(Debug)]
pub struct Renewals {
    ttl_ms: u64,
    claims: Slots,
    dropped: LruCache<KeyDigest, UnixMillis>,
}

impl Renewals {
    /// `l2_slots` and the TTL as configured.
    #[must_use]
    pub fn new(l2_slots: u32, ttl_ms: u64) -> Self {
        Self {
            ttl_ms,
            claims: Slots::new(Kind::Renewal, l2_slots.min(SLOTS_MAX)),
            dropped: LruCache::unbounded(),
        }
    }

    /// The age of an entry.
    #[must_use]
    pub fn age<P>(&self, entry: &Entry<P>, digest: &KeyDigest, now: UnixMillis) -> Age {
        let ends_at = entry.ends_at.min(entry.cached_at.plus_ms(self.ttl_ms));
        let tenth = ends_at.since_ms(entry.cached_at) / 10;
        let [.., spread] = *digest;
        let ahead = tenth + tenth * u64::from(spread) / 255;
        if now.plus_ms(ahead) >= ends_at {
            Age::Due
        } else {
            Age::Young
        }
    }

    /// Claims the renewal for this worker until an instant, unless another has it.
    pub fn claim(
        &self,
        digest: &KeyDigest,
        until: UnixMillis,
        now: UnixMillis,
        sealer: &Sealer,
        store: &mut dyn SharedStore,
    ) -> bool {
        let counts = |entry: Entry<&[u8]>| {
            let near = entry.ends_at <= now.plus_ms(CLAIM_MS_MAX);
            (now < entry.ends_at && near).then_some(())
        };
        if self.claims.find(store, sealer, digest, counts).is_some() {
            return false;
        }
        let entry = Entry {
            cached_at: now,
            ends_at: until,
            payload: &[][..],
        };
        self.claims.store(store, sealer, digest, &entry, now);
        true
    }

    /// Whether a token that was asked for at this instant was dropped.
    #[must_use]
    pub fn is_dropped(&self, digest: &KeyDigest, cached_at: UnixMillis) -> bool {
        let at = self.dropped.peek(digest);
        at.is_some_and(|at| cached_at <= *at)
    }

    /// Notes that a key's token is dropped; false if that was a short while ago.
    pub fn drop_token(&mut self, digest: &KeyDigest, now: UnixMillis) -> bool {
        let last = self.dropped.get(digest).copied();
        if last.is_some_and(|at| (at..at.plus_ms(DROP_MS)).contains(&now)) {
            return false;
        }
        self.dropped.put(*digest, now);
        while self.dropped.len() > DROPPED_MAX {
            self.dropped.pop_lru();
        }
        true
    }

    /// The number of keys with a dropped token that is remembered.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.dropped.len()
    }
}
