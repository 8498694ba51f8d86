//! Keycloak's answer to a look-up: an owner is believed where a strict reader believes
//! it, and *unknown* means an empty list and nothing else.
//!
//! The first line is the status, the rest the body; the key looked for is `abc123def456`,
//! and `{index}` stands for its index value.

use apikeys_core::api_key::record::index_value;
use apikeys_core::keycloak::users::{Lookup, LookupError, read_lookup_answer};
use serde_json::Value;

use super::{filled, first_line, oracle, strict_json};

const ID: &str = "abc123def456";

pub fn holds(data: &[u8]) {
    let (status, body) = first_line(data);
    let status = std::str::from_utf8(status)
        .ok()
        .and_then(|text| text.parse().ok());
    let status = status.unwrap_or(200);
    let body = filled(body, &[("{index}", index_value(ID).as_bytes())]);
    let read = read_lookup_answer(status, &body, ID);
    let value = strict_json(&body);
    if status != 200 {
        assert!(read.is_err(), "{status} says nothing of a key");
        let expected = match status {
            401 => LookupError::Unauthorized,
            403 => LookupError::Forbidden,
            _ => LookupError::Status(status),
        };
        assert_eq!(read, Err(expected));
        return;
    }
    let is_empty = value
        .as_ref()
        .and_then(Value::as_array)
        .is_some_and(Vec::is_empty);
    assert_eq!(matches!(read, Ok(Lookup::Unknown)), is_empty);
    let expected = value.as_ref().and_then(|users| strict(users, ID));
    if let Ok(Lookup::Owner(owner)) = &read {
        let record = &owner.record;
        let found = (
            record.hash_text.clone(),
            record.ends_at.0,
            record.scopes.clone(),
        );
        assert_eq!(Some((owner.id.clone(), found)), expected);
    }
    if let (Ok(Lookup::Disabled(_)), Some(value)) = (&read, &value) {
        assert_eq!(value.pointer("/0/enabled"), Some(&Value::Bool(false)));
    }
    // Written anew, no name comes twice: ours refuses nothing else.
    if let Some(value) = &value {
        let again = read_lookup_answer(200, value.to_string().as_bytes(), ID);
        if expected.is_some() && is_of_texts(value) {
            assert!(matches!(again, Ok(Lookup::Owner(_))), "{again:?} {value}");
        }
    }
}

/// The one enabled owner, and the record.
pub fn strict(users: &Value, id: &str) -> Option<(String, oracle::Record)> {
    let [user] = users.as_array()?.as_slice() else {
        return None;
    };
    let owner = user.get("id")?.as_str()?;
    let in_id = |b: u8| b.is_ascii_alphanumeric() || b"-:._@+=~".contains(&b);
    let named = (1..=255).contains(&owner.len())
        && owner.bytes().all(in_id)
        && !matches!(owner, "." | "..");
    if !named || user.get("enabled")? != &Value::Bool(true) {
        return None;
    }
    Some((
        owner.to_owned(),
        oracle::record(user.get("attributes")?, id)?,
    ))
}

/// Whether all attributes are lists of texts, as Keycloak's are.
fn is_of_texts(users: &Value) -> bool {
    let attributes = users.pointer("/0/attributes").and_then(Value::as_object);
    let is_text = |list: &Value| {
        list.as_array()
            .is_some_and(|list| list.iter().all(Value::is_string))
    };
    attributes.is_some_and(|attributes| attributes.values().all(is_text))
}
