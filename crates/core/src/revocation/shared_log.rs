//! The log of revocations in the host's shared data: written by one worker of a node, read by
//! all.
//!
//! Kong may give another filter's value for its name, half of a value or an old one, and may
//! evict it. So the log lies under two names, each copy under a seal. A reader takes all that
//! either copy holds. A number that rises with each write tells a reader when both copies lack
//! the content that it has read before.

use super::revoked::{OwnerTag, Revoked, Watched};
use crate::clock::UnixMillis;
use crate::mac::MacKey;
use crate::store::slots::SharedStore;

const VERSION: u8 = 2;
const MAC_LENGTH: usize = 32;
/// Eight numbers of eight bytes.
const HEAD_LENGTH: usize = 64;
/// Most tries of a write: it fails where another worker was faster.
const TRIES: u8 = 8;
/// Most reads of a copy that cannot be opened: it may be torn.
const READS: u8 = 2;

/// The other workers could not be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotShared {
    /// `l2_slots` is 0: shared data is not used.
    #[error("nothing is shared between the workers: l2_slots is 0")]
    Off,
    /// The host did not keep the written log.
    #[error("the host's shared data did not take the log of revocations")]
    NotKept,
}

/// The result of reading the log.
pub(super) struct Read {
    /// The content of the copies, if one of them was not read before.
    pub(super) news: Option<Revoked>,
    /// A copy is gone, cannot be read, or is behind the other.
    pub(super) lags: bool,
}

/// The log of one realm and signing key, as one worker has read it.
#[derive(Debug)]
pub(super) struct SharedLog {
    seal: MacKey,
    names: [String; 2],
    /// The bytes of each copy as last read and opened, and their number.
    seen: [Option<(Vec<u8>, u64)>; 2],
    /// The highest number seen.
    sequence: u64,
}

impl SharedLog {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let seal = MacKey::new(key);
        let [a, b, c, d, ..] = seal.tag(&[b"name"]);
        let tag = u32::from_be_bytes([a, b, c, d]);
        Self {
            seal,
            names: names(tag),
            seen: [None, None],
            sequence: 0,
        }
    }

    /// Reads both copies; none if both lack the content that was read before.
    pub(super) fn read(&mut self, store: &mut dyn SharedStore) -> Option<Read> {
        let mut news: Option<Revoked> = None;
        for (name, seen) in self.names.iter().zip(&mut self.seen) {
            if let Some(revoked) = read_copy(&self.seal, name, seen, store) {
                match &mut news {
                    None => news = Some(revoked),
                    Some(news) => {
                        news.merge(&revoked);
                    }
                }
            }
        }
        let [first, second] = [&self.seen[0], &self.seen[1]]
            .map(|seen| seen.as_ref().map_or(0, |(_, sequence)| *sequence));
        let best = first.max(second);
        if best == 0 || best < self.sequence {
            return None;
        }
        self.sequence = best;
        let lags = self.seen[0] != self.seen[1];
        Some(Read { news, lags })
    }

    /// Writes all known revocations, merged with the content that is already there.
    ///
    /// # Errors
    /// [`NotShared::NotKept`] when no copy holds it afterwards.
    pub(super) fn publish(
        &mut self,
        known: &mut Revoked,
        latest: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Result<(), NotShared> {
        for _ in 0..TRIES {
            let copies = self.names.each_ref().map(|name| store.get(name));
            let mut best = 0;
            for (value, _) in copies.iter().flatten() {
                if let Some((sequence, mut revoked)) = open(&self.seal, value) {
                    best = sequence.max(best);
                    revoked.clamp(latest);
                    known.merge(&revoked);
                }
            }
            known.forget(latest);
            if best < self.sequence {
                // Both copies lack the content written since this worker read last.
                known.revoke_all(latest);
            }
            let sequence = best.max(self.sequence) + 1;
            let sealed = seal(&self.seal, sequence, known);
            let mut kept = false;
            for (name, copy) in self.names.iter().zip(&copies) {
                let version = copy.as_ref().and_then(|(_, version)| *version);
                store.set(name, &sealed, version);
                let now_there = store.get(name);
                kept |= now_there
                    .and_then(|(value, _)| open(&self.seal, &value))
                    .is_some_and(|(_, there)| there.covers(known));
            }
            if kept {
                self.sequence = sequence;
                return Ok(());
            }
        }
        Err(NotShared::NotKept)
    }
}

