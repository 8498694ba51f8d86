//! Shared data that lies: for any value in it, a request gets its owner's token or none.

use std::rc::Rc;

use serde_json::json;

use crate::flights::Asked;
use crate::gateway::Gateway;
use crate::keys::{key, owner, plain_owner};
use crate::node::{BOTH, Profile};
use crate::shared_data::{Kind, SharedData, WriteFate, collide};

/// Two workers, and the entries of alice and bob in shared data.
fn with_entries(profile: Profile) -> Gateway {
    let users = vec![plain_owner("alice", &key(1)), plain_owner("bob", &key(2))];
    let mut gateway = Gateway::new(profile, users);
    gateway.add_worker();
    gateway.ask(&key(1));
    gateway.ask(&key(2));
    gateway.ask(&key(3)).expect_invalid();
    gateway
}

#[test]
fn every_value_in_every_slot_is_the_owners_or_a_miss() {
    for profile in BOTH {
        let mut gateway = with_entries(profile);
        let names = gateway.node.borrow().shared.keys();
        let node = Rc::clone(&gateway.node);
        let original: Vec<_> = names
            .iter()
            .map(|name| node.borrow().shared.value(name).unwrap())
            .collect();
        for shift in 1..names.len() {
            for (at, name) in names.iter().enumerate() {
                let value = &original[(at + shift) % names.len()];
                node.borrow_mut().shared.plant(name, value);
            }
            gateway.restart(1);
            assert_eq!(gateway.ask_worker(1, &key(1)).subject(), "alice");
            assert_eq!(gateway.ask_worker(1, &key(2)).subject(), "bob");
            gateway.ask_worker(1, &key(3)).expect_invalid();
        }
    }
}

#[test]
fn garbage_in_every_slot_is_a_miss() {
    for profile in BOTH {
        let mut gateway = with_entries(profile);
        let names = gateway.node.borrow().shared.keys();
        let node = Rc::clone(&gateway.node);
        let original: Vec<_> = names
            .iter()
            .map(|name| node.borrow().shared.value(name).unwrap())
            .collect();
        type Spoil = fn(&[u8]) -> Vec<u8>;
        let spoiled: [Spoil; 7] = [
            |_| Vec::new(),
            |_| vec![0],
            |_| vec![0xff; 100_000],
            |value| value[..value.len() - 1].to_vec(),
            |value| value[1..].to_vec(),
            |value| [value, &[0]].concat(),
            |value| {
                let mut value = value.to_vec();
                let middle = value.len() / 2;
                value[middle] ^= 1;
                value
            },
        ];
        for spoil in spoiled {
            node.borrow_mut().shared.clear();
            for (name, value) in names.iter().zip(&original) {
                node.borrow_mut().shared.plant(name, &spoil(value));
            }
            gateway.restart(1);
            let asked = gateway.count(Asked::Grant);
            assert_eq!(gateway.ask_worker(1, &key(1)).subject(), "alice");
            assert_eq!(gateway.count(Asked::Grant), asked + 1, "it was a miss");
        }
    }
}

#[test]
fn a_stale_entry_that_comes_back_is_a_miss() {
    for profile in BOTH {
        let mut gateway = with_entries(profile);
        let names = gateway.node.borrow().shared.keys();
        let node = Rc::clone(&gateway.node);
        let old: Vec<_> = names
            .iter()
            .map(|name| node.borrow().shared.value(name).unwrap())
            .collect();
        gateway.pass(300_000);
        for (name, value) in names.iter().zip(&old) {
            node.borrow_mut().shared.plant(name, value);
        }
        gateway.restart(1);
        let asked = gateway.count(Asked::Grant);
        assert_eq!(gateway.ask_worker(1, &key(1)).subject(), "alice");
        assert_eq!(gateway.count(Asked::Grant), asked + 1);
    }
}

