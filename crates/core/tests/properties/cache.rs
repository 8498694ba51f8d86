//! The caches above a store that lies: an entry found for a key was remembered for that key, by
//! a gateway of the same configuration, and is not over.
//!
//! The input is a programme. Each step takes three bytes: the act, the key and worker, and the
//! store's answers meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use apikeys_core::api_key::format::{ApiKey, KeyFormat};
use apikeys_core::api_key::terms::{AllowedAddresses, RateLimit, Terms};
use apikeys_core::cache::{Cache, CachedRefusal, CachedToken, Found, Level};
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::rejection::Refused;
use apikeys_core::signing_key::SigningKey;
use apikeys_core::store::sealed::KeyDigest;
use apikeys_core::store::slots::SharedStore;
use serde_json::json;

use super::oracle::{PREFIX, key};
use super::outgoing::SIGNING_KEY;

const START: UnixMillis = UnixMillis(1_800_000_000_000);
const STEPS_MAX: usize = 400;
/// Of each worker: one may have to forget an entry sooner than another that remembers it.
const TTL_MS: [u64; 3] = [60_000, 20_000, 60_000];
const NEGATIVE_TTL_MS: u64 = 10_000;
const HASHES: [&str; 2] = ["$2b$04$one", "$2b$04$two"];

static SIGNING: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::parse(SIGNING_KEY).unwrap());
static KEYS: LazyLock<[ApiKey; 4]> = LazyLock::new(|| {
    let format = KeyFormat::new(PREFIX).unwrap();
    [1, 2, 3, 4].map(|number| format.parse(key(number).as_bytes()).unwrap())
});

/// Shared data that loses, mixes up, tears and invents entries.
#[derive(Default)]
struct Liar {
    values: HashMap<String, Vec<u8>>,
    /// All that was ever stored.
    past: Vec<Vec<u8>>,
    mood: u8,
    made_up: Vec<u8>,
}

impl Liar {
    fn some_past(&self, salt: usize) -> Vec<u8> {
        let at = usize::from(self.mood / 8) + salt;
        self.past
            .get(at % self.past.len().max(1))
            .cloned()
            .unwrap_or_default()
    }
}

impl SharedStore for Liar {
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
        let truth = self.values.get(name).cloned();
        let value = match self.mood % 8 {
            1 => None,
            2 => Some(self.some_past(name.len())),
            3 => {
                let (one, other) = (truth.clone().unwrap_or_default(), self.some_past(0));
                let cut = one.len() / 2;
                Some([&one[..cut], other.get(cut..).unwrap_or_default()].concat())
            }
            4 => Some(self.made_up.clone()),
            5 => truth.map(|mut value| {
                let at = usize::from(self.mood) * 7 % value.len().max(1);
                value
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte ^= 1 << (at % 8));
                value
            }),
            _ => truth,
        };
        value.map(|value| (value, Some(1)))
    }

    fn set(&mut self, name: &str, value: &[u8], _: Option<u32>) -> bool {
        self.past.push(value.to_vec());
        // In mood 6 writes are lost.
        if self.mood != 6 {
            self.values.insert(name.to_owned(), value.to_vec());
        }
        true
    }
}

