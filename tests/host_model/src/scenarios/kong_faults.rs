//! Faults of Kong's Wasm host: each traps a naive filter in this model, and not ours.
//!
//! All were seen on Kong 3.9.1 in November 2026, which has `ngx_wasm_module` at 9136e463 as
//! 3.9.0 to 3.9.3 have; the module of 3.10 (a376e67c) was read and not run. Kong maintains
//! the module no more. The model takes each from these places of it:
//!
//! | | a filter | the host | its source |
//! |---|---|---|---|
//! | K1 | calls out from a root context's answer | the worker crashes | `ngx_wasm_socket_tcp_destroy` |
//! | K2 | removes a header of the request | the service gets it all the same | `ngx_http_wasm_set_header_helper`: `hash = 0` |
//! | K3 | returns false from `on_configure`, or traps there | every request goes on without any filter | "unsafe request processing" |
//! | K4 | calls out after an answer without a body | the worker crashes or loops | `ngx_wasm_socket_tcp_init`: `free_bufs` |
//! | K6 | reads a map of more than 100 entries | wrong sizes, writes past the map | `ngx_proxy_wasm_pairs_size` |
//! | K7 | answers after a POST that ran into the host's time limit | the answer has no body | `ngx_http_proxy_wasm_dispatch_destroy` |
//! | K10 | traps while it holds a request | the request goes on | test 42 of `130-proxy_dispatch_http.t` |
//! | K11 | calls out in Kong 3.8, and the call fails | the request goes on | the module of 3.8 |
//! | K12 | writes a longer value over an entry while the zone is full | the entry may be freed before it is used | `ngx_wa_shm_kv_set_locked`: `old` (read, not seen) |
//! | K13 | answers a request that it held, before another filter of the chain | the next filter is asked all the same, and a second answer is a trap | `hfuncs_send_local_response` |
//!
//! K5 is K4 and K7 in the management API; K8 and K9 are no business of a host's model.

use serde_json::{Value, json};

use crate::abi::{self, REQUEST_HEADERS, Refusal, pairs, value_of};
use crate::api::{self, API, Call};
use crate::flights::{Asked, Fate};
use crate::gateway::{Gateway, Outcome, configuration};
use crate::host::{Answer, ContextState, LocalResponse, Step, TIMED_OUT};
use crate::keycloak_adapter::{RealmKey, User};
use crate::keys::{key, owner, plain_owner};
use crate::node::{BOTH, Profile};
use crate::shared_data::{Kind, SharedData};

use super::kong_traps::{callout, naive_host, traps};
use super::revocation::{edit, polling};

fn no_body() -> Answer {
    Answer::Response {
        headers: pairs(&[(":status", "204")]),
        body: Vec::new(),
    }
}

#[test]
fn k1_a_naive_root_context_that_asks_on_from_an_answer_crashes_the_worker() {
    let mut host = naive_host(Profile::Kong);
    (host.context, host.step) = (1, Step::CallResponse);
    assert!(traps(&host.http_call(callout("127.0.0.1:8110"))));
    host.step = Step::Tick;
    assert!(host.http_call(callout("127.0.0.1:8110")).is_ok());
}

#[test]
fn k1_polls_self_checks_and_renewals_call_out_from_ticks() {
    // A callout from an answer would end the machine. revocation.rs shows that a revocation is seen
    // in time all the same, on both hosts.
    let mut gateway = polling(Profile::Kong);
    for _ in 0..150 {
        gateway.ask(&key(1)).subject();
        gateway.pass_ticking(2_000);
    }
    assert!(gateway.count(Asked::Events) > 50, "it polls");
    assert!(gateway.count(Asked::Realm) > 1, "it checks itself");
    let node = gateway.node.borrow();
    let mut metrics = node.metrics.iter();
    let renewed = metrics.find(|metric| metric.name.starts_with("apikey_renewals_total"));
    assert!(renewed.is_some_and(|metric| metric.value > 0), "it renews");
}

