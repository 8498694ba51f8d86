//! The ways of a request that ends with a token, in both hosts.

use apikeys_core::api_key::hash::hash_bcrypt;
use serde_json::json;

use crate::abi::value_of;
use crate::flights::{Asked, Fate};
use crate::gateway::{Gateway, Outcome};
use crate::keycloak_adapter::{User, bcrypt_of};
use crate::keys::{FAR, id_of, key, owner, plain_owner};
use crate::node::{BOTH, Profile};

#[test]
fn a_first_use_is_verified_in_slices_and_exchanged() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        assert_eq!(gateway.count(Asked::ServiceToken), 1);
        assert_eq!(gateway.count(Asked::Lookup), 1);
        assert_eq!(gateway.count(Asked::Grant), 1);
        let turns = gateway.count(Asked::Yield);
        assert!(turns >= 3, "bcrypt, and a turn to sign");
        assert!(gateway.logged(r#""source":"first_use""#));
    }
}

#[test]
fn a_warm_request_asks_nobody() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.ask(&key(1));
        let asked = gateway.flights.total();
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        assert_eq!(gateway.flights.total(), asked);
    }
}

#[test]
fn another_worker_of_the_node_finds_the_token_in_shared_data() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let second = gateway.add_worker();
        gateway.ask(&key(1));
        let asked = gateway.flights.total();
        assert_eq!(gateway.ask_worker(second, &key(1)).subject(), "alice");
        assert_eq!(gateway.flights.total(), asked);
    }
}

#[test]
fn a_refresh_asks_keycloak_and_runs_no_bcrypt() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let second = gateway.add_worker();
        gateway.ask(&key(1));
        let turns = gateway.count(Asked::Yield);
        for worker in [second, 0] {
            gateway.pass(301_000);
            assert_eq!(gateway.ask_worker(worker, &key(1)).subject(), "alice");
        }
        assert_eq!(
            gateway.count(Asked::Yield),
            turns,
            "verified once on the node"
        );
        assert_eq!(gateway.count(Asked::Grant), 3);
        assert!(gateway.logged(r#""source":"refresh""#));
    }
}

#[test]
fn a_token_is_renewed_before_its_end_whatever_the_ttl() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        gateway.add_worker();
        gateway
            .keycloaks
            .borrow_mut()
            .realm("demo")
            .token_life_seconds = 100;
        // From the worker's own memory and from shared data, to the second.
        for second in 0..130 {
            let worker = second % 2;
            assert_eq!(gateway.ask_worker(worker, &key(1)).subject(), "alice");
            gateway.pass(1_000);
        }
        assert!(gateway.count(Asked::Grant) >= 2);
    }
}

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
fn a_changed_hash_is_verified_anew() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        gateway.ask(&key(1));
        assert_eq!(gateway.count(Asked::Yield), 1, "sha256 takes no turn");
        let changed = User::new("alice").with_key(id_of(&key(1)), &bcrypt_of(&key(1)), FAR);
        gateway.truth.learn("demo", std::slice::from_ref(&changed));
        gateway.keycloaks.borrow_mut().realm("demo").users = vec![changed];
        gateway.pass(301_000);
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        assert!(gateway.count(Asked::Yield) > 2);
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
fn an_expired_service_token_is_fetched_anew() {
    for profile in BOTH {
        let users = vec![plain_owner("alice", &key(1)), plain_owner("bob", &key(2))];
        let mut gateway = Gateway::new(profile, users);
        gateway.ask(&key(1));
        let given = gateway.keycloaks.borrow().traffic.service_tokens.clone();
        let revoked = given.into_iter().collect();
        gateway.keycloaks.borrow_mut().realm("demo").revoked_tokens = revoked;
        assert_eq!(gateway.ask(&key(2)).subject(), "bob");
        assert_eq!(gateway.count(Asked::ServiceToken), 2);
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
