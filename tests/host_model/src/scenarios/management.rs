//! The management API in the wasm: bodies as each host gives them, the filter's own
//! answers, clients that hang up, memory, instructions.

use apikeys_core::api_key::hash::hash_bcrypt;
use apikeys_core::clock::UnixMillis;
use serde_json::{Value, json};

use crate::abi::{Refusal, Status, value_of};
use crate::api::{API, Call, KEYS, gateway, management};
use crate::flights::{Asked, Fate};
use crate::gateway::{Gateway, Outcome, configuration};
use crate::host::Step;
use crate::keycloak_adapter::{RealmKey, User};
use crate::keys::{id_of, key, owner, plain_owner};
use crate::node::{BOTH, Profile};

use super::kong_traps::naive_host;

fn alice(profile: Profile) -> Gateway {
    gateway(
        profile,
        vec![User::new("alice"), User::new("bob")],
        &Value::Null,
    )
}

fn new(token: &str) -> Call {
    Call::new("POST", "")
        .bearer(token)
        .json(&json!({ "name": "n" }))
}

#[test]
fn a_key_is_made_used_listed_rotated_and_ended() {
    for profile in BOTH {
        let mut gateway = alice(profile);
        let second = gateway.add_worker();
        let token = gateway.token("alice", RealmKey::Rs256);
        let (id, made) = gateway.make("alice");
        for worker in [0, second] {
            assert_eq!(gateway.ask_worker(worker, &made).subject(), "alice");
        }
        let told = gateway.call(&Call::new("GET", "").bearer(&token)).told(200);
        assert_eq!(told["keys"][0]["key_id"], id.as_str());
        assert!(told["keys"][0]["last_used"].is_string());
        let path = format!("/{id}/rotate");
        let rotate = Call::new("POST", &path).bearer(&token);
        let told = gateway
            .call(&rotate.json(&json!({ "grace_seconds": 60 })))
            .told(201);
        let newer = told["api_key"].as_str().unwrap().to_owned();
        assert_eq!(gateway.ask(&newer).subject(), "alice");
        assert_eq!(gateway.ask(&made).subject(), "alice");
        for id in [&id, id_of(&newer)] {
            let path = format!("/{id}");
            gateway
                .call(&Call::new("DELETE", &path).bearer(&token))
                .told(204);
        }
        for worker in [0, second] {
            gateway.tick(worker);
            gateway.ask_worker(worker, &made).expect_invalid();
            gateway.ask_worker(worker, &newer).expect_invalid();
        }
        let answer = gateway.call(&Call::new("GET", "").bearer(&token));
        assert_eq!(answer.told(200), json!({ "keys": [] }));
    }
}

#[test]
fn a_body_comes_whole_or_in_pieces_and_is_the_same() {
    for profile in BOTH {
        let mut gateway = alice(profile);
        let token = gateway.token("alice", RealmKey::Es256);
        for bytes in [1, 7, 100] {
            gateway.call(&new(&token).chunked(bytes)).told(201);
        }
        gateway.call(&Call::new("GET", "").bearer(&token)).told(200);
    }
}

#[test]
fn a_naive_filter_that_reads_a_body_in_the_head_finds_none() {
    // Kong shows the body in its own callback alone, and nothing of a body in a file.
    let mut host = naive_host(Profile::Kong);
    host.contexts.get_mut(&2).unwrap().request_body = b"{}".to_vec();
    let nothing = Err(Refusal::Status(Status::NotFound));
    assert_eq!(host.buffer(crate::abi::REQUEST_BODY, 0, 2), nothing);
    host.step = Step::RequestBody;
    assert_eq!(
        host.buffer(crate::abi::REQUEST_BODY, 0, 2),
        Ok(b"{}".to_vec())
    );
    host.contexts.get_mut(&2).unwrap().body_in_file = true;
    assert_eq!(host.buffer(crate::abi::REQUEST_BODY, 0, 2), nothing);
}

