//! Keys of clients, their owners and the gateway's own key, always the same for the same number.

#![allow(
    dead_code,
    reason = "each suite that takes this module uses a part of it"
)]

use std::sync::{Arc, LazyLock};

use apikeys_core::api_key::format::KeyFormat;
use apikeys_core::api_key::record::Field;
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::exchange::Worker;
use apikeys_core::signing_key::SigningKey;
use serde_json::{Value, json};

use crate::keycloak::{User, bcrypt_of, sha256_of};

/// When scenarios begin.
pub const START: UnixMillis = UnixMillis(1_800_000_000_000);

/// When keys end, if a scenario says nothing else.
pub const FAR: UnixMillis = UnixMillis(START.0 + 90 * 86_400_000);

// Made for tests, used nowhere else.
pub const SIGNING_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg53C48x8+QE4ZxcdCcxlyCnLV+M8sg0pb\
    H91S4P2ZT2GhRANCAARztE3UlgHHa978qferI/VOamSBp0DyhC9PxPKuIP3RtmK1JtiNd9Q3OD/oPT3DjRszw97Lp6VQXMRn7iqhhhHE";

/// A key that is always the same for the same number.
pub fn key(number: u8) -> String {
    let mut next = number.wrapping_mul(67);
    let format = KeyFormat::new("sk_live_").unwrap();
    let key = format.generate(|bytes| {
        for byte in bytes {
            *byte = next % 248;
            next = next.wrapping_mul(5).wrapping_add(number);
            next = next.wrapping_add(13);
        }
    });
    key.expose().to_owned()
}

pub fn id_of(key: &str) -> &str {
    &key[8..20]
}

/// The owner of a key under bcrypt.
pub fn owner(name: &str, number: u8) -> User {
    User::new(name).with_key(id_of(&key(number)), &bcrypt_of(&key(number)), FAR)
}

/// The owner of a key under SHA-256, whose verification takes no turn.
pub fn plain_owner(name: &str, number: u8) -> User {
    User::new(name).with_key(id_of(&key(number)), &sha256_of(&key(number)), FAR)
}

/// Sets a fact about the key of this number on its owner.
pub fn set_fact(user: &mut User, number: u8, field: Field, value: &str) {
    let attribute = field.attribute(id_of(&key(number)));
    user.attributes.insert(attribute, vec![value.to_owned()]);
}

/// The owner of a key under SHA-256, with a fact about the key.
pub fn plain_owner_with(name: &str, number: u8, field: Field, value: &str) -> User {
    let mut user = plain_owner(name, number);
    set_fact(&mut user, number, field, value);
    user
}

/// The same with an end to the millisecond.
pub fn ending(name: &str, number: u8, ends_at: UnixMillis) -> User {
    let mut user = plain_owner(name, number);
    let text = ends_at.to_rfc3339();
    let text = text.replace('Z', &format!(".{:03}Z", ends_at.0 % 1000));
    let key = key(number);
    let attribute = Field::ExpiresAt.attribute(id_of(&key));
    user.attributes.insert(attribute, vec![text]);
    user
}

/// A configuration of the realm `demo` with these changes.
pub fn config(changes: &Value) -> Arc<Config> {
    let mut config = json!({
        "keycloak_url": "https://login.example.com",
        "realm": "demo",
        "keycloak_upstream": "keycloak",
        "yield_upstream": "yield",
        "signing_key_property": "env.SIGNING_KEY",
        // These tests do not poll, and tokens must not end early for it.
        "revocation_poll_seconds": 0,
    });
    for (field, value) in changes.as_object().into_iter().flatten() {
        config[field] = value.clone();
    }
    Arc::new(Config::from_json(config.to_string().as_bytes()).unwrap())
}

/// The gateway's secret.
pub fn signing_key() -> Arc<SigningKey> {
    static KEY: LazyLock<Arc<SigningKey>> =
        LazyLock::new(|| Arc::new(SigningKey::parse(SIGNING_KEY).unwrap()));
    Arc::clone(&KEY)
}

/// A worker that knows nothing yet.
pub fn new_worker(config: &Arc<Config>, seed: &[u8]) -> Worker {
    Worker::new(Arc::clone(config), signing_key(), seed)
}

/// The keys that stand somewhere in a text.
pub fn keys_in(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let keys = words.filter(|word| word.starts_with("sk_live_") && word.len() > 24);
    keys.collect()
}
