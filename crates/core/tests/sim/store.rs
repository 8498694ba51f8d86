//! The shared data of a node, as each host has it, with the host's faults.

use std::collections::BTreeMap;

use apikeys_core::store::slots::SharedStore;

use super::dice::Dice;
use super::faults::{Fault, Faults};

/// Which host a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Entries are found by CRC-32 alone, copied without a lock, evicted; no CAS
    /// means "only if absent".
    Kong,
    /// Entries are found by name and stay for ever; no CAS means "in any case".
    Envoy,
}

struct Slot {
    name: String,
    value: Vec<u8>,
    /// The value that stood here before.
    older: Option<Vec<u8>>,
    version: u32,
    used: u64,
}

/// The shared data of one node.
pub struct SharedData {
    host: Host,
    slots: BTreeMap<String, Slot>,
    /// The number of entries that fit in Kong's zone.
    room: usize,
    versions: u32,
    uses: u64,
    changes: u64,
    /// Rate limits' buckets that were lost, or that it lied about.
    lost_buckets: u64,
    /// Names and values written since the last look.
    written: Vec<(String, Vec<u8>)>,
}

impl SharedData {
    pub fn new(host: Host, room: usize) -> Self {
        Self {
            host,
            slots: BTreeMap::new(),
            room,
            versions: 0,
            uses: 0,
            changes: 0,
            lost_buckets: 0,
            written: Vec::new(),
        }
    }

    /// The text by which the host finds an entry.
    fn finds_by(&self, name: &str) -> String {
        match self.host {
            Host::Kong => format!("{:08x}", crc32fast::hash(name.as_bytes())),
            Host::Envoy => name.to_owned(),
        }
    }

    fn lose(&mut self, name: &str) {
        self.lost_buckets += u64::from(name.starts_with("ab:"));
    }

    /// All is gone.
    pub fn wipe(&mut self) {
        self.changes += 1;
        self.lost_buckets += 1;
        self.slots.clear();
    }

    fn put(&mut self, name: &str, value: Vec<u8>) {
        self.versions += 1;
        self.uses += 1;
        self.changes += 1;
        let by = self.finds_by(name);
        let older = self.slots.remove(&by).map(|slot| slot.value);
        let slot = Slot {
            name: name.to_owned(),
            value,
            older,
            version: self.versions,
            used: self.uses,
        };
        self.slots.insert(by, slot);
        while self.host == Host::Kong && self.slots.len() > self.room {
            self.evict();
        }
    }

    /// The entry that was not used for the longest time leaves.
    pub fn evict(&mut self) {
        self.changes += 1;
        let oldest = self.slots.iter().min_by_key(|(_, slot)| slot.used);
        if let Some(by) = oldest.map(|(by, _)| by.clone())
            && let Some(slot) = self.slots.remove(&by)
        {
            self.lose(&slot.name);
        }
    }

    /// Another filter, or an aliased name, writes over one of our entries: some bytes, another
    /// entry of ours, the value from before, or a part of it.
    pub fn write_over(&mut self, dice: &mut Dice) {
        if self.slots.is_empty() {
            return;
        }
        let names: Vec<String> = self.slots.values().map(|slot| slot.name.clone()).collect();
        let values: Vec<Vec<u8>> = self.slots.values().map(|slot| slot.value.clone()).collect();
        let at = dice.below(names.len());
        let by = self.finds_by(&names[at]);
        let value = match dice.below(4) {
            0 => dice.bytes::<64>().to_vec(),
            1 => values[dice.below(values.len())].clone(),
            2 => self.slots[&by].older.clone().unwrap_or_default(),
            _ => values[at][..dice.below(values[at].len().max(1))].to_vec(),
        };
        self.lose(&names[at]);
        self.put(&names[at], value);
    }

    /// Takes the names and values that were written since the last time, for a checker that
    /// looks for secrets in them: many are written over or evicted again.
    pub fn take_written(&mut self) -> Vec<(String, Vec<u8>)> {
        std::mem::take(&mut self.written)
    }