#[test]
fn a_body_that_kong_wrote_to_a_file_is_too_large() {
    let mut gateway = alice(Profile::Kong);
    let token = gateway.token("alice", RealmKey::Es256);
    let call = new(&token).with_body(|body| body.in_file = true);
    gateway.call(&call).expect_refusal(413, "payload_too_large");
}

#[test]
fn a_body_larger_than_the_bound_is_refused_however_it_comes() {
    for profile in BOTH {
        let mut gateway = alice(profile);
        let token = gateway.token("alice", RealmKey::Es256);
        let large = json!({ "name": "n".repeat(17_000) });
        let call = Call::new("POST", "").bearer(&token).json(&large);
        gateway.call(&call).expect_refusal(413, "payload_too_large");
        // A request that lies about its length.
        let liar = call
            .without("content-length")
            .header("content-length", "14");
        let outcome = gateway.call(&liar.clone().chunked(4_000));
        outcome.expect_refusal(413, "payload_too_large");
        assert_eq!(
            gateway.flights.total(),
            usize::from(profile == Profile::Envoy)
        );
    }
}

/// Kong calls no filter for an empty body, and its head goes on without the credential.
#[test]
fn a_request_whose_body_turns_out_empty_never_goes_on() {
    for profile in BOTH {
        let mut gateway = alice(profile);
        let token = gateway.token("alice", RealmKey::Es256);
        for length in ["0", "00", "000"] {
            let call = new(&token).without("content-length");
            let call = call.header("content-length", length);
            let call = call.with_body(|body| body.chunks = vec![Vec::new()]);
            gateway.call(&call).expect_refusal(400, "invalid_request");
        }
        let chunked = new(&token).without("content-length");
        let chunked = chunked.header("transfer-encoding", "chunked");
        let chunked = chunked.with_body(|body| body.chunks = vec![Vec::new()]);
        gateway
            .call(&chunked)
            .expect_refusal(411, "length_required");
    }
}

#[test]
fn while_a_body_is_read_on_kong_the_head_holds_no_credential() {
    let mut gateway = alice(Profile::Kong);
    let token = gateway.token("alice", RealmKey::Es256);
    let request = gateway.send_call(0, &new(&token));
    let context = gateway.requests[request].context;
    let host = gateway.vm(0, API).host();
    let headers = host.headers_to_service(context);
    assert_eq!(value_of(&headers, "authorization"), Some(&b""[..]));
    gateway.finish(request).told(201);
}

#[test]
fn a_body_that_never_comes_is_a_400_on_envoy_and_nothing_before_it_does() {
    let mut gateway = alice(Profile::Envoy);
    let token = gateway.token("alice", RealmKey::Es256);
    let began = gateway.now();
    let outcome = gateway.call(&new(&token).with_body(|body| body.never = true));
    outcome.expect_refusal(400, "invalid_request");
    assert_eq!(gateway.now().since_ms(began), 10_000);
    assert!(gateway.logged("allow_on_headers_stop_iteration"));
    assert_eq!(gateway.flights.total(), gateway.count(Asked::Wait));
}

#[test]
fn a_body_in_pieces_waits_for_its_last_one_and_the_turn_beside_it_is_no_matter() {
    let mut gateway = alice(Profile::Envoy);
    let token = gateway.token("alice", RealmKey::Es256);
    let text = json!({ "name": "n" }).to_string();
    let call = new(&token).with_body(|body| body.never = true);
    let request = gateway.send_call(0, &call);
    let (first, rest) = text.as_bytes().split_at(5);
    gateway.chunk(request, first, false);
    assert!(gateway.requests[request].outcome.is_none());
    gateway.pass(9_000);
    gateway.chunk(request, rest, true);
    // The turn that it waited for beside its body arrives late, and has no effect.
    gateway.finish(request).told(201);
    // An empty last piece ends a body as well.
    let request = gateway.send_call(0, &call);
    gateway.chunk(request, text.as_bytes(), false);
    gateway.chunk(request, b"", true);
    gateway.finish(request).told(201);
}

