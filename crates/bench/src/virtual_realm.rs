//! A made-up realm with many keys, each with an owner of its own.

use std::collections::HashMap;

use apikeys_core::api_key::format::KeyFormat;
use apikeys_core::api_key::hash::ROUNDS_PER_SLICE;
use apikeys_core::clock::UnixMillis;
use apikeys_core::exchange::Worker;
use apikeys_core::keycloak::Call;
use apikeys_core::store::slots::SharedStore;

use test_kit::keycloak::{FakeKeycloak, Reply, User, asked, claims, form, sha256_of};
use test_kit::keys;

use crate::virtual_node::Hash;

/// The start of the run.
pub const START: UnixMillis = UnixMillis(1_800_000_000_000);
const DAY_MS: u64 = 86_400_000;
/// Low, so that thousands of keys are verified in a minute. It leaves a request enough time in a
/// full queue if each verification is said to take as long as one of cost 10.
const BCRYPT_COST: u32 = 7;

pub struct Realm {
    /// The header's value for each key.
    headers: Vec<Vec<u8>>,
    by_id: HashMap<String, usize>,
    hash: Hash,
    /// The bcrypt hashes that were asked for so far.
    hashes: HashMap<usize, String>,
    keycloak: FakeKeycloak,
}

impl Realm {
    pub fn new(count: usize, token_life_seconds: u64, hash: Hash) -> Self {
        let format = KeyFormat::new("sk_live_").expect("a prefix");
        let (mut headers, mut by_id) = (Vec::new(), HashMap::new());
        for number in 0..count {
            // Two keys differ in their number alone.
            let mut digits = number;
            let key = format.generate(|bytes| {
                for byte in bytes {
                    *byte = (digits % 36) as u8;
                    digits /= 36;
                }
            });
            headers.push([b"ApiKey ", key.expose().as_bytes()].concat());
            by_id.insert(key.id().to_owned(), number);
        }
        assert_eq!(by_id.len(), count, "keys that differ");
        let mut keycloak = FakeKeycloak::new(vec![]);
        keycloak.management_roles.push("view-events");
        keycloak.token_life_seconds = token_life_seconds;
        keycloak.keeps_grants = false;
        Self {
            headers,
            by_id,
            hash,
            hashes: HashMap::new(),
            keycloak,
        }
    }

    /// A request's `authorization` header.
    pub fn header(&self, key: usize) -> &[u8] {
        &self.headers[key]
    }

    /// Keycloak's answer. The realm holds only the user of the call: Keycloak's model
    /// looks through all of its users, and would take nearly all of the run's time.
    pub fn answer(&mut self, call: &Call, now: UnixMillis) -> Reply {
        match asked(call) {
            "look-up" => {
                let (_, index) = call.path.split_once("q=apiKeyIndex%3A").expect("an index");
                let key = self.by_id[index.trim_end_matches('.')];
                self.keycloak.users = vec![self.owner(key)];
            }
            "grant" => {
                let subject = claims(&form(call)["assertion"])["sub"].clone();
                let subject = subject.as_str().expect("a subject");
                self.keycloak.users = vec![User::new(subject)];
            }
            _ => {}
        }
        self.keycloak.answer(call, now)
    }

    fn text(&self, key: usize) -> &str {
        let value = std::str::from_utf8(&self.headers[key]).expect("text");
        value.strip_prefix("ApiKey ").expect("a scheme")
    }

    fn owner(&mut self, key: usize) -> User {
        let text = self.text(key).to_owned();
        let hash = match self.hash {
            Hash::Sha256 => sha256_of(&text),
            Hash::Bcrypt { .. } => {
                let made = || bcrypt::hash_with_salt(&text, BCRYPT_COST, [7; 16]);
                let hash = || made().expect("a cost that there is").to_string();
                self.hashes.entry(key).or_insert_with(hash).clone()
            }
        };
        let id = keys::id_of(&text);
        User::new(id).with_key(id, &hash, START.plus_ms(90 * DAY_MS))
    }

    /// The slices of a verification.
    pub fn slices() -> u64 {
        u64::from((1_u32 << BCRYPT_COST).div_ceil(ROUNDS_PER_SLICE))
    }

    /// Lets a worker remember that it has verified all of them.
    pub fn make_known(&self, worker: &mut Worker, shared: &mut dyn SharedStore) {
        let format = KeyFormat::new("sk_live_").expect("a prefix");
        for number in 0..self.headers.len() {
            let text = self.text(number);
            let key = format.parse(text.as_bytes()).expect("a key");
            let digest = worker.cache.digest(&key);
            let ends_at = START.plus_ms(90 * DAY_MS);
            let cache = &mut worker.cache;
            cache.remember_verified(&digest, &sha256_of(text), ends_at, START, shared);
        }
    }
}
