//! The cost of a stranger's requests, in the wasm: the hosts tell an address, each in its
//! own form.

use crate::gateway::Gateway;
use crate::keys::{key, plain_owner};
use crate::node::{BOTH, Profile};

const SOURCE: &[u8] = b"source\0address";

/// Two workers, and a key in the cache of both.
fn gateway(profile: Profile) -> Gateway {
    let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
    gateway.add_worker();
    for worker in [0, 1] {
        assert_eq!(gateway.ask_worker(worker, &key(1)).subject(), "alice");
    }
    gateway
}

/// Sends keys without an owner, to both workers in turn, until the filter answers 429.
fn until_throttled(gateway: &mut Gateway) -> u64 {
    for number in 0..100 {
        let outcome = gateway.ask_worker(number as usize % 2, &key(1000 + number));
        if outcome.refusal() == (429, "throttled".to_owned()) {
            return number;
        }
        outcome.expect_invalid();
    }
    panic!("never told to wait");
}

#[test]
fn an_address_that_failed_too_often_is_told_to_wait_by_both_workers_and_another_is_not() {
    for profile in BOTH {
        for (address, next) in [
            ("192.0.2.7", "192.0.2.8"),
            ("2001:db8:0:1::7", "2001:db8:0:2::7"),
        ] {
            let mut gateway = gateway(profile);
            gateway.node.borrow_mut().address = Some(address.to_owned());
            let failures = until_throttled(&mut gateway);
            assert!((20..=22).contains(&failures), "{profile:?}: {failures}");
            let calls = gateway.node.borrow().sent.len();
            for worker in [0, 1] {
                let outcome = gateway.ask_worker(worker, &key(5000));
                outcome.expect_refusal(429, "throttled");
                assert_eq!(gateway.ask_worker(worker, &key(1)).subject(), "alice");
            }
            assert_eq!(gateway.node.borrow().sent.len(), calls);
            gateway.node.borrow_mut().address = Some(next.to_owned());
            gateway.ask(&key(5000)).expect_invalid();
        }
    }
}

#[test]
fn a_warm_request_asks_the_host_for_no_address() {
    for profile in BOTH {
        let mut gateway = gateway(profile);
        gateway.node.borrow_mut().properties_asked.clear();
        for worker in [0, 1] {
            assert_eq!(gateway.ask_worker(worker, &key(1)).subject(), "alice");
        }
        let asked = gateway.node.borrow().properties_asked.clone();
        assert!(!asked.iter().any(|path| path == SOURCE), "{profile:?}");
        gateway.ask(&key(5000)).expect_invalid();
        let asked = gateway.node.borrow().properties_asked.clone();
        // Once for the throttle, once for the audit log.
        assert_eq!(asked.iter().filter(|path| *path == SOURCE).count(), 2);
    }
}
