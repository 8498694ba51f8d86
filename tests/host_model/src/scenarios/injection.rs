//! Texts from a client that would become part of a header, a log line or a body.

use crate::gateway::{Gateway, Outcome};
use crate::keys::{key, owner};
use crate::node::{BOTH, Profile};

/// Each text would forge something if it were repeated unchanged.
const FORGED: [&str; 9] = [
    "a\r\nset-cookie: forged=1",
    "a\nrequest_id=x exchanged: forged",
    "a forged b",
    "\u{1b}[2Jforged",
    "\",\"code\":\"forged",
    "forged\u{85}",
    "forged\u{2028}x",
    "%0d%0aforged",
    "forged;x",
];

#[test]
fn the_id_in_an_answer_is_the_one_in_the_log() {
    for profile in BOTH {
        for header in [None, Some(("x-request-id", "5f0c-1d"))] {
            let mut gateway = Gateway::new(profile, vec![]);
            let key = key(1);
            let headers = [("x-api-key", key.as_str())].into_iter().chain(header);
            let outcome = gateway.ask_with(&headers.collect::<Vec<_>>());
            outcome.expect_invalid();
            let body = outcome.body();
            let id = body["request_id"].as_str().unwrap();
            // Envoy gives each request an id, unless its configuration forbids that.
            let has_one = header.is_some() || profile == Profile::Kong;
            assert_eq!(id != "-", has_one, "{profile:?}: {id}");
            let logged = gateway.logged(&format!("\"request_id\":\"{id}\""));
            assert_eq!(logged, has_one, "{profile:?}: {id}");
        }
    }
}

#[test]
fn a_request_id_is_a_word_or_none() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![]);
        let long = "f".repeat(129);
        for id in FORGED.into_iter().chain([long.as_str(), ""]) {
            let outcome = gateway.ask_with(&[("x-request-id", id)]);
            outcome.expect_refusal(401, "missing_credentials");
            let body = outcome.body();
            let Outcome::Answered(answer) = outcome else {
                unreachable!("it was refused");
            };
            let told = body["request_id"].as_str().unwrap();
            let is_word = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
            assert!(told.bytes().all(is_word) && told.len() <= 128, "{told:?}");
            assert!(
                !told.contains("forged") && !told.starts_with("fff"),
                "{told:?}"
            );
            for (name, value) in &answer.headers {
                let printable = |b: &u8| (0x20..=0x7e).contains(b);
                assert!(name.iter().chain(value).all(printable));
            }
        }
        let outcome = gateway.ask_with(&[("x-request-id", "5f0c-1d.0e:7_a")]);
        assert_eq!(outcome.body()["request_id"], "5f0c-1d.0e:7_a");
        assert!(!gateway.logged("forged"));
        each_line_is_one(&gateway);
    }
}

#[test]
fn a_headers_name_is_told_in_printable_characters() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let key = key(1);
        let name = "x-\u{1b}[2J\r\nrequest_id=forged";
        gateway
            .ask_with(&[("authorization", "Bearer e30.e30.x"), (name, &key)])
            .expect_invalid();
        let twice = [("x-api-key", key.as_str()), (name, &key), (name, &key)];
        gateway
            .ask_with(&twice)
            .expect_refusal(400, "ambiguous_credentials");
        each_line_is_one(&gateway);
    }
}

#[track_caller]
fn each_line_is_one(gateway: &Gateway) {
    for line in &gateway.node.borrow().logs {
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
    }
}
