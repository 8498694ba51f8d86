//! Which key is whose, and which of them died when: as the soak did it itself.

use std::sync::RwLock;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::keycloak::Admin;
use crate::owner::{Key, Owner, Record};

/// Owners with one key each that are made at the start.
const OWNERS: usize = 40;
/// Of these, how many hold a key that has ended already.
const EXPIRED: usize = 5;

/// A key and what is true of it.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) text: String,
    pub(crate) id: String,
    pub(crate) owner_id: String,
    /// From when on it may be refused: before Keycloak was told of its end.
    pub(crate) dying_at: Option<u64>,
    /// From when on it is dead: after Keycloak said so.
    pub(crate) dead_at: Option<u64>,
    /// How it died.
    pub(crate) cause: &'static str,
    /// The start of the last request that was exchanged, and of the first refused one
    /// after its death; milliseconds since 1970.
    pub(crate) last_exchanged: u64,
    pub(crate) first_refused: Option<u64>,
}

/// All keys. They die and do not come back.
pub(crate) struct Truth(RwLock<Vec<Known>>);

impl Truth {
    /// Makes the owners.
    pub(crate) fn new(admin: &Admin, random: &mut ChaCha8Rng) -> Self {
        let truth = Self(RwLock::new(Vec::new()));
        for at in 0..OWNERS {
            truth.add(admin, at < EXPIRED, random);
        }
        truth
    }

    /// Makes an owner with a key.
    pub(crate) fn add(&self, admin: &Admin, expired: bool, random: &mut ChaCha8Rng) {
        let key = Key::random();
        let mut record = if random.random_range(0..4) == 0 {
            Record::bcrypt(&key, "2b", 5)
        } else {
            Record::sha256(&key)
        };
        let mut known = Known {
            text: key.text.clone(),
            id: key.id.clone(),
            owner_id: String::new(),
            dying_at: None,
            dead_at: None,
            cause: "",
            last_exchanged: 0,
            first_refused: None,
        };
        if expired {
            record.expires_at = Some("2020-01-01T00:00:00Z".to_owned());
            (known.dying_at, known.dead_at) = (Some(0), Some(0));
            known.cause = "expired";
        }
        known.owner_id = Owner::with(admin, &[record]).id;
        self.0.write().unwrap().push(known);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.read().unwrap().len()
    }

    pub(crate) fn get(&self, at: usize) -> Known {
        self.0.read().unwrap()[at].clone()
    }

    pub(crate) fn all(&self) -> Vec<Known> {
        self.0.read().unwrap().clone()
    }

    pub(crate) fn change(&self, at: usize, change: impl FnOnce(&mut Known)) {
        change(&mut self.0.write().unwrap()[at]);
    }

    /// A living key, if there is one.
    pub(crate) fn living(&self, random: &mut ChaCha8Rng) -> Option<usize> {
        let keys = self.0.read().unwrap();
        let living: Vec<usize> = (0..keys.len())
            .filter(|&at| keys[at].dying_at.is_none())
            .collect();
        (living.len() > 10).then(|| living[random.random_range(0..living.len())])
    }
}