#[test]
fn k2_a_naive_removal_hides_the_key_from_the_filter_and_not_from_the_service() {
    let mut host = naive_host(Profile::Kong);
    let sent = pairs(&[("x-api-key", "the key")]);
    host.contexts
        .get_mut(&2)
        .unwrap()
        .request_headers
        .clone_from(&sent);
    host.replace_header(REQUEST_HEADERS, b"x-api-key", None)
        .unwrap();
    assert!(host.header_value(REQUEST_HEADERS, b"x-api-key").is_err());
    assert_eq!(host.headers_to_service(2), sent);
    // Setting a value does not help against a second copy either.
    let twice = pairs(&[("x-api-key", "the key"), ("X-Api-Key", "the key")]);
    host.contexts.get_mut(&2).unwrap().request_headers = twice;
    host.replace_header(REQUEST_HEADERS, b"x-api-key", Some(b""))
        .unwrap();
    assert!(
        host.headers_to_service(2)
            .iter()
            .any(|(_, value)| value == b"the key")
    );
}

#[test]
fn k2_a_naive_removal_of_a_list_that_is_not_there_crashes_the_worker() {
    for name in [&b"cookie"[..], b"X-Forwarded-For"] {
        let mut host = naive_host(Profile::Kong);
        assert!(traps(&host.replace_header(REQUEST_HEADERS, name, None)));
        host.replace_header(REQUEST_HEADERS, name, Some(b""))
            .unwrap();
    }
}

#[test]
fn k2_the_service_gets_an_empty_header_where_the_key_was() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let cookie = format!("a=1; k={}", key(1));
        let sent = [
            ("x-api-key", key(1)),
            ("cookie", cookie),
            ("x-trace", "t".to_owned()),
        ];
        let sent: Vec<_> = sent
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        // Held at first, then warm.
        for _ in 0..2 {
            let outcome = gateway.ask_with(&sent);
            assert_eq!(outcome.subject(), "alice");
            let Outcome::Forwarded(headers) = outcome else {
                unreachable!()
            };
            for name in ["x-api-key", "cookie"] {
                let left = value_of(&headers, name);
                let expected = (profile == Profile::Kong).then_some(&b""[..]);
                assert_eq!(left, expected, "{profile:?} {name}");
            }
            assert_eq!(value_of(&headers, "x-trace"), Some(&b"t"[..]));
        }
    }
}

#[test]
fn k2_a_key_in_a_header_that_the_gateway_passes_on_in_its_own_words_is_refused() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        for name in [
            "x-forwarded-for",
            "Via",
            "x-forwarded-host",
            "te",
            "upgrade",
            ":authority",
        ] {
            let held = format!("for {}", key(1));
            let outcome = gateway.ask_with(&[("x-api-key", &key(1)), (name, &held)]);
            outcome.expect_refusal(400, "ambiguous_credentials");
        }
        assert_eq!(gateway.flights.total(), 0);
    }
}

#[test]
fn k3_a_naive_refusal_of_a_configuration_lets_every_request_go_on() {
    // The model's own behaviour: a filter that traps at its start.
    let mut gateway = Gateway::empty(Profile::Kong);
    gateway.add_realm("demo", vec![plain_owner("alice", &key(1))]);
    gateway.add_worker();
    gateway.ends_at_start = true;
    gateway.add_route(&configuration(Profile::Kong, &Value::Null));
    gateway.allowed.keys_upstream = true;
    gateway.allowed.traps = true;
    assert!(!gateway.accepts(0));
    let outcome = gateway.ask(&key(1));
    let Outcome::Forwarded(headers) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(value_of(&headers, "x-api-key"), Some(key(1).as_bytes()));
}

#[test]
fn k3_a_refused_configuration_refuses_each_request_on_kong() {
    let cut = &crate::keys::SIGNING_KEY[..40];
    for changes in [
        json!({ "key_prefix": "eyJ" }),
        json!({ "signing_key": cut }),
        json!({ "mode": "manage" }),
    ] {
        let mut gateway = Gateway::with(Profile::Kong, vec![owner("alice", &key(1))], &changes);
        assert!(gateway.accepts(0), "or Kong lets everything go on");
        gateway.ask(&key(1)).expect_unavailable();
        gateway.ask_with(&[]).expect_unavailable();
        let said = gateway.lines("configuration refused, and so is every request to it");
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(gateway.flights.total(), 0);
        gateway.tick(0);
    }
}

