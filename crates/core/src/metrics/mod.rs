//! The metrics of a gateway, for its operator.
//!
//! The path of a request adds to numbers in the machine's memory and calls no host. On ticks the
//! shell tells the host the growth of each counter ([`Metrics::grown`]). Gauges are read on ticks
//! as well, and combined over the workers of a node ([`gauges`]), since a host keeps one value of
//! a gauge for all of them.
//!
//! Invariants: the number of metrics is fixed at build time; no name, label or value is made of a
//! key, an owner or anything else that a request brings.

pub mod catalog;
pub mod gauges;

use crate::background::Renewed;
use crate::exchange::{Pass, Source};
use crate::keycloak::Endpoint;
use crate::rejection::Rejection;
use catalog::{COUNTED, Family, Kind};

/// Microseconds in a second.
const MICROSECONDS: u64 = 1_000_000;

/// The way that a request with a token took to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A cache held the token.
    Warm,
    /// Another request brought it while this one waited.
    Waited,
    /// Keycloak gave it; the key was verified before.
    Refresh,
    /// Keycloak gave it, after a token for the gateway itself.
    Cold,
    /// Keycloak gave it, after the key's first verification on this node.
    FirstUse,
    /// A cache held it past its TTL, and Keycloak could not be asked.
    Stale,
}

impl Way {
    /// The way of a request with a token of this origin. Whether it had to wait, and whether the
    /// gateway's own token was fetched for it.
    #[must_use]
    pub const fn of(source: Source, waited: bool, fetched_token: bool) -> Self {
        match source {
            Source::L1 | Source::L2 if waited => Self::Waited,
            Source::L1 | Source::L2 => Self::Warm,
            Source::Refresh if fetched_token => Self::Cold,
            Source::Refresh => Self::Refresh,
            Source::FirstUse => Self::FirstUse,
            Source::Stale => Self::Stale,
        }
    }
}

/// How a callout to Keycloak ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallResult {
    /// A status below 400.
    Ok,
    /// A status from 400 to 499.
    ClientError,
    /// A status from 500 on.
    ServerError,
    /// No answer.
    Failed,
}

impl CallResult {
    /// The result of an answer with this status.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            0..400 => Self::Ok,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

/// A counter, and the part of it that the host was told.
#[derive(Debug, Clone, Copy)]
struct Counter {
    value: u64,
    told: u64,
    /// The host's unit: the sum of a histogram is counted in microseconds and told in seconds.
    /// The remainder waits for the next time.
    unit: u64,
}

/// The counters of one machine.
#[derive(Debug)]
pub struct Metrics {
    counters: Vec<Counter>,
    /// Where each family begins.
    begins: [usize; COUNTED.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        let mut begins = [0; COUNTED.len()];
        let mut counters = Vec::new();
        for (begin, family) in begins.iter_mut().zip(&COUNTED) {
            *begin = counters.len();
            for at in 0..family.combinations() * family.width() {
                let is_sum = at % family.width() + 2 == family.width();
                counters.push(Counter {
                    value: 0,
                    told: 0,
                    unit: if is_sum { MICROSECONDS } else { 1 },
                });
            }
        }
        Self { counters, begins }
    }
}

impl Metrics {
    /// A request went on with a token.
    pub fn exchanged(&mut self, source: Source) {
        let at = match source {
            Source::L1 => 0,
            Source::L2 => 1,
            Source::Refresh => 2,
            Source::FirstUse => 3,
            Source::Stale => 4,
        };
        self.add(catalog::EXCHANGES, at, 1);
    }

    /// A request was refused.
    pub fn refused(&mut self, rejection: Rejection) {
        self.add(catalog::REFUSALS, rejection.place(), 1);
    }

    /// A request went on untouched; not counted where the filter is switched off.
    pub fn passed(&mut self, pass: Pass) {
        match pass {
            Pass::Disabled => {}
            Pass::NoKey => self.add(catalog::PASSES, 0, 1),
            Pass::Fallback => self.add(catalog::PASSES, 1, 1),
        }
    }

    /// Requests of keys with a rate limit met a bucket that the host had lost.
    pub fn lost_buckets(&mut self, lost: u64) {
        self.add(catalog::LOST_BUCKETS, 0, lost);
    }

    /// A callout ended.
    pub fn called(&mut self, endpoint: Endpoint, result: CallResult) {
        let at = catalog::endpoint(endpoint) * 4 + result as usize;
        self.add(catalog::CALLOUTS, at, 1);
    }

    /// A request had its token by this way, this many microseconds after it came.
    pub fn exchange_took(&mut self, way: Way, microseconds: u64) {
        self.observe(catalog::EXCHANGE_SECONDS, way as usize, microseconds);
    }

    /// Keycloak answered, this many microseconds after the question.
    pub fn answer_took(&mut self, endpoint: Endpoint, microseconds: u64) {
        let at = catalog::endpoint(endpoint);
        self.observe(catalog::ANSWER_SECONDS, at, microseconds);
    }

    /// A slice of bcrypt held the worker for this many microseconds.
    pub fn slice_took(&mut self, microseconds: u64) {
        self.observe(catalog::SLICE_SECONDS, 0, microseconds);
    }

