//! The answers to the writes, and so the keys that must be there and those that must
//! not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// The answers so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// Keys that an answer called made.
    pub(crate) made: BTreeSet<String>,
    /// Keys that a writer has asked to end.
    pub(crate) ending: BTreeSet<String>,
    /// Keys that an answer called ended.
    pub(crate) gone: BTreeSet<String>,
    /// The number of each answer, by kind of writer.
    pub(crate) counts: BTreeMap<(&'static str, &'static str), u64>,
}

/// The ledger that all writers write into.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Told>);

impl Ledger {
    pub(crate) fn made(&self, id: &str) {
        assert!(self.lock().made.insert(id.to_owned()), "{id} twice");
    }

    pub(crate) fn ending(&self, id: &str) {
        self.lock().ending.insert(id.to_owned());
    }

    pub(crate) fn gone(&self, id: &str) {
        self.lock().gone.insert(id.to_owned());
    }

    pub(crate) fn count(&self, kind: &'static str, what: &'static str) {
        *self.lock().counts.entry((kind, what)).or_default() += 1;
    }

    /// A copy of it, at this moment.
    pub(crate) fn read(&self) -> Told {
        self.lock().clone()
    }

    /// Changes that were made so far.
    pub(crate) fn changes(&self) -> u64 {
        let told = self.lock();
        let made = told.counts.iter().filter(|((_, what), _)| *what == "made");
        made.map(|(_, count)| count).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().expect("no writer has panicked")
    }
}
