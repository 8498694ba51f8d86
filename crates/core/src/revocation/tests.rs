//! The log as a worker reads it, on a store that can be made to lie.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::test_support::signing_key;

const ISSUER: &str = "https://login.example.com/realms/demo";

fn at(ms: u64) -> UnixMillis {
    UnixMillis(1_700_000_000_000 + ms)
}

fn worker() -> Revocations {
    Revocations::new(ISSUER, &signing_key(), true)
}

/// Shared data with versions, as both hosts have it.
#[derive(Default)]
struct Shared {
    entries: HashMap<String, (Vec<u8>, u32)>,
    /// The number of reads that give half of the value.
    torn: u32,
    /// The number of writes that are lost.
    lost: u32,
    /// Runs once, before a write that compares versions.
    race: Option<fn(&mut Self)>,
    reads: u32,
    writes: u32,
}

impl SharedStore for Shared {
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
        self.reads += 1;
        let (mut value, version) = self.entries.get(name)?.clone();
        if self.torn > 0 {
            self.torn -= 1;
            value.truncate(value.len() / 2);
        }
        Some((value, Some(version)))
    }

    fn set(&mut self, name: &str, value: &[u8], version: Option<u32>) -> bool {
        self.writes += 1;
        if let Some(race) = self.race.take() {
            race(self);
        }
        if self.lost > 0 {
            self.lost -= 1;
            return false;
        }
        let there = self.entries.get(name).map(|(_, version)| *version);
        if there == version {
            let next = there.unwrap_or(0) + 1;
            self.entries.insert(name.to_owned(), (value.to_vec(), next));
        }
        there == version
    }
}

impl Shared {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.entries.keys().cloned().collect();
        names.sort();
        names
    }
}

/// Two workers of one node; each has read the log once.
fn two() -> (Revocations, Revocations, Shared) {
    let (mut one, mut other, mut shared) = (worker(), worker(), Shared::default());
    one.look(at(0), &mut shared);
    other.look(at(0), &mut shared);
    (one, other, shared)
}

#[test]
fn a_revocation_kills_what_was_cached_until_then_in_every_worker() {
    let (mut one, mut other, mut shared) = two();
    assert_eq!(one.revoke_owner("alice", at(1000), &mut shared), Ok(()));
    assert!(!other.kills("alice", at(1000)));
    other.look(at(1200), &mut shared);
    for worker in [&one, &other, &{
        let mut third = worker();
        third.look(at(1200), &mut shared);
        third
    }] {
        for (cached_at, killed) in [(0, true), (1000, true), (1250, true), (1251, false)] {
            assert_eq!(worker.kills("alice", at(cached_at)), killed, "{cached_at}");
            assert_eq!(worker.kills_shared("alice", at(cached_at)), killed);
        }
        assert!(!worker.kills("bob", at(1000)));
    }
    assert_eq!(other.revoke_all(at(2000), &mut shared), Ok(()));
    one.look(at(2200), &mut shared);
    assert!(one.kills("bob", at(2250)) && !one.kills("bob", at(2251)));
}

#[test]
fn another_realm_or_signing_key_shares_nothing() {
    let (mut one, _, mut shared) = two();
    let mut elsewhere =
        Revocations::new("https://login.example.com/realms/x", &signing_key(), true);
    elsewhere.look(at(0), &mut shared);
    one.revoke_owner("alice", at(1000), &mut shared).unwrap();
    elsewhere.look(at(1200), &mut shared);
    assert!(!elsewhere.kills("alice", at(1000)));
    assert_eq!(shared.entries.len(), 4);
}

#[test]
fn what_was_read_already_is_not_opened_again() {
    let (mut one, mut other, mut shared) = two();
    one.revoke_owner("alice", at(1000), &mut shared).unwrap();
    other.look(at(1200), &mut shared);
    let (generation, writes) = (other.generation(), shared.writes);
    shared.reads = 0;
    for ms in 0..50 {
        other.look(at(1400 + ms * 200), &mut shared);
    }
    assert_eq!((other.generation(), shared.writes), (generation, writes));
    assert_eq!(shared.reads, 100);
}