    /// This machine was the first to see revocations: so many of one owner, and so many of
    /// everybody.
    pub fn revoked(&mut self, owners: u64, everybody: u64) {
        self.add(catalog::REVOCATIONS, 0, owners);
        self.add(catalog::REVOCATIONS, 1, everybody);
    }

    /// Renewals have ended: those between `before` and `now`.
    pub fn renewed(&mut self, before: Renewed, now: Renewed) {
        self.add(catalog::RENEWALS, 0, now.done.saturating_sub(before.done));
        let failed = now.failed.saturating_sub(before.failed);
        self.add(catalog::RENEWALS, 1, failed);
    }

    /// Gives each counter that has grown since the last call, by its place among [`names`], and
    /// its growth.
    pub fn grown(&mut self, mut tell: impl FnMut(usize, u64)) {
        for (at, counter) in self.counters.iter_mut().enumerate() {
            let by = (counter.value - counter.told) / counter.unit;
            if by > 0 {
                counter.told += by * counter.unit;
                tell(at, by);
            }
        }
    }

    /// The value of each counter, in its unit, in the order of [`names`]: for a shell that tells no
    /// host.
    pub fn values(&self) -> impl Iterator<Item = f64> {
        let counters = self.counters.iter();
        counters.map(|counter| counter.value as f64 / counter.unit as f64)
    }

    fn add(&mut self, family: usize, at: usize, by: u64) {
        let begin = self.begins.get(family).copied().unwrap_or_default();
        if let Some(counter) = self.counters.get_mut(begin + at) {
            counter.value = counter.value.saturating_add(by);
        }
    }

    fn observe(&mut self, family: usize, at: usize, microseconds: u64) {
        let Some(Family {
            kind: Kind::Histogram(ends),
            ..
        }) = COUNTED.get(family)
        else {
            return;
        };
        let first = at * (ends.len() + 3);
        let within = ends.iter().take_while(|end| **end < microseconds).count();
        for bucket in within..=ends.len() {
            self.add(family, first + bucket, 1);
        }
        self.add(family, first + ends.len() + 1, microseconds);
        self.add(family, first + ends.len() + 2, 1);
    }
}

/// The names of the counters at the host, in their order.
#[must_use]
pub fn names() -> Vec<String> {
    COUNTED.iter().flat_map(Family::names).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn told(metrics: &mut Metrics) -> BTreeMap<String, u64> {
        let (names, mut told) = (names(), BTreeMap::new());
        metrics.grown(|at, by| {
            told.insert(names[at].clone(), by);
        });
        told
    }

    #[test]
    fn each_counter_is_told_once_and_by_what_it_has_grown() {
        let mut metrics = Metrics::default();
        assert_eq!(metrics.counters.len(), names().len());
        metrics.exchanged(Source::FirstUse);
        metrics.exchanged(Source::L1);
        metrics.exchanged(Source::L1);
        metrics.refused(Rejection::Overloaded);
        metrics.passed(Pass::Fallback);
        metrics.passed(Pass::Disabled);
        metrics.called(Endpoint::UserProfile, CallResult::Failed);
        metrics.revoked(3, 0);
        let renewed = |done, failed| Renewed { done, failed };
        metrics.renewed(renewed(1, 1), renewed(1, 2));
        let expected = [
            (
                "apikey_callouts_total__endpoint_user_profile__result_failed",
                1,
            ),
            ("apikey_exchanges_total__source_first_use", 1),
            ("apikey_exchanges_total__source_l1", 2),
            ("apikey_passes_total__why_fallback", 1),
            ("apikey_refusals_total__code_overloaded", 1),
            ("apikey_renewals_total__result_failed", 1),
            ("apikey_revocations_total__of_owner", 3),
        ];
        let expected = expected.map(|(name, by)| (name.to_owned(), by));
        assert_eq!(told(&mut metrics), BTreeMap::from(expected));
        assert_eq!(told(&mut metrics), BTreeMap::new());
        metrics.exchanged(Source::L2);
        assert_eq!(told(&mut metrics).len(), 1);
    }

    #[test]
    fn a_histogram_counts_each_value_in_all_buckets_that_hold_it() {
        let mut metrics = Metrics::default();
        for microseconds in [250, 251, 20_000] {
            metrics.slice_took(microseconds);
        }
        let told = told(&mut metrics);
        let name = "apikey_bcrypt_slice_duration_seconds";
        let of = |rest: &str| told.get(&format!("{name}_{rest}")).copied();
        assert_eq!(of("bucket__le_25e-5"), Some(1));
        assert_eq!(of("bucket__le_5e-4"), Some(2));
        assert_eq!(of("bucket__le_1e-2"), Some(2));
        assert_eq!(of("bucket__le_inf"), Some(3));
        assert_eq!((of("count"), of("sum")), (Some(3), None));
    }

    #[test]
    fn a_sum_is_told_in_seconds_and_loses_nothing() {
        let mut metrics = Metrics::default();
        let sum = "apikey_exchange_duration_seconds_sum__way_first_use";
        let mut seconds = 0;
        for _ in 0..10 {
            metrics.exchange_took(Way::FirstUse, 450_000);
            seconds += told(&mut metrics).get(sum).copied().unwrap_or_default();
        }
        assert_eq!(seconds, 4);
    }
}
