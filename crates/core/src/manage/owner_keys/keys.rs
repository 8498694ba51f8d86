//! An owner's keys, read from its attributes.

use serde_json::{Map, Value, json};

use crate::api_key::record::{
    Attributes, Field, INDEX_ATTRIBUTE, KEYS_ATTRIBUTE, KeyRecord, RecordError, index_value,
};
use crate::api_key::terms::{AllowedAddresses, RateLimit};
use crate::clock::UnixMillis;
use crate::keycloak::user_events::LastUse;

/// The state of a key, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// It works.
    Active,
    /// Its end has come.
    Expired,
    /// It is switched off: each request with it is refused.
    Disabled,
    /// It works until its grace ends; another key replaces it.
    Rotating,
    /// Its record cannot be used: each request with it is refused.
    Unusable(RecordError),
}

impl KeyState {
    /// The state as clients see it: `active`, `expired`, `disabled`, `rotating` or `unusable`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Disabled => "disabled",
            Self::Rotating => "rotating",
            Self::Unusable(_) => "unusable",
        }
    }
}

/// The public part of a key: everything but its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySummary {
    /// The public id.
    pub id: String,
    /// Its name for people; empty where none is stored.
    pub name: String,
    /// When it was made, if that is stored and can be read.
    pub created: Option<UnixMillis>,
    /// Its own end, without regard to a rotation.
    pub expires_at: Option<UnixMillis>,
    /// Its scopes; none means the gateway's own.
    pub scopes: Option<String>,
    /// The end of its grace, once it is rotated.
    pub grace_until: Option<UnixMillis>,
    /// The id of the key that replaces it, once it is rotated.
    pub replaced_by: Option<String>,
    /// Whether it is switched off.
    pub disabled: bool,
    /// The limit of its requests.
    pub rate_limit: Option<RateLimit>,
    /// The networks that it may come from; none means all.
    pub allowed_addresses: Option<AllowedAddresses>,
    /// Free text for the place of its use.
    pub environment: Option<String>,
    /// Free text.
    pub labels: Option<String>,
    /// Whether it works.
    pub state: KeyState,
}

impl KeySummary {
    /// When it ends: the earlier of its own end and its grace's.
    #[must_use]
    pub fn ends_at(&self) -> Option<UnixMillis> {
        match (self.expires_at, self.grace_until) {
            (Some(end), Some(grace)) => Some(end.min(grace)),
            (end, grace) => end.or(grace),
        }
    }

    /// The key as clients see it: never its hash, and no unknown members.
    #[must_use]
    pub fn view(&self, last_use: LastUse) -> Value {
        let mut view = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                view.insert(name.to_owned(), value);
            }
        };
        let instant = |at: Option<UnixMillis>| at.map(|at| json!(at.to_rfc3339()));
        put("key_id", Some(json!(self.id)));
        put("name", Some(json!(self.name)));
        put("state", Some(json!(self.state.word())));
        put("created", instant(self.created));
        put("expires_at", instant(self.expires_at));
        let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
        let list = |text: &str| json!(text.split(' ').collect::<Vec<_>>());
        put("scopes", self.scopes.as_deref().map(list));
        put("grace_until", instant(self.grace_until));
        put("replaced_by", text(&self.replaced_by));
        put("disabled", self.disabled.then_some(json!(true)));
        let limit = self.rate_limit.map(|limit| json!(limit.to_string()));
        put("rate_limit", limit);
        let allowed = self.allowed_addresses.as_ref();
        put(
            "allowed_addresses",
            allowed.map(|allowed| list(&allowed.to_string())),
        );
        put("environment", text(&self.environment));
        put("labels", text(&self.labels));
        match last_use {
            LastUse::Used(at) => put("last_used", instant(Some(at))),
            LastUse::UnusedSince(at) => put("unused_since", instant(Some(at))),
            LastUse::Unknown => {}
        }
        Value::Object(view)
    }
}

/// The ids of an owner's keys, in the order in which they are stored. A value that
/// is no `key:<id>:<hash>` has none.
pub fn key_ids(attributes: &Attributes) -> impl Iterator<Item = &str> {
    let values = attributes.get(KEYS_ATTRIBUTE).into_iter().flatten();
    values.filter_map(|value| key_id(value))
}

