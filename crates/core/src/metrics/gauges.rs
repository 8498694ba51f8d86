//! The gauges of a node: the values of all its workers, combined.
//!
//! A host keeps only the last value of a gauge: Envoy one for all threads, Kong one for all
//! workers. So each machine writes its values to a place of its own in the host's shared data,
//! where the other machines see them. The first machine tells the host the combined values. A
//! machine that is gone stops counting after a few seconds. Without shared data each machine
//! tells its own values, and the host shows the last.

use super::catalog::{Across, Family, GAUGES, Kind};
use crate::background::self_check::{Check, Findings, State};
use crate::clock::UnixMillis;
use crate::mac::MacKey;
use crate::store::slots::SharedStore;

/// The most machines of a node with values that count. Further machines have no place.
pub const PLACES: usize = 64;
/// The interval at which a machine writes its values.
const EVERY_MS: u64 = 1_000;
/// A machine that wrote nothing for this long is gone.
const GONE_MS: u64 = 5_000;
/// The number of gauges.
pub const COUNT: usize = 14;

const QUEUE: usize = 0;
const PENDING: usize = 1;
const ENTRIES: usize = 2;
const RENEWALS: usize = 5;
const LAST_POLL: usize = 6;
const CHECKS: usize = 7;
const BREAKERS: usize = 13;

/// The value is not known, and the host is not told.
const UNKNOWN: u64 = u64::MAX;

/// A value of each gauge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauges([u64; COUNT]);

impl Default for Gauges {
    fn default() -> Self {
        let mut values = [0; COUNT];
        for (value, across) in values.iter_mut().zip(across()) {
            if across == Across::Smallest {
                *value = UNKNOWN;
            }
        }
        Self(values)
    }
}

/// The state of one worker.
#[derive(Debug, Clone, Copy)]
pub struct OfWorker<'a> {
    /// The sizes of its caches and queues.
    pub sizes: crate::exchange::Sizes,
    /// The last good poll of the changes in Keycloak; none without polls.
    pub last_poll_at: Option<UnixMillis>,
    /// Its breaker leaves Keycloak alone.
    pub breaker_open: bool,
    /// The findings of its self-check.
    pub findings: &'a Findings,
}

impl Gauges {
    /// The places in the queue of verifications, which a machine's workers share.
    pub const fn set_queue(&mut self, places: usize) {
        self.0[QUEUE] = places as u64;
    }

    /// Adds a worker of the same machine.
    pub fn add_worker(&mut self, worker: OfWorker<'_>) {
        let sizes = worker.sizes;
        let mut own = Self::default();
        let mut set = |at: usize, value: u64| {
            if let Some(gauge) = own.0.get_mut(at) {
                *gauge = value;
            }
        };
        set(PENDING, sizes.pending as u64);
        let entries = [sizes.tokens, sizes.verified, sizes.refused];
        for (at, entries) in entries.into_iter().enumerate() {
            set(ENTRIES + at, entries as u64);
        }
        set(RENEWALS, sizes.renewing as u64);
        if let Some(at) = worker.last_poll_at {
            set(LAST_POLL, at.as_seconds());
        }
        for (at, check) in Check::ALL.into_iter().enumerate() {
            set(CHECKS + at, state(worker.findings.of(check)));
        }
        set(BREAKERS, u64::from(worker.breaker_open));
        self.merge(&own);
    }

    /// Adds the values of another worker or machine.
    pub fn merge(&mut self, other: &Self) {
        for ((value, other), across) in self.0.iter_mut().zip(other.0).zip(across()) {
            *value = match across {
                Across::Sum => value.saturating_add(other),
                Across::Largest => (*value).max(other),
                Across::Smallest => (*value).min(other),
            };
        }
    }

    /// Each gauge that has a value, by its place among [`names`].
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        let known = |(_, value): &(usize, u64)| *value != UNKNOWN;
        self.0.into_iter().enumerate().filter(known)
    }
}

