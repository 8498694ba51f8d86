//! The shared cache: a fixed number of named slots in the host's shared data.
//!
//! Envoy never evicts shared data, so names must be reused; Kong finds an entry by
//! the CRC-32 of its name alone, so the names of all slots must differ in theirs.
//! A key may lie in the four slots of one set; a full set gives up the entry that
//! ends soonest.

use super::sealed::{ENTRY_BYTES_MAX, Entry, KeyDigest, Kind, Sealer};
use crate::clock::UnixMillis;

pub(super) const WAYS: u32 = 4;

/// The host's shared data, with no more guarantees than a host gives: a read may give anything,
/// and a write may be lost.
pub trait SharedStore {
    /// The value under a name, with the version to compare when it is replaced.
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)>;
    /// Stores a value if the version is still the one that was read; none means that there was no
    /// value. False if the host says that it did not.
    fn set(&mut self, name: &str, value: &[u8], version: Option<u32>) -> bool;
}

/// One region of slots, for one kind of entry.
#[derive(Debug, Clone)]
pub struct Slots {
    kind: Kind,
    sets: u32,
}

impl Slots {
    /// A region of `slots` slots, a multiple of four; 0 is a region without entries.
    #[must_use]
    pub const fn new(kind: Kind, slots: u32) -> Self {
        Self {
            kind,
            sets: slots / WAYS,
        }
    }

    /// The payload stored for a key, if it is still valid, copied by `read`.
    pub fn find<T>(
        &self,
        store: &mut dyn SharedStore,
        sealer: &Sealer,
        digest: &KeyDigest,
        read: impl Fn(Entry<&[u8]>) -> Option<T>,
    ) -> Option<T> {
        self.names(digest).find_map(|name| {
            let (value, _) = store.get(&name)?;
            read(sealer.open(self.kind, digest, &value)?)
        })
    }

    /// Stores an entry for a key: over its older one, else in a free slot, else
    /// over the one that ends soonest.
    pub fn store(
        &self,
        store: &mut dyn SharedStore,
        sealer: &Sealer,
        digest: &KeyDigest,
        entry: &Entry<&[u8]>,
        now: UnixMillis,
    ) {
        let sealed = sealer.seal(self.kind, digest, entry);
        if sealed.len() > ENTRY_BYTES_MAX {
            return;
        }
        let mut best: Option<(Rank, String, Option<u32>)> = None;
        for name in self.names(digest) {
            let (rank, version) = match store.get(&name) {
                None => (Rank::Empty, None),
                Some((value, version)) => match sealer.open_any(self.kind, &value) {
                    Some((found, _)) if found == digest => (Rank::SameKey, version),
                    Some((_, other)) if other.ends_at > now => (Rank::Live(other.ends_at), version),
                    Some(_) => (Rank::Over, version),
                    None => (Rank::Foreign, version),
                },
            };
            if best.as_ref().is_none_or(|(lowest, ..)| rank < *lowest) {
                best = Some((rank, name, version));
            }
        }
        if let Some((_, name, version)) = best {
            store.set(&name, &sealed, version);
        }
    }

    /// The names of the slots where a key may lie.
    fn names(&self, digest: &KeyDigest) -> impl Iterator<Item = String> + use<> {
        let [a, b, c, d, ..] = *digest;
        let set = u32::from_be_bytes([a, b, c, d]).checked_rem(self.sets);
        let slots = set.map_or(0..0, |set| set * WAYS..(set + 1) * WAYS);
        let kind = self.kind;
        slots.map(move |at| name(kind, at))
    }
}

/// Which slot of a set is written over first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It holds this key's older entry.
    SameKey,
    Empty,
    /// Its entry has ended.
    Over,
    /// Another configuration's entry, or another filter's.
    Foreign,
    /// A live entry; the one that ends soonest goes first.
    Live(UnixMillis),
}

