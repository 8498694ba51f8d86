//! Kong's traps: each leads a naive filter astray in this model, and not ours.
//!
//! A naive filter is a function that calls the host as a first draft would. The traps, by
//! the numbers that the tests' names have:
//!
//! 1. Shared data is found by the CRC-32 of its key alone.
//! 2. A value is copied after the lock is released: a read can be torn.
//! 3. To set without a CAS means "only if absent".
//! 4. `random_get` is no cryptographic source, and may repeat.
//! 5. `set_effective_context` does nothing: no request can resume another.
//! 6. The tick period can be set once; no callout at start, nor two at once of a context.
//! 7. A failed callout is an answer without headers; a pseudo-header says why.
//! 8. One instance serves all routes: worker memory is shared by all configurations.
//! 9. `end_of_stream` is never true in the headers; a local response cancels a pending
//!    callout; to set an immutable variable traps.
//! 10. Metrics work, across the workers of a node; but before 3.9 they end the filter, as
//!     does an increment of a gauge, or a counter that is recorded.
//!
//! These are the host's ways; its faults are in `kong_faults.rs`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use serde_json::json;

use crate::abi::{self, CALL_RESPONSE_HEADERS, REQUEST_STREAM, Refusal, Status, pairs};
use crate::flights::{Asked, Fate};
use crate::gateway::{Gateway, configuration};
use crate::host::{Answer, ContextState, Host, LocalResponse, Step};
use crate::keys::{key, owner, plain_owner};
use crate::node::{Node, Profile, Sent};
use crate::shared_data::{Kind, SharedData, collide};

/// A host without a wasm: context 1 is a root, context 2 a request.
pub fn naive_host(profile: Profile) -> Host {
    let node = Rc::new(RefCell::new(Node::new(profile)));
    let random = node.borrow().random.clone();
    let mut host = Host::new(node, random);
    host.contexts.insert(1, ContextState::default());
    let request = ContextState {
        root: 1,
        request_id: b"1".to_vec(),
        ..ContextState::default()
    };
    host.contexts.insert(2, request);
    (host.context, host.step) = (2, Step::RequestHeaders);
    host
}

pub fn callout(upstream: &str) -> Sent {
    Sent {
        upstream: upstream.to_owned(),
        headers: pairs(&[
            (":method", "GET"),
            (":path", "/"),
            (":authority", "keycloak"),
        ]),
        body: Vec::new(),
        timeout_ms: 1000,
    }
}

pub fn traps<T>(result: &Result<T, Refusal>) -> bool {
    matches!(result, Err(Refusal::Trap(_)))
}

#[test]
fn trap_1_a_key_of_the_same_crc_32_gives_a_naive_cache_another_owners_token() {
    let mut host = naive_host(Profile::Kong);
    let (mine, theirs) = (
        b"token:mine".to_vec(),
        collide(b"other filter:", b"token:mine"),
    );
    assert_ne!(mine, theirs);
    host.set_shared_data(&theirs, Some(b"the token of another"), 0)
        .unwrap();
    // A naive filter takes any value under its key for its own.
    let (token, _) = host.get_shared_data(&mine).unwrap();
    assert_eq!(token, b"the token of another");
}

#[test]
fn trap_1_another_filters_value_in_our_slots_is_a_miss() {
    let users = vec![plain_owner("alice", &key(1)), plain_owner("bob", &key(2))];
    let mut gateway = Gateway::new(Profile::Kong, users);
    gateway.ask(&key(1));
    gateway.ask(&key(2));
    let names = gateway.node.borrow().shared.keys();
    assert!(names.len() >= 4, "tokens and verifications of two keys");
    let tokens = names.iter().filter(|name| name.starts_with(b"ak:"));
    let tokens: Vec<_> = tokens.cloned().collect();
    // Bob's sealed entry, under another filter's key that collides with alice's.
    let node = Rc::clone(&gateway.node);
    let values: Vec<_> = tokens
        .iter()
        .map(|name| node.borrow().shared.value(name).unwrap())
        .collect();
    for (name, value) in tokens.iter().zip(values.iter().rev()) {
        let foreign = collide(b"other-filter/", name);
        node.borrow_mut().shared.plant(&foreign, value);
    }
    gateway.restart(0);
    let asked = gateway.count(Asked::Grant);
    assert_eq!(gateway.ask(&key(1)).subject(), "alice");
    assert_eq!(gateway.ask(&key(2)).subject(), "bob");
    assert_eq!(
        gateway.count(Asked::Grant),
        asked + 2,
        "neither was believed"
    );
}