/// The names of the copies. They differ in one byte only, so their CRC-32 differ; and they are
/// longer than the names of the caches' slots.
pub(super) fn names(tag: u32) -> [String; 2] {
    [format!("ar:{tag:08x}"), format!("as:{tag:08x}")]
}

/// Reads a copy into `seen`; gives its content unless it was read before.
fn read_copy(
    key: &MacKey,
    name: &str,
    seen: &mut Option<(Vec<u8>, u64)>,
    store: &mut dyn SharedStore,
) -> Option<Revoked> {
    for _ in 0..READS {
        let Some((value, _)) = store.get(name) else {
            continue;
        };
        if seen.as_ref().is_some_and(|(known, _)| *known == value) {
            return None;
        }
        if let Some((sequence, revoked)) = open(key, &value) {
            *seen = Some((value, sequence));
            return Some(revoked);
        }
    }
    *seen = None;
    None
}

/// Version, number, both floors, the five instants of [`Watched`], then each owner's tag and
/// instant (8 bytes each, most significant first), MAC over all before.
fn seal(key: &MacKey, sequence: u64, revoked: &Revoked) -> Vec<u8> {
    let owners = revoked.owners();
    let mut sealed = Vec::with_capacity(1 + HEAD_LENGTH + 16 * owners.len() + MAC_LENGTH);
    sealed.push(VERSION);
    let watched = revoked.watched;
    for number in [
        sequence,
        revoked.floor().0,
        revoked.shared_floor().0,
        watched.polled_at.0,
        watched.off_at.0,
        watched.failed_at.0,
        watched.asked_at.0,
        watched.newest_event_at.0,
    ] {
        sealed.extend_from_slice(&number.to_be_bytes());
    }
    for (owner, at) in owners {
        sealed.extend_from_slice(owner);
        sealed.extend_from_slice(&at.0.to_be_bytes());
    }
    let tag = key.tag(&[&sealed]);
    sealed.extend_from_slice(&tag);
    sealed
}

fn open(key: &MacKey, sealed: &[u8]) -> Option<(u64, Revoked)> {
    let (body, tag) = sealed.split_last_chunk::<MAC_LENGTH>()?;
    let (version, rest) = body.split_first()?;
    let (numbers, owners) = rest.split_first_chunk::<HEAD_LENGTH>()?;
    let (owners, []) = owners.as_chunks::<16>() else {
        return None;
    };
    if *version != VERSION || owners.len() > super::revoked::OWNERS_MAX || !key.verify(&[body], tag)
    {
        return None;
    }
    let (numbers, _) = numbers.as_chunks::<8>();
    let numbers = <[[u8; 8]; 8]>::try_from(numbers).ok()?;
    let [sequence, numbers @ ..] = numbers.map(u64::from_be_bytes);
    let [
        floor,
        shared_floor,
        polled_at,
        off_at,
        failed_at,
        asked_at,
        newest_event_at,
    ] = numbers.map(UnixMillis);
    let watched = Watched {
        polled_at,
        off_at,
        failed_at,
        asked_at,
        newest_event_at,
    };
    let owners = owners.iter().filter_map(|owner| {
        let (tag, at) = owner.split_first_chunk::<8>()?;
        let at = u64::from_be_bytes(at.try_into().ok()?);
        Some((*tag as OwnerTag, UnixMillis(at)))
    });
    let revoked = Revoked::new(watched, floor, shared_floor, owners);
    Some((sequence, revoked))
}