#[test]
fn k4_a_naive_callout_after_an_answer_without_a_body_crashes_the_worker() {
    let mut host = naive_host(Profile::Kong);
    let token = host.http_call(callout("127.0.0.1:8110")).unwrap();
    assert!(host.take_callout(token, &no_body()));
    host.step = Step::CallResponse;
    assert!(traps(&host.http_call(callout("127.0.0.1:8110"))));
}

#[test]
fn k4_forty_new_keys_at_once_get_their_tokens() {
    let users = (1..=40)
        .map(|number| owner(&format!("user-{number}"), &key(number)))
        .collect();
    let mut gateway = Gateway::new(Profile::Kong, users);
    let asked: Vec<_> = (1..=40)
        .map(|number| gateway.send_key(&key(number)))
        .collect();
    for (request, number) in asked.into_iter().zip(1..) {
        assert_eq!(gateway.finish(request).subject(), format!("user-{number}"));
    }
}

#[test]
fn k5_keys_are_made_listed_rotated_and_ended_by_answers_that_have_a_body() {
    let mut gateway = api::gateway(Profile::Kong, vec![User::new("alice")], &Value::Null);
    let token = gateway.token("alice", RealmKey::Es256);
    for _ in 0..3 {
        let (id, _) = gateway.make("alice");
        gateway.call(&Call::new("GET", "").bearer(&token)).told(200);
        gateway
            .call(&Call::new("DELETE", &format!("/{id}")).bearer(&token))
            .told(204);
    }
}

#[test]
fn k6_a_naive_look_at_a_hundred_and_one_headers_reads_or_writes_past_the_map() {
    let with = |count: usize, length: usize| {
        let mut host = naive_host(Profile::Kong);
        let mut headers = pairs(&[
            (":method", "GET"),
            (":path", "/"),
            (":authority", "a.host.with.a.name.of.some.length"),
            (":scheme", "http"),
        ]);
        // The pseudo-headers are shorter or longer than the headers in their place.
        headers.extend((0..count).map(|n| (format!("x-{n:03}").into_bytes(), vec![b'v'; length])));
        host.contexts.get_mut(&2).unwrap().request_headers = headers;
        host.header_map(REQUEST_HEADERS)
    };
    let whole = with(96, 1).unwrap();
    assert_eq!(abi::deserialize(&whole).map(|pairs| pairs.len()), Some(100));
    assert!(traps(&with(101, 0)), "written past the memory");
    let longer = with(101, 50).unwrap();
    assert!(longer.ends_with(&[0xaa]), "bytes that nobody wrote");
}

#[test]
fn k6_a_request_with_any_number_of_headers_is_exchanged_or_refused_and_traps_nothing() {
    for profile in BOTH {
        let mut gateway = api::gateway(profile, vec![plain_owner("alice", &key(1))], &Value::Null);
        let token = gateway.token("alice", RealmKey::Es256);
        for count in [1, 95, 96, 97, 100, 101, 300, 900] {
            let crowd: Vec<_> = (1..count)
                .map(|n| (format!("x-{n}"), "v".to_owned()))
                .collect();
            let mut sent: Vec<_> = crowd
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            let key = key(1);
            sent.push(("x-api-key", &key));
            let outcome = gateway.ask_with(&sent);
            match count {
                ..=96 => assert_eq!(outcome.subject(), "alice"),
                _ => outcome.expect_refusal(400, "ambiguous_credentials"),
            }
            let call = crowd.iter().fold(
                Call::new("GET", "").bearer(&token),
                |call, (name, value)| call.header(name, value),
            );
            let request = gateway.send_call(0, &call);
            match count {
                ..=96 => drop(gateway.finish(request).told(200)),
                _ => gateway
                    .finish(request)
                    .expect_refusal(400, "invalid_request"),
            }
        }
    }
}

