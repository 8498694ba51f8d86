//! Keycloak slow, broken or lying, and clocks that step: the request is refused, and the next one
//! finds its way again. Wrong answers that the wasm shows too are in `tests/kit/src/scenarios.rs`.

use apikeys_core::clock::UnixMillis;
use apikeys_core::exchange::{Exchange, Output, Source};
use apikeys_core::machine::{Effect, Event};
use apikeys_core::rejection::{Reason, Rejection};

use super::client::plain_owner;
use super::keycloak::{Reply, refused};
use super::world::{World, headers, key};

fn world() -> World {
    World::new(vec![plain_owner("alice", 1)])
}

/// The calls of a cold request, by their number.
const LOOKUP: u32 = 1;
const GRANT: u32 = 2;

/// Sends the key once while one call is answered so, then once more as it should be.
fn rejected_once(at: u32, answer: &Reply) -> (Rejection, Reason) {
    let mut world = world();
    let authorization = format!("ApiKey {}", key(1));
    let rejected = world
        .request_with(&[("authorization", &authorization)], |call, reply| {
            Ok(if call == at { answer.clone() } else { reply })
        })
        .rejected();
    let forward = world.key_request(&key(1)).forwarded();
    assert!(matches!(forward.source, Source::FirstUse | Source::Refresh));
    rejected
}

#[test]
fn deeply_nested_json_is_a_refusal_and_not_a_stack_overflow() {
    let (rejection, _) = rejected_once(LOOKUP, &(200, vec![b'['; 500_000]));
    assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
}

#[test]
fn what_keycloak_says_of_the_gateway_is_no_verdict_on_the_key() {
    for description in [
        "Invalid token audience",
        "Token reuse detected",
        "Invalid signature",
    ] {
        let (rejection, reason) = rejected_once(GRANT, &refused(description));
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
