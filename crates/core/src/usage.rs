//! Requests by key and outcome: for the audit log, and for the management API of the node.
//!
//! A worker counts in its own memory. At the end of each minute it gives its counts out, some at
//! each tick. Each becomes a line of the audit log. The lines of all workers add up to all
//! requests, less up to 75 seconds of a worker that died. The worker also adds each count to the
//! key's slot in the host's shared data, where a route of the management API reads it. A slot can
//! be lost; the lines do not depend on it.
//!
//! Memory is bounded: [`KEYS_MAX`] keys in a worker, and as many again that wait to be written. A
//! key that was verified, or that Keycloak knows, is counted under its id; all other requests
//! are counted together, so a stranger's invented ids take no room.

use std::collections::BTreeMap;

use crate::clock::UnixMillis;
use crate::config::Config;
use crate::mac::FastMacKey;
use crate::rejection::Rejection;
use crate::signing_key::SigningKey;
use crate::store::sealed::{Entry, KeyDigest, Kind, Sealer};
use crate::store::slots::{SharedStore, Slots};

/// Keys that a worker counts in a minute; further keys are counted together.
pub const KEYS_MAX: usize = 4096;
/// Counts that are given out at a tick: an addition takes as long as some reads of the cache.
const PORTION: usize = 64;
/// Slots of keys in the host's shared data. All configurations of a node use the same, so their
/// number is no setting.
const SLOTS: u32 = 4096;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// The outcome of a request with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It went on with a token of a cache.
    Hit,
    /// With a new token; the key had been verified before.
    Refresh,
    /// With a new token, after the key's first verification on this node.
    FirstUse,
    /// With a token past its TTL, since Keycloak could not be asked.
    Stale,
    /// It was refused.
    Refused(Rejection),
}

/// The names of the outcomes of requests that went on; those of the others are the codes.
const FORWARDED: [&str; 4] = ["hit", "refresh", "first_use", "stale"];
const OUTCOMES: usize = FORWARDED.len() + Rejection::ALL.len();

impl Outcome {
    fn place(self) -> usize {
        match self {
            Self::Hit => 0,
            Self::Refresh => 1,
            Self::FirstUse => 2,
            Self::Stale => 3,
            Self::Refused(rejection) => FORWARDED.len() + rejection.place(),
        }
    }
}

/// The number of requests by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts([u32; OUTCOMES]);

impl Counts {
    const NONE: Self = Self([0; OUTCOMES]);

    /// Each outcome's name and number; those of requests that went on come first.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        let names = FORWARDED.into_iter();
        let names = names.chain(Rejection::ALL.into_iter().map(Rejection::code));
        names.zip(self.0)
    }

    /// The same in two: requests that went on, and those that were refused.
    pub fn halves(&self) -> [impl Iterator<Item = (&'static str, u32)> + '_; 2] {
        let (forwarded, refused) = (FORWARDED.len(), Rejection::ALL.len());
        [(0, forwarded), (forwarded, refused)].map(|(from, most)| self.iter().skip(from).take(most))
    }

    fn count(&mut self, outcome: Outcome) {
        if let Some(count) = self.0.get_mut(outcome.place()) {
            *count = count.saturating_add(1);
        }
    }

    fn plus(mut self, other: &Self) -> Self {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
        self
    }

    fn bytes(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|count| count.to_be_bytes())
            .collect()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (counts, rest) = bytes.as_chunks::<4>();
        let counts: [[u8; 4]; OUTCOMES] = counts.try_into().ok()?;
        rest.is_empty()
            .then(|| Self(counts.map(u32::from_be_bytes)))
    }
}

/// The requests of a worker with a key, in about a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The key; none for all requests that are not counted by a key.
    pub key_id: Option<String>,
    /// When the counting began.
    pub from: UnixMillis,
    /// When it ended.
    pub to: UnixMillis,
    /// The numbers.
    pub counts: Counts,
}

