//! Revocations in the wasm: what one worker of a node learns, all of them act on.

use std::rc::Rc;

use apikey_jwt_exchange::cache::slots::SharedStore;
use apikey_jwt_exchange::clock::UnixMillis;
use apikey_jwt_exchange::revocation::Revocations;
use apikey_jwt_exchange::signing_key::SigningKey;
use serde_json::json;

use crate::flights::Asked;
use crate::gateway::{Gateway, configuration};
use crate::keycloak_adapter::ISSUER;
use crate::keys::{SIGNING_KEY, key, plain_owner};
use crate::node::{BOTH, Profile, SharedNode};
use crate::shared_data::collide;

/// The node's shared data, for who writes beside the filter.
struct Beside(SharedNode);

impl SharedStore for Beside {
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
        let found = self.0.borrow_mut().shared.get(name.as_bytes()).ok();
        found.map(|(value, cas)| (value, Some(cas)))
    }

    fn set(&mut self, name: &str, value: &[u8], version: Option<u32>) {
        let mut node = self.0.borrow_mut();
        let shared = &mut node.shared;
        let _ = shared.set(name.as_bytes(), Some(value), version.unwrap_or(0));
    }
}

/// A worker of the node that is no wasm.
struct Teller {
    known: Revocations,
    store: Beside,
}

impl Teller {
    fn new(gateway: &Gateway) -> Self {
        let signing_key = SigningKey::parse(SIGNING_KEY).unwrap();
        let mut teller = Self {
            known: Revocations::new(ISSUER, &signing_key, true),
            store: Beside(Rc::clone(&gateway.node)),
        };
        teller.known.look(gateway.now(), &mut teller.store);
        teller
    }

    fn revokes(&mut self, owner: &str, now: UnixMillis) {
        let told = self.known.revoke_owner(owner, now, &mut self.store);
        told.unwrap();
    }
}

/// Two workers that have both forwarded a token of alice and one of bob from memory.
fn warm(profile: Profile) -> Gateway {
    let users = vec![plain_owner("alice", &key(1)), plain_owner("bob", &key(2))];
    let mut gateway = Gateway::new(profile, users);
    gateway.add_worker();
    for worker in [0, 1, 0, 1] {
        gateway.ask_worker(worker, &key(1));
        gateway.ask_worker(worker, &key(2));
    }
    assert_eq!(gateway.count(Asked::Grant), 2);
    gateway
}

fn names_of_the_log(gateway: &Gateway) -> Vec<Vec<u8>> {
    let mut names = gateway.node.borrow().shared.keys();
    names.retain(|name| name.starts_with(b"ar:") || name.starts_with(b"as:"));
    names
}

#[test]
fn a_revoked_owner_is_asked_for_again_by_every_worker_after_its_tick() {
    for profile in BOTH {
        let mut gateway = warm(profile);
        let mut teller = Teller::new(&gateway);
        gateway.keycloaks.borrow_mut().realms[0].users[0].enabled = false;
        gateway.pass(300);
        teller.revokes("alice", gateway.now());
        gateway.pass(200);
        gateway.tick(0);
        let asked = gateway.count(Asked::Lookup);
        gateway.ask_worker(0, &key(1)).expect_invalid();
        assert_eq!(gateway.count(Asked::Lookup), asked + 1);
        assert_eq!(gateway.ask_worker(0, &key(2)).subject(), "bob");
        // A worker that is new does not believe what lies in shared data.
        let third = gateway.add_worker();
        gateway.ask_worker(third, &key(1)).expect_invalid();
        assert_eq!(gateway.ask_worker(third, &key(2)).subject(), "bob");
        assert_eq!(gateway.count(Asked::Grant), 2);
        // Nor, without a tick, does one for longer than a second.
        gateway.pass(1000);
        gateway.ask_worker(1, &key(1)).expect_invalid();
        gateway.tick(1);
        gateway.ask_worker(1, &key(1)).expect_invalid();
    }
}

