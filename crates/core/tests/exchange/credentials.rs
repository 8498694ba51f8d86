//! Requests that pass without a key, tested to the last character.

use apikeys_core::exchange::Pass;
use apikeys_core::rejection::{Reason, Rejection};
use serde_json::{Value, json};

use super::client::plain_owner;
use super::keycloak::Calls;
use super::world::{Ended, World, key};

/// Whether a request with these headers passes; it is refused if not.
fn passes(changes: &Value, pairs: &[(&str, &str)]) -> bool {
    match World::with(vec![], changes).request(pairs) {
        Ended::Passed(why) => {
            assert_eq!(why, Pass::NoKey);
            true
        }
        Ended::Rejected(rejection, reason) => {
            let told = [Rejection::MissingCredentials, Rejection::InvalidApiKey];
            assert!(told.contains(&rejection), "{rejection:?} {reason}");
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bearer_token_is_looked_at_to_its_last_character() {
    for (value, expected) in [
        ("Bearer a", true),
        ("Bearer ab==", true),
        ("Bearer a\"", false),
        ("Bearer a b", false),
        ("Bearer ==", false),
    ] {
        let passed = passes(&Value::Null, &[("authorization", value)]);
        assert_eq!(passed, expected, "{value}");
    }
}

#[test]
fn what_only_begins_like_a_key_or_could_only_be_imported_passes_beside_a_token() {
    let importing = json!({ "index_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" });
    let key = key(1);
    let last = if key.ends_with('0') { "1" } else { "0" };
    let mistyped = format!("{}{last}", &key[..58]);
    let long = "x".repeat(80);
    for (value, expected) in [(&mistyped, true), (&long, true), (&key, false)] {
        for changes in [&Value::Null, &importing] {
            let pairs = [
                ("authorization", "Bearer eyJhbGciOi.eyJpc3Mi.c2ln"),
                ("x-other", value.as_str()),
            ];
            assert_eq!(passes(changes, &pairs), expected, "{changes}");
        }
    }
}

#[test]
fn another_key_in_a_header_that_goes_on_is_refused() {
    let mut world = World::new(vec![plain_owner("alice", 1), plain_owner("bob", 2)]);
    let (ours, other) = (key(1), key(2));
    let cookie = format!("token={other}; path=/");
    let pairs = [("x-api-key", ours.as_str()), ("cookie", &cookie)];
    let (rejection, reason) = world.request(&pairs).rejected();
    assert_eq!(
        (rejection, reason),
        (Rejection::AmbiguousCredentials, Reason::TwoCredentials)
    );
    assert_eq!(world.keycloak.calls, Calls::default());
    // Beside a copy of the first it goes with it.
    let both = format!("{ours} {other}");
    let pairs = [("x-api-key", ours.as_str()), ("cookie", &both)];
    assert_eq!(world.request(&pairs).forwarded().remove.len(), 2);
}
