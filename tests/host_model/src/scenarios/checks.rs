//! The checks of a scenario's end, each tripped once: a check that nothing trips proves
//! nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::abi::value_of;
use crate::api;
use crate::gateway::{Gateway, Outcome};
use crate::host::LocalResponse;
use crate::keycloak_adapter::{User, sha256_of};
use crate::keys::{FAR, SCALAR, SIGNING_KEY, id_of, key, plain_owner};
use crate::node::{Metric, Profile, Sent};

/// Runs an exchange, spoils the state that the checks read, and expects the check with
/// this number to see it.
fn trips(number: &str, spoil: impl FnOnce(&mut Gateway)) {
    let mut gateway = Gateway::new(Profile::Kong, vec![plain_owner("alice", &key(1))]);
    gateway.ask(&key(1)).subject();
    gateway.ask(&key(2)).expect_invalid();
    spoil(&mut gateway);
    let judged = catch_unwind(AssertUnwindSafe(|| drop(gateway)));
    let said = judged.expect_err("the check sees it");
    let said = said.downcast_ref::<String>().cloned().unwrap_or_else(|| {
        let text = said.downcast_ref::<&str>().copied();
        text.unwrap_or_default().to_owned()
    });
    assert!(said.starts_with(number), "{said}");
}

#[test]
fn a_token_of_another_owner_is_seen() {
    let bob = User::new("bob").with_key(id_of(&key(1)), &sha256_of(&key(1)), FAR);
    trips("assertion `left == right` failed: 1:", |gateway| {
        gateway.truth.learn("demo", &[bob]);
    });
}

#[test]
fn a_token_past_its_end_is_seen() {
    trips("2:", |gateway| {
        let request = &mut gateway.requests[0];
        request.ended_at = request.ended_at.map(|at| at.plus_ms(3_600_000));
    });
}

#[test]
fn a_key_that_reaches_the_service_is_seen() {
    trips("6:", |gateway| {
        if let Some(Outcome::Forwarded(headers)) = &mut gateway.requests[0].outcome {
            headers.push((b"cookie".to_vec(), format!("k={}", key(1)).into_bytes()));
        }
    });
}

#[test]
fn a_request_without_an_answer_or_with_two_is_seen() {
    trips("7:", |gateway| gateway.requests[1].outcome = None);
    trips("assertion `left == right` failed: 7:", |gateway| {
        gateway.requests[1].ends = 2;
    });
}

#[test]
fn a_trap_is_seen() {
    trips("10:", |gateway| {
        gateway.requests[1].outcome = Some(Outcome::Crashed("unreachable".to_owned()));
    });
}

#[test]
fn a_secret_is_seen_wherever_it_may_not_stand() {
    let hash = sha256_of(&key(1));
    let places: [fn(&mut Gateway, &str); 6] = [
        |gateway, secret| gateway.node.borrow_mut().log(format!("a {secret} b")),
        |gateway, secret| {
            gateway.node.borrow_mut().metrics.push(Metric {
                kind: 0,
                name: secret.to_owned(),
                value: 1,
            });
        },
        |gateway, secret| {
            let names = &mut gateway.node.borrow_mut().shared.names;
            names.push(secret.as_bytes().to_vec());
        },
        |gateway, secret| {
            let asked = &mut gateway.node.borrow_mut().properties_asked;
            asked.push(secret.as_bytes().to_vec());
        },
        |gateway, secret| {
            gateway.node.borrow_mut().sent.push(Sent {
                upstream: "keycloak".to_owned(),
                headers: crate::abi::pairs(&[(":path", secret)]),
                body: Vec::new(),
                timeout_ms: 1,
            });
        },
        |gateway, secret| {
            gateway.requests[1].outcome = Some(Outcome::Answered(LocalResponse {
                status: 401,
                headers: Vec::new(),
                body: secret.as_bytes().to_vec(),
            }));
        },
    ];
    let scalar = STANDARD.encode(&STANDARD.decode(SIGNING_KEY).unwrap()[SCALAR]);
    for place in places {
        for secret in [&key(1), &hash, &scalar, &SIGNING_KEY.to_owned()] {
            trips("5:", |gateway| place(gateway, secret));
        }
        // Secrets that only the traffic knows: tokens and assertions.
        trips("5:", |gateway| {
            let token = gateway.keycloaks.borrow().traffic.owner_tokens[0].clone();
            place(gateway, &token);
        });
        trips("5:", |gateway| {
            let assertion = gateway.keycloaks.borrow().traffic.assertions[0].clone();
            place(gateway, &assertion);
        });
    }
}

