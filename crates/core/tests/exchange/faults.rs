//! Keycloak gone, slow, broken or lying: the request is refused, nothing wrong is
//! remembered, and the next request finds its way again.

use apikeys_core::clock::UnixMillis;
use apikeys_core::exchange::{Exchange, Output, Source};
use apikeys_core::machine::{Effect, Event};
use apikeys_core::rejection::{Reason, Rejection};
use serde_json::{Value, json};

use super::keycloak::{ISSUER, Reply, User, bcrypt_of, jwt, refused, sha256_of, token_answer};
use super::world::{START, World, headers, id_of, key};

const FAR: UnixMillis = UnixMillis(START.0 + 90 * 86_400_000);

fn world() -> World {
    World::new(vec![User::new("alice").with_key(
        id_of(&key(1)),
        &sha256_of(&key(1)),
        FAR,
    )])
}

/// The calls of a cold request, by their number.
const SERVICE_TOKEN: u32 = 0;
const LOOKUP: u32 = 1;
const GRANT: u32 = 2;

/// Sends the key once while one call goes wrong, and each try of it, then once more
/// without the fault.
fn rejected_once(at: u32, fault: impl Fn() -> Result<Reply, &'static str>) -> (Rejection, Reason) {
    let mut world = world();
    let authorization = format!("ApiKey {}", key(1));
    let rejected = world
        .request_with(&[("authorization", &authorization)], |call, reply| {
            let faulty = fault();
            let again = matches!(faulty, Err(_) | Ok((502..=504, _)));
            if call == at || (at..at + 3).contains(&call) && again {
                faulty
            } else {
                Ok(reply)
            }
        })
        .rejected();
    world.expect_source_after_fault();
    rejected
}

impl World {
    #[track_caller]
    fn expect_source_after_fault(&mut self) {
        let forward = self.key_request(&key(1)).forwarded();
        assert!(matches!(forward.source, Source::FirstUse | Source::Refresh));
    }
}

#[test]
fn whatever_keycloak_answers_instead_is_a_503_and_is_not_remembered() {
    let bodies: [Vec<u8>; 7] = [
        b"<html>Welcome</html>".to_vec(),
        b"".to_vec(),
        b"[{\"id\":".to_vec(),
        b"{\"access_token\":7}".to_vec(),
        b"null".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        vec![b'['; 600_000],
    ];
    for at in [SERVICE_TOKEN, LOOKUP, GRANT] {
        for status in [200, 201, 204, 302, 404, 429, 500, 503] {
            for body in &bodies {
                let (rejection, _) = rejected_once(at, || Ok((status, body.clone())));
                assert_eq!(
                    rejection,
                    Rejection::IdentityProviderUnavailable,
                    "{at} {status}"
                );
            }
        }
        let (rejection, reason) = rejected_once(at, || Err("timed out"));
        assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
        assert!(
            reason.to_string().ends_with("callout failed: timed out"),
            "{reason}"
        );
    }
}

#[test]
fn deeply_nested_json_is_a_refusal_and_not_a_stack_overflow() {
    let (rejection, _) = rejected_once(LOOKUP, || Ok((200, vec![b'['; 500_000])));
    assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
}

fn granted(claims: &Value) -> (Rejection, Reason) {
    rejected_once(GRANT, || Ok((200, token_answer(&jwt(claims), 300))))
}

#[test]
fn a_token_that_is_not_the_owners_is_never_forwarded() {
    let exp = START.as_seconds() + 300;
    let (rejection, reason) = granted(&json!({ "iss": ISSUER, "sub": "mallory", "exp": exp }));
    assert_eq!(
        (rejection, reason),
        (
            Rejection::IdentityProviderUnavailable,
            Reason::ForeignSubject
        )
    );
    let foreign = json!({ "iss": "https://evil.example", "sub": "alice", "exp": exp });
    let (rejection, reason) = granted(&foreign);
    assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
    assert!(reason.to_string().contains("another issuer"), "{reason}");
}

#[test]
fn a_token_that_is_over_or_outlives_its_key_is_never_forwarded() {
    let over = json!({ "iss": ISSUER, "sub": "alice", "exp": START.as_seconds() });
    assert!(granted(&over).1.to_string().contains("expired already"));
    let ends_at = START.plus_ms(100_000);
    let owner = User::new("alice").with_key(id_of(&key(1)), &sha256_of(&key(1)), ends_at);
    let mut world = World::new(vec![owner]);
    let exp = START.as_seconds() + 300;
    let long = token_answer(
        &jwt(&json!({ "iss": ISSUER, "sub": "alice", "exp": exp })),
        300,
    );
    let authorization = format!("ApiKey {}", key(1));
    let rejected = world
        .request_with(&[("authorization", &authorization)], |call, reply| {
            Ok(if call == GRANT {
                (200, long.clone())
            } else {
                reply
            })
        })
        .rejected();
    assert_eq!(
        rejected,
        (
            Rejection::IdentityProviderUnavailable,
            Reason::TokenOutlivesKey
        )
    );
}

#[test]
fn a_missing_role_is_named_and_is_no_unknown_key() {
    for roles in [&[][..], &["query-users"], &["view-events", "query-users"]] {
        let mut world = world();
        world.keycloak.management_roles = roles.to_vec();
        let (rejection, reason) = world.key_request(&key(1)).rejected();
        assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
        assert!(reason.to_string().contains("view-users"), "{reason}");
        assert_eq!(world.keycloak.calls.lookup, 0);
        world.keycloak.management_roles = vec!["view-users"];
        world.expect_source_after_fault();
    }
    let (rejection, reason) = rejected_once(LOOKUP, || Ok((403, vec![])));
    assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
    assert!(reason.to_string().contains("view-users"), "{reason}");
}