pub(super) fn key_id(value: &str) -> Option<&str> {
    Some(value.strip_prefix("key:")?.split_once(':')?.0)
}

/// An owner's keys, the newest first; those without a known instant of creation last.
#[must_use]
pub fn list(attributes: &Attributes, now: UnixMillis) -> Vec<KeySummary> {
    let mut keys: Vec<KeySummary> = Vec::new();
    for id in key_ids(attributes) {
        if !keys.iter().any(|key| key.id == id) {
            keys.push(summary(attributes, id, now));
        }
    }
    keys.sort_by(|a, b| (b.created, &a.id).cmp(&(a.created, &b.id)));
    keys
}

/// One of an owner's keys, if it is there.
#[must_use]
pub fn find(attributes: &Attributes, id: &str, now: UnixMillis) -> Option<KeySummary> {
    let held = key_ids(attributes).any(|held| held == id);
    held.then(|| summary(attributes, id, now))
}

fn summary(attributes: &Attributes, id: &str, now: UnixMillis) -> KeySummary {
    let text = |field: Field| match attributes.get(&field.attribute(id)).map(Vec::as_slice) {
        Some([value]) => Some(value.as_str()),
        _ => None,
    };
    let instant = |field| text(field).and_then(|at| UnixMillis::parse_rfc3339(at).ok());
    let replaced_by = text(Field::ReplacedBy).map(str::to_owned);
    let grace_until = instant(Field::GraceUntil);
    let state = match KeyRecord::find(attributes, id) {
        Err(error) => KeyState::Unusable(error),
        Ok(record) if record.ends_at <= now => KeyState::Expired,
        Ok(record) if record.disabled => KeyState::Disabled,
        Ok(_) if replaced_by.is_some() || grace_until.is_some() => KeyState::Rotating,
        Ok(_) => KeyState::Active,
    };
    KeySummary {
        id: id.to_owned(),
        name: text(Field::Name).unwrap_or_default().to_owned(),
        created: instant(Field::Created),
        expires_at: instant(Field::ExpiresAt),
        scopes: text(Field::Scopes).map(str::to_owned),
        grace_until,
        replaced_by,
        disabled: text(Field::Disabled) == Some("true"),
        rate_limit: text(Field::RateLimit).and_then(RateLimit::parse),
        allowed_addresses: text(Field::AllowedAddresses).and_then(AllowedAddresses::parse),
        environment: text(Field::Environment).map(str::to_owned),
        labels: text(Field::Labels).map(str::to_owned),
        state,
    }
}

/// Whether two owners' attributes agree on keys, in any order; other attributes do not count.
#[must_use]
pub fn same_keys(a: &Attributes, b: &Attributes) -> bool {
    let of_keys = |attributes: &Attributes| -> Vec<(String, Vec<String>)> {
        attributes
            .iter()
            .filter(|(name, values)| is_ours(name) && !values.is_empty())
            .map(|(name, values)| {
                let mut values = values.clone();
                values.sort_unstable();
                (name.clone(), values)
            })
            .collect()
    };
    of_keys(a) == of_keys(b)
}

/// Whether two owners' attributes say the same of this key, or both nothing.
#[must_use]
pub fn same_key(a: &Attributes, b: &Attributes, id: &str) -> bool {
    let of_key = |attributes: &Attributes| {
        let mut fields = Vec::new();
        for field in Field::ALL {
            fields.push(attributes.get(&field.attribute(id)).cloned());
        }
        let values = |name: &str, is_its: &dyn Fn(&str) -> bool| -> Vec<String> {
            let values = attributes.get(name).into_iter().flatten();
            values.filter(|value| is_its(value)).cloned().collect()
        };
        let index = index_value(id);
        (
            values(KEYS_ATTRIBUTE, &|value| key_id(value) == Some(id)),
            values(INDEX_ATTRIBUTE, &|value| value == index),
            fields,
        )
    };
    of_key(a) == of_key(b)
}

/// Whether an attribute is one that keys are stored in.
fn is_ours(name: &str) -> bool {
    name == KEYS_ATTRIBUTE || name == INDEX_ATTRIBUTE || name.starts_with("apiKey_")
}
