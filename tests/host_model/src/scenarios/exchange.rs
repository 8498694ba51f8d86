//! The ways of a request that ends with a token, in both hosts.

use apikeys_core::api_key::hash::hash_bcrypt;
use serde_json::json;

use crate::abi::value_of;
use crate::flights::{Asked, Fate};
use crate::gateway::{Gateway, Outcome};
use crate::keycloak_adapter::User;
use crate::keys::{FAR, id_of, key, owner, plain_owner};
use crate::node::{BOTH, Profile};

#[test]
fn a_dear_hash_is_verified_in_slices_that_are_no_longer() {
    for profile in BOTH {
        // The fuel of one callback is bounded: see vm.rs.
        let hash = hash_bcrypt(key(1).as_bytes(), 7, [9; 16]).unwrap();
        let alice = User::new("alice").with_key(id_of(&key(1)), &hash, FAR);
        let mut gateway = Gateway::new(profile, vec![alice]);
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        assert!(gateway.count(Asked::Yield) >= 10);
    }
}

#[test]
fn each_form_of_a_key_is_taken_away_and_replaced() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let key = key(1);
        let forms = [
            ("authorization", format!("ApiKey {key}")),
            ("authorization", format!("bEARER {key}")),
            ("x-api-key", key.clone()),
            ("X-API-Key", key.clone()),
        ];
        for (name, value) in forms {
            let cookie = format!("k={key}");
            let outcome = gateway.ask_with(&[(name, &value), ("cookie", &cookie), ("x-kept", "1")]);
            assert_eq!(outcome.subject(), "alice");
            let Outcome::Forwarded(headers) = outcome else {
                unreachable!("it has a subject");
            };
            for taken in ["x-api-key", "cookie"] {
                assert!(value_of(&headers, taken).is_none_or(<[u8]>::is_empty));
            }
            assert_eq!(value_of(&headers, "x-kept"), Some(&b"1"[..]));
        }
    }
}

#[test]
fn an_imported_key_is_exchanged_and_never_shown() {
    let imported = "an-old-key-of-the-older-system-01";
    for profile in BOTH {
        let changes = json!({ "index_key": crate::keys::INDEX_KEY });
        let mut gateway = Gateway::with(profile, vec![], &changes);
        // Unknown, since the realm knows no such derived id; and the id is no key.
        gateway
            .ask_with(&[("x-api-key", imported)])
            .expect_invalid();
        assert_eq!(gateway.count(Asked::Lookup), 1);
        // It is no key either in the place of the request's id.
        let within = format!("id:{imported}");
        for id in [imported, &within] {
            let outcome = gateway.ask_with(&[("x-api-key", imported), ("x-request-id", id)]);
            outcome.refusal();
        }
        assert!(!gateway.logged(imported));
        let sent = gateway.node.borrow().sent.clone();
        let shows = |text: &[u8]| {
            text.windows(imported.len())
                .any(|p| p == imported.as_bytes())
        };
        for sent in sent {
            assert!(!shows(&sent.body));
            assert!(!sent.headers.iter().any(|(_, value)| shows(value)));
        }
    }
}

#[test]
fn the_lookup_goes_to_the_upstream_as_each_host_names_it() {
    for (profile, upstream) in [
        (Profile::Kong, "127.0.0.1:9080"),
        (Profile::Envoy, "keycloak"),
    ] {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        gateway.fate = Box::new(|_, _| Fate::Answered);
        gateway.ask(&key(1));
        let node = gateway.node.borrow();
        let lookup = node
            .sent
            .iter()
            .find(|sent| value_of(&sent.headers, ":method") == Some(b"GET"));
        let lookup = lookup.unwrap();
        assert_eq!(lookup.upstream, upstream);
        let authority = value_of(&lookup.headers, ":authority");
        assert_eq!(authority, Some(&b"login.example.com"[..]));
    }
}