#[test]
fn what_needs_no_body_is_answered_whether_or_not_one_comes() {
    for profile in BOTH {
        let mut gateway = alice(profile);
        let (id, _) = gateway.make("alice");
        let token = gateway.token("alice", RealmKey::Es256);
        let path = format!("/{id}");
        for method in ["GET", "DELETE"] {
            let call = Call::new(method, &path).bearer(&token);
            let outcome = gateway.call(&call.json(&json!({ "any": "thing" })));
            outcome.told(if method == "GET" { 200 } else { 204 });
        }
        let (id, _) = gateway.make("alice");
        let rotate = Call::new("POST", &format!("/{id}/rotate")).bearer(&token);
        gateway.call(&rotate).told(201);
    }
}

#[test]
fn what_needs_nobody_is_answered_at_once() {
    for profile in BOTH {
        let mut gateway = alice(profile);
        let mut call = Call::new("GET", "");
        call.headers[1].1 = b"/api/v1/openapi.json".to_vec();
        assert_eq!(gateway.call(&call).told(200)["openapi"], "3.1.0");
        call.headers[1].1 = b"/orders".to_vec();
        gateway.call(&call).expect_refusal(404, "not_found");
        let outcome = gateway.call(&Call::new("PUT", ""));
        outcome.expect_refusal(405, "method_not_allowed");
        gateway
            .call(&Call::new("GET", ""))
            .expect_refusal(401, "missing_credentials");
        let outcome = gateway.call(&Call::new("GET", "").bearer(&key(1)));
        outcome.expect_refusal(401, "invalid_token");
        let call = Call::new("GET", &format!("/{}", key(1)));
        gateway
            .call(&call.bearer("x.y.z"))
            .expect_refusal(400, "invalid_request");
        assert_eq!(gateway.flights.total(), 0);
    }
}

#[test]
fn a_validation_gives_the_token_that_the_exchange_forwards() {
    for profile in BOTH {
        let users = vec![owner("alice", &key(1))];
        let mut gateway = gateway(profile, users, &Value::Null);
        let validate = Call::new("POST", "/validate").json(&json!({ "api_key": key(1) }));
        gateway.call(&validate).told(200);
        // A node's first poll drops earlier entries of the cache.
        gateway.pass_ticking(1_000);
        let told = gateway.call(&validate).told(200);
        let granted = gateway.count(Asked::Grant);
        assert_eq!(
            (&told["user_id"], &told["key_id"]),
            (&json!("alice"), &json!(id_of(&key(1))))
        );
        let Outcome::Forwarded(headers) = gateway.ask(&key(1)) else {
            panic!("not forwarded");
        };
        let forwarded = value_of(&headers, "authorization").unwrap();
        let token = format!("Bearer {}", told["access_token"].as_str().unwrap());
        assert_eq!(forwarded, token.as_bytes());
        assert_eq!(gateway.count(Asked::Grant), granted);
        let validate = Call::new("POST", "/validate").json(&json!({ "api_key": key(2) }));
        gateway.call(&validate).expect_invalid();
    }
}

#[test]
fn a_presented_key_ends_in_every_worker_and_another_text_is_answered_alike() {
    for profile in BOTH {
        for user in [owner("alice", &key(1)), plain_owner("alice", &key(1))] {
            let mut gateway = gateway(profile, vec![user], &Value::Null);
            let second = gateway.add_worker();
            for worker in [0, second] {
                assert_eq!(gateway.ask_worker(worker, &key(1)).subject(), "alice");
            }
            let mut answers = [key(2), "no key".to_owned(), key(1)].map(|text| {
                let call = Call::new("POST", "/revoke").json(&json!({ "api_key": text }));
                let outcome = gateway.call(&call.bearer("nonsense"));
                let Outcome::Answered(answer) = outcome else {
                    panic!("{outcome:?}");
                };
                (answer.status, answer.headers, answer.body)
            });
            assert_eq!(answers[0].0, 204);
            answers.sort();
            assert_eq!(answers[0], answers[2]);
            assert!(gateway.logged("operation=revoke_by_holder status=204"));
            for worker in [0, second] {
                gateway.tick(worker);
                gateway.ask_worker(worker, &key(1)).expect_invalid();
            }
        }
    }
}