/// The entries remembered, each with its configuration and key.
#[derive(Default)]
struct Truth {
    tokens: HashMap<String, (usize, usize, UnixMillis, UnixMillis)>,
    refused: Vec<(usize, usize, Refused, UnixMillis)>,
    verified: Vec<(usize, usize, &'static str)>,
}

/// The terms beside the token of this number: each of them is there or not.
fn terms(number: usize) -> Terms {
    let with = |bit: usize| number & (1 << bit) != 0;
    let limit = RateLimit::parse(&format!("{}/60", number + 1)).unwrap();
    let networks = AllowedAddresses::parse("10.0.0.0/8 2001:db8::/32").unwrap();
    Terms {
        name: with(0).then(|| format!("name {number}")),
        environment: with(1).then(|| "live".to_owned()),
        labels: with(2).then(|| "team=pay\u{e4}".to_owned()),
        rate_limit: with(3).then_some(limit),
        allowed_addresses: with(4).then_some(networks),
    }
}

/// Two workers of one configuration, and one of another.
struct World {
    caches: [Cache; 3],
    digests: [[KeyDigest; 4]; 3],
    store: Liar,
    now: UnixMillis,
    truth: Truth,
}

pub fn holds(data: &[u8]) {
    let mut caches = [("demo", 0), ("demo", 1), ("other", 2)].map(|(realm, worker)| {
        let config = json!({
            "keycloak_url": "https://login.example.com", "realm": realm,
            "keycloak_upstream": "keycloak", "yield_upstream": "yield",
            "signing_key_property": "env.UNUSED", "l1_entries": 2, "l2_slots": 4,
            "cache_ttl_seconds": TTL_MS[worker] / 1000, "negative_ttl_seconds": NEGATIVE_TTL_MS / 1000,
        });
        Cache::new(
            &Config::from_json(config.to_string().as_bytes()).unwrap(),
            &SIGNING,
        )
    });
    let digests = caches
        .each_mut()
        .map(|cache| KEYS.each_ref().map(|key| cache.digest(key)));
    let mut world = World {
        caches,
        digests,
        store: Liar::default(),
        now: START,
        truth: Truth::default(),
    };
    for step in data.chunks_exact(3).take(STEPS_MAX) {
        world.store.made_up = data.to_vec();
        world.step(step[0], step[1], step[2]);
    }
}

impl World {
    fn step(&mut self, what: u8, which: u8, mood: u8) {
        let (worker, key) = (usize::from(which) % 3, usize::from(which) / 3 % 4);
        // The workers 0 and 1 are of one configuration.
        let config = worker / 2;
        let hash = HASHES[usize::from(which) / 12 % 2];
        let cache = &mut self.caches[worker];
        let (digest, now) = (&self.digests[worker][key], self.now);
        self.store.mood = mood;
        match what % 8 {
            0 | 1 => {
                let authorization = format!("Bearer {}.{key}.{config}", self.truth.tokens.len());
                let (asked_at, ends_at) = (
                    now.minus_ms(u64::from(mood) * 10),
                    now.plus_ms(u64::from(what) * 300),
                );
                let token = CachedToken {
                    authorization: authorization.as_str().into(),
                    owner_id: format!("owner-{key}").into(),
                    terms: Arc::new(terms(self.truth.tokens.len())),
                };
                cache.remember_token(digest, token, ends_at, asked_at, now, &mut self.store);
                self.truth
                    .tokens
                    .insert(authorization.clone(), (config, key, asked_at, ends_at));
                if now < ends_at {
                    let found = cache.find(digest, now, &mut self.store);
                    let same = matches!(&found, Found::Token(found, Level::L1, _) if *found.authorization == authorization);
                    assert!(same, "{found:?}");
                }
            }
            2 => {
                let refused = if mood.is_multiple_of(2) {
                    Refused::Unknown
                } else {
                    Refused::Invalid
                };
                let refusal = CachedRefusal {
                    refused,
                    owner_id: None,
                };
                cache.remember_refused(digest, refusal, now, now, &mut self.store);
                self.truth.refused.push((config, key, refused, now));
                let found = cache.find(digest, now, &mut self.store);
                assert!(
                    matches!(found, Found::Refused(found) if found == refused),
                    "{found:?}"
                );
            }
            3 => {
                cache.remember_verified(
                    digest,
                    hash,
                    now.plus_ms(u64::from(mood)),
                    now,
                    &mut self.store,
                );
                self.truth.verified.push((config, key, hash));
                assert!(cache.is_verified(digest, hash, &mut self.store));
            }
            4 => {
                let known = cache.is_verified(digest, hash, &mut self.store);
                assert!(
                    !known || self.truth.verified.contains(&(config, key, hash)),
                    "verified by nobody"
                );
            }
            5 => self.now = now.plus_ms(u64::from(which) * u64::from(mood)),
            6 => self.now = now.minus_ms(u64::from(which) * u64::from(mood)),
            _ => self.find(worker, key, config),
        }
    }

    fn find(&mut self, worker: usize, key: usize, config: usize) {
        let now = self.now;
        match self.caches[worker].find(&self.digests[worker][key], now, &mut self.store) {
            Found::Token(token, _, _) => {
                let (of, for_key, asked_at, ends_at) = self.truth.tokens[&*token.authorization];
                assert_eq!((of, for_key), (config, key), "somebody else's token");
                assert_eq!(*token.owner_id, format!("owner-{key}"));
                assert!(
                    now < ends_at && now < asked_at.plus_ms(TTL_MS[worker]),
                    "it is over"
                );
                let number = token.authorization[7..].split('.').next().unwrap();
                let stored = terms(number.parse().unwrap());
                assert_eq!(*token.terms, stored, "the terms of another token");
                assert!(now.plus_ms(1000) >= asked_at, "it is not yet");
            }
            Found::Refused(refused) => {
                let same = |entry: &&(usize, usize, Refused, UnixMillis)| {
                    (entry.0, entry.1, entry.2) == (config, key, refused)
                        && now < entry.3.plus_ms(NEGATIVE_TTL_MS)
                        && now.plus_ms(1000) >= entry.3
                };
                assert!(
                    self.truth.refused.iter().find(same).is_some(),
                    "refused by nobody"
                );
            }
            Found::Nothing => {}
        }
    }
}
