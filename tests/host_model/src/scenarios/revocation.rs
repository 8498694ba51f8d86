//! Revocations in the wasm: one worker of a node learns of them, and all of them act on them.

use std::rc::Rc;

use apikeys_core::clock::UnixMillis;
use apikeys_core::revocation::Revocations;
use apikeys_core::signing_key::SigningKey;
use apikeys_core::store::slots::SharedStore;
use serde_json::json;

use crate::flights::{Asked, Fate};
use crate::gateway::{Gateway, configuration};
use crate::keycloak_adapter::{EventFate, ISSUER, User};
use crate::keys::{SIGNING_KEY, key, plain_owner};
use crate::node::{BOTH, Profile, SharedNode};
use crate::shared_data::collide;

/// The node's shared data, for a writer beside the filter.
struct Beside(SharedNode);

impl SharedStore for Beside {
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
        let found = self.0.borrow_mut().shared.get(name.as_bytes()).ok();
        found.map(|(value, cas)| (value, Some(cas)))
    }

    fn set(&mut self, name: &str, value: &[u8], version: Option<u32>) -> bool {
        let mut node = self.0.borrow_mut();
        let shared = &mut node.shared;
        let version = version.unwrap_or(0);
        shared.set(name.as_bytes(), Some(value), version).is_ok()
    }
}

/// A worker of the node that runs no wasm.
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

/// Polling that is off: all revocations come from the test.
fn no_polls(profile: Profile, users: Vec<User>) -> Gateway {
    Gateway::with(profile, users, &json!({ "revocation_poll_seconds": 0 }))
}

/// Two workers that have both forwarded a token of alice and one of bob from memory.
fn warm(profile: Profile) -> Gateway {
    let users = vec![plain_owner("alice", &key(1)), plain_owner("bob", &key(2))];
    let mut gateway = no_polls(profile, users);
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
        // A new worker does not believe the entries in shared data.
        let third = gateway.add_worker();
        gateway.ask_worker(third, &key(1)).expect_invalid();
        assert_eq!(gateway.ask_worker(third, &key(2)).subject(), "bob");
        assert_eq!(gateway.count(Asked::Grant), 2);
        // Without a tick, a worker does not believe them for longer than a second either.
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
            let changes = json!({
                "realm": realm, "cache_ttl_seconds": ttl, "revocation_poll_seconds": 0,
            });
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
        // The two routes of one realm share the entries in shared data.
        assert_eq!(ask(&mut gateway), 2);
        gateway.pass(300);
        Teller::new(&gateway).revokes("alice", gateway.now());
        gateway.pass(300);
        gateway.tick(0);
        assert_eq!(ask(&mut gateway), 3, "one more, for one realm");
    }
}

/// Two workers that poll every five seconds, have polled, and know alice and bob.
pub fn polling(profile: Profile) -> Gateway {
    let users = vec![plain_owner("alice", &key(1)), plain_owner("bob", &key(2))];
    let mut gateway = Gateway::new(profile, users);
    gateway.keycloaks.borrow_mut().realms[0]
        .management_roles
        .push("view-events");
    gateway.add_worker();
    for worker in [0, 1] {
        gateway.ask_worker(worker, &key(1));
    }
    gateway.pass_ticking(1000);
    for worker in [0, 1, 0, 1] {
        gateway.ask_worker(worker, &key(1));
        gateway.ask_worker(worker, &key(2));
    }
    gateway
}

pub fn edit(gateway: &Gateway, user: &str, edit: impl FnOnce(&mut User)) {
    let now = gateway.now();
    let mut keycloaks = gateway.keycloaks.borrow_mut();
    let realm = &mut keycloaks.realms[0];
    assert!(realm.edit(user, now, EventFate::Shown, edit));
}

fn polls(gateway: &Gateway) -> u32 {
    gateway.keycloaks.borrow().realms[0].polls
}

#[test]
fn what_is_changed_in_keycloak_is_in_force_in_every_worker_after_a_poll_and_a_second() {
    for profile in BOTH {
        let mut gateway = polling(profile);
        edit(&gateway, "alice", |alice| alice.enabled = false);
        let asked = gateway.count(Asked::Grant);
        gateway.pass_ticking(6_000);
        for worker in [0, 1] {
            gateway.ask_worker(worker, &key(1)).expect_invalid();
            assert_eq!(gateway.ask_worker(worker, &key(2)).subject(), "bob");
        }
        assert_eq!(gateway.count(Asked::Grant), asked, "bob stays cached");
        assert!(gateway.logged("admin events are polled"));
    }
}

#[test]
fn an_answer_that_takes_longer_than_some_ticks_is_taken() {
    for profile in BOTH {
        let mut gateway = polling(profile);
        gateway.fate = Box::new(|asked, _| match asked {
            Asked::Events => Fate::Late(450),
            _ => Fate::Answered,
        });
        edit(&gateway, "alice", |alice| alice.enabled = false);
        gateway.pass_ticking(30_000);
        gateway.ask_worker(1, &key(1)).expect_invalid();
        assert!(!gateway.logged("admin events cannot be polled"));
    }
}