#[test]
fn callouts_that_fail_at_any_step_are_one_answer() {
    for profile in BOTH {
        for number in 0..14 {
            for fate in [
                Fate::Reset,
                Fate::TimesOut,
                Fate::Status(500, Vec::new()),
                Fate::NoStatus,
            ] {
                let mut gateway = alice(profile);
                let token = gateway.token("alice", RealmKey::Es256);
                let mut calls = 0;
                gateway.fate = Box::new(move |asked, _| {
                    calls += u32::from(!matches!(asked, Asked::Yield | Asked::Wait));
                    match calls == number + 1 && !matches!(asked, Asked::Yield | Asked::Wait) {
                        true => fate.clone(),
                        false => Fate::Answered,
                    }
                });
                let outcome = gateway.call(&new(&token));
                let Outcome::Answered(answer) = &outcome else {
                    panic!("{number}: {outcome:?}");
                };
                assert!(
                    [201, 503].contains(&answer.status),
                    "{number}: {}",
                    answer.status
                );
            }
        }
    }
}

#[test]
fn an_upstream_that_the_host_refuses_is_a_503_and_no_loop() {
    for profile in BOTH {
        for refused in 1..6 {
            let mut gateway = alice(profile);
            let token = gateway.token("alice", RealmKey::Es256);
            gateway.node.borrow_mut().refuses_callouts = refused;
            let outcome = gateway.call(&new(&token));
            let Outcome::Answered(answer) = &outcome else {
                panic!("{outcome:?}");
            };
            assert!([201, 503].contains(&answer.status), "{}", answer.status);
        }
    }
}

#[test]
fn a_client_that_hangs_up_at_any_step_holds_nobody_up() {
    for profile in BOTH {
        for steps in 0.. {
            let mut gateway = alice(profile);
            let token = gateway.token("alice", RealmKey::Es256);
            let request = gateway.send_call(0, &new(&token));
            for _ in 0..steps {
                gateway.step();
            }
            if gateway.requests[request].outcome.is_some() {
                assert!(steps > 8);
                break;
            }
            gateway.hang_up(request);
            gateway.run();
            gateway.make("bob");
            gateway.pass(46_000);
            gateway.make("alice");
        }
    }
}

#[test]
fn many_at_once_in_two_workers_lose_nothing_and_hold_the_limit() {
    for profile in BOTH {
        let mut gateway = alice(profile);
        gateway.add_worker();
        let token = gateway.token("alice", RealmKey::Es256);
        let requests: Vec<usize> = (0..16)
            .map(|at| gateway.send_call(at % 2, &new(&token)))
            .collect();
        gateway.run();
        let mut made = 0;
        for request in requests {
            match gateway.finish(request) {
                Outcome::Answered(answer) if answer.status == 201 => made += 1,
                other => other.expect_refusal(409, "key_limit_reached"),
            }
        }
        let told = gateway.call(&Call::new("GET", "").bearer(&token)).told(200);
        assert_eq!((made, told["keys"].as_array().unwrap().len()), (5, 5));
    }
}

#[test]
fn a_route_that_is_switched_off_lets_everything_through() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, Vec::new());
        let mut off = management(profile, &json!({ "enabled": false }));
        gateway.add_route(&off);
        off["mode"] = json!("exchange");
        let call = Call::new("GET", "").bearer("a.b.c");
        let request = gateway.send_with(0, API, &call.headers, None);
        let Some(Outcome::Forwarded(headers)) = gateway.requests[request].outcome.take() else {
            panic!("it is not switched off");
        };
        assert_eq!(value_of(&headers, ":path"), Some(KEYS.as_bytes()));
        // This route must forward without a token; the checks know no such route.
        gateway.requests.clear();
    }
}

