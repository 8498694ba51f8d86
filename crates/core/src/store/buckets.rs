//! Token buckets in the host's shared data: one for each key with a rate limit, for all workers of
//! a node.
//!
//! A bucket is one number, written by each request that it lets through. A seal of
//! [`super::sealed`] would cost more than the rest of the limit, so a bucket has a lighter one:
//! SipHash-2-4 with 128 bits, keyed. It detects every fault of a host (another key's bucket, half
//! of a value, a foreign value): such a value is no bucket.

use siphasher::sip128::SipHasher24;

use super::sealed::Kind;
use super::slots::{SharedStore, WAYS, name};
use crate::clock::UnixMillis;

/// Stands for the key of a bucket.
pub type BucketId = [u8; 16];

/// The instant at which a bucket is full again, in microseconds since the epoch.
pub type FullAtUs = u64;

/// A bucket as its slot holds it: id, instant (8 bytes, most significant first), seal.
pub type SealedBucket = [u8; 40];

/// The buckets of a node, in slots of their own.
#[derive(Debug)]
pub struct Buckets {
    seal_key: [u8; 16],
    sets: u32,
}

/// The slot of a key's bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The slot's name.
    pub name: String,
    /// The version to write over.
    pub version: Option<u32>,
    /// The bucket that it holds; none if it holds no bucket of this key.
    pub full_at_us: Option<FullAtUs>,
}

/// Which slot of a set is written over first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Empty,
    /// Its bucket is full again.
    Full,
    Foreign,
    /// A bucket that is not full; the fullest goes first.
    Spent(FullAtUs),
}

impl Buckets {
    /// The buckets under a key of 32 bytes, in `slots` slots, a multiple of four; 0 keeps none.
    #[must_use]
    pub fn new(key: &[u8; 32], slots: u32) -> Self {
        Self {
            seal_key: key.first_chunk().copied().unwrap_or_default(),
            sets: slots / WAYS,
        }
    }

    /// Reads a key's bucket in the slot of this name, with the version to write over; none if the
    /// slot does not hold it. `known` is a bucket that was sealed or read before: it is not checked
    /// again.
    pub fn read(
        &self,
        id: &BucketId,
        name: &str,
        known: &SealedBucket,
        store: &mut dyn SharedStore,
    ) -> Option<(FullAtUs, Option<u32>)> {
        let (value, version) = store.get(name)?;
        let (found, full_at_us) = if value == known {
            parts(known)?
        } else {
            self.open(&value)?
        };
        (found == id).then_some((full_at_us, version))
    }

    /// Finds the slot of a key's bucket. After a failed read a key may have two buckets: the one
    /// that is full later counts. A key without a bucket gets the slot that is given up for it.
    /// None without slots.
    pub fn find(
        &self,
        id: &BucketId,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Option<Place> {
        let [a, b, c, d, ..] = *id;
        let set = u32::from_be_bytes([a, b, c, d]).checked_rem(self.sets)?;
        let mut own: Option<Place> = None;
        let mut best: Option<(Rank, Place)> = None;
        for at in set * WAYS..(set + 1) * WAYS {
            let name = name(Kind::Bucket, at);
            let read = store.get(&name);
            let version = read.as_ref().and_then(|(_, version)| *version);
            let bucket = read.as_ref().map(|(value, _)| self.open(value));
            let mut place = Place {
                name,
                version,
                full_at_us: None,
            };
            let rank = match bucket {
                None => Rank::Empty,
                Some(Some((found, full_at_us))) if found == id => {
                    place.full_at_us = Some(full_at_us);
                    if own
                        .as_ref()
                        .is_none_or(|own| own.full_at_us < place.full_at_us)
                    {
                        own = Some(place);
                    }
                    continue;
                }
                Some(Some((_, full_at))) if full_at <= now.0.saturating_mul(1000) => Rank::Full,
                Some(Some((_, full_at))) => Rank::Spent(full_at),
                Some(None) => Rank::Foreign,
            };
            if best.as_ref().is_none_or(|(lowest, _)| rank < *lowest) {
                best = Some((rank, place));
            }
        }
        own.or_else(|| best.map(|(_, place)| place))
    }

    /// A key's bucket, to be written into its slot.
    #[must_use]
    pub fn seal(&self, id: &BucketId, full_at_us: FullAtUs) -> SealedBucket {
        let mut value = [0; 40];
        if let Some((body, tag)) = value.split_first_chunk_mut::<24>() {
            if let Some((id_bytes, instant)) = body.split_first_chunk_mut::<16>() {
                *id_bytes = *id;
                instant.copy_from_slice(&full_at_us.to_be_bytes());
            }
            tag.copy_from_slice(&self.tag(body));
        }
        value
    }

    fn open<'a>(&self, value: &'a [u8]) -> Option<(&'a BucketId, FullAtUs)> {
        let value: &SealedBucket = value.try_into().ok()?;
        let (body, tag) = value.split_first_chunk::<24>()?;
        (self.tag(body) == *tag).then(|| parts(value))?
    }