#[test]
fn of_two_writers_at_once_neither_is_lost() {
    let (mut one, mut other, mut shared) = two();
    shared.race = Some(|shared| {
        let mut third = worker();
        third.look(at(1000), shared);
        third.revoke_owner("bob", at(1000), shared).unwrap();
    });
    one.revoke_owner("alice", at(1000), &mut shared).unwrap();
    other.look(at(1200), &mut shared);
    assert!(other.kills("alice", at(1000)) && other.kills("bob", at(1000)));
    assert!(
        one.kills("bob", at(1000)),
        "read before it was written over"
    );
}

#[test]
fn a_writer_whose_writes_are_lost_says_so_and_tells_them_later() {
    let (mut one, mut other, mut shared) = two();
    shared.lost = 1;
    assert_eq!(one.revoke_owner("alice", at(1000), &mut shared), Ok(()));
    shared.lost = 1000;
    let lost = one.revoke_owner("bob", at(1000), &mut shared);
    assert_eq!(lost, Err(NotShared::NotKept));
    assert!(one.kills("bob", at(1000)));
    shared.lost = 0;
    one.look(at(1200), &mut shared);
    other.look(at(1400), &mut shared);
    assert!(other.kills("bob", at(1000)));
    let mut alone = Revocations::new(ISSUER, &signing_key(), false);
    let off = alone.revoke_owner("alice", at(1000), &mut shared);
    assert_eq!(off, Err(NotShared::Off));
    assert!(alone.kills("alice", at(1000)));
}

#[test]
fn one_copy_alone_is_enough_and_the_other_is_mended() {
    for at_copy in 0..2 {
        for foreign in [None, Some(b"another filter's".to_vec())] {
            let (mut one, mut other, mut shared) = two();
            one.revoke_owner("alice", at(1000), &mut shared).unwrap();
            let name = shared.names()[at_copy].clone();
            let version = shared.entries.remove(&name).unwrap().1;
            if let Some(foreign) = foreign {
                shared.entries.insert(name.clone(), (foreign, version + 7));
            }
            for ms in 1..=5 {
                other.look(at(1000 + ms * 200), &mut shared);
            }
            assert!(other.kills("alice", at(1000)) && !other.kills("bob", at(1000)));
            assert_eq!(other.take_notice(), None);
            let copies: HashSet<_> = shared.entries.values().map(|(value, _)| value).collect();
            assert_eq!(copies.len(), 1, "both copies are the same again");
        }
    }
}

#[test]
fn a_read_that_is_torn_is_read_again() {
    let (mut one, mut other, mut shared) = two();
    one.revoke_owner("alice", at(1000), &mut shared).unwrap();
    shared.torn = 1;
    other.look(at(1200), &mut shared);
    assert!(other.kills("alice", at(1000)) && !other.kills("bob", at(1000)));
}

#[test]
fn a_log_that_is_gone_or_older_than_before_is_everything_revoked() {
    type Spoil = fn(&mut Shared, &HashMap<String, (Vec<u8>, u32)>);
    let spoil: [Spoil; 3] = [
        |shared, _| shared.entries.clear(),
        |shared, older| shared.entries.clone_from(older),
        |shared, _| {
            shared
                .entries
                .values_mut()
                .for_each(|(value, _)| value[9] ^= 1)
        },
    ];
    for spoil in spoil {
        let (mut one, mut other, mut shared) = two();
        let older = shared.entries.clone();
        one.revoke_owner("alice", at(1000), &mut shared).unwrap();
        other.look(at(1200), &mut shared);
        one.revoke_owner("bob", at(1300), &mut shared).unwrap();
        spoil(&mut shared, &older);
        for ms in [1400, 1600] {
            other.look(at(ms), &mut shared);
            assert!(!other.kills("carol", at(ms)));
        }
        other.look(at(1800), &mut shared);
        assert!(other.kills("bob", at(1300)) && other.kills("carol", at(1800)));
        assert!(!other.kills("carol", at(2051)));
        assert_eq!(other.take_notice(), Some(Notice::LogLost));
        assert_eq!(other.take_notice(), None);
        // A worker that comes later learns it too.
        let mut third = worker();
        third.look(at(2000), &mut shared);
        assert!(third.kills("carol", at(1800)) && third.kills("alice", at(1000)));
        other.look(at(2200), &mut shared);
        assert_eq!(other.take_notice(), None);
    }
}

