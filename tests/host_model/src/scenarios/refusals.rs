//! Refused keys and requests, on both hosts.

use serde_json::json;

use crate::abi::{Pairs, pairs, value_of};
use crate::flights::Asked;
use crate::gateway::{Gateway, Outcome};
use crate::keycloak_adapter::User;
use crate::keys::{ending, id_of, key, other_secret, owner, plain_owner};
use crate::node::{BOTH, Profile, START};

fn edit(gateway: &Gateway, change: impl FnOnce(&mut User)) {
    change(&mut gateway.keycloaks.borrow_mut().realm("demo").users[0]);
}

#[test]
fn a_wrong_secret_is_refused_and_its_neighbour_is_not() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.ask(&other_secret(&key(1), 1)).expect_invalid();
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        gateway.ask(&other_secret(&key(1), 2)).expect_invalid();
    }
}

#[test]
fn an_unknown_key_is_refused_and_remembered_on_the_node() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let second = gateway.add_worker();
        gateway.ask(&key(2)).expect_invalid();
        let asked = gateway.flights.total();
        gateway.ask(&key(2)).expect_invalid();
        gateway.ask_worker(second, &key(2)).expect_invalid();
        assert_eq!(gateway.flights.total(), asked);
    }
}

#[test]
fn a_revoked_key_is_refused_after_the_ttl() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        // The token outlasts the TTL.
        gateway
            .keycloaks
            .borrow_mut()
            .realm("demo")
            .token_life_seconds = 900;
        gateway.ask(&key(1));
        edit(&gateway, |user| user.remove_key(id_of(&key(1))));
        // A use in between does not extend the time.
        gateway.pass(200_000);
        gateway.ask(&key(1));
        gateway.pass(100_000);
        gateway.ask(&key(1)).expect_invalid();
    }
}

#[test]
fn a_disabled_owner_is_refused_after_the_ttl() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        gateway.ask(&key(1));
        edit(&gateway, |user| user.enabled = false);
        gateway.pass(300_000);
        gateway.ask(&key(1)).expect_invalid();
    }
}

#[test]
fn an_owner_without_a_link_is_refused() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        edit(&gateway, |user| user.unlink());
        gateway.ask(&key(1)).expect_invalid();
    }
}

#[test]
fn a_key_is_refused_from_its_end_on_whatever_is_cached() {
    for profile in BOTH {
        let ends_at = START.plus_ms(60_000);
        let mut gateway = Gateway::new(profile, vec![ending("alice", &key(1), ends_at)]);
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        gateway.pass(40_000);
        gateway.ask(&key(1));
        gateway.pass(20_000);
        gateway.ask(&key(1)).expect_invalid();
    }
}

#[test]
fn a_malformed_key_is_refused_and_asks_nobody() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let good = key(1);
        let mut typo = good.clone().into_bytes();
        typo[30] ^= 1;
        let typo = String::from_utf8(typo).unwrap();
        for bad in [&good[..58], &typo, "sk_live_", "sk_live_x_y"] {
            gateway.ask(bad).expect_invalid();
        }
        assert_eq!(gateway.flights.total(), 0);
    }
}

#[test]
fn two_credentials_and_a_header_that_came_twice_are_ambiguous() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let (one, two) = (key(1), key(2));
        let bearer = format!("Bearer {one}");
        let both = [
            ("authorization", bearer.as_str()),
            ("x-api-key", two.as_str()),
        ];
        gateway
            .ask_with(&both)
            .expect_refusal(400, "ambiguous_credentials");
        let twice = [("x-api-key", one.as_str()), ("x-api-key", one.as_str())];
        gateway
            .ask_with(&twice)
            .expect_refusal(400, "ambiguous_credentials");
    }
}