#[test]
fn trap_2_a_torn_read_gives_a_naive_cache_half_of_each() {
    let mut host = naive_host(Profile::Kong);
    host.set_shared_data(b"k", Some(b"AAAAAAAA"), 0).unwrap();
    let (_, cas) = host.get_shared_data(b"k").unwrap();
    host.set_shared_data(b"k", Some(b"BBBBBBBB"), cas).unwrap();
    host.node.borrow_mut().shared.read_fault = Some(Box::new(torn));
    assert_eq!(host.get_shared_data(b"k").unwrap().0, b"BBBBAAAA");
}

/// Half of the value that is there, half of the one before.
fn torn(_: &[u8], value: &[u8], before: &[u8]) -> Option<Vec<u8>> {
    let half = value.len() / 2;
    let rest = before.get(half..).unwrap_or_default();
    Some([&value[..half], rest].concat())
}

#[test]
fn trap_2_a_torn_entry_is_a_miss() {
    let mut gateway = Gateway::new(Profile::Kong, vec![plain_owner("alice", &key(1))]);
    gateway.ask(&key(1));
    // A refresh overwrites the entry; the next worker's reads are torn.
    gateway.pass(301_000);
    gateway.ask(&key(1));
    gateway.node.borrow_mut().shared.read_fault = Some(Box::new(torn));
    gateway.restart(0);
    let asked = gateway.count(Asked::Grant);
    assert_eq!(gateway.ask(&key(1)).subject(), "alice");
    assert_eq!(gateway.count(Asked::Grant), asked + 1);
}

#[test]
fn trap_3_a_naive_write_without_a_cas_is_lost_where_there_is_an_entry() {
    let mut host = naive_host(Profile::Kong);
    host.set_shared_data(b"k", Some(b"old"), 0).unwrap();
    let again = host.set_shared_data(b"k", Some(b"new"), 0);
    assert_eq!(again, Err(Refusal::Status(Status::CasMismatch)));
    assert_eq!(host.get_shared_data(b"k").unwrap().0, b"old");
    // Setting no value deletes.
    host.set_shared_data(b"k", None, 1).unwrap();
    let gone = host.get_shared_data(b"k");
    assert_eq!(gone, Err(Refusal::Status(Status::NotFound)));
}

#[test]
fn trap_3_a_refreshed_token_replaces_the_older_one() {
    let mut gateway = Gateway::new(Profile::Kong, vec![plain_owner("alice", &key(1))]);
    gateway.ask(&key(1));
    gateway.pass(301_000);
    gateway.ask(&key(1));
    // The next worker finds the newer one.
    gateway.restart(0);
    let asked = gateway.flights.total();
    assert_eq!(gateway.ask(&key(1)).subject(), "alice");
    assert_eq!(gateway.flights.total(), asked, "found in shared data");
}

#[test]
fn trap_4_two_workers_draw_the_same_naive_secret() {
    let draw = || {
        let mut bytes = [0; 32];
        assert!(naive_host(Profile::Kong).random_get(&mut bytes));
        bytes
    };
    assert_eq!(draw(), draw());
}

#[test]
fn trap_5_a_naive_tick_resumes_nobody() {
    let mut host = naive_host(Profile::Kong);
    // A naive filter wakes waiting requests from its root context.
    (host.context, host.step) = (1, Step::Tick);
    host.set_effective_context(2).unwrap();
    host.continue_stream(REQUEST_STREAM).unwrap();
    assert_eq!(host.contexts[&2].resumed, 0);
    // On Envoy it works, so nobody notices before Kong.
    let mut host = naive_host(Profile::Envoy);
    (host.context, host.step) = (1, Step::Tick);
    host.set_effective_context(2).unwrap();
    host.continue_stream(REQUEST_STREAM).unwrap();
    assert_eq!(host.contexts[&2].resumed, 1);
}