#[test]
fn k7_a_naive_answer_after_a_post_that_the_host_gave_up_has_no_body() {
    let mut host = naive_host(Profile::Kong);
    let mut post = callout("127.0.0.1:8110");
    post.body = b"grant_type=client_credentials".to_vec();
    let token = host.http_call(post).unwrap();
    assert!(host.take_callout(token, &Answer::Failed(TIMED_OUT)));
    let answer = LocalResponse {
        status: 503,
        headers: Vec::new(),
        body: b"{}".to_vec(),
    };
    host.send_local_response(answer).unwrap();
    assert_eq!(host.contexts[&2].local_responses[0].body, b"");
}

#[test]
fn k7_a_keycloak_that_hangs_is_a_503_with_its_body_within_six_seconds() {
    for (hangs, timeout_ms) in [
        (Asked::ServiceToken, 2_000),
        (Asked::Lookup, 2_000),
        (Asked::Grant, 2_000),
        (Asked::Grant, 500),
    ] {
        let changes = json!({ "callout_timeout_ms": timeout_ms });
        let users = vec![plain_owner("alice", &key(1))];
        let mut gateway = Gateway::with(Profile::Kong, users, &changes);
        gateway.fate = Box::new(move |asked, _| match asked == hangs {
            true => Fate::TimesOut,
            false => Fate::Answered,
        });
        let began = gateway.now();
        gateway.ask(&key(1)).expect_unavailable();
        let took_ms = gateway.now().since_ms(began);
        assert!((1_700..6_000).contains(&took_ms), "{hangs:?}: {took_ms} ms");
        // The host's limit is never earlier than the loopback server's.
        let sent = gateway.node.borrow().sent.clone();
        let calls = sent.iter().filter(|sent| sent.upstream == "127.0.0.1:9080");
        assert!(calls.into_iter().all(|sent| sent.timeout_ms == 2_000));
    }
}

#[test]
fn k10_a_trap_in_any_callback_sends_neither_key_nor_token_to_the_service() {
    let cookie = format!("k={}", key(1));
    for profile in BOTH {
        let mut let_go = 0;
        let callbacks = callbacks_of_a_first_use(profile, &cookie, None);
        assert!(callbacks > 8, "{callbacks}");
        for at in 1..=callbacks {
            for instructions in [1, 20_000, 400_000, 2_000_000] {
                let ends_in = Some((at, instructions));
                let_go += callbacks_of_a_first_use(profile, &cookie, ends_in);
            }
        }
        assert!(let_go > 10, "{profile:?}: {let_go} were let go");
    }
}

/// Runs a first use of a key to its end. If the machine is ended on the way, returns 1 if the host
/// let the request go; otherwise returns the number of callbacks since the machine's start.
fn callbacks_of_a_first_use(profile: Profile, cookie: &str, ends_in: Option<(u64, u64)>) -> u64 {
    let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
    gateway.allowed.traps = true;
    let before = gateway.vm(0, 0).callbacks;
    gateway.vm(0, 0).ends_in = ends_in.map(|(at, instructions)| (before + at, instructions));
    let sent = [
        ("authorization", format!("ApiKey {}", key(1))),
        ("cookie", cookie.to_owned()),
    ];
    let sent: Vec<_> = sent
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let outcome = gateway.ask_with(&sent);
    match ends_in {
        None => gateway.vm(0, 0).callbacks - before,
        Some(_) => u64::from(matches!(outcome, Outcome::LetGo(..))),
    }
}

#[test]
fn k10_a_trap_in_any_callback_of_the_management_api_sends_no_credential_to_a_service() {
    for profile in BOTH {
        let mut let_go = 0;
        for at in 1..=16 {
            for instructions in [1, 100_000, 2_000_000] {
                let mut gateway =
                    api::gateway(profile, vec![plain_owner("alice", &key(1))], &Value::Null);
                gateway.allowed.traps = true;
                let token = gateway.token("alice", RealmKey::Es256);
                let call = Call::new("POST", "/validate").bearer(&token);
                let call = call
                    .header("x-api-key", &key(1))
                    .json(&json!({ "api_key": key(1) }));
                let vm = gateway.vm(0, API);
                vm.ends_in = Some((vm.callbacks + at, instructions));
                let outcome = gateway.call(&call);
                let_go += usize::from(matches!(outcome, Outcome::LetGo(..)));
            }
        }
        assert!(let_go > 3, "{profile:?}: {let_go} were let go");
    }
}