#[test]
fn one_worker_of_a_node_polls_and_another_when_it_is_gone() {
    for profile in BOTH {
        let mut gateway = polling(profile);
        let before = polls(&gateway);
        gateway.pass_ticking(20_000);
        assert_eq!(polls(&gateway), before + 4);
        for worker in [0, 1] {
            edit(&gateway, "alice", |alice| alice.enabled = worker == 1);
            // Its machine is gone, and the new one has no request yet.
            gateway.restart(worker);
            gateway.pass_ticking(6_000);
            let other = gateway.ask_worker(1 - worker, &key(1));
            if worker == 0 {
                other.expect_invalid();
                gateway.ask_worker(0, &key(2));
                gateway.pass_ticking(31_000);
            } else {
                assert_eq!(other.subject(), "alice");
            }
        }
    }
}

#[test]
fn routes_of_one_realm_share_one_poller_and_each_realm_has_its_own() {
    for profile in BOTH {
        let mut gateway = Gateway::empty(profile);
        for realm in ["demo", "other"] {
            gateway.add_realm(realm, vec![plain_owner("alice", &key(1))]);
        }
        for realm in &mut gateway.keycloaks.borrow_mut().realms {
            realm.management_roles.push("view-events");
        }
        gateway.add_worker();
        for (realm, ttl) in [("demo", 300), ("demo", 200), ("other", 300)] {
            let changes = json!({ "realm": realm, "cache_ttl_seconds": ttl });
            gateway.add_route(&configuration(profile, &changes));
        }
        for route in 0..3 {
            let header = (b"x-api-key".to_vec(), key(1).into_bytes());
            let request = gateway.send(0, route, &vec![header]);
            gateway.finish(request);
        }
        gateway.pass_ticking(30_000);
        for realm in &gateway.keycloaks.borrow().realms {
            // Twice at the start, then every five seconds. On Kong the first poll ends at a
            // tick. At that tick the realm's other route has not seen the end yet, and begins
            // a poll too.
            let twice = profile == Profile::Kong && realm.realm == "demo";
            let polls = if twice { 9 } else { 7 };
            assert_eq!(realm.polls, polls, "{}", realm.realm);
        }
    }
}

#[test]
fn polls_that_fail_leave_warm_keys_alone_for_five_minutes_and_then_young_ones() {
    for profile in BOTH {
        let users = vec![plain_owner("alice", &key(1))];
        let changes = json!({ "cache_ttl_seconds": 3600 });
        let mut gateway = Gateway::with(profile, users, &changes);
        let give = |gateway: &Gateway, role, life| {
            let realm = &mut gateway.keycloaks.borrow_mut().realms[0];
            realm.management_roles.push(role);
            realm.token_life_seconds = life;
        };
        give(&gateway, "view-events", 3600);
        gateway.ask(&key(1));
        gateway.pass_ticking(1_000);
        gateway.ask(&key(1));
        gateway.fate = Box::new(|asked, _| match asked {
            Asked::Events => Fate::Reset,
            _ => Fate::Answered,
        });
        let asked = gateway.count(Asked::Grant);
        gateway.pass_ticking(297_000);
        gateway.ask(&key(1));
        assert_eq!(gateway.count(Asked::Grant), asked);
        assert!(gateway.logged("admin events cannot be polled"));
        gateway.pass_ticking(5_000);
        gateway.ask(&key(1));
        assert_eq!(gateway.count(Asked::Grant), asked + 1);
        gateway.pass_ticking(58_000);
        gateway.ask(&key(1));
        assert_eq!(
            gateway.count(Asked::Grant),
            asked + 1,
            "younger than a minute"
        );
        gateway.pass_ticking(3_000);
        edit(&gateway, "alice", |alice| alice.enabled = false);
        gateway.ask(&key(1)).expect_invalid();
    }
}

#[test]
fn a_node_that_was_paused_serves_no_old_token_before_it_has_polled() {
    for profile in BOTH {
        let mut gateway = polling(profile);
        let asked = gateway.count(Asked::Grant);
        edit(&gateway, "alice", |alice| alice.enabled = false);
        // No tick, no answer, and then a request before either.
        gateway.pass(20_000);
        let request = gateway.send_key(&key(1));
        gateway.finish(request).expect_invalid();
        // Bob's token is fetched anew as well, and the next poll keeps it.
        assert_eq!(gateway.ask_worker(1, &key(2)).subject(), "bob");
        gateway.pass_ticking(1_000);
        assert_eq!(gateway.ask(&key(2)).subject(), "bob");
        assert_eq!(gateway.count(Asked::Grant), asked + 1);
    }
}

#[test]
fn a_realm_that_keeps_no_events_is_told_of_and_keys_live_for_the_ttl() {
    for profile in BOTH {
        let mut gateway = polling(profile);
        gateway.keycloaks.borrow_mut().realms[0].events_off = true;
        gateway.pass_ticking(6_000);
        assert!(gateway.logged("the realm keeps no admin events"));
        gateway.ask(&key(1));
        let asked = gateway.count(Asked::Grant);
        gateway.pass_ticking(200_000);
        gateway.ask(&key(1));
        assert_eq!(gateway.count(Asked::Grant), asked);
    }
}