#[test]
fn trap_5_requests_that_wait_for_another_come_back_by_themselves() {
    let mut gateway = Gateway::new(Profile::Kong, vec![owner("alice", &key(1))]);
    let requests: Vec<_> = (0..20).map(|_| gateway.send_key(&key(1))).collect();
    gateway.run();
    for request in requests {
        assert_eq!(gateway.finish(request).subject(), "alice");
    }
    assert_eq!(gateway.count(Asked::Grant), 1, "one led, the others waited");
}

#[test]
fn trap_6_a_second_tick_period_traps() {
    let mut host = naive_host(Profile::Kong);
    host.set_tick_period(1000).unwrap();
    assert!(traps(&host.set_tick_period(1000)));
    // Each root context has a period of its own.
    host.context += 1;
    host.set_tick_period(1000).unwrap();
}

#[test]
fn trap_6_a_naive_callout_at_start_traps() {
    for step in [Step::VmStart, Step::Configure, Step::ResponseHeaders] {
        let mut host = naive_host(Profile::Kong);
        (host.context, host.step) = (1, step);
        assert!(
            traps(&host.http_call(callout("127.0.0.1:9080"))),
            "{step:?}"
        );
    }
}

#[test]
fn trap_6_parallel_naive_callouts_trap() {
    let mut host = naive_host(Profile::Kong);
    host.http_call(callout("127.0.0.1:9080")).unwrap();
    assert!(traps(&host.http_call(callout("127.0.0.1:9080"))));
}

#[test]
fn trap_6_nothing_is_called_at_start_and_no_tick_period_is_set_twice() {
    let mut gateway = Gateway::new(Profile::Kong, vec![owner("alice", &key(1))]);
    assert!(gateway.accepts(0));
    assert_eq!(gateway.flights.total(), 0);
    // A second configuration in the same machine.
    let changes = json!({ "cache_ttl_seconds": 60 });
    gateway.add_route(&configuration(Profile::Kong, &changes));
    assert!(gateway.accepts(1));
    gateway.tick(0);
}

#[test]
fn trap_7_a_naive_reader_takes_a_failed_callout_for_an_empty_answer() {
    let mut host = naive_host(Profile::Kong);
    host.answer = Some(Answer::Failed("connection reset"));
    let why = host.header_value(CALL_RESPONSE_HEADERS, b":dispatch_status");
    assert_eq!(why.unwrap(), b"connection reset");
    let status = host.header_value(CALL_RESPONSE_HEADERS, b":status");
    assert_eq!(status, Err(Refusal::Status(Status::NotFound)));
}

#[test]
fn trap_7_a_failed_callout_is_told_by_its_cause() {
    let mut gateway = Gateway::new(Profile::Kong, vec![owner("alice", &key(1))]);
    gateway.fate = Box::new(|_, _| Fate::Reset);
    gateway.ask(&key(1)).expect_unavailable();
    assert!(gateway.logged("connection reset"));
}

#[test]
fn trap_8_a_naive_cache_in_worker_memory_serves_one_realm_the_token_of_another() {
    // A naive filter keeps tokens by their keys, in a static that all root contexts
    // share.
    let mut memory: HashMap<String, &str> = HashMap::new();
    let mut naive = |realm_token: &'static str| *memory.entry(key(1)).or_insert(realm_token);
    assert_eq!(naive("a token of demo"), "a token of demo");
    assert_eq!(naive("a token of other"), "a token of demo");
}

#[test]
fn trap_8_two_realms_in_one_machine_share_nothing() {
    // One key text, with another owner in each realm.
    let mut gateway = Gateway::new(Profile::Kong, vec![owner("alice", &key(1))]);
    gateway.add_realm("other", vec![owner("eve", &key(1))]);
    let changes = json!({ "realm": "other" });
    let other = gateway.add_route(&configuration(Profile::Kong, &changes));
    for _ in 0..2 {
        for (route, owner) in [(0, "alice"), (other, "eve")] {
            let request = gateway.send(0, route, &pairs(&[("x-api-key", &key(1))]));
            assert_eq!(gateway.finish(request).subject(), owner);
        }
    }
    assert_eq!(gateway.vms().count(), 1);
    assert_eq!(
        gateway.count(Asked::Grant),
        2,
        "each once, then from its cache"
    );
}

