//! Every failure of Keycloak, or of the way to it, at each step of an exchange.

use serde_json::{Value, json};

use crate::flights::{Asked, Fate};
use crate::gateway::{Gateway, Outcome};
use crate::keycloak_adapter::{claims, jwt};
use crate::keys::{ending, key, owner, plain_owner};
use crate::node::{BOTH, Profile, START};

const CALLS: [Asked; 3] = [Asked::ServiceToken, Asked::Lookup, Asked::Grant];

/// An answer with more bytes than the filter reads.
fn huge() -> Fate {
    let body = format!("{{\"access_token\":\"{}\"}}", "x".repeat(256 * 1024));
    Fate::Status(200, body.into_bytes())
}

fn half(body: &[u8]) -> Vec<u8> {
    body[..body.len() / 2].to_vec()
}

fn nested(begin: &str, end: &str) -> Vec<u8> {
    [begin, &"[".repeat(120), &"]".repeat(120), end]
        .concat()
        .into_bytes()
}

fn bad_fates() -> Vec<Fate> {
    let mut fates = vec![
        Fate::Reset,
        Fate::TimesOut,
        Fate::Late(60_000),
        Fate::NoStatus,
        Fate::Changed(half),
        Fate::Changed(|_| Vec::new()),
        Fate::Changed(|_| b"[[[[".repeat(10_000)),
        // The deepest nesting that the filter reads.
        Fate::Changed(|_| nested("{\"error\":", "}")),
        Fate::Changed(|_| nested("[{\"id\":\"x\",\"attributes\":{\"apiKeys\":", "}}]")),
        Fate::Changed(|_| vec![0xff; 100]),
        huge(),
    ];
    let statuses = [302, 403, 404, 429, 500, 502, 503, 504];
    fates.extend(statuses.map(|status| Fate::Status(status, b"<html>no</html>".to_vec())));
    fates
}

/// How often a hanging Keycloak is asked: on Envoy the host gives up after two seconds and
/// the second try has less, on Kong the loopback server gives up after 1.7 seconds.
const fn times_out(profile: Profile) -> u32 {
    match profile {
        Profile::Envoy => 2,
        Profile::Kong => 3,
    }
}

#[test]
fn whatever_keycloak_answers_wrong_is_a_503_and_the_next_request_is_served() {
    for profile in BOTH {
        for asked in CALLS {
            for fate in bad_fates() {
                let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
                let bad = fate.clone();
                // A call is repeated if another node might answer better.
                let tries = match fate {
                    Fate::Reset | Fate::NoStatus => 3,
                    // As often as there is time for.
                    Fate::TimesOut | Fate::Late(_) => times_out(profile),
                    Fate::Status(502..=504, _) => 3,
                    _ => 1,
                };
                gateway.fate = Box::new(move |now, count| {
                    if now == asked && count < tries {
                        bad.clone()
                    } else {
                        Fate::Answered
                    }
                });
                gateway.ask(&key(1)).expect_unavailable();
                // Three tries that hang open the circuit, for at most this time.
                gateway.pass(4_000);
                assert_eq!(
                    gateway.ask(&key(1)).subject(),
                    "alice",
                    "{asked:?} {fate:?}"
                );
            }
        }
    }
}

/// A change of an answer's body.
type Change = fn(&[u8]) -> Vec<u8>;

/// A grant's answer with another claim in its token.
fn with_claim(body: &[u8], name: &str, value: Value) -> Vec<u8> {
    let mut body: Value = serde_json::from_slice(body).unwrap();
    let mut changed = claims(body["access_token"].as_str().unwrap());
    changed[name] = value;
    body["access_token"] = jwt(&changed).into();
    body.to_string().into_bytes()
}

#[test]
fn a_token_that_is_not_what_was_asked_for_is_never_forwarded() {
    let tokens: [Change; 7] = [
        |body| with_claim(body, "sub", json!("mallory")),
        |body| with_claim(body, "sub", Value::Null),
        |body| with_claim(body, "iss", json!("https://login.example.com/realms/other")),
        |body| with_claim(body, "exp", json!(START.as_seconds() - 1)),
        |body| with_claim(body, "exp", json!("soon")),
        // The token outlives its key.
        |body| with_claim(body, "exp", json!(START.as_seconds() + 130)),
        |body| with_claim(body, "exp", json!(u64::MAX)),
    ];
    for profile in BOTH {
        for token in tokens {
            let ends_at = START.plus_ms(120_000);
            let users = vec![ending("alice", &key(1), ends_at)];
            let mut gateway = Gateway::new(profile, users);
            gateway.fate = Box::new(move |asked, count| match (asked, count) {
                (Asked::Grant, 0) => Fate::Changed(token),
                _ => Fate::Answered,
            });
            gateway.ask(&key(1)).expect_unavailable();
            assert_eq!(gateway.ask(&key(1)).subject(), "alice", "none was kept");
        }
    }
}

