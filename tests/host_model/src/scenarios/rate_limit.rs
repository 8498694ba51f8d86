//! Rate limits above a host that loses and mixes up buckets: a key keeps its own, and a lost one lets
//! through.

use apikeys_core::api_key::record::Field;

use crate::abi::value_of;
use crate::gateway::{Gateway, Outcome};
use crate::keycloak_adapter::User;
use crate::keys::{id_of, key, plain_owner};
use crate::node::{BOTH, Profile};
use crate::shared_data::{WriteFate, collide};

use super::metrics::value;

const LIMIT: usize = 4;

pub fn limited(name: &str, key: &str, limit: &str) -> User {
    plain_owner(name, key).with_field(Field::RateLimit, id_of(key), limit)
}

/// Two workers, and two keys with a limit of 4 an hour.
fn two_workers(profile: Profile) -> Gateway {
    let limit = format!("{LIMIT}/3600");
    let of = |name, number| limited(name, &key(number), &limit);
    let mut gateway = Gateway::new(profile, vec![of("alice", 1), of("bob", 2)]);
    gateway.add_worker();
    gateway
}

/// How many of ten requests go on; the others are told of the limit.
fn served(gateway: &mut Gateway, worker: usize, number: u64) -> usize {
    let key = key(number);
    let served = (0..10).filter(|_| match gateway.ask_worker(worker, &key) {
        Outcome::Forwarded(_) => true,
        other => {
            other.expect_refusal(429, "rate_limited");
            false
        }
    });
    served.count()
}

/// The buckets that are counted as lost, after a tick.
fn lost(gateway: &mut Gateway) -> i64 {
    gateway.pass_ticking(1_000);
    value(gateway, "apikey_rate_limit_buckets_lost_total")
}

/// The names of the buckets, and their values.
fn buckets(gateway: &Gateway) -> Vec<(Vec<u8>, Vec<u8>)> {
    let shared = &gateway.node.borrow().shared;
    let names = shared.keys().into_iter();
    let names = names.filter(|name| name.starts_with(b"ab:"));
    names
        .map(|name| (name.clone(), shared.value(&name).unwrap()))
        .collect()
}

#[test]
fn workers_share_a_limit_and_its_refusal_has_the_headers_of_the_draft() {
    for profile in BOTH {
        let mut gateway = two_workers(profile);
        assert_eq!(served(&mut gateway, 0, 1), LIMIT);
        assert_eq!(served(&mut gateway, 1, 1), 0);
        assert_eq!(served(&mut gateway, 1, 2), LIMIT);
        let Outcome::Answered(answer) = gateway.ask(&key(1)) else {
            panic!("{profile:?}: not refused")
        };
        assert_eq!(answer.status, 429);
        for (name, told) in [
            ("retry-after", "900"),
            ("ratelimit", "\"key\";r=0;t=900"),
            ("ratelimit-policy", "\"key\";q=4;w=3600"),
        ] {
            let given = value_of(&answer.headers, name);
            assert_eq!(given, Some(told.as_bytes()), "{profile:?} {name}");
        }
        assert_eq!(lost(&mut gateway), 0, "{profile:?}");
    }
}

#[test]
fn a_bucket_that_is_lost_lets_through_no_more_than_a_worker_had_not_seen_and_is_counted() {
    type Lose = fn(&mut Gateway);
    let ways: [Lose; 3] = [
        // Evicted, or the zone is new.
        |gateway| gateway.node.borrow_mut().shared.clear(),
        // Cut off, as by a write that another worker does not finish.
        |gateway| {
            for (name, value) in buckets(gateway) {
                let mut node = gateway.node.borrow_mut();
                node.shared.plant(&name, &value[..value.len() - 1]);
            }
        },
        // Another filter's, under a name that Kong takes for ours.
        |gateway| {
            for (name, _) in buckets(gateway) {
                let foreign = match gateway.profile() {
                    Profile::Kong => collide(b"another filter's counter ", &name),
                    Profile::Envoy => name,
                };
                gateway.node.borrow_mut().shared.plant(&foreign, b"4711");
            }
        },
    ];
    for profile in BOTH {
        for lose in ways {
            let mut gateway = two_workers(profile);
            assert_eq!(served(&mut gateway, 0, 1), LIMIT);
            lose(&mut gateway);
            assert_eq!(served(&mut gateway, 0, 1), 0, "{profile:?}");
            // Worker 1 had seen nothing.
            assert_eq!(served(&mut gateway, 1, 1), LIMIT, "{profile:?}");
            assert_eq!(served(&mut gateway, 0, 1), 0, "{profile:?}");
            assert!(lost(&mut gateway) > 0, "{profile:?}");
        }
    }
}

#[test]
fn a_bucket_that_is_torn_at_any_byte_is_the_keys_own_or_none() {
    for cut in 0..40 {
        let mut gateway = two_workers(Profile::Kong);
        let before = served(&mut gateway, 0, 1);
        gateway.node.borrow_mut().shared.read_fault = Some(Box::new(move |_, value, before| {
            let cut = cut.min(value.len());
            let rest = before.get(cut..).unwrap_or_default();
            Some([&value[..cut], rest].concat())
        }));
        assert_eq!((before, served(&mut gateway, 0, 1)), (LIMIT, 0));
        // The other key had spent nothing.
        assert_eq!(served(&mut gateway, 0, 2), LIMIT, "cut at {cut}");
    }
}

#[test]
fn no_key_spends_from_the_bucket_of_another() {
    for profile in BOTH {
        let mut gateway = two_workers(profile);
        assert_eq!(served(&mut gateway, 0, 1), LIMIT);
        gateway.ask(&key(2)).subject();
        let all = buckets(&gateway);
        assert_eq!(all.len(), 2);
        // Each value in the other's place: for alice's key none is left, and bob's is not hers.
        for (at, (name, _)) in all.iter().enumerate() {
            let (_, other) = &all[1 - at];
            gateway.node.borrow_mut().shared.plant(name, other);
        }
        gateway.restart(1);
        assert_eq!(served(&mut gateway, 0, 2), LIMIT - 1, "{profile:?}");
        assert_eq!(served(&mut gateway, 0, 1), 0, "{profile:?}");
        let others = served(&mut gateway, 1, 2);
        assert!(others <= LIMIT, "{profile:?}: {others}");
    }
}

#[test]
fn where_the_host_takes_no_write_each_worker_counts_for_itself() {
    for profile in BOTH {
        let mut gateway = two_workers(profile);
        gateway.node.borrow_mut().shared.write_fault = Some(Box::new(|name| {
            name.starts_with(b"ab:").then_some(WriteFate::CasMismatch)
        }));
        for worker in [0, 1] {
            assert_eq!(served(&mut gateway, worker, 1), LIMIT, "{profile:?}");
        }
        let requests = i64::try_from(2 * LIMIT).unwrap();
        assert!(lost(&mut gateway) >= requests, "{profile:?}");
    }
}