#[test]
fn k10_a_key_that_falls_back_gets_its_own_headers_back_after_it_was_held() {
    for profile in BOTH {
        let changes = json!({ "fallback_until": "2099-01-01T00:00:00Z" });
        let mut gateway = Gateway::with(profile, vec![owner("alice", &key(1))], &changes);
        gateway.allowed.keys_upstream = true;
        let unknown = key(2);
        let sent = [("x-api-key", unknown.as_str()), ("x-other", "o")];
        let Outcome::Forwarded(headers) = gateway.ask_with(&sent) else {
            panic!("it is to pass")
        };
        assert!(gateway.flights.total() > 0, "it was held");
        assert_eq!(value_of(&headers, "x-api-key"), Some(unknown.as_bytes()));
        assert_eq!(value_of(&headers, "x-other"), Some(&b"o"[..]));
    }
}

#[test]
fn k11_a_naive_filter_on_an_older_kong_never_hears_that_its_callout_failed() {
    let mut host = naive_host(Profile::Kong);
    host.node.borrow_mut().kong_version = Some("3.8.0");
    assert!(host.node.borrow().goes_on_after_failures());
    assert!(host.http_call(callout("127.0.0.1:8110")).is_ok());
}

#[test]
fn k11_an_older_kong_is_refused_at_each_request_and_the_log_says_why_once() {
    for version in [None, Some("3.4.2"), Some("3.8.0"), Some("nonsense")] {
        let mut gateway = api::gateway(
            Profile::Kong,
            vec![plain_owner("alice", &key(1))],
            &Value::Null,
        );
        gateway.node.borrow_mut().kong_version = version;
        gateway.ask(&key(1)).expect_unavailable();
        gateway.ask_with(&[]).expect_unavailable();
        let token = gateway.token("alice", RealmKey::Es256);
        let listed = gateway.call(&Call::new("GET", "").bearer(&token));
        listed.expect_unavailable();
        gateway.pass_ticking(3_000);
        assert_eq!(gateway.flights.total(), 0, "{version:?}");
        assert_eq!(gateway.node.borrow().metric_calls, 0, "{version:?}");
        assert_eq!(gateway.lines("the filter needs Kong 3.9 or 3.10").len(), 1);
    }
}

#[test]
fn k11_kong_3_9_and_3_10_are_served() {
    for version in ["3.9.0", "3.9.3", "3.10.0.1-enterprise-edition"] {
        let mut gateway = Gateway::new(Profile::Kong, vec![plain_owner("alice", &key(1))]);
        gateway.node.borrow_mut().kong_version = Some(version);
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
    }
}

#[test]
fn k12_a_naive_value_that_grows_in_a_full_zone_is_used_after_it_was_freed() {
    let mut zone = SharedData::new(Kind::Kong {
        zone_bytes: Some(6000),
    });
    zone.set(b"log", Some(&[1; 3000]), 0).unwrap();
    assert!(traps(&zone.set(b"log", Some(&[1; 3001]), 1)));
    // Deleted first, it can grow.
    zone.set(b"log", Some(&[1; 3000]), 0).unwrap();
    zone.set(b"log", None, 1).unwrap();
    zone.set(b"log", Some(&[1; 3001]), 0).unwrap();
}

