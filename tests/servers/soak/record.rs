//! The record that the threads of a soak write while it runs: keys and their ends,
//! requests and their answers, outages, the gateway's memory. [`crate::judge`] reads it
//! afterwards.

use std::sync::{Mutex, RwLock};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::judge::{Cause, Death, History, Outage, Promise, Seen};
use crate::keycloak::Admin;
use crate::owner::{Key, Owner, Record as Stored};
use crate::wait::now_ms;

/// A key and its state.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) text: String,
    pub(crate) id: String,
    pub(crate) owner_id: String,
    pub(crate) death: Option<Death>,
    /// It was exchanged at least once.
    pub(crate) in_use: bool,
}

/// The whole record. Keys die and do not come back, so an index always means the same
/// key.
#[derive(Default)]
pub(crate) struct Record {
    keys: RwLock<Vec<Known>>,
    requests: Mutex<Vec<Seen>>,
    outages: Mutex<Vec<Outage>>,
    memory: Mutex<Vec<u64>>,
}

impl Record {
    /// Makes an owner with one key, which ends at this second if one is given.
    pub(crate) fn add(&self, admin: &Admin, ends_at: Option<u64>, random: &mut ChaCha8Rng) {
        let key = Key::random();
        let mut stored = if random.random_range(0..4) == 0 {
            Stored::bcrypt(&key, "2b", 5)
        } else {
            Stored::sha256(&key)
        };
        if let Some(ends_at) = ends_at {
            stored = stored.expiring_at(ends_at);
        }
        let death = ends_at.map(|ends_at| Death {
            cause: Cause::Expired,
            // A gateway may refuse it early, by the largest difference between clocks.
            dying_at: (ends_at * 1000).saturating_sub(crate::SKEW_MS),
            dead_at: Some(ends_at * 1000),
        });
        let known = Known {
            text: key.text,
            id: key.id,
            owner_id: Owner::with(admin, &[stored]).id,
            death,
            in_use: false,
        };
        self.keys.write().unwrap().push(known);
    }

    pub(crate) fn get(&self, at: usize) -> Known {
        self.keys.read().unwrap()[at].clone()
    }

    pub(crate) fn change(&self, at: usize, change: impl FnOnce(&mut Known)) {
        change(&mut self.keys.write().unwrap()[at]);
    }

    /// One of the keys that meet this condition, if there is any.
    pub(crate) fn any(
        &self,
        random: &mut ChaCha8Rng,
        is_meant: impl Fn(&Known) -> bool,
    ) -> Option<usize> {
        let keys = self.keys.read().unwrap();
        let meant: Vec<usize> = (0..keys.len()).filter(|&at| is_meant(&keys[at])).collect();
        (!meant.is_empty()).then(|| meant[random.random_range(0..meant.len())])
    }

    pub(crate) fn saw(&self, seen: Seen) {
        self.requests.lock().unwrap().push(seen);
    }

    pub(crate) fn outage(&self, outage: Outage) {
        self.outages.lock().unwrap().push(outage);
    }

    pub(crate) fn memory(&self, bytes: u64) {
        self.memory.lock().unwrap().push(bytes);
    }

    /// The whole record, for the judge.
    pub(crate) fn history(self, started: u64, promise: Promise) -> History {
        let keys = self.keys.into_inner().unwrap();
        History {
            started,
            promise,
            requests: self.requests.into_inner().unwrap(),
            keys: keys.iter().map(|key| key.death).collect(),
            ids: keys.into_iter().map(|key| key.id).collect(),
            outages: self.outages.into_inner().unwrap(),
            memory: self.memory.into_inner().unwrap(),
        }
    }
}

impl Known {
    /// Nobody has started to end it.
    pub(crate) fn is_alive(&self) -> bool {
        self.death.is_none_or(|death| now_ms() < death.dying_at)
    }

    /// Alive, and without an end date.
    pub(crate) fn is_to_last(&self) -> bool {
        self.death.is_none()
    }
}