#[test]
fn a_service_token_that_is_no_longer_taken_is_fetched_anew_once() {
    let mut world = world();
    let mut refusals = 0;
    let authorization = format!("ApiKey {}", key(1));
    let pairs = [("authorization", authorization.as_str())];
    let ended = world.request_with(&pairs, |call, reply| {
        if call == LOOKUP {
            refusals += 1;
            return Ok((401, vec![]));
        }
        Ok(reply)
    });
    ended.forwarded();
    assert_eq!((refusals, world.keycloak.calls.service_token), (1, 2));
    let mut world = self::world();
    let ended = world.request_with(&pairs, |call, reply| {
        Ok(if call == LOOKUP || call == 3 {
            (401, vec![])
        } else {
            reply
        })
    });
    assert_eq!(ended.rejected().0, Rejection::IdentityProviderUnavailable);
    assert_eq!(world.keycloak.calls.service_token, 2);
}

#[test]
fn what_keycloak_says_of_the_gateway_is_no_verdict_on_the_key() {
    for description in [
        "Invalid token audience",
        "Token reuse detected",
        "Invalid signature",
    ] {
        let (rejection, reason) = rejected_once(GRANT, || Ok(refused(description)));
        assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
        assert!(reason.to_string().contains(description), "{reason}");
    }
}

#[test]
fn an_exchange_ends_at_its_deadline_however_keycloak_dawdles() {
    let mut world = world();
    let started_at = world.now;
    let mut exchange = Exchange::new();
    let headers = headers(&[("x-api-key", &key(1))]);
    let mut output = world.begin(&mut exchange, &headers);
    let reason = loop {
        match output {
            Output::Await(Effect::Call { call, timeout_ms }) => {
                // Each answer comes just in time, and the first look-up is refused, so
                // that there are more calls than the deadline has room for.
                let (status, body) = match (world.keycloak.calls.lookup, call.method) {
                    (0, "GET") => {
                        world.keycloak.calls.lookup = 1;
                        (401, vec![])
                    }
                    _ => world.keycloak.answer(&call, world.now),
                };
                world.now = world.now.plus_ms(timeout_ms - 1);
                output = world.input(
                    &mut exchange,
                    Event::Answer {
                        status,
                        body: Some(&body),
                    },
                );
            }
            Output::Await(Effect::Yield { .. }) => {
                world.now = world.now.plus_ms(1);
                output = world.input(
                    &mut exchange,
                    Event::Answer {
                        status: 204,
                        body: Some(b""),
                    },
                );
            }
            Output::Reject { rejection, reason } => {
                assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
                break reason;
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason, Reason::Deadline);
    assert!(
        world.now.since_ms(started_at) <= 4000 + 5,
        "{:?}",
        world.now
    );
}

#[test]
fn a_yield_address_that_does_not_answer_is_a_503_that_says_so() {
    let owner = User::new("alice").with_key(id_of(&key(1)), &bcrypt_of(&key(1)), FAR);
    let mut world = World::new(vec![owner]);
    let headers = headers(&[("x-api-key", &key(1))]);
    let mut exchange = Exchange::new();
    let mut output = world.begin(&mut exchange, &headers);
    loop {
        output = match output {
            Output::Await(Effect::Call { call, .. }) => {
                let (status, body) = world.keycloak.answer(&call, world.now);
                world.input(
                    &mut exchange,
                    Event::Answer {
                        status,
                        body: Some(&body),
                    },
                )
            }
            Output::Await(Effect::Yield { .. }) => {
                world.input(&mut exchange, Event::Failed("refused"))
            }
            Output::Reject { rejection, reason } => {
                assert_eq!(rejection, Rejection::Overloaded);
                assert!(reason.to_string().contains("yield_upstream"), "{reason}");
                break;
            }
            other => panic!("{other:?}"),
        };
    }
    world.expect_source_after_fault();
}

#[test]
fn a_clock_step_during_an_exchange_neither_hangs_nor_forwards_late() {
    for step_ms in [-86_400_000_i64, -5_000, 5_000, 86_400_000] {
        let mut world = world();
        let headers = headers(&[("x-api-key", &key(1))]);
        let mut exchange = Exchange::new();
        let mut output = world.begin(&mut exchange, &headers);
        let mut inputs = 0;
        loop {
            inputs += 1;
            assert!(inputs < 100, "step {step_ms}: no end");
            output = match output {
                Output::Await(Effect::Call { call, .. }) => {
                    let (status, body) = world.keycloak.answer(&call, world.now);
                    if inputs == 1 {
                        world.now = UnixMillis(world.now.0.saturating_add_signed(step_ms));
                    }
                    world.input(
                        &mut exchange,
                        Event::Answer {
                            status,
                            body: Some(&body),
                        },
                    )
                }
                Output::Await(Effect::Yield { .. }) => {
                    world.now = world.now.plus_ms(1);
                    world.input(
                        &mut exchange,
                        Event::Answer {
                            status: 204,
                            body: Some(b""),
                        },
                    )
                }
                Output::Forward(_) | Output::Reject { .. } => break,
                other => panic!("{other:?}"),
            };
        }
        assert!(!exchange.is_pending());
    }
}

#[test]
fn an_input_after_the_end_is_a_rejection_and_no_panic() {
    let mut world = world();
    let mut exchange = Exchange::new();
    for input in [
        Event::Answer {
            status: 200,
            body: Some(b""),
        },
        Event::Failed("x"),
    ] {
        let output = world.input(&mut exchange, input);
        assert!(matches!(output, Output::Reject { .. }), "{output:?}");
    }
}
