//! The filter's metrics at the host, and the times at which it writes them.

use apikeys_core::metrics::{self, gauges};
use serde_json::json;

use crate::gateway::Gateway;
use crate::keys::{key, owner, plain_owner};
use crate::node::BOTH;
use crate::scenarios::revocation::{edit, polling};

/// The host's value of a metric.
pub fn value(gateway: &Gateway, name: &str) -> i64 {
    let node = gateway.node.borrow();
    let found = node.metrics.iter().find(|metric| metric.name == name);
    found.unwrap_or_else(|| panic!("no metric {name}")).value
}

#[test]
fn metrics_are_told_on_ticks_and_not_on_the_way_of_a_request() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let calls = |gateway: &Gateway| gateway.node.borrow().metric_calls;
        gateway.ask(&key(1)).subject();
        assert_eq!(calls(&gateway), 0);
        gateway.pass_ticking(1_000);
        let source = |name: &str| format!("apikey_exchanges_total__source_{name}");
        assert_eq!(value(&gateway, &source("first_use")), 1);
        assert_eq!(value(&gateway, &source("l1")), 0);
        let told = calls(&gateway);
        for _ in 0..40 {
            gateway.ask(&key(1)).subject();
        }
        assert_eq!(calls(&gateway), told);
        gateway.pass_ticking(1_000);
        assert_eq!(value(&gateway, &source("l1")), 40);
        // Most warm requests are not timed.
        let timed = value(&gateway, "apikey_exchange_duration_seconds_count__way_warm");
        assert!((1..=4).contains(&timed), "{timed}");
    }
}

#[test]
fn all_metrics_are_known_to_the_host_from_the_first_tick_on() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        gateway.ask(&key(1)).subject();
        gateway.pass_ticking(400);
        let node = gateway.node.borrow();
        let told: Vec<_> = node
            .metrics
            .iter()
            .map(|metric| metric.name.clone())
            .collect();
        assert_eq!(told, [metrics::names(), gauges::names()].concat());
    }
}

#[test]
fn what_keycloak_was_asked_and_how_it_ended_is_counted() {
    for profile in BOTH {
        let mut gateway = Gateway::with(
            profile,
            vec![owner("alice", &key(1))],
            &json!({ "revocation_poll_seconds": 0 }),
        );
        gateway.ask(&key(1)).subject();
        gateway.ask(&key(2)).expect_refusal(401, "invalid_api_key");
        gateway.pass_ticking(400);
        let called = |endpoint: &str| {
            value(
                &gateway,
                &format!("apikey_callouts_total__endpoint_{endpoint}__result_ok"),
            )
        };
        assert_eq!(called("grant"), 1);
        assert_eq!(called("lookup"), 2);
        let code = "apikey_refusals_total__code_invalid_api_key";
        assert_eq!(value(&gateway, code), 1);
        let answers = "apikey_callout_duration_seconds_count__endpoint_lookup";
        assert_eq!(value(&gateway, answers), 2);
        let slices = value(&gateway, "apikey_bcrypt_slice_duration_seconds_count");
        assert!(slices >= 2, "{slices}");
        let first = "apikey_exchange_duration_seconds_count__way_first_use";
        assert_eq!(value(&gateway, first), 1);
    }
}

#[test]
fn gauges_are_of_all_workers_of_the_node() {
    for profile in BOTH {
        let users = vec![plain_owner("alice", &key(1)), plain_owner("bob", &key(2))];
        let mut gateway = Gateway::new(profile, users);
        let second = gateway.add_worker();
        gateway.ask_worker(0, &key(1)).subject();
        gateway.ask_worker(second, &key(1)).subject();
        gateway.ask_worker(second, &key(2)).subject();
        gateway.pass_ticking(2_400);
        let tokens = "apikey_cache_entries__cache_tokens";
        assert_eq!(value(&gateway, tokens), 3);
        let check = "apikey_self_check_state__check_service_token";
        assert_eq!(value(&gateway, check), 1);
        // A worker that is gone counts no more.
        gateway.restart(second);
        gateway.ask_worker(second, &key(2)).subject();
        gateway.pass_ticking(7_000);
        assert_eq!(value(&gateway, tokens), 2);
        let names = gateway.node.borrow().shared.keys();
        let places = names.iter().filter(|name| name.starts_with(b"am:"));
        assert!(places.count() <= 3);
    }
}

#[test]
fn without_shared_data_a_worker_tells_its_own() {
    for profile in BOTH {
        let users = vec![plain_owner("alice", &key(1))];
        let mut gateway = Gateway::with(profile, users, &json!({ "l2_slots": 0 }));
        gateway.ask(&key(1)).subject();
        gateway.pass_ticking(1_400);
        assert_eq!(value(&gateway, "apikey_cache_entries__cache_tokens"), 1);
        let names = gateway.node.borrow().shared.keys();
        assert!(!names.iter().any(|name| name.starts_with(b"am:")));
    }
}

#[test]
fn a_revocation_is_counted_once_for_the_node_and_a_good_poll_has_its_time() {
    for profile in BOTH {
        let mut gateway = polling(profile);
        gateway.pass_ticking(1_000);
        let owners = "apikey_revocations_total__of_owner";
        assert_eq!(value(&gateway, owners), 0);
        edit(&gateway, "alice", |alice| alice.enabled = false);
        gateway.pass_ticking(8_000);
        assert_eq!(value(&gateway, owners), 1);
        let poll = value(&gateway, "apikey_last_good_poll_timestamp_seconds");
        let now = i64::try_from(gateway.now().as_seconds()).unwrap();
        assert!((now - 7..=now).contains(&poll), "{poll} at {now}");
    }
}
