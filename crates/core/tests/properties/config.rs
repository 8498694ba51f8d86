//! The configuration: accepted values are in bounds and read the same again, an unknown field
//! is refused, and no message repeats a value.
//!
//! The input is the JSON; `{pem}` stands for a signing key.

use apikeys_core::config::{Config, SigningKeySource};
use serde_json::{Value, json};

use super::filled;
use super::outgoing::SIGNING_KEY;

const MARK: &str = "QZ7-marked-secret";

pub fn holds(data: &[u8]) {
    let text = filled(data, &[("{pem}", SIGNING_KEY.as_bytes())]);
    let read = Config::from_json(&text);
    let value: Option<Value> = serde_json::from_slice(&text).ok();
    let Some(value) = value else {
        let fault = read.expect_err("no JSON is no configuration");
        let (before, after) = fault
            .problem
            .split_once("(line ")
            .expect("where it is broken");
        let place = after.split_once(')').unwrap().0.replace(", column ", "");
        assert!(
            before == "is not JSON " && place.bytes().all(|b| b.is_ascii_digit()),
            "{fault}"
        );
        return;
    };
    if let Ok(config) = &read {
        assert_in_bounds(config);
        let again = Config::from_json(&text).unwrap();
        assert_eq!(format!("{config:?}"), format!("{again:?}"));
        assert_eq!(config.fingerprint, again.fingerprint);
        assert!(!format!("{config:?}").contains(&SIGNING_KEY[..40]));
        let mut more = value.clone();
        more["no_such_field"] = Value::Null;
        let fault = Config::from_json(more.to_string().as_bytes()).unwrap_err();
        assert!(fault.to_string().contains("no_such_field"));
    }
    assert_no_message_repeats_a_value(&value);
}

fn assert_in_bounds(config: &Config) {
    assert!((4..=14).contains(&config.bcrypt_cost));
    assert!((1..=100).contains(&config.max_keys_per_user));
    assert!((1000..=86_400_000).contains(&config.cache_ttl_ms));
    assert!(config.negative_ttl_ms <= 3_600_000 && config.clock_skew_ms <= 300_000);
    assert!((100..=30_000).contains(&config.callout_timeout_ms));
    assert!((1..=1_000_000).contains(&config.l1_entries));
    assert!(config.l2_slots <= 65_536 && config.l2_slots.is_multiple_of(4));
    assert!((1..=8).contains(&config.headers.len()));
    for name in &config.headers {
        assert!(
            !name
                .bytes()
                .any(|b| b.is_ascii_uppercase() || b.is_ascii_whitespace() || b == b':')
        );
        assert!(!["host", "content-length", "connection"].contains(&name.as_str()));
    }
    let visible = |text: &str| !text.is_empty() && text.bytes().all(|b| (0x21..=0x7e).contains(&b));
    let realm = &config.realm;
    for text in [
        &realm.issuer,
        &realm.authority,
        &realm.token_path,
        &realm.certs_path,
        &realm.users_path,
    ] {
        assert!(visible(text), "{text:?}");
    }
    for path in [&realm.token_path, &realm.certs_path, &realm.users_path] {
        assert!(
            path.starts_with('/') && !path.contains(['?', '#']),
            "{path}"
        );
    }
    assert!(!realm.authority.contains(['/', '@', '?', '#']));
    let inside = |text: &str| !text.split('/').any(|part| part == "..");
    assert!(inside(&realm.name));
    for upstream in [&config.keycloak_upstream, &config.yield_upstream] {
        assert!(visible(&upstream.name) && !upstream.name.contains('/'));
    }
    assert!(visible(&config.assertion_issuer) && config.assertion_issuer.starts_with("http"));
    assert!(!config.client_id.is_empty() && !config.client_id.chars().any(char::is_control));
    let prefix = config.key_format.prefix();
    assert!((1..=16).contains(&prefix.len()) && !prefix.starts_with("eyJ"));
    assert!(config.key_format.key_bytes() <= 72);
    if let SigningKeySource::Property(path) = &config.signing_key {
        assert!(path.len() > 1 && path.iter().all(|part| visible(part)));
    }
}

/// Marks each text, one field after the other, and looks for the mark in the message.
fn assert_no_message_repeats_a_value(value: &Value) {
    let Some(fields) = value.as_object() else {
        return;
    };
    // The message shows the name of an unknown field, and a fuzzer learns the mark.
    if fields.keys().any(|name| name.contains(MARK)) {
        return;
    }
    for name in fields.keys() {
        let mut marked = value.clone();
        mark(&mut marked[name]);
        if let Err(fault) = Config::from_json(marked.to_string().as_bytes()) {
            let shown = format!("{fault} {fault:?}");
            assert!(!shown.contains(MARK), "{name}: {shown}");
        }
    }
}

fn mark(value: &mut Value) {
    match value {
        Value::String(text) => text.push_str(MARK),
        Value::Array(list) => list.iter_mut().for_each(mark),
        Value::Object(_) => *value = json!({ MARK: MARK }),
        _ => *value = json!(MARK),
    }
}
