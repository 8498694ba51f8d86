//! A signing key is rotated: for a while two are in use on one node, in front of the same
//! shared data.

use std::sync::Arc;

use apikeys_core::background::{Background, Watch};
use apikeys_core::exchange::{Source, Worker};
use apikeys_core::rejection::Rejection;
use apikeys_core::signing_key::SigningKey;
use serde_json::json;

use super::client::plain_owner;
use super::keycloak::{EventFate, User};
use super::world::{World, id_of, key};

// Made for tests, used nowhere else.
const NEXT_SIGNING_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgWU0g4/ubk4bOwOrf\
    mIvxaJ8m14dlAobObMbav8A49dmhRANCAAQQKmXTCD16jrhT2xV0jlU5vyEv8uIw\
    /7gMgF2a3Qoz9Ljo8Z/arqCWWKyHDS72KsBHtYQm5wYi9/D8/WrB5FIH";

/// A worker that signs with the next key, of the same configuration and node.
fn next_worker(world: &World) -> (Worker, Watch) {
    let signing_key = Arc::new(SigningKey::parse(NEXT_SIGNING_KEY).unwrap());
    let worker = Worker::new(Arc::clone(&world.config), signing_key, b"worker 2");
    let watch = Watch::new(&worker);
    (worker, watch)
}

#[test]
fn what_one_signing_key_cached_is_a_miss_for_the_other_and_stays_good_for_its_own() {
    let mut world = World::new(vec![plain_owner("alice", 1)]);
    world.expect_source(&key(1), Source::FirstUse, "alice");
    world.key_request(&key(2)).rejected();
    let lookups = world.keycloak.calls.lookup;

    let mut other = next_worker(&world);
    world.take_the_other(&mut other);
    world.expect_source(&key(1), Source::FirstUse, "alice");
    let (rejection, _) = world.key_request(&key(2)).rejected();
    assert_eq!(rejection, Rejection::InvalidApiKey);
    assert_eq!(
        world.keycloak.calls.lookup,
        lookups + 2,
        "a refusal is asked for again too"
    );
    world.expect_source(&key(1), Source::L1, "alice");

    // Another worker with either key finds the entries that its own key sealed.
    let mut second = next_worker(&world);
    world.take_the_other(&mut second);
    world.expect_source(&key(1), Source::L2, "alice");
    world.next_worker();
    world.expect_source(&key(1), Source::L2, "alice");
    assert_eq!(world.keycloak.calls.lookup, lookups + 2);
}

#[test]
fn a_revocation_reaches_the_workers_of_each_signing_key_by_their_own_polls() {
    let polling = json!({ "revocation_poll_seconds": 5 });
    let mut world = World::with(vec![plain_owner("alice", 1)], &polling);
    world.keycloak.management_roles.push("view-events");
    let mut other = next_worker(&world);
    let mut backgrounds = [Background::default(), Background::default()];
    // The first poll of each revokes everything from before it.
    for _ in 0..8 {
        for background in &mut backgrounds {
            world.now = world.now.plus_ms(500);
            world.tick(background);
            world.take_the_other(&mut other);
        }
    }
    for _ in 0..2 {
        world.expect_source(&key(1), Source::FirstUse, "alice");
        world.expect_source(&key(1), Source::L1, "alice");
        world.take_the_other(&mut other);
    }
    let now = world.now;
    let revoke = |user: &mut User| user.remove_key(id_of(&key(1)));
    assert!(world.keycloak.edit("alice", now, EventFate::Shown, revoke));
    let bound = now.plus_ms(6000);
    while world.now < bound {
        for background in &mut backgrounds {
            world.now = world.now.plus_ms(100);
            world.tick(background);
            world.take_the_other(&mut other);
        }
    }
    for _ in 0..2 {
        let (rejection, _) = world.key_request(&key(1)).rejected();
        assert_eq!(rejection, Rejection::InvalidApiKey);
        world.take_the_other(&mut other);
    }
}
