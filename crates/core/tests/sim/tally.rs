//! The reach of all runs, so that a simulation that reaches nothing is seen.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::faults::Faults;
use super::request::End;

#[derive(Default, Clone)]
pub struct Tally {
    /// Requests, by their end.
    pub ends: BTreeMap<String, u64>,
    /// Keycloak's answers, by kind.
    pub calls: BTreeMap<&'static str, u64>,
    pub poisoned: u32,
    pub hung_up: u32,
    /// Revocations that a node was told of.
    pub told: u32,
    /// The number of times that each fault struck.
    pub faults: BTreeMap<String, u64>,
    /// A digest of the traces of all runs, in any order.
    pub traces: u64,
}

impl Tally {
    pub fn ended(&mut self, end: &End) {
        let how = match end {
            End::Forwarded { source, .. } => format!("forwarded {source:?}"),
            End::Passed { why, .. } => format!("passed {why:?}"),
            End::Rejected { rejection, .. } => format!("rejected {}", rejection.code()),
        };
        *self.ends.entry(how).or_default() += 1;
    }

    pub fn called(&mut self, kind: &'static str) {
        *self.calls.entry(kind).or_default() += 1;
    }

    pub fn struck(&mut self, faults: &Faults) {
        for (fault, count) in faults.struck() {
            *self.faults.entry(fault.name()).or_default() += count;
        }
    }

    pub fn add(&mut self, other: &Self) {
        for (how, count) in &other.ends {
            *self.ends.entry(how.clone()).or_default() += count;
        }
        for (kind, count) in &other.calls {
            *self.calls.entry(kind).or_default() += count;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(fault.clone()).or_default() += count;
        }
        self.poisoned += other.poisoned;
        self.hung_up += other.hung_up;
        self.told += other.told;
        self.traces = self.traces.wrapping_add(other.traces);
    }

    pub fn traced(&mut self, seed: u64, trace: &str) {
        let mut hasher = DefaultHasher::new();
        (seed, trace).hash(&mut hasher);
        self.traces = self.traces.wrapping_add(hasher.finish());
    }

    pub fn requests(&self) -> u64 {
        self.ends.values().sum()
    }
}
