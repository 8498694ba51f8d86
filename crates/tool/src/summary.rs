//! A key in results: all its fields but the hash, for people or for programs.
//!
//! Anybody may have written the values in Keycloak: control characters never reach a terminal.

use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::user_events::LastUse;
use apikeys_core::manage::owner_keys::{KeyState, KeySummary};
use serde_json::Value;

use crate::admin_error::one_line;

/// A key for programs: the form of the management API, and why it cannot be used.
pub(crate) fn document(key: &KeySummary, last_use: LastUse) -> Value {
    let mut document = key.view(last_use);
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
pub(crate) fn row(key: &KeySummary, last_use: LastUse) -> Vec<String> {
    vec![
        one_line(&key.id),
        one_line(&key.name),
        state(key),
        time_or_unknown(key.created),
        time_or_unknown(key.ends_at()),
        or_unknown(key.scopes.as_deref(), "the gateway's own"),
        used(key, last_use),
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

/// The last use of the key, as far as Keycloak's events tell.
pub(crate) fn used(key: &KeySummary, last_use: LastUse) -> String {
    match last_use {
        LastUse::Used(at) => at.to_rfc3339(),
        LastUse::UnusedSince(at) if Some(at) == key.created => "never".to_owned(),
        LastUse::UnusedSince(at) => format!("not since {}", at.to_rfc3339()),
        LastUse::Unknown => "not known".to_owned(),
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
            document(&key(), LastUse::Unknown),
            json!({"key_id": "abc123def456", "name": "Lap\u{1b}[31mtop", "state": "active",
                   "created": "2026-11-24T10:00:00Z", "expires_at": "2027-11-24T10:00:00Z"})
        );
        let used = document(&key(), LastUse::Used(UnixMillis(0)));
        assert_eq!(used["last_used"], json!("1970-01-01T00:00:00Z"));
    }

    #[test]
    fn a_key_without_a_use_says_since_when_none_is_known_of() {
        for (since, words) in [
            ("2026-11-24T10:00:00Z", "never"),
            ("2026-11-25T00:00:00Z", "not since 2026-11-25T00:00:00Z"),
        ] {
            let last_use = LastUse::UnusedSince(UnixMillis::parse_rfc3339(since).unwrap());
            assert_eq!(used(&key(), last_use), words);
            assert_eq!(document(&key(), last_use)["unused_since"], since);
        }
        assert_eq!(used(&key(), LastUse::Unknown), "not known");
    }

    #[test]
    fn no_control_character_of_a_name_reaches_a_terminal() {
        assert!(
            row(&key(), LastUse::Unknown)
                .iter()
                .all(|cell| !cell.contains('\u{1b}'))
        );
    }

    #[test]
    fn the_settings_that_a_key_has_are_told_and_no_others() {
        assert_eq!(row(&key(), LastUse::Unknown).last().unwrap(), "");
        let limited = KeySummary {
            rate_limit: RateLimit::parse("100/60"),
            allowed_addresses: AllowedAddresses::parse("10.0.0.0/8 ::1"),
            labels: Some("team=pay\u{1b}[31m".into()),
            ..key()
        };
        let cell = row(&limited, LastUse::Unknown).pop().unwrap();
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