#[test]
fn who_writes_over_an_older_log_than_it_knows_revokes_everything() {
    let (mut one, mut other, mut shared) = two();
    let older = shared.entries.clone();
    other.revoke_owner("bob", at(900), &mut shared).unwrap();
    one.look(at(1000), &mut shared);
    shared.entries = older;
    one.revoke_owner("alice", at(1000), &mut shared).unwrap();
    assert!(one.kills("carol", at(1000)));
}

#[test]
fn the_first_worker_of_a_node_begins_a_log_and_believes_nothing_from_before() {
    let (mut one, mut shared) = (worker(), Shared::default());
    one.look(at(1000), &mut shared);
    assert!(one.kills_shared("alice", at(999)) && !one.kills_shared("alice", at(1000)));
    assert!(!one.kills("alice", at(999)));
    assert_eq!(one.take_notice(), None);
    let mut other = worker();
    other.look(at(5000), &mut shared);
    assert!(other.kills_shared("alice", at(999)) && !other.kills_shared("alice", at(1000)));
}

#[test]
fn a_clock_that_is_set_back_lets_nothing_from_before_come_back() {
    let (mut one, mut other, mut shared) = two();
    assert!(!one.watch_clock(at(100_000)));
    assert!(!one.watch_clock(at(99_750)), "a correction");
    one.revoke_owner("alice", at(100_000), &mut shared).unwrap();
    assert!(one.watch_clock(at(50_000)));
    assert!(!one.watch_clock(at(50_001)));
    // An entry cached from here on lives, in this worker's memory.
    assert!(one.kills("alice", at(50_250)) && !one.kills("alice", at(50_251)));
    one.look(at(50_001), &mut shared);
    assert_eq!(one.take_notice(), Some(Notice::ClockSetBack));
    other.look(at(50_200), &mut shared);
    for worker in [&one, &other] {
        assert!(worker.kills_shared("bob", at(105_000)));
        assert!(!worker.kills_shared("bob", at(105_001)));
        assert!(!worker.kills("alice", at(50_500)));
    }
}

#[test]
fn a_worker_that_has_not_looked_for_a_second_is_behind() {
    let (mut one, mut shared) = (worker(), Shared::default());
    assert!(one.is_behind(at(0)));
    one.look(at(1000), &mut shared);
    for (ms, behind) in [(1000, false), (1999, false), (2000, true), (999, true)] {
        assert_eq!(one.is_behind(at(ms)), behind, "{ms}");
    }
}

#[test]
fn the_copies_of_no_realm_share_a_crc_32_with_each_other() {
    for tag in (0..u32::MAX).step_by(65_537) {
        let [first, second] = shared_log::names(tag).map(|name| crc32fast::hash(name.as_bytes()));
        assert_ne!(first, second, "{tag:08x}");
    }
}

#[test]
fn a_full_log_fits_into_a_slab_and_is_read() {
    let (mut one, mut other, mut shared) = two();
    for number in 0..150 {
        let owner = format!("owner-{number}");
        one.revoke_owner(&owner, at(1000 + number), &mut shared)
            .unwrap();
    }
    let longest = shared.entries.values().map(|(value, _)| value.len()).max();
    assert!(longest.is_some_and(|bytes| bytes < 1800), "{longest:?}");
    other.look(at(2000), &mut shared);
    for number in 0..150 {
        assert!(other.kills(&format!("owner-{number}"), at(1000 + number)));
    }
    // The fifty that left took older entries with them, and nothing else.
    assert!(other.kills("owner-x", at(1000 + 49 + 250)));
    assert!(!other.kills("owner-x", at(1000 + 50 + 250)));
}
