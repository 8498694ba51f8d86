//! Failures by source address: an address with too many failures in a minute must wait.
//!
//! An address may fail `throttle_failures_per_minute` times at once, and as often again in each
//! minute that follows. Every refused key counts, whatever the reason: if one reason did not
//! count, the answer "wait" would tell the other reasons apart. Failures do not count against a
//! key or its id, since ids are public: a stranger must not be able to lock an owner out.
//!
//! Memory is bounded: [`ADDRESSES_MAX`] addresses in a worker, `l2_slots` in the host's shared
//! data, where the workers of a node count together. An address that fell out of both begins
//! anew; [`NewKeys`](super::lookups::NewKeys) bounds the load from a crowd of addresses.

use core::net::{IpAddr, SocketAddr};

use lru::LruCache;

use super::bucket::{Bucket, FullAt};
use crate::cache::put;
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::mac::MacKey;
use crate::signing_key::SigningKey;
use crate::store::sealed::{Entry, KeyDigest, Kind, Sealer};
use crate::store::slots::{SharedStore, Slots};

/// Addresses with failures that a worker remembers.
pub const ADDRESSES_MAX: usize = 4096;
const MINUTE_MS: u64 = 60_000;

/// The source of a request: an IPv4 address, or the network of an IPv6 one.
///
/// A client with one IPv6 address has its whole /64 (RFC 6177), so the /64 is one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceAddress {
    /// An IPv4 address, also one mapped into IPv6 (RFC 4291, 2.5.5.2).
    V4([u8; 4]),
    /// The first 64 bits.
    V6([u8; 8]),
    /// The host gives no address: all such requests are one source.
    Unknown,
}

impl SourceAddress {
    /// The source of an address as a host gives it; see [`parse_address`].
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        parse_address(text).map(Self::of)
    }

    /// The source of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::V4(bytes) => bytes,
            Self::V6(bytes) => bytes,
            Self::Unknown => &[],
        }
    }
}

/// Reads an address as a host gives it: `192.0.2.7`, `192.0.2.7:443`, `2001:db8::7`
/// or `[2001:db8::7]:443`. None for anything else, as the path of a socket.
#[must_use]
pub fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let socket = text.parse::<SocketAddr>().map(|socket| socket.ip());
    socket.or_else(|_| text.parse::<IpAddr>()).ok()
}

/// The failures of source addresses, as a worker knows them.
#[derive(Debug)]
pub struct Throttle {
    /// None where nothing is counted.
    bucket: Option<Bucket>,
    addresses: LruCache<SourceAddress, FullAt>,
    digest_key: MacKey,
    sealer: Sealer,
    shared: Slots,
}

impl Throttle {
    /// Knows of no failure. Filters for one realm, with one limit and signing key, count
    /// together within a node.
    #[must_use]
    pub fn new(config: &Config, signing_key: &SigningKey) -> Self {
        let limit = config.throttle_failures_per_minute;
        let derive = |purpose: &[u8]| {
            let issuer = config.realm.issuer.as_bytes();
            signing_key.derive(&[purpose, b":", &limit.to_be_bytes(), issuer])
        };
        Self {
            bucket: (limit > 0).then(|| Bucket::new(limit, MINUTE_MS, limit)),
            addresses: LruCache::unbounded(),
            digest_key: MacKey::new(&derive(b"source address")),
            sealer: Sealer::new(&derive(b"seal of failures")),
            shared: Slots::new(Kind::Failures, config.l2_slots),
        }
    }