/// The state of a check as a number: the larger the worse.
const fn state(state: &State) -> u64 {
    match state {
        State::Unchecked => 0,
        State::Good => 1,
        State::Warning(_) => 2,
        State::Bad(_) => 3,
    }
}

/// The names of the gauges at the host, in their order.
#[must_use]
pub fn names() -> Vec<String> {
    GAUGES.iter().flat_map(Family::names).collect()
}

fn across() -> impl Iterator<Item = Across> {
    GAUGES.iter().flat_map(|family| {
        let across = match family.kind {
            Kind::Gauge(across) => across,
            Kind::Counter | Kind::Histogram(_) => Across::Largest,
        };
        std::iter::repeat_n(across, family.combinations())
    })
}

/// A machine among those of its node.
#[derive(Debug)]
pub struct Member {
    holder: [u8; 16],
    /// Against torn reads and other filters' values, not against forgery: a writer of shared data
    /// can write to the host's metrics as well.
    check: MacKey,
    place: Option<usize>,
    shown_at: Option<UnixMillis>,
}

/// The result of a look at the node.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The values to tell the host; none where another machine does.
    pub tell: Option<Gauges>,
    /// A machine of the node knows that this host takes metrics.
    pub host_takes_metrics: bool,
}

/// A machine's value as it lies in shared data.
struct Seen {
    holder: [u8; 16],
    tells: bool,
    gauges: Gauges,
}

impl Member {
    /// A machine; `holder` is bytes that no other of the node has.
    #[must_use]
    pub fn new(holder: [u8; 16]) -> Self {
        Self {
            holder,
            check: MacKey::new(b"gauges of the machines of a node"),
            place: None,
            shown_at: None,
        }
    }

    /// Whether it is time to look.
    #[must_use]
    pub fn is_due(&self, now: UnixMillis) -> bool {
        self.shown_at
            .is_none_or(|at| now >= at.plus_ms(EVERY_MS) || now < at)
    }

    /// Writes this machine's values for the others, and gives the values to tell the host, if
    /// this machine `tells` it anything at all. `store` is none without shared data.
    pub fn show(
        &mut self,
        own: &Gauges,
        tells: bool,
        now: UnixMillis,
        store: Option<&mut dyn SharedStore>,
    ) -> Shown {
        self.shown_at = Some(now);
        let Some(store) = store else {
            return Shown {
                tell: tells.then_some(*own),
                host_takes_metrics: tells,
            };
        };
        let seen: Vec<_> = (0..PLACES)
            .map(|place| self.read(place, now, store))
            .collect();
        self.take_place(&seen, own, tells, now, store);
        let mut shown = Shown {
            tell: None,
            host_takes_metrics: tells,
        };
        let mut whole = Gauges::default();
        let mut teller = None;
        for (place, seen) in seen.iter().enumerate() {
            let (gauges, its_tells) = match (seen, self.place) {
                (_, Some(mine)) if mine == place => (own, tells),
                (Some(seen), _) => (&seen.gauges, seen.tells),
                (None, _) => continue,
            };
            whole.merge(gauges);
            if its_tells {
                shown.host_takes_metrics = true;
                teller = teller.or(Some(place));
            }
        }
        if teller.is_some() && teller == self.place {
            shown.tell = Some(whole);
        }
        shown
    }

    /// Puts the values into this machine's place, which is the first that is free.
    fn take_place(
        &mut self,
        seen: &[Option<Seen>],
        own: &Gauges,
        tells: bool,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) {
        let mine =
            |seen: &Option<Seen>| seen.as_ref().is_some_and(|seen| seen.holder == self.holder);
        let place = seen.iter().position(mine);
        let place = place.or_else(|| seen.iter().position(Option::is_none));
        self.place = None;
        let Some(place) = place else {
            return;
        };
        let value = self.write(own, tells, now);
        let version = store.get(&name(place)).and_then(|(_, version)| version);
        store.set(&name(place), &value, version);
        // Another machine that wanted the place at the same moment may have been faster.
        let there = store.get(&name(place));
        if there.is_some_and(|(there, _)| there == value) {
            self.place = Some(place);
        }
    }