#[test]
fn another_filter_with_names_of_the_same_crc_32_takes_room_and_nothing_else() {
    let mut gateway = with_entries(Profile::Kong);
    let names = gateway.node.borrow().shared.keys();
    for name in &names {
        let foreign = collide(b"another filter's counter ", name);
        gateway.node.borrow_mut().shared.plant(&foreign, b"4711");
    }
    gateway.restart(1);
    assert_eq!(gateway.ask_worker(1, &key(1)).subject(), "alice");
    assert_eq!(gateway.ask_worker(1, &key(2)).subject(), "bob");
    gateway.restart(0);
    let asked = gateway.flights.total();
    assert_eq!(gateway.ask(&key(1)).subject(), "alice");
    assert_eq!(
        gateway.flights.total(),
        asked,
        "written over and found again"
    );
}

#[test]
fn a_tiny_zone_that_evicts_all_the_time_costs_look_ups_alone() {
    let users: Vec<_> = (0..40)
        .map(|n| plain_owner(&format!("owner-{n}"), &key(n)))
        .collect();
    let mut gateway = Gateway::new(Profile::Kong, users);
    let zone_bytes = Some(6 * 1024);
    gateway.node.borrow_mut().shared = SharedData::new(Kind::Kong { zone_bytes });
    gateway.add_worker();
    for worker in [0, 1] {
        for n in 0..40 {
            let outcome = gateway.ask_worker(worker, &key(n));
            assert_eq!(outcome.subject(), format!("owner-{n}"));
        }
    }
    assert!(gateway.node.borrow().shared.evictions > 20);
}

#[test]
fn a_zone_too_small_for_any_value_traps_and_lets_nothing_through() {
    let mut gateway = Gateway::new(Profile::Kong, vec![plain_owner("alice", &key(1))]);
    gateway.allowed.traps = true;
    gateway.node.borrow_mut().shared.write_fault = Some(Box::new(|_| Some(WriteFate::NoMemory)));
    assert!(gateway.ask(&key(1)).is_crash());
    // The host starts the machine anew, and a request that needs no write is served.
    gateway.node.borrow_mut().shared.write_fault = None;
    assert_eq!(gateway.ask(&key(1)).subject(), "alice");
}

#[test]
fn writes_that_are_lost_are_misses_later() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.add_worker();
        gateway.node.borrow_mut().shared.write_fault =
            Some(Box::new(|_| Some(WriteFate::CasMismatch)));
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        assert_eq!(gateway.ask_worker(1, &key(1)).subject(), "alice");
        assert_eq!(gateway.count(Asked::Grant), 2);
    }
}

#[test]
fn reads_that_find_nothing_are_misses() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.add_worker();
        gateway.node.borrow_mut().shared.read_fault = Some(Box::new(|_, _, _| None));
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        assert_eq!(gateway.ask_worker(1, &key(1)).subject(), "alice");
        assert_eq!(gateway.count(Asked::Grant), 2);
    }
}

#[test]
fn reads_that_are_torn_at_any_byte_are_the_owners_or_misses() {
    let mut gateway = with_entries(Profile::Kong);
    gateway.pass(301_000);
    gateway.ask(&key(1));
    for cut in (0..400).step_by(13) {
        gateway.node.borrow_mut().shared.read_fault = Some(Box::new(move |_, value, before| {
            let cut = cut.min(value.len());
            let rest = before.get(cut..).unwrap_or_default();
            Some([&value[..cut], rest].concat())
        }));
        gateway.restart(1);
        assert_eq!(gateway.ask_worker(1, &key(1)).subject(), "alice");
        assert_eq!(gateway.ask_worker(1, &key(2)).subject(), "bob");
    }
}

#[test]
fn the_names_in_shared_data_are_no_more_than_the_slots() {
    let users: Vec<_> = (0..60)
        .map(|n| plain_owner(&format!("owner-{n}"), &key(n)))
        .collect();
    for profile in BOTH {
        let mut gateway = Gateway::with(profile, users.clone(), &json!({ "l2_slots": 8 }));
        for n in 0..120 {
            gateway.ask(&key(n));
        }
        let names = gateway.node.borrow().shared.keys();
        assert!(names.len() <= 4 * 8 + 2, "{} names", names.len());
    }
}
