//! A key's own terms: its rate limit, and the networks that it may come from.
//!
//! Its switch is in [`super::revocation`], beside the other changes that a poll brings into force.

use std::net::Ipv4Addr;

use crate::client::Target;
use crate::gateway::Spec;
use crate::owner::{Key, Record};
use crate::world::{Case, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "terms::a_key_with_a_limit_is_served_so_often_and_then_told_to_wait",
            limited,
        ),
        Case::new("terms::two_workers_share_a_keys_limit", shared).needs(Need::OwnGateway),
        Case::new("terms::a_limit_that_cannot_be_read_refuses_the_key", unread),
        Case::new("terms::an_address_outside_is_refused", outside).needs(Need::Addresses),
    ]
}

/// A key's requests until the first refusal, which is of its limit.
#[track_caller]
fn served(target: &Target, key: &Key) -> usize {
    for served in 0..200 {
        let answer = target.orders(&key.text);
        if answer.status != 200 {
            answer.problem(429, "rate_limited");
            return served;
        }
    }
    panic!("never limited");
}

/// The bucket earns a request each 20 minutes, so none within a trial.
fn limited(world: &World) {
    let key = Key::random();
    let _owner = world.owner_of(&[Record::sha256(&key).with("rateLimit", "3/3600")]);
    for _ in 0..3 {
        world.gateway.orders(&key.text).orders();
    }
    let answer = world.gateway.orders(&key.text);
    let request_id = answer.problem(429, "rate_limited");
    let wait: u32 = answer
        .header("retry-after")
        .expect("a time")
        .parse()
        .expect("seconds");
    assert!((1100..=1200).contains(&wait), "{wait}");
    let told = format!("\"key\";r=0;t={wait}");
    assert_eq!(answer.header("ratelimit"), Some(told.as_str()));
    let policy = "\"key\";q=3;w=3600";
    assert_eq!(answer.header("ratelimit-policy"), Some(policy));
    world.expect_logged(&request_id, "rate_limited");
    // Another key has a bucket of its own.
    let (_other, free) = world.owner();
    world.gateway.orders(&free.text).orders();
}

fn shared(world: &World) {
    let gateway = world.start_gateway(&Spec::default().audited().workers(2));
    let key = Key::random();
    let _owner = world.owner_of(&[Record::sha256(&key).with("rateLimit", "30/86400")]);
    assert_eq!(served(&gateway.target, &key), 30);
    let by_worker = gateway.uses_by_worker(&[&key.id]);
    assert_eq!(by_worker.len(), gateway.workers, "{by_worker:?}");
    // A second gateway knows nothing of the first.
    let second = world.start_gateway(&Spec::default());
    assert_eq!(served(&second.target, &key), 30);
}

fn unread(world: &World) {
    let key = Key::random();
    let _owner = world.owner_of(&[Record::sha256(&key).with("rateLimit", "3 per hour")]);
    let request_id = world.gateway.orders(&key.text).invalid_api_key();
    world.expect_logged(&request_id, "rateLimit");
}

fn outside(world: &World) {
    let key = Key::random();
    let networks = "127.1.2.0/30 192.0.2.7";
    let _owner = world.owner_of(&[Record::sha256(&key).with("allowedAddresses", networks)]);
    let from = |last| world.gateway.from(Ipv4Addr::new(127, 1, 2, last));
    // Cold and from a cache.
    for _ in 0..2 {
        from(3).orders(&key.text).orders();
        from(4)
            .orders(&key.text)
            .problem(403, "address_not_allowed");
    }
    // A wrong secret learns nothing of the networks.
    from(4).orders(&key.mistyped()).invalid_api_key();
}