/// What a worker counts.
#[derive(Debug)]
pub struct Usage {
    keys: BTreeMap<String, Counts>,
    /// Requests without an entry of their own.
    others: Counts,
    /// When the counting began; none as long as nothing is counted.
    since: Option<UnixMillis>,
    /// The counts of an earlier minute that were not given out yet.
    leaving: Vec<Used>,
    totals: Totals,
}

impl Usage {
    /// Nothing counted yet; none where the configuration wants no counts.
    #[must_use]
    pub fn new(config: &Config, signing_key: &SigningKey) -> Option<Self> {
        config.usage.then(|| Self {
            keys: BTreeMap::new(),
            others: Counts::NONE,
            since: None,
            leaving: Vec::new(),
            totals: Totals::new(config, signing_key),
        })
    }

    /// Counts a request; `key_id` only for a key that was verified or that Keycloak knows.
    pub fn count(&mut self, key_id: Option<&str>, outcome: Outcome, now: UnixMillis) {
        self.since.get_or_insert(now);
        let room = self.keys.len() < KEYS_MAX;
        let counts = match key_id {
            None => &mut self.others,
            Some(id) => match self.keys.get_mut(id) {
                Some(counts) => counts,
                None if room => self.keys.entry(id.to_owned()).or_insert(Counts::NONE),
                None => &mut self.others,
            },
        };
        counts.count(outcome);
    }

    /// Counts to write into the audit log, once a minute is over; call it about every 200 ms.
    pub fn take(&mut self, now: UnixMillis, store: &mut dyn SharedStore) -> Vec<Used> {
        if self.leaving.is_empty()
            && let Some(from) = self
                .since
                .filter(|since| now.0 / MINUTE_MS != since.0 / MINUTE_MS)
        {
            self.end_minute(from, now);
        }
        let rest = self.leaving.len().saturating_sub(PORTION);
        let portion = self.leaving.split_off(rest);
        for used in &portion {
            if let Some(id) = &used.key_id {
                self.totals.add(id, &used.counts, now, store);
            }
        }
        portion
    }

    fn end_minute(&mut self, from: UnixMillis, to: UnixMillis) {
        self.since = None;
        let others = std::mem::replace(&mut self.others, Counts::NONE);
        let others = (others != Counts::NONE).then_some((None, others));
        let keys = std::mem::take(&mut self.keys).into_iter();
        let keys = keys.map(|(id, counts)| (Some(id), counts));
        let used = |(key_id, counts)| Used {
            key_id,
            from,
            to,
            counts,
        };
        self.leaving = keys.chain(others).map(used).collect();
    }

    /// The requests of this node with a key, as far as shared data has them: in this hour and in
    /// the one before.
    pub fn of_key(&self, id: &str, now: UnixMillis, store: &mut dyn SharedStore) -> Used {
        let [before, current] = self.totals.find(id, now, store);
        Used {
            key_id: Some(id.to_owned()),
            from: UnixMillis(hour(now)).minus_ms(HOUR_MS),
            to: now,
            counts: before.plus(&current),
        }
    }

    /// The number of keys in memory, including those that wait to be written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len() + self.leaving.len()
    }

    /// Whether no key is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The beginning of the hour.
const fn hour(now: UnixMillis) -> u64 {
    now.0 - now.0 % HOUR_MS
}

/// The counts of a node's workers, by key and hour, in the host's shared data. Another worker's
/// write at the same moment can be lost, and so can a slot.
#[derive(Debug)]
struct Totals {
    namer: FastMacKey,
    sealer: Sealer,
    slots: Slots,
}

impl Totals {
    /// The same for all configurations of a node with this realm and signing key.
    fn new(config: &Config, signing_key: &SigningKey) -> Self {
        let issuer = config.realm.issuer.as_bytes();
        let derive = |purpose: &[u8]| signing_key.derive(&[purpose, b":", issuer]);
        let slots = if config.l2_slots > 0 { SLOTS } else { 0 };
        Self {
            namer: FastMacKey::new(&derive(b"usage of a key")),
            sealer: Sealer::new(&derive(b"seal of usage")),
            slots: Slots::new(Kind::Usage, slots),
        }
    }

