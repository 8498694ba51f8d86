//! The self-check in the wasm: mismatches are told without a request.

use serde_json::json;

use crate::flights::{Asked, Fate};
use crate::gateway::Gateway;
use crate::keycloak_adapter::FakeKeycloak;
use crate::keys::{key, plain_owner};
use crate::node::{BOTH, Profile};

/// Spoils a realm.
type Spoil = fn(&mut FakeKeycloak);

/// A spoiled realm, and a worker before its first tick. On Kong the first request
/// creates the worker; that request is refused before it calls Keycloak.
fn gateway(profile: Profile, spoil: impl FnOnce(&mut FakeKeycloak)) -> Gateway {
    let users = vec![plain_owner("alice", &key(1))];
    let mut gateway = Gateway::with(profile, users, &json!({ "revocation_poll_seconds": 2 }));
    gateway.keycloaks.borrow_mut().realms[0].management_roles = vec!["view-users", "view-events"];
    spoil(&mut gateway.keycloaks.borrow_mut().realms[0]);
    if profile == Profile::Kong {
        gateway.ask("sk_live_nonsense").expect_invalid();
    }
    gateway
}

#[test]
fn each_fault_of_a_realm_is_told_within_seconds_and_again_when_it_is_mended() {
    let faults: [(Spoil, &str); 7] = [
        (
            |realm| realm.management_roles = vec![],
            "roles: no key can be exchanged",
        ),
        (
            |realm| realm.management_roles = vec!["view-users"],
            "roles: revocations take",
        ),
        (
            |realm| realm.lightweight = true,
            "roles: no key can be exchanged: client api-key-gateway gives lightweight",
        ),
        (
            |realm| realm.names_issuer = Some("http://kc/realms/demo"),
            "issuer: the realm names",
        ),
        (
            |realm| realm.events_off = true,
            "events: the realm keeps no",
        ),
        (
            |realm| realm.attribute_policy = Some("ENABLED"),
            "user_profile: ANY USER CAN",
        ),
        (
            |realm| realm.attribute_policy = None,
            "user_profile: keys cannot be written",
        ),
    ];
    for profile in BOTH {
        for (spoil, said) in &faults {
            let mut gateway = gateway(profile, spoil);
            gateway.pass_ticking(4_000);
            assert!(
                gateway.logged(&format!("realm demo: self-check: {said}")),
                "{said}"
            );
            {
                let mut keycloaks = gateway.keycloaks.borrow_mut();
                let realm = &mut keycloaks.realms[0];
                realm.management_roles = vec!["view-users", "view-events"];
                (realm.names_issuer, realm.events_off) = (None, false);
                realm.lightweight = false;
                realm.attribute_policy = Some("ADMIN_EDIT");
            }
            gateway.pass_ticking(25_000);
            assert!(!gateway.logged("all is well"));
            gateway.pass_ticking(10_000);
            assert!(gateway.logged("self-check: all is well: service_token, roles, issuer"));
        }
    }
}

#[test]
fn a_token_endpoint_that_refuses_the_gateway_is_told_without_a_request() {
    let refusal = br#"{"error":"invalid_client","error_description":"Invalid client"}"#;
    for profile in BOTH {
        for fate in [
            Fate::Status(401, refusal.to_vec()),
            Fate::Reset,
            Fate::TimesOut,
        ] {
            let mut gateway = gateway(profile, |_| {});
            gateway.fate = Box::new(move |asked, _| match asked {
                Asked::ServiceToken => fate.clone(),
                _ => Fate::Answered,
            });
            gateway.pass_ticking(20_000);
            assert!(gateway.logged("self-check: service_token: no key can be exchanged"));
            assert_eq!(
                gateway.count(Asked::Realm) % 2,
                1,
                "the issuer alone is asked for"
            );
        }
    }
}

#[test]
fn polls_go_on_while_a_check_waits_for_answers() {
    for profile in BOTH {
        let mut gateway = gateway(profile, |_| {});
        gateway.fate = Box::new(|asked, _| match asked {
            Asked::Realm => Fate::TimesOut,
            _ => Fate::Answered,
        });
        gateway.pass_ticking(20_000);
        assert!(gateway.logged("self-check: issuer: cannot be checked"));
        assert!(gateway.logged("self-check: user_profile: cannot be checked"));
        let polls = gateway.keycloaks.borrow().realms[0].polls;
        assert!((7..=12).contains(&polls), "{polls}");
    }
}

#[test]
fn one_worker_of_a_node_checks_for_all() {
    for profile in BOTH {
        let mut gateway = gateway(profile, |_| {});
        gateway.add_worker();
        gateway.ask_worker(0, &key(1));
        gateway.ask_worker(1, &key(1));
        gateway.pass_ticking(290_000);
        assert_eq!(gateway.count(Asked::Realm), 2);
        gateway.pass_ticking(20_000);
        assert_eq!(gateway.count(Asked::Realm), 4);
    }
}