#[test]
fn nothing_to_exchange_is_a_401_that_says_how() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![]);
        let outcome = gateway.ask_with(&[]);
        outcome.expect_refusal(401, "missing_credentials");
        let Outcome::Answered(answer) = outcome else {
            unreachable!("it was refused");
        };
        let how = value_of(&answer.headers, "www-authenticate").unwrap();
        assert!(how.starts_with(b"ApiKey realm=\"demo\""));
    }
}

#[test]
fn a_bearer_token_that_is_no_key_passes_untouched() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![]);
        let outcome = gateway.ask_with(&[("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.x")]);
        assert!(matches!(outcome, Outcome::Forwarded(_)));
        assert_eq!(gateway.flights.total(), 0);
    }
}

#[test]
fn a_disabled_filter_passes_everything_as_it_is_told_to() {
    for profile in BOTH {
        let changes = json!({ "enabled": false });
        let mut gateway = Gateway::with(profile, vec![owner("alice", &key(1))], &changes);
        gateway.allowed.keys_upstream = true;
        let outcome = gateway.ask(&key(1));
        assert!(matches!(outcome, Outcome::Forwarded(_)));
        assert_eq!(gateway.flights.total(), 0);
        assert!(gateway.logged("enabled is false"));
    }
}

#[test]
fn an_unknown_key_and_no_other_passes_until_the_fallback_ends() {
    for profile in BOTH {
        let changes = json!({ "fallback_until": START.plus_ms(60_000).to_rfc3339() });
        let mut gateway = Gateway::with(profile, vec![owner("alice", &key(1))], &changes);
        gateway.allowed.keys_upstream = true;
        assert!(matches!(gateway.ask(&key(2)), Outcome::Forwarded(_)));
        gateway.ask(&other_secret(&key(1), 1)).expect_invalid();
        gateway.pass(60_000);
        gateway.ask(&key(3)).expect_invalid();
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_and_no_trap() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let bytes: Vec<u8> = (0x80..=0xff).collect();
        for name in ["x-api-key", "authorization", "x-request-id", "cookie"] {
            let headers = vec![(name.as_bytes().to_vec(), bytes.clone())];
            let request = gateway.send(0, 0, &headers);
            let (status, _) = gateway.finish(request).refusal();
            assert_eq!(status, 401, "{name}");
        }
        // Beside a good key the service must judge them.
        let mut headers = pairs(&[("x-api-key", &key(1))]);
        headers.push((b"x-other".to_vec(), bytes.clone()));
        let request = gateway.send(0, 0, &headers);
        let outcome = gateway.finish(request);
        assert_eq!(outcome.subject(), "alice");
        let Outcome::Forwarded(headers) = outcome else {
            unreachable!("it has a subject");
        };
        assert_eq!(value_of(&headers, "x-other"), Some(bytes.as_slice()));
    }
}

#[test]
fn a_key_behind_more_headers_than_kong_shows_is_never_forwarded() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        for (before, after) in [(120, 0), (0, 120), (95, 5), (200, 200)] {
            let filler = |count: usize, name: &str| -> Pairs {
                (0..count)
                    .map(|n| (format!("{name}-{n}").into_bytes(), b"v".to_vec()))
                    .collect()
            };
            let mut headers = filler(before, "x-before");
            headers.extend(pairs(&[("x-api-key", &key(1))]));
            headers.extend(filler(after, "x-after"));
            let request = gateway.send(0, 0, &headers);
            let outcome = gateway.finish(request);
            assert!(matches!(outcome, Outcome::Answered(_)), "{before} {after}");
        }
    }
}

#[test]
fn a_request_id_with_a_key_in_it_goes_into_no_log() {
    let mut gateway = Gateway::new(Profile::Kong, vec![owner("alice", &key(1))]);
    let (key, unknown) = (key(1), key(2));
    let headers = [
        ("x-api-key", unknown.as_str()),
        ("x-request-id", key.as_str()),
    ];
    let (status, _) = gateway.ask_with(&headers).refusal();
    assert!([400, 401].contains(&status));
    assert_eq!(gateway.count(Asked::Grant), 0);
}