    /// Whether anything is counted at all.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.bucket.is_some()
    }

    /// Whether this address has failed too often and must wait.
    pub fn is_over(
        &mut self,
        source: SourceAddress,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> bool {
        let Some(bucket) = self.bucket else {
            return false;
        };
        let known = self.addresses.get(&source).copied().unwrap_or_default();
        if bucket.wait_ms(known, now) > 0 {
            return true;
        }
        let full_at = known.max(self.read_shared(&self.digest(source), store));
        bucket.wait_ms(full_at, now) > 0
    }

    /// Counts a failure.
    pub fn failed(&mut self, source: SourceAddress, now: UnixMillis, store: &mut dyn SharedStore) {
        let Some(bucket) = self.bucket else {
            return;
        };
        let digest = self.digest(source);
        let known = self.addresses.get(&source).copied().unwrap_or_default();
        let mut full_at = known.max(self.read_shared(&digest, store));
        bucket.spend(&mut full_at, now);
        put(&mut self.addresses, ADDRESSES_MAX, source, full_at);
        let entry = Entry {
            cached_at: now,
            ends_at: UnixMillis(full_at.0.div_ceil(1000)),
            payload: &full_at.0.to_be_bytes()[..],
        };
        self.shared.store(store, &self.sealer, &digest, &entry, now);
    }

    /// The number of addresses in the worker's memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether there is no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    fn digest(&self, source: SourceAddress) -> KeyDigest {
        self.digest_key.tag(&[source.bytes()])
    }

    fn read_shared(&self, digest: &KeyDigest, store: &mut dyn SharedStore) -> FullAt {
        let read = |entry: Entry<&[u8]>| {
            let bytes = entry.payload.try_into().ok()?;
            Some(FullAt(u64::from_be_bytes(bytes)))
        };
        self.shared
            .find(store, &self.sealer, digest, read)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::slots::tests::Shared;
    use crate::test_support::{config_with, signing_key};

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn throttle(limit: u64, slots: u32) -> Throttle {
        let config = config_with(&json!({
            "throttle_failures_per_minute": limit,
            "l2_slots": slots,
        }));
        Throttle::new(&config, &signing_key())
    }

    fn source(text: &str) -> SourceAddress {
        SourceAddress::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_address_is_read_in_the_forms_of_both_hosts() {
        let v4 = source("192.0.2.7");
        assert_eq!(source("192.0.2.7:51234"), v4);
        assert_eq!(source("::ffff:192.0.2.7"), v4);
        assert_eq!(source("[::ffff:c000:207]:443"), v4);
        assert_ne!(source("192.0.2.8"), v4);
        let v6 = source("2001:db8:1:2:3:4:5:6");
        assert_eq!(source("[2001:db8:1:2::1]:443"), v6);
        assert_ne!(source("2001:db8:1:3::1"), v6);
        for other in [
            "",
            "/run/gateway.sock",
            "localhost:1",
            "1.2.3",
            "\u{661}.2.3.4",
        ] {
            assert_eq!(SourceAddress::parse(other.as_bytes()), None, "{other}");
        }
        assert_eq!(SourceAddress::parse(b"\xff"), None);
    }

    #[test]
    fn an_address_is_heard_until_it_has_failed_so_often_and_then_at_that_rate() {
        let (mut throttle, mut shared) = (throttle(20, 0), Shared::default());
        let (one, other) = (source("192.0.2.7"), source("192.0.2.8"));
        for _ in 0..20 {
            assert!(!throttle.is_over(one, NOW, &mut shared));
            throttle.failed(one, NOW, &mut shared);
        }
        assert!(throttle.is_over(one, NOW, &mut shared));
        assert!(!throttle.is_over(other, NOW, &mut shared));
        assert!(throttle.is_over(one, NOW.plus_ms(2999), &mut shared));
        assert!(!throttle.is_over(one, NOW.plus_ms(3000), &mut shared));
        throttle.failed(one, NOW.plus_ms(3000), &mut shared);
        assert!(throttle.is_over(one, NOW.plus_ms(3000), &mut shared));
        assert!(!throttle.is_over(one, NOW.plus_ms(6000), &mut shared));
    }

    #[test]
    fn nothing_is_counted_where_it_is_switched_off() {
        let (mut throttle, mut shared) = (throttle(0, 64), Shared::default());
        for _ in 0..1000 {
            throttle.failed(source("192.0.2.7"), NOW, &mut shared);
        }
        assert!(!throttle.is_on() && throttle.is_empty() && shared.0.is_empty());
        assert!(!throttle.is_over(source("192.0.2.7"), NOW, &mut shared));
    }

    #[test]
    fn the_workers_of_a_node_count_together() {
        let mut shared = Shared::default();
        let mut workers = [throttle(20, 64), throttle(20, 64)];
        let one = source("192.0.2.7");
        for at in 0..20 {
            assert!(!workers[at % 2].is_over(one, NOW, &mut shared), "{at}");
            workers[at % 2].failed(one, NOW, &mut shared);
        }
        assert!(
            workers
                .iter_mut()
                .all(|worker| worker.is_over(one, NOW, &mut shared))
        );
        // With another limit, or another key, is another count.
        assert!(!throttle(21, 64).is_over(one, NOW, &mut shared));
    }

    #[test]
    fn memory_is_bounded_and_the_one_that_fails_now_is_remembered() {
        let (mut throttle, mut shared) = (throttle(1, 0), Shared::default());
        for number in 0..2 * ADDRESSES_MAX as u32 {
            throttle.failed(SourceAddress::V4(number.to_be_bytes()), NOW, &mut shared);
        }
        assert_eq!(throttle.len(), ADDRESSES_MAX);
        let last = SourceAddress::V4((2 * ADDRESSES_MAX as u32 - 1).to_be_bytes());
        assert!(throttle.is_over(last, NOW, &mut shared));
    }

    #[test]
    fn a_value_of_somebody_else_counts_for_nothing() {
        let (mut throttle, mut shared) = (throttle(1, 4), Shared::default());
        throttle.failed(source("192.0.2.7"), NOW, &mut shared);
        for value in shared.0.values_mut() {
            value[60] ^= 1;
        }
        let mut other = super::tests::throttle(1, 4);
        assert!(!other.is_over(source("192.0.2.7"), NOW, &mut shared));
    }
}