    fn write(&self, own: &Gauges, tells: bool, now: UnixMillis) -> Vec<u8> {
        let mut value = Vec::with_capacity(25 + COUNT * 8 + 32);
        value.extend_from_slice(&self.holder);
        value.extend_from_slice(&now.0.to_be_bytes());
        value.push(u8::from(tells));
        for gauge in own.0 {
            value.extend_from_slice(&gauge.to_be_bytes());
        }
        let tag = self.check.tag(&[&value]);
        value.extend_from_slice(&tag);
        value
    }

    /// The value in a place, if its machine is not gone.
    fn read(&self, place: usize, now: UnixMillis, store: &mut dyn SharedStore) -> Option<Seen> {
        let (value, _) = store.get(&name(place))?;
        let (body, tag) = value.split_last_chunk::<32>()?;
        let (holder, rest) = body.split_first_chunk::<16>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (tells, rest) = rest.split_first()?;
        if rest.len() != COUNT * 8 || !self.check.verify(&[body], tag) {
            return None;
        }
        let at = UnixMillis(u64::from_be_bytes(*at));
        if now.since_ms(at) > GONE_MS || at > now.plus_ms(GONE_MS) {
            return None;
        }
        let mut gauges = Gauges::default();
        for (gauge, bytes) in gauges.0.iter_mut().zip(rest.as_chunks::<8>().0) {
            *gauge = u64::from_be_bytes(*bytes);
        }
        Some(Seen {
            holder: *holder,
            tells: *tells == 1,
            gauges,
        })
    }
}

