//! A key in results: all its fields but the hash, for people or for programs.
//!
//! Anybody may have written the values in Keycloak: control characters never reach a terminal.

use std::collections::BTreeMap;

use apikeys_core::clock::UnixMillis;
use apikeys_core::manage::owner_keys::{KeyState, KeySummary};
use serde_json::Value;

use crate::admin_error::one_line;

/// When each key was last used, by key id; `None` if unknown.
pub(crate) type LastUsed = Option<BTreeMap<String, UnixMillis>>;

/// A key for programs: the form of the management API, and why it cannot be used.
pub(crate) fn document(key: &KeySummary, last_used: &LastUsed) -> Value {
    let used = last_used.as_ref().and_then(|used| used.get(&key.id));
    let mut document = key.view(used.copied());
    if let (Value::Object(members), Some(problem)) = (&mut document, problem(key)) {
        members.insert("problem".to_owned(), Value::String(problem));
    }
    document
}

/// The heads of [`row`].
pub(crate) const HEADS: [&str; 8] = [
    "KEY ID",
    "NAME",
    "STATE",
    "CREATED",
    "ENDS",
    "SCOPES",
    "LAST USED",
    "SETTINGS",
];

/// A key as a row of a table for people.
pub(crate) fn row(key: &KeySummary, last_used: &LastUsed) -> Vec<String> {
    vec![
        one_line(&key.id),
        one_line(&key.name),
        state(key),
        time_or_unknown(key.created),
        time_or_unknown(key.ends_at()),
        or_unknown(key.scopes.as_deref(), "the gateway's own"),
        used(key, last_used),
        settings(key)
            .into_iter()
            .map(|(label, value)| format!("{label} {value}"))
            .collect::<Vec<_>>()
            .join(", "),
    ]
}

/// The settings that a key has, each with its label.
pub(crate) fn settings(key: &KeySummary) -> Vec<(&'static str, String)> {
    let allowed = key.allowed_addresses.as_ref();
    let settings = [
        ("rate limit", key.rate_limit.map(|limit| limit.to_string())),
        ("from", allowed.map(ToString::to_string)),
        ("environment", key.environment.as_deref().map(one_line)),
        ("labels", key.labels.as_deref().map(one_line)),
    ];
    let given = settings.into_iter();
    given
        .filter_map(|(label, value)| Some((label, value?)))
        .collect()
}

/// A key's state, with the fault that makes it unusable or the key that replaces it.
pub(crate) fn state(key: &KeySummary) -> String {
    match (problem(key), &key.replaced_by) {
        (Some(problem), _) => format!("{}: {problem}", key.state.word()),
        (None, Some(other)) => format!("{}, replaced by {}", key.state.word(), one_line(other)),
        (None, None) => key.state.word().to_owned(),
    }
}

/// When the key was last used, as far as Keycloak's events say.
pub(crate) fn used(key: &KeySummary, last_used: &LastUsed) -> String {
    match last_used {
        None => "not known".to_owned(),
        Some(used) => used.get(&key.id).map_or_else(
            || "no event of it".to_owned(),
            |at| UnixMillis::to_rfc3339(*at),
        ),
    }
}

fn problem(key: &KeySummary) -> Option<String> {
    match key.state {
        KeyState::Unusable(error) => Some(error.to_string()),
        _ => None,
    }
}

pub(crate) fn time_or_unknown(at: Option<UnixMillis>) -> String {
    at.map_or_else(|| "not known".to_owned(), UnixMillis::to_rfc3339)
}

pub(crate) fn or_unknown(text: Option<&str>, otherwise: &str) -> String {
    text.map_or_else(|| otherwise.to_owned(), one_line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apikeys_core::api_key::record::RecordError;
    use apikeys_core::api_key::terms::{AllowedAddresses, RateLimit};
    use serde_json::json;

    fn key() -> KeySummary {
        KeySummary {
            id: "abc123def456".into(),
            name: "Lap\u{1b}[31mtop".into(),
            created: UnixMillis::parse_rfc3339("2026-11-24T10:00:00Z").ok(),
            expires_at: UnixMillis::parse_rfc3339("2027-11-24T10:00:00Z").ok(),
            scopes: None,
            grace_until: None,
            replaced_by: None,
            disabled: false,
            rate_limit: None,
            allowed_addresses: None,
            environment: None,
            labels: None,
            state: KeyState::Active,
        }
    }

    #[test]
    fn what_is_not_known_is_left_out_for_programs() {
        assert_eq!(
            document(&key(), &None),
            json!({"key_id": "abc123def456", "name": "Lap\u{1b}[31mtop", "state": "active",
                   "created": "2026-11-24T10:00:00Z", "expires_at": "2027-11-24T10:00:00Z"})
        );
        let used = Some([("abc123def456".into(), UnixMillis(0))].into());
        assert_eq!(
            document(&key(), &used)["last_used"],
            json!("1970-01-01T00:00:00Z")
        );
    }

    #[test]
    fn no_control_character_of_a_name_reaches_a_terminal() {
        assert!(
            row(&key(), &None)
                .iter()
                .all(|cell| !cell.contains('\u{1b}'))
        );
    }

    #[test]
    fn the_settings_that_a_key_has_are_told_and_no_others() {
        assert_eq!(row(&key(), &None).last().unwrap(), "");
        let limited = KeySummary {
            rate_limit: RateLimit::parse("100/60"),
            allowed_addresses: AllowedAddresses::parse("10.0.0.0/8 ::1"),
            labels: Some("team=pay\u{1b}[31m".into()),
            ..key()
        };
        let cell = row(&limited, &None).pop().unwrap();
        assert!(
            cell.starts_with("rate limit 100/60, from 10.0.0.0/8 ::1/128, labels team=pay"),
            "{cell}"
        );
        assert!(!cell.contains('\u{1b}') && !cell.contains("environment"));
    }

    #[test]
    fn a_key_that_does_not_work_or_will_not_says_why() {
        let broken = KeySummary {
            state: KeyState::Unusable(RecordError::NoExpiry),
            ..key()
        };
        assert_eq!(state(&broken), "unusable: the key has no expiresAt");
        let rotating = KeySummary {
            state: KeyState::Rotating,
            replaced_by: Some("other".into()),
            ..key()
        };
        assert_eq!(state(&rotating), "rotating, replaced by other");
    }
}
