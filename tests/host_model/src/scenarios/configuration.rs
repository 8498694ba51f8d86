//! Configurations that are refused, and hosts without a part that the filter needs.

use serde_json::{Value, json};

use crate::flights::Asked;
use crate::gateway::{Gateway, pem};
use crate::keys::{SIGNING_KEY, key, owner};
use crate::node::{BOTH, Profile};

#[test]
fn a_filter_tells_at_its_start_which_build_it_is() {
    for profile in BOTH {
        let gateway = Gateway::with(profile, vec![], &json!({}));
        assert!(gateway.accepts(0));
        let build = format!("apikey-jwt-exchange {} (commit ", env!("CARGO_PKG_VERSION"));
        assert!(gateway.logged(&build));
        assert!(gateway.logged(") for realm "));
    }
}

#[test]
fn a_disabled_filter_says_so_at_its_start() {
    for profile in BOTH {
        let gateway = Gateway::with(profile, vec![], &json!({ "enabled": false }));
        assert!(gateway.logged("enabled is false"));
    }
}

/// Envoy takes no configuration that the filter refuses. Kong would let all requests go on
/// without the filter, so there each is refused.
#[track_caller]
fn refuses(gateway: &mut Gateway, profile: Profile) {
    gateway.allowed.traps = profile == Profile::Envoy;
    assert_eq!(gateway.accepts(0), profile == Profile::Kong);
    let outcome = gateway.ask(&key(1));
    match profile {
        Profile::Envoy => assert!(outcome.is_crash()),
        Profile::Kong => outcome.expect_unavailable(),
    }
}

#[test]
fn a_refused_configuration_is_logged_by_field_and_lets_nothing_through() {
    for profile in BOTH {
        let wrong = [
            ("key_prefix", json!("no spaces")),
            ("keycloak_url", json!("login.example.com")),
            ("l2_slots", json!(3)),
            ("unknown_field", json!(1)),
            (
                "index_key",
                json!("aW5kZXgga2V5IG9mIHRoZSBob3N0IG1vZGVsLA=="),
            ),
        ];
        for (field, value) in wrong {
            let changes = json!({ field: value });
            let mut gateway = Gateway::with(profile, vec![owner("alice", &key(1))], &changes);
            refuses(&mut gateway, profile);
            assert!(gateway.logged("configuration refused"), "{field}");
            assert!(gateway.logged(field), "{field}");
        }
    }
}

#[test]
fn a_signing_key_that_cannot_be_read_is_refused_without_a_word_of_it() {
    let cut = &SIGNING_KEY[..SIGNING_KEY.len() - 12];
    for profile in BOTH {
        let changes = json!({ "signing_key": cut });
        let mut gateway = Gateway::with(profile, vec![owner("alice", &key(1))], &changes);
        refuses(&mut gateway, profile);
        assert!(gateway.logged("signing_key"));
    }
}

#[test]
fn the_signing_key_may_be_written_into_the_configuration() {
    for profile in BOTH {
        let changes = json!({ "signing_key": pem() });
        let mut gateway = Gateway::with(profile, vec![owner("alice", &key(1))], &changes);
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
    }
}

#[test]
fn a_missing_variable_is_told_at_start_on_envoy_and_by_each_request_on_kong() {
    for profile in BOTH {
        let mut gateway = Gateway::empty(profile);
        gateway.add_realm("demo", vec![owner("alice", &key(1))]);
        gateway.node.borrow_mut().variables.clear();
        gateway.add_worker();
        gateway.add_route(&crate::gateway::configuration(profile, &Value::Null));
        let outcome = gateway.ask(&key(1));
        match profile {
            Profile::Envoy => {
                gateway.allowed.traps = true;
                assert!(outcome.is_crash());
            }
            Profile::Kong => outcome.expect_unavailable(),
        }
        assert!(gateway.logged("apikey_signing_key") || gateway.logged("APIKEY_SIGNING_KEY"));
    }
}

#[test]
fn kong_without_a_zone_refuses_each_request_and_serves_without_l2() {
    use crate::shared_data::{Kind, SharedData};
    let zoneless = |changes: &Value| {
        let gateway = Gateway::with(Profile::Kong, vec![owner("alice", &key(1))], changes);
        gateway.node.borrow_mut().shared = SharedData::new(Kind::Kong { zone_bytes: None });
        gateway
    };
    let mut gateway = zoneless(&Value::Null);
    gateway.allowed.traps = true;
    assert!(gateway.ask(&key(1)).is_crash());
    assert_eq!(gateway.count(Asked::Grant), 0);
    let mut gateway = zoneless(&json!({ "l2_slots": 0 }));
    assert_eq!(gateway.ask(&key(1)).subject(), "alice");
}

#[test]
fn routes_that_are_configured_alike_share_their_caches_on_kong() {
    let mut gateway = Gateway::new(Profile::Kong, vec![owner("alice", &key(1))]);
    let second = gateway.add_route(&crate::gateway::configuration(Profile::Kong, &Value::Null));
    gateway.ask(&key(1));
    let asked = gateway.flights.total();
    let request = gateway.send(0, second, &crate::abi::pairs(&[("x-api-key", &key(1))]));
    assert_eq!(gateway.finish(request).subject(), "alice");
    assert_eq!(gateway.flights.total(), asked);
}
