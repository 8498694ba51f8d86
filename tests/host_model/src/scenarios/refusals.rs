//! Refused keys and requests, on both hosts.

use crate::abi::{Pairs, pairs, value_of};
use crate::flights::Asked;
use crate::gateway::{Gateway, Outcome};
use crate::keys::{key, owner};
use crate::node::{BOTH, Profile};

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