fn name(place: usize) -> String {
    format!("am:{place:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Sizes;
    use crate::store::slots::tests::Shared;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn of(tokens: usize, last_poll_at: u64, findings: &Findings) -> Gauges {
        let sizes = Sizes {
            tokens,
            ..Sizes::default()
        };
        let mut gauges = Gauges::default();
        gauges.add_worker(OfWorker {
            sizes,
            last_poll_at: Some(UnixMillis(last_poll_at)),
            breaker_open: tokens == 4,
            findings,
        });
        gauges
    }

    fn value(gauges: &Gauges, name: &str) -> Option<u64> {
        let at = names().iter().position(|known| known == name).unwrap();
        gauges
            .iter()
            .find(|(found, _)| *found == at)
            .map(|(_, value)| value)
    }

    #[test]
    fn there_is_a_name_for_each_value_and_the_places_fit() {
        assert_eq!(names().len(), COUNT);
        let names = names();
        assert_eq!(names[QUEUE], "apikey_bcrypt_queue_length");
        assert_eq!(names[PENDING], "apikey_exchanges_pending");
        assert_eq!(names[ENTRIES], "apikey_cache_entries__cache_tokens");
        assert_eq!(names[RENEWALS], "apikey_renewals_waiting");
        assert_eq!(names[LAST_POLL], "apikey_last_good_poll_timestamp_seconds");
        assert_eq!(
            names[CHECKS],
            "apikey_self_check_state__check_service_token"
        );
        assert_eq!(names[BREAKERS], "apikey_breakers_open");
    }

    #[test]
    fn sums_are_added_and_the_oldest_poll_and_the_worst_finding_count() {
        let mut shared = Shared::default();
        let mut bad = Findings::default();
        *bad.of_mut(Check::Roles) = State::Bad("no role".into());
        let good = Findings::default();
        let (mut one, mut other) = (Member::new([1; 16]), Member::new([2; 16]));
        let first = of(3, 5_000, &bad);
        let shown = one.show(&first, true, NOW, Some(&mut shared));
        assert_eq!(shown.tell, Some(first));
        // The first machine tells, with the values that the others wrote last.
        let second = of(4, 9_000, &good);
        let shown = other.show(&second, true, NOW, Some(&mut shared));
        assert_eq!(shown.tell, None);
        let whole = one
            .show(&first, true, NOW.plus_ms(1_000), Some(&mut shared))
            .tell
            .unwrap();
        assert_eq!(value(&whole, "apikey_cache_entries__cache_tokens"), Some(7));
        assert_eq!(
            value(&whole, "apikey_last_good_poll_timestamp_seconds"),
            Some(5)
        );
        assert_eq!(
            value(&whole, "apikey_self_check_state__check_roles"),
            Some(3)
        );
    }

    #[test]
    fn who_is_gone_counts_no_more_and_its_place_is_taken() {
        let (mut shared, good) = (Shared::default(), Findings::default());
        let (mut one, mut other) = (Member::new([1; 16]), Member::new([2; 16]));
        one.show(&of(3, 5_000, &good), true, NOW, Some(&mut shared));
        other.show(&of(4, 5_000, &good), true, NOW, Some(&mut shared));
        let later = NOW.plus_ms(GONE_MS + 1);
        let whole = other.show(&of(4, 5_000, &good), true, later, Some(&mut shared));
        assert_eq!(
            value(&whole.tell.unwrap(), "apikey_cache_entries__cache_tokens"),
            Some(4)
        );
        assert_eq!(shared.0.len(), 2);
        let mut third = Member::new([3; 16]);
        third.show(&of(1, 5_000, &good), true, later, Some(&mut shared));
        assert_eq!(shared.0.len(), 2);
    }

    #[test]
    fn who_knows_nothing_of_its_host_tells_nothing_and_learns_it_from_another() {
        let (mut shared, good) = (Shared::default(), Findings::default());
        let (mut one, mut other) = (Member::new([1; 16]), Member::new([2; 16]));
        let shown = one.show(&of(3, 5_000, &good), false, NOW, Some(&mut shared));
        assert_eq!(shown, Shown::default());
        let shown = other.show(&of(4, 5_000, &good), true, NOW, Some(&mut shared));
        assert_eq!(
            value(&shown.tell.unwrap(), "apikey_cache_entries__cache_tokens"),
            Some(7)
        );
        let shown = one.show(&of(3, 5_000, &good), false, NOW, Some(&mut shared));
        assert!(shown.host_takes_metrics && shown.tell.is_none());
    }

    #[test]
    fn where_nothing_is_polled_no_time_of_a_poll_is_told() {
        let good = Findings::default();
        let mut gauges = Gauges::default();
        gauges.add_worker(OfWorker {
            sizes: Sizes::default(),
            last_poll_at: None,
            breaker_open: false,
            findings: &good,
        });
        assert_eq!(
            value(&gauges, "apikey_last_good_poll_timestamp_seconds"),
            None
        );
        assert_eq!(value(&gauges, "apikey_exchanges_pending"), Some(0));
    }

    #[test]
    fn a_value_that_is_torn_or_another_filters_is_nobodys() {
        let (mut shared, good) = (Shared::default(), Findings::default());
        let mut one = Member::new([1; 16]);
        one.show(&of(3, 5_000, &good), true, NOW, Some(&mut shared));
        let whole = shared.0[&name(0)].clone();
        for at in 0..whole.len() {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            shared.0.insert(name(0), torn);
            assert!(one.read(0, NOW, &mut shared).is_none(), "{at}");
        }
        shared.0.insert(name(0), vec![7; 9]);
        assert!(one.read(0, NOW, &mut shared).is_none());
    }

    #[test]
    fn no_more_machines_than_places_are_kept() {
        let (mut shared, good) = (Shared::default(), Findings::default());
        for machine in 0..70 {
            Member::new([machine; 16]).show(&of(1, 1, &good), true, NOW, Some(&mut shared));
        }
        assert_eq!(shared.0.len(), PLACES);
    }
}
