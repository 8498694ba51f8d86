//! The rate limits of keys: a token bucket for each key that has one, for all workers of a node.
//!
//! A bucket is in the host's shared data. Each worker also keeps its last view of it in memory; the
//! later of the two instants counts. If the host loses a bucket, a worker goes on with the one in
//! its memory. After a failed read two workers may count in two slots; they find each other within
//! a second. A changed limit begins with a full bucket. Nodes share nothing: each lets the whole
//! limit through.

use lru::LruCache;

use super::bucket::{Bucket, FullAt};
use crate::api_key::terms::RateLimit;
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::mac::MacKey;
use crate::rejection::Spent;
use crate::signing_key::SigningKey;
use crate::store::buckets::{BucketId, Buckets, SealedBucket};
use crate::store::sealed::KeyDigest;
use crate::store::slots::SharedStore;

/// Tries of a write: each failure means that another worker let a request through.
const TRIES: usize = 4;
/// For this long after a look at all slots, a worker reads the key's slot alone.
const LOOK_MS: u64 = 1000;

/// The limits that a worker has met.
#[derive(Debug)]
pub struct RateLimits {
    id_key: MacKey,
    shared: Buckets,
    seen: LruCache<KeyDigest, Seen>,
    entries_max: usize,
    lost: u64,
}

/// A key's bucket, as this worker saw it last.
#[derive(Debug)]
struct Seen {
    id: BucketId,
    limit: RateLimit,
    full_at: FullAt,
    /// The slot that held it.
    name: Option<String>,
    /// Its latest value there.
    value: SealedBucket,
    /// When all slots of its set were last looked at.
    looked_at: UnixMillis,
}

impl RateLimits {
    /// No key has been met. Filters for one realm and signing key count together within a node.
    #[must_use]
    pub fn new(config: &Config, signing_key: &SigningKey) -> Self {
        let issuer = config.realm.issuer.as_bytes();
        let derive = |purpose: &[u8]| signing_key.derive(&[purpose, b":", issuer]);
        Self {
            id_key: MacKey::new(&derive(b"bucket of a key")),
            shared: Buckets::new(&derive(b"seal of buckets"), config.l2_slots),
            seen: LruCache::unbounded(),
            entries_max: config.l1_entries,
            lost: 0,
        }
    }

