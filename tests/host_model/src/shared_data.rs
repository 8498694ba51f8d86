//! Shared data as each of the two hosts has it, and its faults.
//!
//! Kong: a zone of a fixed size in which an entry is found by the CRC-32 of its key and by
//! nothing else; a CAS of 0 means "only if there is none"; a full zone gives up the least
//! recently used entry of the same size class; no value deletes. Envoy: a map without
//! bounds; a CAS of 0 is no condition; no value stores an empty one.

use std::collections::HashMap;

use super::abi::{HostResult, Status, refuse, trap};

/// Bytes of an entry beside its key and value.
const NODE_BYTES: usize = 104;

/// A fault's effect on a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFate {
    CasMismatch,
    /// Kong: the zone can hold no such value.
    NoMemory,
}

/// The result of a read, made from the key, the present value and the one before it.
pub type ReadFault = Box<dyn FnMut(&[u8], &[u8], &[u8]) -> Option<Vec<u8>>>;
pub type WriteFault = Box<dyn FnMut(&[u8]) -> Option<WriteFate>>;

#[derive(Clone, Default)]
struct Entry {
    key: Vec<u8>,
    value: Vec<u8>,
    before: Vec<u8>,
    cas: u32,
    used_at: u64,
}

impl Entry {
    /// The size class of nginx's slab: a power of two.
    fn class(&self) -> usize {
        (NODE_BYTES + self.key.len() + self.value.len()).next_power_of_two()
    }
}

pub enum Kind {
    /// The zone's bytes; none if no zone is configured.
    Kong {
        zone_bytes: Option<usize>,
    },
    Envoy,
}

pub struct SharedData {
    kind: Kind,
    /// By CRC-32 on Kong, by the key itself on Envoy.
    entries: HashMap<Vec<u8>, Entry>,
    uses: u64,
    pub evictions: u32,
    pub read_fault: Option<ReadFault>,
    pub write_fault: Option<WriteFault>,
    /// Every name that was asked for or written.
    pub names: Vec<Vec<u8>>,
    /// Every value that was written.
    pub values: Vec<Vec<u8>>,
}