    /// The number of changes to it.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The number of buckets of rate limits that it lost, or lied about, so far.
    pub fn lost_buckets(&self) -> u64 {
        self.lost_buckets
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }
}

/// Shared data as a worker reaches it, with the faults of the run.
pub struct Access<'a> {
    pub data: &'a mut SharedData,
    pub dice: &'a mut Dice,
    pub faults: &'a Faults,
}

impl SharedStore for Access<'_> {
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
        let torn = self.faults.hits(Fault::TornRead, self.dice);
        let failed = self.faults.hits(Fault::ReadFailed, self.dice);
        if torn || failed {
            self.data.lose(name);
        }
        if failed {
            return None;
        }
        let by = self.data.finds_by(name);
        self.data.uses += 1;
        let slot = self.data.slots.get_mut(&by)?;
        slot.used = self.data.uses;
        let mut value = slot.value.clone();
        if torn
            && self.data.host == Host::Kong
            && let Some(older) = &slot.older
        {
            let cut = self.dice.below(value.len().max(1));
            value.truncate(cut);
            value.extend(older.iter().skip(cut));
        }
        Some((value, Some(slot.version)))
    }

    fn set(&mut self, name: &str, value: &[u8], version: Option<u32>) -> bool {
        if self.faults.hits(Fault::CasRace, self.dice) {
            // The other writer wrote the same value as stands there, or one of its own.
            self.data.lose(name);
            let by = self.data.finds_by(name);
            self.data.versions += 1;
            match self.data.slots.get_mut(&by) {
                Some(slot) => slot.version = self.data.versions,
                None => self.data.put(name, b"another filter's".to_vec()),
            }
        }
        let by = self.data.finds_by(name);
        let slot = self.data.slots.get(&by);
        let there = slot.map(|slot| slot.version);
        // A bucket begins with the id of its key.
        let of_another = slot.is_some_and(|slot| slot.value.get(..16) != value.get(..16));
        let version = version.unwrap_or(0);
        let fits = match (self.data.host, there) {
            (Host::Kong, None) | (Host::Envoy, _) if version == 0 => true,
            (_, Some(there)) => there == version,
            (_, None) => false,
        };
        if fits {
            if of_another {
                self.data.lose(name);
            }
            self.data.written.push((name.to_owned(), value.to_vec()));
            self.data.put(name, value.to_vec());
        }
        fits
    }
}

#[test]
fn kong_takes_no_write_without_a_cas_over_an_entry_and_envoy_does() {
    let mut dice = Dice::new(1);
    for (host, last) in [(Host::Kong, "first"), (Host::Envoy, "second")] {
        let mut data = SharedData::new(host, 10);
        let mut access = Access {
            data: &mut data,
            dice: &mut dice,
            faults: &Faults::none(),
        };
        access.set("a", b"first", None);
        access.set("a", b"second", None);
        let (value, version) = access.get("a").unwrap();
        assert_eq!(value, last.as_bytes(), "{host:?}");
        access.set("a", b"third", version.map(|version| version + 1));
        assert_eq!(access.get("a").unwrap().0, last.as_bytes(), "{host:?}");
        access.set("a", b"third", version);
        assert_eq!(access.get("a").unwrap().0, b"third", "{host:?}");
    }
}

#[test]
fn kong_finds_by_crc_32_and_evicts_what_was_not_used_for_longest() {
    let mut dice = Dice::new(1);
    let mut data = SharedData::new(Host::Kong, 2);
    let mut access = Access {
        data: &mut data,
        dice: &mut dice,
        faults: &Faults::none(),
    };
    // Two texts with one CRC-32.
    access.set("plumless", b"theirs", None);
    assert_eq!(access.get("buckeroo").unwrap().0, b"theirs");
    access.set("b", b"2", None);
    let _ = access.get("plumless");
    access.set("c", b"3", None);
    assert!(access.get("b").is_none());
    assert!(access.get("plumless").is_some());
}
