//! Token buckets in the host's shared data: one for each key with a rate limit, for all workers of
//! a node.
//!
//! A bucket is one number, written by each request that it lets through. A seal of
//! [`super::sealed`] would cost more than the rest of the limit, so a bucket has a lighter one:
//! SipHash-2-4 with 128 bits, keyed. It holds back all that a host does by itself (another key's
//! bucket, half of a value, a foreign value): such a value is no bucket.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use super::sealed::Kind;
use super::slots::{SharedStore, WAYS, name};
use crate::clock::UnixMillis;

/// Stands for the key of a bucket.
pub type BucketId = [u8; 16];

/// The instant at which a bucket is full again, in microseconds since the epoch.
pub type FullAtUs = u64;

const VALUE_BYTES: usize = 40;

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
    version: Option<u32>,
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
        let [seal_key, _] = halves(key);
        Self {
            seal_key,
            sets: slots / WAYS,
        }
    }

    /// Finds the slot of a key's bucket: `last`, where it was found before, or any other of its
    /// set that holds it. Else gives the slot that is given up for it; none without slots.
    pub fn find(
        &self,
        id: &BucketId,
        last: Option<&str>,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Option<Place> {
        if let Some(name) = last {
            let (value, version) = store.get(name).unwrap_or_default();
            if let Some(full_at_us) = self.open(id, &value) {
                return Some(Place {
                    name: name.to_owned(),
                    version,
                    full_at_us: Some(full_at_us),
                });
            }
        }
        let [a, b, c, d, ..] = *id;
        let set = u32::from_be_bytes([a, b, c, d]).checked_rem(self.sets)?;
        let mut best: Option<(Rank, Place)> = None;
        for at in set * WAYS..(set + 1) * WAYS {
            let name = name(Kind::Bucket, at);
            let (rank, version) = match store.get(&name) {
                None => (Rank::Empty, None),
                Some((value, version)) => match self.open_any(&value) {
                    Some((found, full_at_us)) if found == id => {
                        return Some(Place {
                            name,
                            version,
                            full_at_us: Some(full_at_us),
                        });
                    }
                    Some((_, full_at)) if full_at <= now.0.saturating_mul(1000) => {
                        (Rank::Full, version)
                    }
                    Some((_, full_at)) => (Rank::Spent(full_at), version),
                    None => (Rank::Foreign, version),
                },
            };
            if best.as_ref().is_none_or(|(lowest, _)| rank < *lowest) {
                let full_at_us = None;
                best = Some((
                    rank,
                    Place {
                        name,
                        version,
                        full_at_us,
                    },
                ));
            }
        }
        best.map(|(_, place)| place)
    }

    /// Writes a bucket into the slot that [`Buckets::find`] gave. False if the host did not take
    /// it: another worker was faster.
    pub fn write(
        &self,
        id: &BucketId,
        place: &Place,
        full_at_us: FullAtUs,
        store: &mut dyn SharedStore,
    ) -> bool {
        let mut value = [0; VALUE_BYTES];
        let parts = id.iter().copied().chain(full_at_us.to_be_bytes());
        for (to, from) in value.iter_mut().zip(parts) {
            *to = from;
        }
        if let Some((body, tag)) = value.split_first_chunk_mut::<24>() {
            for (to, from) in tag.iter_mut().zip(self.tag(body)) {
                *to = from;
            }
        }
        store.set(&place.name, &value, place.version)
    }

    fn open(&self, id: &BucketId, value: &[u8]) -> Option<FullAtUs> {
        let (found, full_at_us) = self.open_any(value)?;
        (found == id).then_some(full_at_us)
    }

    fn open_any<'a>(&self, value: &'a [u8]) -> Option<(&'a BucketId, FullAtUs)> {
        let value: &[u8; VALUE_BYTES] = value.try_into().ok()?;
        let (body, tag) = value.split_first_chunk::<24>()?;
        if self.tag(body) != *tag {
            return None;
        }
        let (id, full_at_us) = body.split_first_chunk::<16>()?;
        Some((id, u64::from_be_bytes(full_at_us.try_into().ok()?)))
    }

    fn tag(&self, body: &[u8; 24]) -> [u8; 16] {
        let mut hasher = SipHasher24::new_with_key(&self.seal_key);
        hasher.write(body);
        hasher.finish128().as_bytes()
    }
}

/// The two halves of 32 bytes.
#[must_use]
pub fn halves(bytes: &[u8; 32]) -> [[u8; 16]; 2] {
    let mut halves = [[0; 16]; 2];
    for (half, from) in halves.iter_mut().zip(bytes.chunks_exact(16)) {
        half.copy_from_slice(from);
    }
    halves
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

    fn write(buckets: &Buckets, id: BucketId, full_at_us: u64, shared: &mut Shared) -> Place {
        let place = buckets.find(&id, None, NOW, shared).unwrap();
        assert!(buckets.write(&id, &place, full_at_us, shared));
        place
    }

    #[test]
    fn a_bucket_is_found_again_with_and_without_its_last_slot() {
        let (buckets, mut shared) = (buckets(), Shared::default());
        let place = write(&buckets, ID, 5_000_000, &mut shared);
        assert_eq!(place.full_at_us, None);
        for last in [None, Some(place.name.as_str()), Some("ab:0003")] {
            let found = buckets.find(&ID, last, NOW, &mut shared).unwrap();
            assert_eq!(
                (found.full_at_us, &found.name),
                (Some(5_000_000), &place.name)
            );
        }
        let other = buckets.find(&[8; 16], Some(&place.name), NOW, &mut shared);
        assert_eq!(other.unwrap().full_at_us, None);
    }

    #[test]
    fn any_flipped_bit_cut_or_addition_is_no_bucket() {
        let (buckets, mut shared) = (buckets(), Shared::default());
        let place = write(&buckets, ID, 5_000_000, &mut shared);
        let value = shared.0[&place.name].clone();
        let mut opens = |value: Vec<u8>| {
            shared.0.insert(place.name.clone(), value);
            let found = buckets.find(&ID, Some(&place.name), NOW, &mut shared);
            found.unwrap().full_at_us.is_some()
        };
        assert!(opens(value.clone()));
        for bit in 0..value.len() * 8 {
            let mut torn = value.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert!(!opens(torn), "bit {bit}");
        }
        for length in 0..value.len() {
            assert!(!opens(value[..length].to_vec()), "{length}");
        }
        assert!(!opens([value.as_slice(), &[0]].concat()));
        assert!(
            Buckets::new(&[2; 32], 4)
                .find(&ID, Some(&place.name), NOW, &mut shared)
                .unwrap()
                .full_at_us
                .is_none(),
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
            let found = buckets.find(&id(n), None, NOW, &mut shared);
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
        assert_eq!(buckets.find(&ID, None, NOW, &mut Shared::default()), None);
    }
}