#[test]
fn a_dead_keycloak_leaves_warm_requests_alone() {
    for profile in BOTH {
        let users = vec![plain_owner("alice", &key(1)), plain_owner("bob", &key(2))];
        let mut gateway = Gateway::new(profile, users);
        gateway.ask(&key(1));
        gateway.fate = Box::new(|_, _| Fate::Reset);
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        gateway.ask(&key(2)).expect_unavailable();
    }
}

#[test]
fn in_an_outage_one_asks_and_asks_again_for_all_that_wait() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.fate = Box::new(|asked, _| match asked {
            Asked::Yield | Asked::Wait => Fate::Answered,
            _ => Fate::TimesOut,
        });
        let requests: Vec<_> = (0..50).map(|_| gateway.send_key(&key(1))).collect();
        gateway.run();
        for request in requests {
            gateway.finish(request).expect_unavailable();
        }
        let asked = u32::try_from(gateway.count(Asked::ServiceToken)).unwrap();
        assert_eq!(asked, times_out(profile));
    }
}

#[test]
fn a_turn_that_is_not_given_ends_the_exchange() {
    for profile in BOTH {
        for fate in [
            Fate::Reset,
            Fate::TimesOut,
            Fate::Status(503, Vec::new()),
            Fate::NoStatus,
        ] {
            let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
            let bad = fate.clone();
            gateway.fate = Box::new(move |asked, count| match (asked, count) {
                (Asked::Yield, 1) => bad.clone(),
                _ => Fate::Answered,
            });
            let (status, _) = gateway.ask(&key(1)).refusal();
            assert_eq!(status, 503, "{fate:?}");
            assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        }
    }
}

#[test]
fn a_callout_that_the_host_does_not_send_is_a_503() {
    for profile in BOTH {
        for sent in 0..6 {
            let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
            let request = gateway.send_key(&key(1));
            for _ in 0..sent {
                gateway.step();
            }
            // Neither the call nor the wait before it is repeated.
            gateway.node.borrow_mut().refuses_callouts = 2;
            let outcome = gateway.finish(request);
            if gateway.node.borrow().refuses_callouts < 2 {
                assert_eq!(outcome.refusal().0, 503, "after {sent}");
            }
            gateway.node.borrow_mut().refuses_callouts = 0;
            assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        }
    }
}

#[test]
fn a_gateway_without_its_role_refuses_and_does_not_take_a_key_for_unknown() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        gateway
            .keycloaks
            .borrow_mut()
            .realm("demo")
            .management_roles = vec!["query-users"];
        gateway.ask(&key(1)).expect_unavailable();
    }
}

#[test]
fn two_owners_of_one_id_are_neither() {
    for profile in BOTH {
        let users = vec![
            plain_owner("alice", &key(1)),
            plain_owner("mallory", &key(1)),
        ];
        let mut gateway = Gateway::new(profile, users);
        let (status, _) = gateway.ask(&key(1)).refusal();
        assert!([401, 503].contains(&status));
    }
}

#[test]
fn no_bad_answer_is_ever_forwarded_or_repeated_to_the_client() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        let body = b"{\"error\":\"invalid_grant\",\"error_description\":\"a marked text\"}";
        gateway.fate = Box::new(|asked, _| match asked {
            Asked::Grant => Fate::Status(400, body.to_vec()),
            _ => Fate::Answered,
        });
        let Outcome::Answered(answer) = gateway.ask(&key(1)) else {
            panic!("it is refused");
        };
        let text = String::from_utf8(answer.body).unwrap();
        assert!(!text.contains("marked"), "{text}");
    }
}

#[test]
fn an_answer_that_comes_after_the_deadline_changes_nothing() {
    let mut gateway = Gateway::new(Profile::Envoy, vec![plain_owner("alice", &key(1))]);
    gateway.fate = Box::new(|_, _| Fate::Late(1_999));
    let began = gateway.now();
    let (status, _) = gateway.ask(&key(1)).refusal();
    assert_eq!(status, 503);
    assert!(
        gateway.now().since_ms(began) <= 4_000,
        "twice the callout's time"
    );
}
