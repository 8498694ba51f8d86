//! The keys of a run, and the marks by which a secret of any kind is recognised in a text.

use std::sync::LazyLock;

use apikeys_core::api_key::hash::{hash_bcrypt, hash_sha256};

use super::checksum::summed;
use super::keycloak::SALT;

/// The number of keys.
pub const KEYS: usize = 12;

/// The hash of a key that a record holds, by its number: every second one is costly.
pub const HASHES: [usize; 6] = [0, 0, 0, 1, 2, 3];

/// Stands in the secret of each key, and nowhere else.
pub const MARK: &str = "markOfAKeyThatNobodyMayRead";

/// A key, with the hashes that its record may hold. They cost time, so all runs
/// share them.
pub struct Key {
    pub text: String,
    pub id: String,
    pub hashes: Vec<String>,
}

pub static ALL: LazyLock<Vec<Key>> = LazyLock::new(|| (0..KEYS).map(make).collect());

fn make(number: usize) -> Key {
    let text = with_secret(number, 0);
    let id = id(number);
    let bcrypt = |cost, salt| hash_bcrypt(text.as_bytes(), cost, salt).unwrap();
    let mut other_salt = SALT;
    other_salt[15] = 1;
    let hashes = vec![
        hash_sha256(text.as_bytes()),
        bcrypt(4, SALT),
        bcrypt(5, SALT),
        bcrypt(4, other_salt),
    ];
    Key { text, id, hashes }
}

fn id(number: usize) -> String {
    format!("sim{number:09}")
}

/// The key of this number, with the right secret for 0, and another secret under the same id
/// for any other value.
pub fn with_secret(number: usize, other: u64) -> String {
    let body = format!("sk_live_{}_{MARK}{other:05}", id(number));
    assert_eq!(body.len(), 8 + 12 + 1 + 32);
    summed(&body)
}

/// A well-formed key that nobody has.
pub fn unknown(number: u64) -> String {
    summed(&format!("sk_live_nobody{number:06}_{MARK}00000"))
}

#[test]
fn every_key_is_one_and_no_two_are_the_same() {
    use apikeys_core::api_key::format::KeyFormat;
    let format = KeyFormat::new("sk_live_").unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..KEYS {
        for other in 0..3 {
            let text = with_secret(number, other);
            assert_eq!(format.parse(text.as_bytes()).unwrap().id(), id(number));
            assert!(seen.insert(text));
        }
        assert!(format.parse(unknown(number as u64).as_bytes()).is_ok());
    }
}
