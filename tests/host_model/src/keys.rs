//! Keys, their owners and the gateway's own secrets, always the same for the same number.

use apikeys_core::api_key::format::KeyFormat;
use apikeys_core::clock::UnixMillis;

use super::checksum::summed;
use super::keycloak_adapter::{User, bcrypt_of, sha256_of};
use super::node::START;

pub const FAR: UnixMillis = UnixMillis(START.0 + 90 * 86_400_000);

/// Made for tests, used nowhere else: a key on P-256, PKCS#8, the base64 of its PEM.
pub const SIGNING_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg53C48x8+QE4ZxcdCcxlyCnLV+M8sg0pb\
    H91S4P2ZT2GhRANCAARztE3UlgHHa978qferI/VOamSBp0DyhC9PxPKuIP3RtmK1JtiNd9Q3OD/oPT3DjRszw97Lp6VQXMRn7iqhhhHE";

/// The place of the scalar in the DER of [`SIGNING_KEY`].
pub const SCALAR: std::ops::Range<usize> = 36..68;

pub const INDEX_KEY: &str = "aW5kZXgga2V5IG9mIHRoZSBob3N0IG1vZGVsLCAzMi4=";

/// The key of this number.
pub fn key(number: u64) -> String {
    let mut state = number;
    let format = KeyFormat::new("sk_live_").unwrap();
    let key = format.generate(|bytes| {
        for byte in bytes {
            state = state
                .wrapping_add(0x9E37_79B9_7F4A_7C15)
                .wrapping_mul(0xBF58_476D_1CE4_E5B9);
            state ^= state >> 31;
            *byte = (state >> 24) as u8 % 248;
        }
    });
    key.expose().to_owned()
}

/// The public id in a key.
pub fn id_of(key: &str) -> &str {
    &key[8..20]
}

/// A key with the id of `key`, another secret and a correct checksum.
pub fn other_secret(key: &str, number: u64) -> String {
    summed(&format!("{}_{}{number:016}", &key[..20], "z".repeat(16)))
}

/// The owner of a key under bcrypt.
pub fn owner(name: &str, key: &str) -> User {
    User::new(name).with_key(id_of(key), &bcrypt_of(key), FAR)
}

/// The owner of a key under SHA-256: its verification takes no turn.
pub fn plain_owner(name: &str, key: &str) -> User {
    ending(name, key, FAR)
}

/// The same, with an end date.
pub fn ending(name: &str, key: &str, ends_at: UnixMillis) -> User {
    User::new(name).with_key(id_of(key), &sha256_of(key), ends_at)
}