#[test]
fn a_configuration_that_lacks_what_the_mode_needs_is_refused() {
    for profile in BOTH {
        for fields in [
            json!({ "mode": "manage" }),
            json!({ "mode": "manage", "audience": "a", "management_client_id": "api-key-gateway" }),
            json!({ "audience": "a" }),
        ] {
            let mut gateway = Gateway::empty(profile);
            gateway.add_worker();
            let route = gateway.add_route(&configuration(profile, &fields));
            assert!(gateway.logged("configuration refused"), "{fields}");
            assert_eq!(gateway.accepts(route), profile == Profile::Kong);
        }
    }
}

#[test]
fn the_managers_own_key_is_read_where_it_is_said_to_be() {
    for (profile, name) in [
        (Profile::Kong, "ngx.apikey_management_key"),
        (Profile::Envoy, "env.APIKEY_MANAGEMENT_KEY"),
    ] {
        let changes = json!({ "management_signing_key_property": name });
        let make = |present: bool| {
            let mut gateway = Gateway::new(profile, vec![User::new("alice")]);
            gateway.keycloaks.borrow_mut().realm("demo").keys = vec![RealmKey::Es256];
            if present {
                let name = name.split('.').nth(1).unwrap().to_owned();
                let variable = (name, crate::gateway::pem());
                gateway.node.borrow_mut().variables.push(variable);
            }
            gateway.add_route(&management(profile, &changes));
            gateway
        };
        let mut gateway = make(true);
        gateway.make("alice");
        let mut gateway = make(false);
        if profile == Profile::Envoy {
            assert!(!gateway.accepts(API), "told at start");
            continue;
        }
        let token = gateway.token("alice", RealmKey::Es256);
        let outcome = gateway.call(&new(&token));
        outcome.expect_refusal(503, "identity_provider_unavailable");
        assert!(gateway.logged("management_signing_key_property"));
    }
}

#[test]
fn memory_stops_growing_over_thousands_of_requests() {
    for profile in BOTH {
        let changes = json!({ "hash_algorithm": "sha256", "l1_entries": 100, "l2_slots": 64 });
        let users = vec![plain_owner("alice", &key(1)), User::new("bob")];
        let mut gateway = gateway(profile, users, &changes);
        let mut sizes = [0; 2];
        gateway.keycloaks.borrow_mut().realm("demo").keys = vec![RealmKey::EdDsa];
        for size in &mut sizes {
            let mut token = String::new();
            for number in 0..400 {
                // A valid token, made anew before it expires.
                if number % 100 == 0 {
                    token = gateway.token("bob", RealmKey::EdDsa);
                }
                let told = gateway.call(&new(&token)).told(201);
                let path = format!("/{}", told["key_id"].as_str().unwrap());
                gateway
                    .call(&Call::new("DELETE", &path).bearer(&token))
                    .told(204);
                let hung_up = gateway.send_call(0, &new(&token));
                gateway.hang_up(hung_up);
                gateway.run();
                let filler = "x".repeat(1 + number * 19 % 8_000);
                let outcome = gateway.call(&Call::new("GET", "").bearer(&filler));
                outcome.expect_refusal(401, "invalid_token");
                // The first requests are swept at the end; the others would prove no more.
                gateway.requests.truncate(50);
                gateway.node.borrow_mut().sent.truncate(500);
            }
            *size = gateway.vm(0, API).memory_bytes();
        }
        assert!(sizes[1] <= sizes[0] + (64 << 10), "{profile:?}: {sizes:?}");
        assert!(sizes[1] < 4 << 20, "{sizes:?}");
    }
}