#[test]
fn a_key_or_a_hash_in_a_value_of_shared_data_is_seen_and_a_token_is_at_home_there() {
    let store = |gateway: &Gateway, value: &str| {
        let values = &mut gateway.node.borrow_mut().shared.values;
        values.push(value.as_bytes().to_vec());
    };
    trips("5:", |gateway| store(gateway, &key(1)));
    trips("5:", |gateway| store(gateway, &sha256_of(&key(1))));
    trips("5:", |gateway| store(gateway, SIGNING_KEY));
    let mut gateway = Gateway::new(Profile::Kong, vec![plain_owner("alice", &key(1))]);
    gateway.ask(&key(1)).subject();
    let token = gateway.keycloaks.borrow().traffic.owner_tokens[0].clone();
    store(&gateway, &token);
}

/// Makes a key by the API, spoils the state that the checks read, and expects the check to
/// see it.
fn trips_of_management(said: &str, spoil: impl FnOnce(&mut Gateway, &str)) {
    let mut gateway = api::gateway(Profile::Kong, vec![User::new("alice")], &Value::Null);
    let (_, made) = gateway.make("alice");
    spoil(&mut gateway, &made);
    let judged = catch_unwind(AssertUnwindSafe(|| drop(gateway)));
    let panic = judged.expect_err("the check sees it");
    let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(text.starts_with(said), "{text}");
}

#[test]
fn a_management_request_that_goes_on_is_seen() {
    trips_of_management("6:", |gateway, _| {
        let request = &mut gateway.requests[0];
        request.outcome = Some(Outcome::Forwarded(request.sent.clone()));
    });
}

#[test]
fn a_key_that_was_made_and_a_callers_token_are_seen_where_they_may_not_stand() {
    trips_of_management("5:", |gateway, made| {
        gateway.node.borrow_mut().log(format!("made {made}"));
    });
    trips_of_management("5:", |gateway, _| {
        let token = gateway.keycloaks.borrow().traffic.caller_tokens[0].clone();
        gateway.node.borrow_mut().log(format!("caller {token}"));
    });
    // Keycloak receives hashes, and no key.
    trips_of_management("5:", |gateway, made| {
        let mut node = gateway.node.borrow_mut();
        let is_write = |sent: &&mut Sent| value_of(&sent.headers, ":method") == Some(b"PUT");
        let sent = node.sent.iter_mut().find(is_write).unwrap();
        sent.body.extend(made.as_bytes());
    });
    // A problem's body shows no secret of its client.
    trips_of_management("5:", |gateway, made| {
        if let Some(Outcome::Answered(answer)) = &mut gateway.requests[0].outcome {
            let body = format!("{{\"code\":\"x\",\"detail\":\"{made}\"}}");
            (answer.status, answer.body) = (400, body.into_bytes());
        }
    });
}

#[test]
fn a_key_that_stays_in_a_machines_memory_is_seen() {
    trips("5:", |gateway| {
        let secret = key(1).split_off(21);
        // The bottom of the stack, which nothing reaches.
        gateway.vm(0, 0).memory()[4096..][..secret.len()].copy_from_slice(secret.as_bytes());
    });
}

#[test]
fn a_callback_that_goes_deeper_than_is_wiped_is_seen() {
    trips("5: of ", |gateway| {
        gateway.vm(0, 0).memory()[900 * 1024] = 1;
    });
}
