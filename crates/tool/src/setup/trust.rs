//! The signing keys that an object of the realm trusts.

use serde_json::Value;

use super::state::text;

/// The keys that an object trusts.
#[derive(Debug, PartialEq)]
pub(crate) enum Trust {
    Nothing,
    Ours { others: Vec<String> },
    Other(String),
}

impl Trust {
    pub(crate) fn of(stored: Option<&Value>, ours: &Value) -> Self {
        let stored = stored.and_then(Value::as_str).unwrap_or_default().trim();
        if stored.is_empty() {
            return Self::Nothing;
        }
        let jwks: Option<Value> = serde_json::from_str(stored).ok();
        let keys = jwks.as_ref().and_then(|jwks| jwks.get("keys")?.as_array());
        let Some(keys) = keys else {
            return Self::Other("another signing key".to_owned());
        };
        let others = keys
            .iter()
            .filter(|key| !same_key(key, ours))
            .map(kid_of)
            .collect::<Vec<_>>();
        match (keys.len() > others.len(), others.is_empty()) {
            (true, _) => Self::Ours { others },
            (false, true) => Self::Nothing,
            (false, false) => Self::Other(format!("key {}", others.join(", "))),
        }
    }
}

/// Whether two JWKs are one key under one name.
pub(crate) fn same_key(one: &Value, other: &Value) -> bool {
    let members = ["kid", "crv", "x", "y"];
    members.iter().all(|name| one.get(name) == other.get(name))
}

pub(crate) fn kid_of(jwk: &Value) -> String {
    match text(jwk, "kid") {
        "" => "without a name".to_owned(),
        kid => kid.to_owned(),
    }
}