/// Each callback takes little more than a slice of bcrypt, for every kind of signature.
#[test]
fn no_callback_holds_the_worker_for_longer_than_a_slice() {
    for profile in BOTH {
        for key in RealmKey::OF_EACH_KIND {
            let changes = json!({ "bcrypt_cost": 10 });
            let mut gateway = gateway(profile, vec![User::new("alice")], &changes);
            gateway.keycloaks.borrow_mut().realm("demo").keys = RealmKey::OF_EACH_KIND.to_vec();
            let token = gateway.token("alice", key);
            let body = json!({ "name": "n", "scopes": ["orders:read"] });
            let call = Call::new("POST", "").bearer(&token).json(&body);
            let told = gateway.call(&call).told(201);
            let id = told["key_id"].as_str().unwrap();
            let rotate = Call::new("POST", &format!("/{id}/rotate")).bearer(&token);
            gateway.call(&rotate).told(201);
            gateway.call(&Call::new("GET", "").bearer(&token)).told(200);
            let spent = gateway.vm(0, API).spent.clone();
            let most = spent.values().max().copied().unwrap();
            // A slice of the new key's bcrypt, or a signature on P-256 verified.
            assert!(
                (9_000_000..14_500_000).contains(&most),
                "{profile:?} {key:?}: {spent:?}"
            );
        }
    }
}

/// A presented key is verified in slices too.
#[test]
fn no_callback_of_a_presented_key_holds_the_worker_for_longer_than_a_slice() {
    for profile in BOTH {
        let ends_at = crate::keys::FAR;
        let hash = hash_bcrypt(key(1).as_bytes(), 10, [3; 16]).unwrap();
        let alice = User::new("alice").with_key(id_of(&key(1)), &hash, ends_at);
        let mut gateway = gateway(profile, vec![alice], &Value::Null);
        let yields = gateway.count(Asked::Yield);
        let call = Call::new("POST", "/revoke").json(&json!({ "api_key": key(1) }));
        gateway.call(&call).told(204);
        assert!(gateway.count(Asked::Yield) - yields >= 85, "1,024 rounds");
        let spent = gateway.vm(0, API).spent.clone();
        let most = spent.values().max().copied().unwrap();
        assert!(
            (9_000_000..14_500_000).contains(&most),
            "{profile:?}: {spent:?}"
        );
    }
}

/// RSA of 4096 bits takes four times as much as RSA of 2048: as much as three slices, once
/// for a request. The largest number of keys that is read, of the most bits, adds little.
#[test]
fn the_largest_keys_are_read_and_verified_within_four_slices() {
    let fixtures: Value =
        serde_json::from_str(include_str!("../../../kit/src/caller_tokens.json")).unwrap();
    let mut spent = Vec::new();
    for keys in [1, 40] {
        let user = User::new("4b1c0a7e-5d1f-4b2a-9c3d-0a1b2c3d4e5f");
        let mut gateway = gateway(Profile::Kong, vec![user], &Value::Null);
        gateway.vm(0, API).fuel = 100_000_000;
        // Within the life of the tokens that OpenSSL signed.
        gateway.node.borrow_mut().clock = Some(UnixMillis(1_700_000_001_000));
        let keys: Vec<Value> = (0..keys)
            .map(|at| {
                let mut key = fixtures["keys"]["rsa4096"].clone();
                if at > 0 {
                    key["kid"] = json!(format!("key-{at}"));
                }
                key["x5c"] = json!(["M".repeat(1_800)]);
                key
            })
            .collect();
        let set = json!({ "keys": keys }).to_string();
        assert!(set.len() < 128 << 10);
        gateway.fate = Box::new(move |asked, _| match asked {
            Asked::Managing("keys") => Fate::Status(200, set.clone().into_bytes()),
            _ => Fate::Answered,
        });
        let token = fixtures["tokens"]["RS256-4096"].as_str().unwrap();
        gateway.call(&Call::new("GET", "").bearer(token)).told(200);
        spent.push(gateway.vm(0, API).spent["proxy_on_http_call_response"]);
    }
    assert!(
        spent[1] - spent[0] < 10_000_000 && spent[1] < 44_000_000,
        "{spent:?}"
    );
}
