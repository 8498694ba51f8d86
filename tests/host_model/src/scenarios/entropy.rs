//! Random sources that are weak, constant, or fail: no secret is drawn from one, and ids
//! stay unique without one.

use std::collections::HashSet;
use std::rc::Rc;

use crate::gateway::{Gateway, configuration};
use crate::keys::{key, plain_owner};
use crate::node::{BOTH, Profile, Random};
use serde_json::Value;

const KEYS: u64 = 12;

fn gateway(profile: Profile, random: Random) -> Gateway {
    let users = (0..KEYS).map(|n| plain_owner(&format!("owner-{n}"), &key(n)));
    let mut gateway = Gateway::empty(profile);
    gateway.node.borrow_mut().random = random;
    gateway.add_realm("demo", users.collect());
    gateway.add_worker();
    gateway.add_worker();
    gateway.add_route(&configuration(profile, &Value::Null));
    gateway
}

#[test]
fn assertion_ids_are_unique_over_workers_and_nodes_with_a_constant_random_source() {
    // Kong gives each request an id, and these ids differ between its workers and nodes.
    let first = gateway(Profile::Kong, Random::Constant(0));
    let mut second = gateway(Profile::Kong, Random::Constant(0));
    second.keycloaks = Rc::clone(&first.keycloaks);
    for _ in 0..1000 {
        second.node.borrow_mut().next_id();
    }
    let mut nodes = [first, second];
    for n in 0..KEYS {
        for node in &mut nodes {
            node.node.borrow_mut().shared.clear();
            for worker in [0, 1] {
                node.ask_worker(worker, &key(n)).subject();
                node.node.borrow_mut().shared.clear();
            }
        }
    }
    let keycloaks = nodes[0].keycloaks.borrow();
    let unique: HashSet<_> = keycloaks.traffic.jtis.iter().collect();
    assert_eq!(unique.len(), keycloaks.traffic.jtis.len());
    assert!(unique.len() as u64 > 8 * KEYS);
    assert_eq!(keycloaks.realms[0].reuses, 0);
}

#[test]
fn assertion_ids_are_unique_over_the_machines_of_envoy() {
    let mut gateway = gateway(Profile::Envoy, Random::Seeded(7));
    for n in 0..KEYS {
        for worker in [0, 1] {
            gateway.ask_worker(worker, &key(n)).subject();
            gateway.node.borrow_mut().shared.clear();
        }
    }
    let keycloaks = gateway.keycloaks.borrow();
    let unique: HashSet<_> = keycloaks.traffic.jtis.iter().collect();
    assert_eq!(unique.len(), keycloaks.traffic.jtis.len());
}

#[test]
fn no_name_no_digest_and_no_seal_depends_on_the_random_source() {
    for profile in BOTH {
        let stored = |random: Random| {
            let mut gateway = gateway(profile, random);
            for n in 0..KEYS {
                gateway.ask(&key(n)).subject();
            }
            let node = gateway.node.borrow();
            (node.shared.names.clone(), node.shared.values.clone())
        };
        let one = stored(Random::Seeded(1));
        assert!(one.1.len() as u64 >= 2 * KEYS);
        assert!(one == stored(Random::Seeded(99)), "other random bytes");
        assert!(one == stored(Random::Constant(0)), "no random bytes");
    }
}

#[test]
fn an_entry_is_opened_by_a_worker_with_other_random_bytes() {
    for profile in BOTH {
        let mut gateway = gateway(profile, Random::Seeded(1));
        gateway.ask(&key(1));
        gateway.node.borrow_mut().random = Random::Seeded(2);
        gateway.restart(0);
        let asked = gateway.flights.total();
        assert_eq!(gateway.ask(&key(1)).subject(), "owner-1");
        assert_eq!(gateway.flights.total(), asked);
    }
}

#[test]
fn a_random_source_that_fails_lets_nothing_through_that_it_should_not() {
    for profile in BOTH {
        let mut gateway = gateway(profile, Random::Fails);
        // The standard library's maps take their seed from this source, or trap.
        gateway.allowed.traps = true;
        let outcome = gateway.ask(&key(1));
        assert!(outcome.is_crash() || outcome.subject() == "owner-1");
    }
}