/// The name of a slot: its region and four hexadecimal digits, which differ within
/// 32 bits and so never share a CRC-32 in one region.
pub(super) fn name(kind: Kind, at: u32) -> String {
    let region = match kind {
        Kind::Token => "ak",
        Kind::Verified => "av",
        Kind::Refused => "an",
        Kind::Failures => "at",
        Kind::Renewal => "ar",
        Kind::Bucket => "ab",
        Kind::Usage => "au",
    };
    format!("{region}:{at:04x}")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    /// Shared data as Envoy has it.
    #[derive(Default)]
    pub(crate) struct Shared(pub(crate) HashMap<String, Vec<u8>>);

    impl SharedStore for Shared {
        fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
            self.0.get(name).map(|value| (value.clone(), Some(1)))
        }
        fn set(&mut self, name: &str, value: &[u8], _: Option<u32>) -> bool {
            self.0.insert(name.to_owned(), value.to_vec());
            true
        }
    }

    fn entry(ends_at: u64) -> Entry<&'static [u8]> {
        Entry {
            cached_at: UnixMillis(0),
            ends_at: UnixMillis(ends_at),
            payload: b"x",
        }
    }

    #[test]
    fn no_two_slots_share_a_crc_32() {
        let mut seen = HashSet::new();
        for kind in [
            Kind::Token,
            Kind::Verified,
            Kind::Refused,
            Kind::Failures,
            Kind::Renewal,
            Kind::Bucket,
            Kind::Usage,
        ] {
            for at in 0..65_536 {
                assert!(
                    seen.insert(crc32fast::hash(name(kind, at).as_bytes())),
                    "{kind:?} {at}"
                );
            }
        }
    }

    #[test]
    fn a_full_set_gives_up_the_entry_that_ends_soonest() {
        let (slots, sealer) = (Slots::new(Kind::Token, 4), Sealer::new(&[1; 32]));
        let mut shared = Shared::default();
        let put = |shared: &mut Shared, key: u8, ends_at| {
            slots.store(shared, &sealer, &[key; 32], &entry(ends_at), UnixMillis(10));
        };
        for (key, ends_at) in [(1, 50), (2, 20), (3, 40), (4, 30), (3, 45), (5, 60)] {
            put(&mut shared, key, ends_at);
        }
        assert_eq!(shared.0.len(), 4);
        let mut ends = |key: u8| {
            slots.find(&mut shared, &sealer, &[key; 32], |entry| {
                Some(entry.ends_at.0)
            })
        };
        assert_eq!(
            [1, 2, 3, 4, 5].map(&mut ends),
            [Some(50), None, Some(45), Some(30), Some(60)]
        );
    }

    #[test]
    fn foreign_values_are_misses_and_are_written_over() {
        let (slots, sealer) = (Slots::new(Kind::Token, 4), Sealer::new(&[1; 32]));
        let mut shared = Shared::default();
        for at in 0..4 {
            shared
                .0
                .insert(name(Kind::Token, at), b"somebody else's".to_vec());
        }
        assert!(
            slots
                .find(&mut shared, &sealer, &[1; 32], |_| Some(()))
                .is_none()
        );
        slots.store(&mut shared, &sealer, &[1; 32], &entry(50), UnixMillis(10));
        assert!(
            slots
                .find(&mut shared, &sealer, &[1; 32], |_| Some(()))
                .is_some()
        );
    }

    #[test]
    fn another_configurations_entry_stays_while_a_slot_is_free() {
        let slots = Slots::new(Kind::Token, 4);
        let (ours, theirs) = (Sealer::new(&[1; 32]), Sealer::new(&[2; 32]));
        let mut shared = Shared::default();
        slots.store(&mut shared, &theirs, &[9; 32], &entry(50), UnixMillis(10));
        for key in 1..=3 {
            slots.store(&mut shared, &ours, &[key; 32], &entry(50), UnixMillis(10));
        }
        let found = slots.find(&mut shared, &theirs, &[9; 32], |_| Some(()));
        assert!(found.is_some());
    }

    #[test]
    fn an_entry_that_is_over_is_given_up_before_somebody_elses() {
        let slots = Slots::new(Kind::Token, 4);
        let (ours, theirs) = (Sealer::new(&[1; 32]), Sealer::new(&[2; 32]));
        let mut shared = Shared::default();
        for key in 1..=3 {
            slots.store(&mut shared, &theirs, &[key; 32], &entry(50), UnixMillis(0));
        }
        slots.store(&mut shared, &ours, &[4; 32], &entry(10), UnixMillis(0));
        slots.store(&mut shared, &ours, &[5; 32], &entry(50), UnixMillis(10));
        let mut stays = |sealer, key| {
            let found = slots.find(&mut shared, sealer, &[key; 32], |_| Some(()));
            found.is_some()
        };
        assert!((1..=3).all(|key| stays(&theirs, key)));
        assert!(!stays(&ours, 4) && stays(&ours, 5));
    }

    #[test]
    fn each_set_has_four_slots_of_its_own() {
        let (slots, sealer) = (Slots::new(Kind::Token, 12), Sealer::new(&[1; 32]));
        let mut shared = Shared::default();
        let mut digests = Vec::new();
        for (set, key) in (0..3).flat_map(|set| (0..4).map(move |key| (set, key))) {
            let mut digest = [key; 32];
            digest[..4].copy_from_slice(&[0, 0, 0, set]);
            slots.store(&mut shared, &sealer, &digest, &entry(50), UnixMillis(10));
            digests.push(digest);
        }
        for digest in &digests {
            let found = slots.find(&mut shared, &sealer, digest, |_| Some(()));
            assert!(found.is_some(), "{digest:?}");
        }
        let mut names: Vec<&str> = shared.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            (names[0], names[11], names.len()),
            ("ak:0000", "ak:000b", 12)
        );
    }

    #[test]
    fn an_entry_as_long_as_may_be_is_written() {
        let (slots, sealer) = (Slots::new(Kind::Token, 4), Sealer::new(&[1; 32]));
        let around = sealer.seal(Kind::Token, &[1; 32], &entry(50)).len() - 1;
        let payload = vec![b'x'; ENTRY_BYTES_MAX - around];
        let longest = Entry {
            payload: payload.as_slice(),
            ..entry(50)
        };
        let mut shared = Shared::default();
        slots.store(&mut shared, &sealer, &[1; 32], &longest, UnixMillis(10));
        assert_eq!(shared.0.len(), 1);
    }

    #[test]
    fn a_region_without_slots_holds_nothing() {
        let (slots, sealer) = (Slots::new(Kind::Token, 0), Sealer::new(&[1; 32]));
        let mut shared = Shared::default();
        slots.store(&mut shared, &sealer, &[1; 32], &entry(50), UnixMillis(10));
        assert!(shared.0.is_empty());
    }

    #[test]
    fn an_entry_that_no_reader_would_open_is_not_written() {
        let (slots, sealer) = (Slots::new(Kind::Token, 4), Sealer::new(&[1; 32]));
        let (mut shared, long) = (Shared::default(), [b'x'; 33 * 1024]);
        let long = Entry {
            payload: &long[..],
            ..entry(50)
        };
        slots.store(&mut shared, &sealer, &[1; 32], &long, UnixMillis(10));
        assert!(shared.0.is_empty());
    }
}
