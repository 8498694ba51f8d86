//! Keycloak's record of a key: found where a strict reader finds it, with the same hash, end
//! and scopes; hashes and dates of any text are read or refused.
//!
//! The first line is the id, the rest the attributes as JSON; `{index}` stands for the
//! id's index value.

use apikeys_core::api_key::hash::{BCRYPT_COST_MAX, StoredHash};
use apikeys_core::api_key::record::{Attributes, KeyRecord, index_value};
use apikeys_core::clock::UnixMillis;
use serde_json::Value;

use super::{filled, first_line, oracle};

pub fn holds(data: &[u8]) {
    let (id, attributes) = first_line(data);
    let id = String::from_utf8_lossy(id);
    let index = index_value(&id);
    let text = filled(attributes, &[("{index}", index.as_bytes())]);
    texts(&String::from_utf8_lossy(attributes));
    let Ok(attributes) = serde_json::from_slice::<Attributes>(&text) else {
        return;
    };
    for value in attributes.values().flatten() {
        texts(value);
        value.split(':').for_each(texts);
    }
    let found = KeyRecord::find(&attributes, &id);
    let as_json: Value = serde_json::to_value(&attributes).unwrap();
    // An id with a colon is none; no caller has one.
    let expected = (!id.contains(':'))
        .then(|| oracle::record(&as_json, &id))
        .flatten();
    match found {
        Ok(record) => {
            let found = (record.hash_text, record.ends_at.0, record.scopes);
            assert_eq!(Some(found), expected);
        }
        Err(reason) => assert!(expected.is_none(), "{reason}"),
    }
}

/// Any text, read as a hash and as a date.
pub fn texts(text: &str) {
    match StoredHash::parse(text) {
        Ok(hash) => {
            assert!(oracle::is_hash(text), "{text}");
            assert!(hash.rounds() <= 1 << BCRYPT_COST_MAX);
            assert!(hash.rounds() == 0 || hash.rounds() >= 16);
            assert_eq!(StoredHash::parse(text), Ok(hash));
        }
        Err(reason) => assert!(!oracle::is_hash(text), "{text}: {reason}"),
    }
    let read = UnixMillis::parse_rfc3339(text);
    assert_eq!(read.ok().map(|at| at.0), oracle::instant(text), "{text:?}");
    if let Ok(at) = read {
        let written = at.to_rfc3339();
        let again = UnixMillis::parse_rfc3339(&written).unwrap();
        // An instant that an offset puts past the year 9999 is written as the last second of
        // it.
        let last = 253_402_300_799;
        assert_eq!(
            again.as_seconds(),
            at.as_seconds().min(last),
            "{text} {written}"
        );
        assert_eq!(again.0 % 1000, 0);
    }
}