    /// The hour before, and this one.
    fn find(&self, id: &str, now: UnixMillis, store: &mut dyn SharedStore) -> [Counts; 2] {
        let digest = self.digest(id);
        let read = |entry: Entry<&[u8]>| {
            let (before, current) = entry.payload.split_at_checked(4 * OUTCOMES)?;
            let (before, current) = (Counts::read(before)?, Counts::read(current)?);
            match hour(now).checked_sub(entry.cached_at.0)? {
                0 => Some([before, current]),
                HOUR_MS => Some([current, Counts::NONE]),
                _ => None,
            }
        };
        let found = self.slots.find(store, &self.sealer, &digest, read);
        found.unwrap_or([Counts::NONE; 2])
    }

    fn add(&self, id: &str, counts: &Counts, now: UnixMillis, store: &mut dyn SharedStore) {
        let [before, current] = self.find(id, now, store);
        let payload = [before.bytes(), current.plus(counts).bytes()].concat();
        let cached_at = UnixMillis(hour(now));
        let entry = Entry {
            cached_at,
            ends_at: cached_at.plus_ms(2 * HOUR_MS),
            payload: payload.as_slice(),
        };
        let digest = self.digest(id);
        self.slots.store(store, &self.sealer, &digest, &entry, now);
    }

    fn digest(&self, id: &str) -> KeyDigest {
        self.namer.tag(id.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::store::slots::tests::Shared;
    use crate::test_support::{config_with, signing_key};

    /// Half past an hour.
    const NOW: UnixMillis = UnixMillis(1_800_001_800_000);
    const INVALID: Outcome = Outcome::Refused(Rejection::InvalidApiKey);

    fn usage() -> Usage {
        let config = config_with(&json!({ "usage": true }));
        Usage::new(&config, &signing_key()).unwrap()
    }

    fn told(counts: &Counts) -> Vec<(&'static str, u32)> {
        counts.iter().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn nothing_is_counted_unless_it_is_asked_for() {
        assert!(Usage::new(&config_with(&json!({})), &signing_key()).is_none());
    }

    #[test]
    fn each_key_is_told_of_once_a_minute_by_outcome() {
        let (mut usage, mut shared) = (usage(), Shared::default());
        let counted = [
            (Some("one"), Outcome::Hit, 3),
            (Some("one"), Outcome::FirstUse, 1),
            (Some("two"), INVALID, 2),
            (None, INVALID, 5),
        ];
        for (key_id, outcome, times) in counted {
            (0..times).for_each(|_| usage.count(key_id, outcome, NOW));
        }
        assert_eq!(usage.take(NOW.plus_ms(59_999), &mut shared), []);
        let to = NOW.plus_ms(60_000);
        let used = usage.take(to, &mut shared);
        let lines: Vec<_> = used
            .iter()
            .map(|used| (used.key_id.as_deref(), told(&used.counts)))
            .collect();
        assert_eq!(
            lines,
            [
                (Some("one"), vec![("hit", 3), ("first_use", 1)]),
                (Some("two"), vec![("invalid_api_key", 2)]),
                (None, vec![("invalid_api_key", 5)]),
            ]
        );
        assert!(used.iter().all(|used| (used.from, used.to) == (NOW, to)));
        assert_eq!(usage.take(to.plus_ms(60_000), &mut shared), [], "told once");
    }

    #[test]
    fn memory_is_bounded_and_a_key_beyond_is_one_of_the_others() {
        let (mut usage, mut shared) = (usage(), Shared::default());
        let fill = |usage: &mut Usage| {
            (0..KEYS_MAX + 10).for_each(|n| usage.count(Some(&n.to_string()), Outcome::Hit, NOW));
        };
        fill(&mut usage);
        let later = NOW.plus_ms(60_000);
        let first = usage.take(later, &mut shared);
        assert_eq!(first.len(), PORTION, "a worker is not held for long");
        fill(&mut usage);
        assert!(usage.len() <= 2 * KEYS_MAX);
        // The next minute begins to leave only when the one before is gone.
        let (mut sum, mut ids) = (0, BTreeSet::new());
        let mut used = first;
        while !used.is_empty() {
            for used in used {
                sum += used.counts.0.iter().sum::<u32>();
                ids.extend(used.key_id);
            }
            used = usage.take(later, &mut shared);
        }
        assert_eq!((sum as usize, ids.len()), (2 * (KEYS_MAX + 10), KEYS_MAX));
        assert!(usage.is_empty());
        assert!(shared.0.len() <= SLOTS as usize);
    }

    #[test]
    fn the_workers_of_a_node_add_up_and_two_hours_are_told() {
        let (mut one, mut two, mut shared) = (usage(), usage(), Shared::default());
        let use_at = |worker: &mut Usage, at: UnixMillis, shared: &mut Shared| {
            worker.count(Some("key"), Outcome::Hit, at);
            assert_eq!(worker.take(at.plus_ms(60_000), shared).len(), 1);
        };
        use_at(&mut one, NOW, &mut shared);
        use_at(&mut two, NOW, &mut shared);
        use_at(&mut two, NOW.plus_ms(HOUR_MS), &mut shared);
        let mut hits = |hours: u64| {
            let now = NOW.plus_ms(hours * HOUR_MS + 120_000);
            let used = one.of_key("key", now, &mut shared);
            assert_eq!(used.from.0 % HOUR_MS, 0);
            assert_eq!(now.since_ms(used.from), HOUR_MS + 32 * MINUTE_MS);
            told(&used.counts)
        };
        assert_eq!(hits(1), [("hit", 3)]);
        assert_eq!(hits(2), [("hit", 1)]);
        assert_eq!(hits(3), []);
        assert_eq!(told(&two.of_key("other", NOW, &mut shared).counts), []);
    }

    #[test]
    fn a_lost_or_torn_slot_takes_nothing_from_the_lines() {
        let (mut usage, mut shared) = (usage(), Shared::default());
        let mut lines = 0;
        for minute in 0..3 {
            let at = NOW.plus_ms(minute * MINUTE_MS);
            usage.count(Some("key"), Outcome::Hit, at);
            lines += usage.take(at.plus_ms(MINUTE_MS), &mut shared).len();
            let value = shared.0.values_mut().next().unwrap();
            if minute == 0 {
                value.truncate(40);
            }
        }
        assert_eq!(lines, 3);
        let later = NOW.plus_ms(4 * MINUTE_MS);
        assert_eq!(
            told(&usage.of_key("key", later, &mut shared).counts),
            [("hit", 2)]
        );
    }

    #[test]
    fn a_route_without_shared_data_writes_none() {
        let config = config_with(&json!({ "usage": true, "l2_slots": 0 }));
        let mut usage = Usage::new(&config, &signing_key()).unwrap();
        let mut shared = Shared::default();
        usage.count(Some("key"), Outcome::Hit, NOW);
        assert_eq!(usage.take(NOW.plus_ms(MINUTE_MS), &mut shared).len(), 1);
        assert!(shared.0.is_empty());
    }

    #[test]
    fn outcomes_are_told_in_two_halves() {
        let mut counts = Counts::NONE;
        counts.count(Outcome::Stale);
        counts.count(Outcome::Refused(Rejection::Overloaded));
        let [forwarded, refused] = counts.halves().map(Iterator::collect::<Vec<_>>);
        assert_eq!(
            forwarded,
            [("hit", 0), ("refresh", 0), ("first_use", 0), ("stale", 1)]
        );
        assert_eq!(refused.len(), Rejection::ALL.len());
        assert!(refused.contains(&("overloaded", 1)));
    }
}