impl SharedData {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            entries: HashMap::new(),
            uses: 0,
            evictions: 0,
            read_fault: None,
            write_fault: None,
            names: Vec::new(),
            values: Vec::new(),
        }
    }

    pub fn get(&mut self, key: &[u8]) -> HostResult<(Vec<u8>, u32)> {
        self.needs_a_zone()?;
        self.note(key);
        self.uses += 1;
        let (address, uses) = (self.address(key), self.uses);
        let Some(entry) = self.entries.get_mut(&address) else {
            return refuse(Status::NotFound);
        };
        entry.used_at = uses;
        let value = match &mut self.read_fault {
            Some(fault) => fault(key, &entry.value, &entry.before),
            None => Some(entry.value.clone()),
        };
        value.map_or_else(|| refuse(Status::NotFound), |value| Ok((value, entry.cas)))
    }

    pub fn set(&mut self, key: &[u8], value: Option<&[u8]>, cas: u32) -> HostResult<()> {
        self.needs_a_zone()?;
        self.note(key);
        self.values.extend(value.map(<[u8]>::to_vec));
        match self.write_fault.as_mut().and_then(|fault| fault(key)) {
            Some(WriteFate::CasMismatch) => return refuse(Status::CasMismatch),
            Some(WriteFate::NoMemory) => {
                return trap("failed setting value to shm (could not write to slab)");
            }
            None => {}
        }
        self.uses += 1;
        match self.kind {
            Kind::Kong { zone_bytes } => self.set_on_kong(key, value, cas, zone_bytes),
            Kind::Envoy => self.set_on_envoy(key, value.unwrap_or_default(), cas),
        }
    }

    fn set_on_envoy(&mut self, key: &[u8], value: &[u8], cas: u32) -> HostResult<()> {
        let uses = self.uses;
        let entry = self.entries.entry(key.to_vec()).or_default();
        if cas != 0 && entry.cas != 0 && cas != entry.cas {
            return refuse(Status::CasMismatch);
        }
        entry.before = std::mem::replace(&mut entry.value, value.to_vec());
        key.clone_into(&mut entry.key);
        entry.cas = u32::try_from(uses).unwrap();
        Ok(())
    }

    fn set_on_kong(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        cas: u32,
        zone_bytes: Option<usize>,
    ) -> HostResult<()> {
        let address = self.address(key);
        let found = self.entries.get(&address);
        if cas != found.map_or(0, |entry| entry.cas) {
            return refuse(Status::CasMismatch);
        }
        let Some(value) = value else {
            let deleted = self.entries.remove(&address);
            return deleted.map_or_else(|| refuse(Status::CasMismatch), |_| Ok(()));
        };
        let new = Entry {
            key: found.map_or(key, |entry| &entry.key).to_vec(),
            value: value.to_vec(),
            before: found.map_or_else(Vec::new, |entry| entry.value.clone()),
            cas: cas + 1,
            used_at: self.uses,
        };
        let before = found.map(|entry| entry.value.len());
        if before.is_none_or(|bytes| value.len() > bytes) {
            // The old entry stays until the new one is there, unless it is evicted for it.
            self.make_room(new.class(), zone_bytes.unwrap_or_default())?;
            if before.is_some() && !self.entries.contains_key(&address) {
                return trap("use after free: the entry was evicted for its own room");
            }
        }
        self.entries.insert(address, new);
        Ok(())
    }

    fn make_room(&mut self, class: usize, zone_bytes: usize) -> HostResult<()> {
        while self.bytes() + class > zone_bytes {
            let oldest = |same: bool| {
                let of_class = self
                    .entries
                    .iter()
                    .filter(|(_, entry)| !same || entry.class() == class);
                let oldest = of_class.min_by_key(|(_, entry)| entry.used_at);
                oldest.map(|(address, _)| address.clone())
            };
            let Some(victim) = oldest(true).or_else(|| oldest(false)) else {
                return trap("failed setting value to shm (could not write to slab)");
            };
            self.entries.remove(&victim);
            self.evictions += 1;
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.entries.values().map(Entry::class).sum()
    }

    fn needs_a_zone(&self) -> HostResult<()> {
        match self.kind {
            Kind::Kong { zone_bytes: None } => {
                trap("shared data: could not resolve namespace: there is no zone")
            }
            _ => Ok(()),
        }
    }

    fn note(&mut self, key: &[u8]) {
        if !self.names.iter().rev().take(64).any(|name| name == key) {
            self.names.push(key.to_vec());
        }
    }

    fn address(&self, key: &[u8]) -> Vec<u8> {
        match self.kind {
            Kind::Kong { .. } => crc32fast::hash(key).to_be_bytes().to_vec(),
            Kind::Envoy => key.to_vec(),
        }
    }

    // --- a test's access behind the host's back --------------------------------

    pub fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<_> = self.entries.values().map(|e| e.key.clone()).collect();
        keys.sort();
        keys
    }

    /// The value under a name, as the filter stored it.
    pub fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let entry = self.entries.get(&self.address(key));
        entry.map(|entry| entry.value.clone())
    }

    /// Puts a value where this key is looked for, in place of any other key's.
    pub fn plant(&mut self, key: &[u8], value: &[u8]) {
        let address = self.address(key);
        let entry = self.entries.entry(address).or_default();
        key.clone_into(&mut entry.key);
        value.clone_into(&mut entry.value);
        entry.cas += 1;
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

/// A key that begins with `prefix` and has the CRC-32 of `wanted`: another filter's key
/// that Kong takes for ours.
pub fn collide(prefix: &[u8], wanted: &[u8]) -> Vec<u8> {
    let table = |index: u8| {
        (0..8).fold(u32::from(index), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    };
    // Backwards: the four table entries that the last four steps must have used.
    let mut state = !crc32fast::hash(wanted);
    let mut indexes = [0_u8; 4];
    for index in indexes.iter_mut().rev() {
        let top = (state >> 24) as u8;
        *index = (0..=255).find(|&i| (table(i) >> 24) as u8 == top).unwrap();
        state = (state ^ table(*index)) << 8;
    }
    // Forwards: the bytes that lead from here to those entries.
    let mut state = !crc32fast::hash(prefix);
    let mut key = prefix.to_vec();
    for index in indexes {
        key.push(index ^ (state & 0xff) as u8);
        state = (state >> 8) ^ table(index);
    }
    assert_eq!(crc32fast::hash(&key), crc32fast::hash(wanted));
    key
}
