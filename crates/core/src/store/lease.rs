//! A lease: elects one worker per node to run a job.
//!
//! It lies in the host's shared data under a seal and has an end, so a dead holder does not hold
//! up the others for long. If the host loses the lease, two workers may run the job at once. That
//! must do no harm: a job under a lease only asks, and changes nothing.

use crate::clock::UnixMillis;
use crate::mac::MacKey;
use crate::store::slots::SharedStore;

/// Names a worker among those of its node.
pub(crate) type Holder = [u8; 16];

/// One lease, named by the key that it is sealed with.
#[derive(Debug)]
pub(crate) struct Lease {
    seal: MacKey,
    name: String,
    longest_ms: u64,
}

impl Lease {
    /// No worker takes it for longer than `longest_ms`: a lease with a later end was made before
    /// the clock was set back.
    pub(crate) fn new(key: &[u8; 32], longest_ms: u64) -> Self {
        let seal = MacKey::new(key);
        let [a, b, c, d, ..] = seal.tag(&[b"name"]);
        Self {
            name: format!("al:{:08x}", u32::from_be_bytes([a, b, c, d])),
            seal,
            longest_ms,
        }
    }

    /// Takes the lease until an instant, unless another holds it.
    pub(crate) fn take(
        &self,
        holder: &Holder,
        until: UnixMillis,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> bool {
        let there = store.get(&self.name);
        if let Some((value, _)) = &there
            && let Some((other, ends_at)) = self.open(value)
            && other != *holder
            && now < ends_at
            && ends_at <= now.plus_ms(self.longest_ms)
        {
            return false;
        }
        let version = there.and_then(|(_, version)| version);
        let sealed = self.seal(holder, until);
        store.set(&self.name, &sealed, version);
        // On a host that does not compare versions, the last writer holds it.
        store
            .get(&self.name)
            .is_some_and(|(value, _)| value == sealed)
    }

    /// Gives the lease back, if this holder still has it.
    pub(crate) fn give_back(&self, holder: &Holder, store: &mut dyn SharedStore) {
        if let Some((value, version)) = store.get(&self.name)
            && self.open(&value).is_some_and(|(other, _)| other == *holder)
        {
            let over = self.seal(holder, UnixMillis::default());
            store.set(&self.name, &over, version);
        }
    }

    fn seal(&self, holder: &Holder, ends_at: UnixMillis) -> Vec<u8> {
        let ends_at = ends_at.0.to_be_bytes();
        let tag = self.seal.tag(&[holder, &ends_at]);
        [&holder[..], &ends_at, &tag].concat()
    }

    fn open(&self, value: &[u8]) -> Option<(Holder, UnixMillis)> {
        let (holder, rest) = value.split_first_chunk::<16>()?;
        let (ends_at, tag) = rest.split_first_chunk::<8>()?;
        self.seal
            .verify(&[holder, ends_at], tag)
            .then(|| (*holder, UnixMillis(u64::from_be_bytes(*ends_at))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::slots::tests::Shared;

    fn at(ms: u64) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + ms)
    }

    #[test]
    fn one_worker_holds_it_until_it_gives_it_back_or_dies() {
        let (lease, mut shared) = (Lease::new(&[1; 32], 120_000), Shared::default());
        let (one, other) = ([1; 16], [2; 16]);
        assert!(lease.take(&one, at(8000), at(0), &mut shared));
        assert!(!lease.take(&other, at(9000), at(1000), &mut shared));
        assert!(lease.take(&one, at(9000), at(1000), &mut shared));
        lease.give_back(&other, &mut shared);
        assert!(!lease.take(&other, at(9000), at(1000), &mut shared));
        lease.give_back(&one, &mut shared);
        assert!(lease.take(&other, at(9000), at(1000), &mut shared));
        assert!(!lease.take(&one, at(20_000), at(8999), &mut shared));
        assert!(lease.take(&one, at(20_000), at(9000), &mut shared));
    }

    #[test]
    fn a_lease_from_before_the_clock_was_set_back_is_void() {
        let (lease, mut shared) = (Lease::new(&[1; 32], 120_000), Shared::default());
        assert!(lease.take(&[1; 16], at(128_001), at(120_001), &mut shared));
        assert!(lease.take(&[2; 16], at(16_000), at(8_000), &mut shared));
    }

    #[test]
    fn another_filters_value_is_no_lease() {
        let (lease, mut shared) = (Lease::new(&[1; 32], 120_000), Shared::default());
        let theirs = Lease::new(&[2; 32], 120_000).seal(&[9; 16], at(8000));
        for foreign in [b"4711".to_vec(), Vec::new(), theirs] {
            shared.0.insert(lease.name.clone(), foreign);
            assert!(lease.take(&[1; 16], at(8000), at(0), &mut shared));
            assert!(!lease.take(&[2; 16], at(8000), at(0), &mut shared));
        }
    }
}