    fn tag(&self, body: &[u8; 24]) -> [u8; 16] {
        let hasher = SipHasher24::new_with_key(&self.seal_key);
        hasher.hash(body).as_bytes()
    }
}

fn parts(value: &SealedBucket) -> Option<(&BucketId, FullAtUs)> {
    let (id, rest) = value.split_first_chunk::<16>()?;
    let (instant, _) = rest.split_first_chunk::<8>()?;
    Some((id, u64::from_be_bytes(*instant)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::slots::tests::Shared;

    const NOW: UnixMillis = UnixMillis(1_000);
    const ID: BucketId = [7; 16];

    fn buckets() -> Buckets {
        Buckets::new(&[1; 32], 4)
    }

    const UNKNOWN: SealedBucket = [0; 40];

    fn write(buckets: &Buckets, id: BucketId, full_at_us: u64, shared: &mut Shared) -> Place {
        let place = buckets.find(&id, NOW, shared).unwrap();
        let value = buckets.seal(&id, full_at_us);
        assert!(shared.set(&place.name, &value, place.version));
        place
    }

    #[test]
    fn a_bucket_is_found_again_and_read_in_its_slot() {
        let (buckets, mut shared) = (buckets(), Shared::default());
        let place = write(&buckets, ID, 5_000_000, &mut shared);
        assert_eq!(place.full_at_us, None);
        let found = buckets.find(&ID, NOW, &mut shared).unwrap();
        assert_eq!(
            (found.full_at_us, &found.name),
            (Some(5_000_000), &place.name)
        );
        let mut read = |id: &BucketId, name: &str, known| {
            let read = buckets.read(id, name, known, &mut shared);
            read.map(|(full_at_us, _)| full_at_us)
        };
        let known = buckets.seal(&ID, 5_000_000);
        for known in [&UNKNOWN, &known] {
            assert_eq!(read(&ID, &place.name, known), Some(5_000_000));
            assert_eq!(read(&[8; 16], &place.name, known), None);
            assert_eq!(read(&ID, "ab:0003", known), None);
        }
    }

    #[test]
    fn of_two_buckets_of_a_key_the_one_that_is_full_later_counts() {
        let (buckets, mut shared) = (buckets(), Shared::default());
        for (name, full_at_us) in [
            ("ab:0000", 2_000_000),
            ("ab:0002", 5_000_000),
            ("ab:0003", 3),
        ] {
            shared.set(name, &buckets.seal(&ID, full_at_us), None);
        }
        let found = buckets.find(&ID, NOW, &mut shared).unwrap();
        assert_eq!(
            (&*found.name, found.full_at_us),
            ("ab:0002", Some(5_000_000))
        );
    }

    #[test]
    fn any_flipped_bit_cut_or_addition_is_no_bucket() {
        let (buckets, mut shared) = (buckets(), Shared::default());
        let value = buckets.seal(&ID, 5_000_000).to_vec();
        let mut opens = |buckets: &Buckets, value: Vec<u8>| {
            shared.0.insert("ab:0001".to_owned(), value);
            let read = buckets.read(&ID, "ab:0001", &UNKNOWN, &mut shared);
            let found = buckets.find(&ID, NOW, &mut shared).unwrap();
            assert_eq!(read.is_some(), found.full_at_us.is_some());
            read.is_some()
        };
        assert!(opens(&buckets, value.clone()));
        for bit in 0..value.len() * 8 {
            let mut torn = value.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert!(!opens(&buckets, torn), "bit {bit}");
        }
        for length in 0..value.len() {
            assert!(!opens(&buckets, value[..length].to_vec()), "{length}");
        }
        assert!(!opens(&buckets, [value.as_slice(), &[0]].concat()));
        assert!(
            !opens(&Buckets::new(&[2; 32], 4), value),
            "of another gateway"
        );
    }

    #[test]
    fn a_full_set_gives_up_a_full_bucket_first_and_then_the_fullest() {
        let (buckets, mut shared) = (buckets(), Shared::default());
        let id = |n: u8| [n; 16];
        for (n, full_at_us) in [(1, 9_000_000), (2, 3_000_000), (3, 5_000_000), (4, 900_000)] {
            write(&buckets, id(n), full_at_us, &mut shared);
        }
        write(&buckets, id(5), 8_000_000, &mut shared);
        write(&buckets, id(6), 8_000_000, &mut shared);
        let mut stays = |n: u8| {
            let found = buckets.find(&id(n), NOW, &mut shared);
            found.unwrap().full_at_us.is_some()
        };
        assert_eq!(
            [1, 2, 3, 4, 5, 6].map(&mut stays),
            [true, false, true, false, true, true]
        );
    }

    #[test]
    fn without_slots_there_is_no_place() {
        let buckets = Buckets::new(&[1; 32], 0);
        assert_eq!(buckets.find(&ID, NOW, &mut Shared::default()), None);
    }
}