#[test]
fn k12_a_log_of_revocations_that_grows_in_a_zone_without_room_for_two_is_written() {
    let users = (1..=20).map(|number| plain_owner(&format!("user-{number}"), &key(number)));
    let mut gateway = Gateway::new(Profile::Kong, users.collect());
    gateway.keycloaks.borrow_mut().realms[0]
        .management_roles
        .push("view-events");
    gateway.node.borrow_mut().shared = SharedData::new(Kind::Kong {
        zone_bytes: Some(6 * 1024),
    });
    for number in 1..=20 {
        let user = format!("user-{number}");
        assert_eq!(gateway.ask(&key(number)).subject(), user);
        edit(&gateway, &user, |user| user.enabled = false);
        gateway.pass_ticking(7_000);
        gateway.ask(&key(number)).expect_invalid();
    }
}

#[test]
fn k13_a_naive_second_answer_to_a_request_that_another_filter_answered_traps() {
    let mut host = naive_host(Profile::Kong);
    let first = &host.contexts[&2];
    let second = ContextState {
        root: first.root,
        request_id: first.request_id.clone(),
        ..ContextState::default()
    };
    host.contexts.insert(3, second);
    let answer = LocalResponse {
        status: 401,
        headers: Vec::new(),
        body: b"{}".to_vec(),
    };
    host.send_local_response(answer.clone()).unwrap();
    host.context = 3;
    assert!(traps(&host.send_local_response(answer)));
}

#[test]
fn k13_a_filter_that_stands_in_the_chain_twice_answers_once() {
    let mut gateway = api::gateway(Profile::Kong, vec![owner("alice", &key(1))], &Value::Null);
    gateway.twice = true;
    for number in 2..6 {
        gateway.ask(&key(number)).expect_invalid();
    }
    assert_eq!(gateway.ask(&key(1)).subject(), "alice");
    let token = gateway.token("alice", RealmKey::Es256);
    gateway.call(&Call::new("GET", "").bearer(&token)).told(200);
    gateway.ask(&key(2)).expect_invalid();
}

#[test]
fn an_envoy_whose_root_id_is_that_of_kong_is_served() {
    let mut gateway = Gateway::empty(Profile::Envoy);
    gateway.node.borrow_mut().root_id = "0".to_owned();
    gateway.add_realm("demo", vec![owner("alice", &key(1))]);
    gateway.add_worker();
    gateway.add_route(&configuration(Profile::Envoy, &Value::Null));
    assert_eq!(gateway.ask(&key(1)).subject(), "alice");
    gateway.fate = Box::new(|_, _| Fate::Reset);
    gateway.pass(400_000);
    gateway.ask(&key(1)).expect_unavailable();
}

#[test]
fn kongs_default_level_shows_what_the_filter_writes() {
    let mut gateway = Gateway::new(Profile::Kong, vec![plain_owner("alice", &key(1))]);
    gateway.ask(&key(1)).subject();
    gateway.ask(&key(2)).expect_invalid();
    gateway.pass_ticking(6_000);
    let lines = gateway.lines("");
    assert!(lines.len() > 3);
    // Of proxy-wasm's levels, `warn` is the lowest that nginx shows at `notice`.
    let hidden: Vec<_> = lines
        .iter()
        .filter(|line| !line.starts_with("[3]") && !line.starts_with("[4]"))
        .collect();
    assert_eq!(hidden, Vec::<&String>::new());
}

#[test]
fn the_id_in_an_answer_is_kongs_own() {
    let mut gateway = Gateway::new(Profile::Kong, vec![plain_owner("alice", &key(1))]);
    let request = gateway.send_key(&key(2));
    let id = gateway.requests[request].id.clone();
    assert_eq!(gateway.finish(request).body()["request_id"], id.as_str());
}

#[test]
fn a_naive_question_for_a_request_in_a_root_context_is_an_error_line() {
    let mut host = naive_host(Profile::Kong);
    (host.context, host.step) = (1, Step::Tick);
    for path in [&b"ngx\0request_id"[..], b"kong\0version"] {
        let asked = host.property(path);
        assert_eq!(
            asked,
            Err(Refusal::Status(crate::abi::Status::InternalFailure))
        );
    }
    assert_eq!(host.node.borrow().logs.len(), 2);
    assert!(
        traps(&host.property(b"plugin_name")),
        "and this one crashes the worker"
    );
}