#[test]
fn trap_9_a_naive_filter_waits_for_an_end_of_stream_that_never_comes() {
    // A naive filter handles a request without a body when its headers end the stream.
    let handled = |profile| naive_host(profile).end_of_stream(false);
    assert!(handled(Profile::Envoy));
    assert!(!handled(Profile::Kong));
}

#[test]
fn trap_9_a_refused_request_leaves_no_callout_behind() {
    let mut gateway = Gateway::new(Profile::Kong, vec![owner("alice", &key(1))]);
    gateway.ask(&key(2)).expect_invalid();
    assert!(gateway.vm(0, 0).host().in_flight.is_empty());
    assert!(gateway.flights.next().is_none());
}

#[test]
fn trap_9_a_local_response_cancels_the_naive_callout_that_was_to_clean_up() {
    let mut host = naive_host(Profile::Kong);
    host.http_call(callout("127.0.0.1:9080")).unwrap();
    let response = LocalResponse {
        status: 401,
        headers: Vec::new(),
        body: Vec::new(),
    };
    host.send_local_response(response.clone()).unwrap();
    assert!(host.in_flight.is_empty());
    assert!(
        traps(&host.send_local_response(response)),
        "and a second one traps"
    );
}

#[test]
fn trap_9_setting_an_immutable_variable_traps_and_ours_sets_none() {
    let mut host = naive_host(Profile::Kong);
    assert!(traps(&host.set_property(b"ngx\0request_id", b"mine")));
    let mut gateway = Gateway::new(Profile::Kong, vec![plain_owner("alice", &key(1))]);
    gateway.ask(&key(1));
    assert!(gateway.node.borrow().properties_set.is_empty());
}

#[test]
fn a_small_zone_gives_up_a_naive_entry_that_was_thought_safe() {
    let mut zone = SharedData::new(Kind::Kong {
        zone_bytes: Some(4096),
    });
    for number in 0..64_u8 {
        zone.set(&[b'k', number], Some(&[number; 100]), 0).unwrap();
    }
    assert!(zone.evictions > 0);
    assert_eq!(zone.get(b"k\0"), Err(Refusal::Status(Status::NotFound)));
    let too_large = zone.set(b"large", Some(&[0; 8192]), 0);
    assert!(traps(&too_large), "and a value that fits nowhere traps");
}

#[test]
fn trap_10_metrics_count_across_the_workers_of_a_node() {
    let mut host = naive_host(Profile::Kong);
    let id = host.define_metric(0, b"requests").unwrap();
    assert_eq!(host.define_metric(0, b"requests").unwrap(), id);
    host.change_metric(id, |value| value + 2).unwrap();
    assert_eq!(host.change_metric(id, |value| value), Ok(2));
    let unknown = host.change_metric(id + 1, |value| value);
    assert_eq!(unknown, Err(Refusal::Status(Status::NotFound)));
}

#[test]
fn trap_10_a_metric_of_another_kind_or_of_an_older_kong_ends_the_filter() {
    let traps = |result: Result<(), Refusal>| matches!(result, Err(Refusal::Trap(_)));
    let mut host = naive_host(Profile::Kong);
    let counter = host.define_metric(abi::COUNTER, b"requests").unwrap();
    let gauge = host.define_metric(abi::GAUGE, b"entries").unwrap();
    host.increment_metric(counter, 1).unwrap();
    host.record_metric(gauge, 1).unwrap();
    assert!(traps(host.increment_metric(gauge, 1)));
    assert!(traps(host.record_metric(counter, 1)));
    for version in [None, Some("3.8.0")] {
        host.node.borrow_mut().kong_version = version;
        assert!(traps(host.define_metric(abi::COUNTER, b"more").map(|_| ())));
    }
}