    /// Spends a token of a key's bucket.
    ///
    /// # Errors
    /// [`Spent`], and no token is spent: the bucket is empty.
    pub fn take(
        &mut self,
        digest: &KeyDigest,
        key_id: &str,
        limit: RateLimit,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Result<(), Spent> {
        let id_key = &self.id_key;
        let first = || {
            let RateLimit { requests, seconds } = limit;
            let limit_bytes = [requests.to_be_bytes(), seconds.to_be_bytes()].concat();
            let tag = id_key.tag(&[&limit_bytes, key_id.as_bytes()]);
            Seen {
                id: tag.first_chunk().copied().unwrap_or_default(),
                limit,
                full_at: FullAt::default(),
                name: None,
                value: [0; 40],
                looked_at: UnixMillis::default(),
            }
        };
        let seen = self.seen.get_or_insert_mut(*digest, first);
        if seen.limit != limit {
            *seen = first();
        }
        let taken = seen.take(&self.shared, &mut self.lost, now, store);
        while self.seen.len() > self.entries_max {
            self.seen.pop_lru();
        }
        taken
    }

    /// The number of keys in the worker's memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether no key has been met.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Requests that were let through though their bucket was lost, or could not be written, since
    /// the last call.
    pub const fn take_lost(&mut self) -> u64 {
        std::mem::replace(&mut self.lost, 0)
    }
}

impl Seen {
    fn take(
        &mut self,
        shared: &Buckets,
        lost: &mut u64,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Result<(), Spent> {
        let limit = self.limit;
        let requests = u64::from(limit.requests);
        let bucket = Bucket::new(requests, u64::from(limit.seconds) * 1000, requests);
        for _ in 0..TRIES {
            let slot = self.look(shared, lost, now, store);
            let mut full_at = self.full_at;
            if bucket.reserve(&mut full_at, now).is_none() {
                let wait_ms = bucket.wait_ms(full_at, now);
                return Err(Spent { limit, wait_ms });
            }
            let (Some(version), Some(name)) = (slot, &self.name) else {
                // No shared data: the worker counts for itself.
                self.full_at = full_at;
                return Ok(());
            };
            let value = shared.seal(&self.id, full_at.0);
            if store.set(name, &value, version) {
                self.full_at = full_at;
                self.value = value;
                return Ok(());
            }
        }
        // The host takes no write. The request is let through, and counts here alone.
        *lost += 1;
        bucket.spend(&mut self.full_at, now);
        Ok(())
    }

    /// Looks at the key's slot, and takes over its bucket if it is full later. Gives the version to
    /// write over; none without shared data.
    fn look(
        &mut self,
        shared: &Buckets,
        lost: &mut u64,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Option<Option<u32>> {
        let is_recent = self.looked_at <= now && now < self.looked_at.plus_ms(LOOK_MS);
        if is_recent
            && let Some(name) = &self.name
            && let Some((there, version)) = shared.read(&self.id, name, &self.value, store)
        {
            self.full_at = self.full_at.max(FullAt(there));
            return Some(version);
        }
        let place = shared.find(&self.id, now, store)?;
        if place.full_at_us.is_none() && self.full_at.0 > now.0.saturating_mul(1000) {
            // The bucket was there at this worker's last look.
            *lost += 1;
        }
        self.looked_at = now;
        self.full_at = self
            .full_at
            .max(FullAt(place.full_at_us.unwrap_or_default()));
        self.name = Some(place.name);
        Some(place.version)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::slots::tests::Shared;
    use crate::test_support::{config_with, signing_key};

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
    const KEY: (KeyDigest, &str) = ([3; 32], "abc123def456");

    fn limits(slots: u32) -> RateLimits {
        let config = config_with(&json!({"l2_slots": slots}));
        RateLimits::new(&config, &signing_key())
    }

    fn take(
        limits: &mut RateLimits,
        key: (KeyDigest, &str),
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Result<(), u64> {
        let limit = RateLimit::parse("10/60").unwrap();
        let taken = limits.take(&key.0, key.1, limit, now, store);
        taken.map_err(|spent| spent.wait_ms)
    }

    #[test]
    fn two_workers_of_a_node_share_a_keys_limit() {
        let (mut one, mut other, mut shared) = (limits(4), limits(4), Shared::default());
        for at in 0..10 {
            let worker = if at % 2 == 0 { &mut one } else { &mut other };
            assert_eq!(take(worker, KEY, NOW, &mut shared), Ok(()), "{at}");
        }
        for worker in [&mut one, &mut other] {
            assert_eq!(take(worker, KEY, NOW, &mut shared), Err(6000));
        }
        let later = NOW.plus_ms(6000);
        assert_eq!(take(&mut other, KEY, later, &mut shared), Ok(()));
        assert_eq!(take(&mut one, KEY, later, &mut shared), Err(6000));
        assert_eq!((one.take_lost(), other.take_lost()), (0, 0));
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own() {
        let (mut limits, mut shared) = (limits(4), Shared::default());
        for _ in 0..10 {
            assert_eq!(take(&mut limits, KEY, NOW, &mut shared), Ok(()));
        }
        let other = ([4; 32], "zzz999zzz999");
        assert_eq!(take(&mut limits, other, NOW, &mut shared), Ok(()));
        assert_eq!(take(&mut limits, KEY, NOW, &mut shared), Err(6000));
    }

    #[test]
    fn without_shared_data_a_worker_counts_for_itself() {
        let (mut one, mut other, mut shared) = (limits(0), limits(0), Shared::default());
        for worker in [&mut one, &mut other] {
            let served = (0..20).filter(|_| take(worker, KEY, NOW, &mut shared).is_ok());
            assert_eq!(served.count(), 10);
            assert_eq!(worker.take_lost(), 0);
        }
        assert!(shared.0.is_empty());
    }

    #[test]
    fn a_lost_bucket_lets_no_more_through_on_the_worker_that_saw_it_and_is_counted() {
        let (mut limits, mut shared) = (limits(4), Shared::default());
        for _ in 0..10 {
            assert_eq!(take(&mut limits, KEY, NOW, &mut shared), Ok(()));
        }
        shared.0.clear();
        assert_eq!(take(&mut limits, KEY, NOW, &mut shared), Err(6000));
        assert_eq!(limits.take_lost(), 1);
        // After its time a bucket that is gone is no loss.
        shared.0.clear();
        let later = NOW.plus_ms(60_000);
        assert_eq!(take(&mut limits, KEY, later, &mut shared), Ok(()));
        assert_eq!(limits.take_lost(), 0);
    }

    /// Shared data that finds nothing under one name, once.
    struct Missed(Shared, Option<&'static str>);

    impl SharedStore for Missed {
        fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
            if self.1 == Some(name) {
                self.1 = None;
                return None;
            }
            self.0.get(name)
        }
        fn set(&mut self, name: &str, value: &[u8], version: Option<u32>) -> bool {
            self.0.set(name, value, version)
        }
    }

    #[test]
    fn two_buckets_of_a_key_after_a_read_that_failed_are_one_again_within_a_second() {
        let (mut one, mut other) = (limits(4), limits(4));
        let mut shared = Missed(Shared::default(), None);
        let another = ([4; 32], "zzz999zzz999");
        assert_eq!(take(&mut one, another, NOW, &mut shared), Ok(()));
        for _ in 0..5 {
            assert_eq!(take(&mut one, KEY, NOW, &mut shared), Ok(()));
        }
        // The slot before is free again, and a worker that sees nothing of the bucket takes it.
        assert!(shared.0.0.contains_key("ab:0001"));
        shared.0.0.remove("ab:0000");
        shared.1 = Some("ab:0001");
        assert_eq!(take(&mut other, KEY, NOW, &mut shared), Ok(()));
        assert_eq!(shared.0.0.len(), 2);
        // In a minute one bucket of 10 earns 10, and was never owed more than one loss.
        let mut served = 0;
        for second in 1..=60 {
            for worker in [&mut one, &mut other] {
                let now = NOW.plus_ms(second * 1000);
                served += usize::from(take(worker, KEY, now, &mut shared).is_ok());
            }
        }
        assert!((10..=15).contains(&served), "{served}");
    }

    /// Shared data in which another worker is faster, so many times.
    struct Raced(Shared, usize);

    impl SharedStore for Raced {
        fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
            self.0.get(name)
        }
        fn set(&mut self, name: &str, value: &[u8], version: Option<u32>) -> bool {
            if self.1 > 0 {
                self.1 -= 1;
                return false;
            }
            self.0.set(name, value, version)
        }
    }

    #[test]
    fn a_write_that_another_worker_overtook_is_tried_again_and_a_request_spends_one_token() {
        let mut limits = limits(4);
        let mut shared = Raced(Shared::default(), 0);
        for races in [0, 1, 3] {
            shared.1 = races;
            assert_eq!(take(&mut limits, KEY, NOW, &mut shared), Ok(()));
        }
        assert_eq!(limits.take_lost(), 0);
        // A host that takes no write at all.
        shared.1 = usize::MAX;
        let served = (0..20).filter(|_| take(&mut limits, KEY, NOW, &mut shared).is_ok());
        assert_eq!(served.count(), 7);
        assert_eq!(limits.take_lost(), 7);
    }

    #[test]
    fn a_new_limit_begins_with_a_full_bucket() {
        let (mut limits, mut shared) = (limits(4), Shared::default());
        let mut served = |limit: &str, now| {
            let limit = RateLimit::parse(limit).unwrap();
            let served =
                (0..300).filter(|_| limits.take(&KEY.0, KEY.1, limit, now, &mut shared).is_ok());
            served.count()
        };
        assert_eq!(served("10/60", NOW), 10);
        assert_eq!(served("10/60", NOW), 0);
        assert_eq!(served("20/60", NOW), 20);
        assert_eq!(served("5/1", NOW), 5);
    }

    #[test]
    fn memory_is_bounded() {
        let config = config_with(&json!({"l1_entries": 16}));
        let mut limits = RateLimits::new(&config, &signing_key());
        let mut shared = Shared::default();
        assert!(limits.is_empty());
        for n in 0..40 {
            let _ = take(&mut limits, ([n; 32], &n.to_string()), NOW, &mut shared);
        }
        assert_eq!(limits.len(), 16);
    }
}