#[test]
fn a_warm_request_makes_no_call_to_shared_data() {
    for profile in BOTH {
        let mut gateway = warm(profile);
        Teller::new(&gateway).revokes("carol", gateway.now());
        gateway.tick(0);
        gateway.node.borrow_mut().shared.read_fault =
            Some(Box::new(|_, _, _| panic!("a read on the warm path")));
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        gateway.node.borrow_mut().shared.read_fault = None;
    }
}

#[test]
fn a_log_that_is_evicted_is_everything_revoked_and_is_written_anew() {
    for profile in BOTH {
        let mut gateway = warm(profile);
        gateway.node.borrow_mut().shared.clear();
        for _ in 0..3 {
            gateway.pass(200);
            gateway.tick(0);
        }
        assert!(gateway.logged("log of revocations is gone"));
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        assert_eq!(gateway.count(Asked::Grant), 3);
        assert_eq!(names_of_the_log(&gateway).len(), 2);
        gateway.pass(200);
        gateway.tick(1);
        assert_eq!(gateway.ask_worker(1, &key(2)).subject(), "bob");
        assert_eq!(gateway.count(Asked::Grant), 4);
    }
}

#[test]
fn another_filter_with_the_name_of_a_copy_hides_no_revocation() {
    for at in 0..2 {
        let mut gateway = warm(Profile::Kong);
        let mut teller = Teller::new(&gateway);
        gateway.pass(300);
        teller.revokes("alice", gateway.now());
        let name = names_of_the_log(&gateway)[at].clone();
        let foreign = collide(b"another filter's counter ", &name);
        gateway.node.borrow_mut().shared.plant(&foreign, b"4711");
        gateway.pass(200);
        gateway.tick(0);
        let asked = gateway.count(Asked::Grant);
        gateway.ask(&key(1));
        gateway.ask(&key(2));
        assert_eq!(gateway.count(Asked::Grant), asked + 1, "alice's alone");
    }
}

#[test]
fn a_log_that_is_torn_at_any_byte_is_read_at_the_next_tick() {
    for cut in (0..90).step_by(7) {
        let mut gateway = warm(Profile::Kong);
        let mut teller = Teller::new(&gateway);
        gateway.pass(300);
        teller.revokes("alice", gateway.now());
        gateway.pass(200);
        gateway.node.borrow_mut().shared.read_fault = Some(Box::new(move |_, value, before| {
            let cut = cut.min(value.len());
            Some([&value[..cut], before.get(cut..).unwrap_or_default()].concat())
        }));
        gateway.tick(0);
        gateway.node.borrow_mut().shared.read_fault = None;
        gateway.pass(200);
        gateway.tick(0);
        let asked = gateway.count(Asked::Grant);
        gateway.ask(&key(1));
        gateway.ask(&key(2));
        assert_eq!(gateway.count(Asked::Grant), asked + 1, "alice's alone");
    }
}

#[test]
fn routes_of_one_realm_are_told_together_and_other_realms_are_not() {
    for profile in BOTH {
        let mut gateway = Gateway::empty(profile);
        for realm in ["demo", "other"] {
            gateway.add_realm(realm, vec![plain_owner("alice", &key(1))]);
        }
        gateway.add_worker();
        for (realm, ttl) in [("demo", 300), ("demo", 200), ("other", 300)] {
            let changes = json!({ "realm": realm, "cache_ttl_seconds": ttl });
            gateway.add_route(&configuration(profile, &changes));
        }
        let ask = |gateway: &mut Gateway| {
            for route in 0..3 {
                let header = (b"x-api-key".to_vec(), key(1).into_bytes());
                let request = gateway.send(0, route, &vec![header]);
                assert_eq!(gateway.finish(request).subject(), "alice");
            }
            gateway.count(Asked::Grant)
        };
        // The two routes of one realm share what is in shared data.
        assert_eq!(ask(&mut gateway), 2);
        gateway.pass(300);
        Teller::new(&gateway).revokes("alice", gateway.now());
        gateway.pass(300);
        gateway.tick(0);
        assert_eq!(ask(&mut gateway), 3, "one more, for one realm");
    }
}
