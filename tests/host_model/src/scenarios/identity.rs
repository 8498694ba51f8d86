//! The headers that tell the service which key a request came with. [`crate::check`] holds each
//! request that goes on: no value that a client claims is left in it.

use apikeys_core::api_key::record::Field;
use serde_json::{Value, json};

use crate::abi::{Pairs, pairs, value_of};
use crate::api;
use crate::gateway::{Gateway, Outcome};
use crate::keycloak_adapter::User;
use crate::keys::{id_of, key, owner};
use crate::node::{BOTH, Profile};

const NAMES: [&str; 3] = ["x-api-key-id", "x-api-key-owner", "x-api-key-name"];

/// A client's claims, each spelled as a service may understand it.
const CLAIMS: [(&str, &str); 5] = [
    ("X-API-Key-ID", "mallory1"),
    ("x_api_key_id", "mallory2"),
    ("x-api-key-owner", "mallory3"),
    ("x-Api_Key-name", "mallory4"),
    ("X-Api-Key-Name", "mallory5"),
];

fn alice() -> User {
    let id = id_of(&key(1)).to_owned();
    owner("alice", &key(1)).with_field(Field::Name, &id, "Bäckerei 24/7")
}

#[track_caller]
fn forwarded(outcome: Outcome) -> Pairs {
    match outcome {
        Outcome::Forwarded(headers) => headers,
        other => panic!("not forwarded: {other:?}"),
    }
}

#[test]
fn the_service_and_envoys_filter_state_learn_the_key_its_owner_and_its_name() {
    let name = "B%C3%A4ckerei%2024%2F7";
    let told = [
        id_of(&key(1)).to_owned(),
        "alice".to_owned(),
        name.to_owned(),
    ];
    for profile in BOTH {
        let users = vec![alice()];
        let mut gateway = Gateway::with(profile, users, &json!({ "identity_headers": true }));
        // Held at first, then warm; with a client's claims and without.
        for claims in [&CLAIMS[..], &[]] {
            for _ in 0..2 {
                gateway.node.borrow_mut().properties_set.clear();
                let key = key(1);
                let sent = [&[("x-api-key", &*key)][..], claims].concat();
                let headers = forwarded(gateway.ask_with(&sent));
                let mut state = Vec::new();
                for (name, value) in NAMES.into_iter().zip(&told) {
                    let value = value.as_bytes();
                    assert_eq!(value_of(&headers, name), Some(value), "{profile:?} {name}");
                    state.push((name.as_bytes().to_vec(), value.to_vec()));
                }
                if profile == Profile::Kong {
                    state.clear();
                }
                assert_eq!(gateway.node.borrow().properties_set, state, "{profile:?}");
            }
        }
    }
}

#[test]
fn a_key_without_a_name_has_no_header_for_it() {
    for profile in BOTH {
        let users = vec![owner("alice", &key(1))];
        let mut gateway = Gateway::with(profile, users, &json!({ "identity_headers": true }));
        let headers = forwarded(gateway.ask(&key(1)));
        assert_eq!(value_of(&headers, NAMES[1]), Some(&b"alice"[..]));
        assert_eq!(value_of(&headers, NAMES[2]), None);
    }
}

/// A client's claims reach no service: Envoy sends no such header, and Kong's proxy sends empty ones
/// (K2).
#[track_caller]
fn unclaims(gateway: &mut Gateway, route: usize, sent: &[(&str, &str)]) {
    let sent = [sent, &CLAIMS].concat();
    let request = gateway.send(0, route, &pairs(&sent));
    let headers = forwarded(gateway.finish(request));
    for (name, _) in CLAIMS {
        let left = value_of(&headers, name);
        let expected = (gateway.profile() == Profile::Kong).then_some(&b""[..]);
        assert_eq!(left, expected, "{name}");
    }
    assert!(gateway.node.borrow().properties_set.is_empty());
}

#[test]
fn nobody_claims_to_be_a_key_in_any_mode() {
    let bearer = [("authorization", "Bearer an.other.token")];
    for profile in BOTH {
        let with = |changes: &Value| Gateway::with(profile, vec![alice()], changes);
        let mut gateway = with(&Value::Null);
        let key_1 = key(1);
        // Held, then warm, then without a key.
        for sent in [[("x-api-key", &*key_1)], [("x-api-key", &*key_1)], bearer] {
            unclaims(&mut gateway, 0, &sent);
        }
        let identified = json!({ "identity_headers": true });
        unclaims(&mut with(&identified), 0, &bearer);
        let passes = json!({ "on_missing_key": "pass", "identity_headers": true });
        unclaims(&mut with(&passes), 0, &[]);
        let mut gateway = with(&json!({ "enabled": false, "identity_headers": true }));
        gateway.allowed.keys_upstream = true;
        unclaims(&mut gateway, 0, &[("x-api-key", &key_1)]);
        let mut gateway = with(&json!({ "fallback_until": "2030-01-01T00:00:00Z" }));
        gateway.allowed.keys_upstream = true;
        unclaims(&mut gateway, 0, &[("x-api-key", &key(2))]);
        let mut gateway = api::gateway(profile, Vec::new(), &json!({ "enabled": false }));
        unclaims(&mut gateway, api::API, &bearer);
        // This route must forward without a token; the checks know no such route.
        gateway.requests.clear();
    }
}

#[test]
fn a_claim_that_comes_twice_is_refused() {
    let twice = [("x-api-key-id", "1"), ("X-API-Key-Id", "2")];
    for profile in BOTH {
        for changes in [json!({}), json!({ "enabled": false })] {
            let mut gateway = Gateway::with(profile, vec![alice()], &changes);
            gateway.allowed.keys_upstream = true;
            let key = key(1);
            forwarded(gateway.ask(&key));
            let sent = [&[("x-api-key", &*key)][..], &twice].concat();
            let outcome = gateway.ask_with(&sent);
            outcome.expect_refusal(400, "ambiguous_credentials");
        }
        let mut gateway = api::gateway(profile, Vec::new(), &json!({ "enabled": false }));
        let request = gateway.send(0, api::API, &pairs(&twice));
        assert_eq!(gateway.finish(request).refusal().0, 503, "{profile:?}");
    }
}
