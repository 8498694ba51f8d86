//! Entries of the shared cache, each under a seal.
//!
//! A host's shared data lies: Kong finds entries by the CRC-32 of their key alone and copies them
//! without a lock, so a read can give another filter's value, half of a value, or a stale one. So
//! each entry names its own kind and key, and a MAC covers all of it. A value that differs in
//! anything from the one this gateway sealed for this key and purpose is a miss, never somebody
//! else's token (invariant 1).

use crate::clock::UnixMillis;
use crate::mac::FastMacKey;

/// The digest that stands for a key in all caches: keyed BLAKE2b under a secret.
pub type KeyDigest = [u8; 32];

const VERSION: u8 = 3;
const MAC_LENGTH: usize = 32;
/// Entries longer than this are not stored: a JWT in a header is far shorter.
pub const ENTRY_BYTES_MAX: usize = 32 * 1024;

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A token for a key.
    Token = 1,
    /// A hash that a key was verified against.
    Verified = 2,
    /// A key that was refused.
    Refused = 3,
    /// Failures of a source address.
    Failures = 4,
    /// A key with a renewal of its token under way.
    Renewal = 5,
    /// The bucket of a key with a rate limit; see [`crate::store::buckets`].
    Bucket = 6,
    /// The number of requests with a key.
    Usage = 7,
}

/// An entry that was opened, or is to be sealed.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry<P> {
    /// When it was stored.
    pub cached_at: UnixMillis,
    /// When it ends.
    pub ends_at: UnixMillis,
    /// The content.
    pub payload: P,
}

impl<P> std::fmt::Debug for Entry<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("cached_at", &self.cached_at)
            .field("ends_at", &self.ends_at)
            .finish_non_exhaustive()
    }
}

/// Seals and opens entries.
#[derive(Debug, Clone)]
pub struct Sealer(FastMacKey);

impl Sealer {
    /// A sealer under this key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(FastMacKey::new(key))
    }

    /// Version, kind, digest, `cached_at` and `ends_at` (milliseconds, 8 bytes
    /// each, most significant first), payload, MAC over all before.
    #[must_use]
    pub fn seal(&self, kind: Kind, digest: &KeyDigest, entry: &Entry<&[u8]>) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(2 + 32 + 16 + entry.payload.len() + MAC_LENGTH);
        sealed.extend_from_slice(&[VERSION, kind as u8]);
        sealed.extend_from_slice(digest);
        sealed.extend_from_slice(&entry.cached_at.0.to_be_bytes());
        sealed.extend_from_slice(&entry.ends_at.0.to_be_bytes());
        sealed.extend_from_slice(entry.payload);
        let tag = self.0.tag(&sealed);
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// Opens an entry of this kind and key; none if the value is anything else.
    #[must_use]
    pub fn open<'a>(
        &self,
        kind: Kind,
        digest: &KeyDigest,
        sealed: &'a [u8],
    ) -> Option<Entry<&'a [u8]>> {
        // Cheaper than the seal, which decides in any case.
        if sealed.get(2..34)? != digest {
            return None;
        }
        let (found, entry) = self.open_any(kind, sealed)?;
        (found == digest).then_some(entry)
    }

    /// Opens an entry of this kind, of any key.
    pub(super) fn open_any<'a>(
        &self,
        kind: Kind,
        sealed: &'a [u8],
    ) -> Option<(&'a KeyDigest, Entry<&'a [u8]>)> {
        if sealed.len() > ENTRY_BYTES_MAX {
            return None;
        }
        let (body, tag) = sealed.split_last_chunk::<MAC_LENGTH>()?;
        let ([version, found_kind], rest) = body.split_first_chunk::<2>()?;
        let (digest, rest) = rest.split_first_chunk::<32>()?;
        let (cached_at, rest) = rest.split_first_chunk::<8>()?;
        let (ends_at, payload) = rest.split_first_chunk::<8>()?;
        let is_ours = self.0.verify(body, tag);
        if *version != VERSION || *found_kind != kind as u8 || !is_ours {
            return None;
        }
        let entry = Entry {
            cached_at: UnixMillis(u64::from_be_bytes(*cached_at)),
            ends_at: UnixMillis(u64::from_be_bytes(*ends_at)),
            payload,
        };
        Some((digest, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: KeyDigest = [7; 32];

    fn sealed() -> (Sealer, Vec<u8>) {
        let sealer = Sealer::new(&[1; 32]);
        let entry = Entry {
            cached_at: UnixMillis(5),
            ends_at: UnixMillis(9),
            payload: &b"token"[..],
        };
        let sealed = sealer.seal(Kind::Token, &DIGEST, &entry);
        (sealer, sealed)
    }

    #[test]
    fn opens_what_was_sealed() {
        let (sealer, sealed) = sealed();
        let entry = sealer.open(Kind::Token, &DIGEST, &sealed).unwrap();
        assert_eq!(
            (entry.cached_at.0, entry.ends_at.0, entry.payload),
            (5, 9, &b"token"[..])
        );
    }

    #[test]
    fn any_flipped_bit_cut_or_addition_is_a_miss() {
        let (sealer, sealed) = sealed();
        for bit in 0..sealed.len() * 8 {
            let mut torn = sealed.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert!(
                sealer.open(Kind::Token, &DIGEST, &torn).is_none(),
                "bit {bit}"
            );
        }
        for length in 0..sealed.len() {
            assert!(
                sealer
                    .open(Kind::Token, &DIGEST, &sealed[..length])
                    .is_none()
            );
            assert!(
                sealer
                    .open(Kind::Token, &DIGEST, &sealed[length + 1..])
                    .is_none()
            );
        }
        let longer = [sealed.as_slice(), &[0]].concat();
        assert!(sealer.open(Kind::Token, &DIGEST, &longer).is_none());
    }

    #[test]
    fn an_entry_as_long_as_may_be_opens_and_a_longer_one_does_not() {
        let sealer = Sealer::new(&[1; 32]);
        for (more, opens) in [(0, true), (1, false), (2, false)] {
            let payload = vec![b'x'; 32_768 - 2 - 32 - 16 - MAC_LENGTH + more];
            let entry = Entry {
                cached_at: UnixMillis(5),
                ends_at: UnixMillis(9),
                payload: payload.as_slice(),
            };
            let sealed = sealer.seal(Kind::Token, &DIGEST, &entry);
            let opened = sealer.open(Kind::Token, &DIGEST, &sealed);
            assert_eq!(opened.is_some(), opens, "{}", sealed.len());
        }
    }

    #[test]
    fn another_key_kind_or_gateway_is_a_miss() {
        let (sealer, sealed) = sealed();
        assert!(sealer.open(Kind::Token, &[8; 32], &sealed).is_none());
        assert!(sealer.open(Kind::Refused, &DIGEST, &sealed).is_none());
        assert!(
            Sealer::new(&[2; 32])
                .open(Kind::Token, &DIGEST, &sealed)
                .is_none()
        );
    }

    #[test]
    fn half_of_one_entry_and_half_of_another_is_a_miss() {
        let (sealer, first) = sealed();
        let entry = Entry {
            cached_at: UnixMillis(5),
            ends_at: UnixMillis(9),
            payload: &b"TOKEN"[..],
        };
        let second = sealer.seal(Kind::Token, &DIGEST, &entry);
        for cut in 1..first.len() {
            let torn = [&first[..cut], &second[cut..]].concat();
            if torn != first && torn != second {
                assert!(
                    sealer.open(Kind::Token, &DIGEST, &torn).is_none(),
                    "cut {cut}"
                );
            }
        }
    }
}
