//! Requests that are counted by key and outcome.

use apikeys_core::background::Background;
use apikeys_core::usage::Used;
use serde_json::json;

use super::client::{Client, owner, plain_owner};
use super::world::{World, id_of, key, other_secret};

const MINUTE_MS: u64 = 60_000;

fn world() -> World {
    let users = vec![owner("alice", 1), plain_owner("bob", 2)];
    World::with(
        users,
        &json!({ "usage": true, "throttle_failures_per_minute": 4 }),
    )
}

/// A key, and its outcomes with their numbers.
type Told = (Option<String>, Vec<(&'static str, u32)>);

/// The lines of the last minute.
fn told(world: &mut World) -> Vec<Told> {
    world.now = world.now.plus_ms(MINUTE_MS);
    let used = world.worker.take_usage(world.now, &mut world.shared);
    let counts = |used: Used| {
        let counts = used.counts.iter().filter(|(_, count)| *count > 0).collect();
        (used.key_id, counts)
    };
    used.into_iter().map(counts).collect()
}

#[test]
fn a_key_of_an_owner_is_counted_by_its_id_and_all_others_together() {
    let mut world = world();
    for _ in 0..3 {
        world.key_request(&key(1)).forwarded();
    }
    // The right id with a wrong secret: its owner is known, also when the refusal is remembered.
    let wrong = other_secret(&key(2), 7);
    world.key_request(&wrong).rejected();
    world.key_request(&wrong).rejected();
    world.key_request(&key(9)).rejected();
    world.key_request("no key").rejected();
    world.request(&[]).rejected();
    let alice = vec![("hit", 2), ("first_use", 1)];
    let bob = vec![("invalid_api_key", 2)];
    let others = vec![("missing_credentials", 1), ("invalid_api_key", 2)];
    let mut expected = vec![
        (Some(id_of(&key(1)).to_owned()), alice),
        (Some(id_of(&key(2)).to_owned()), bob),
    ];
    expected.sort();
    expected.push((None, others));
    assert_eq!(told(&mut world), expected);
    assert_eq!(told(&mut world), []);
}

#[test]
fn a_throttled_address_makes_no_entries() {
    let mut world = world();
    world.address = Some("192.0.2.7".into());
    for number in 10..30 {
        world.key_request(&key(number)).rejected();
    }
    let lines = told(&mut world);
    assert_eq!(lines.len(), 1);
    let (key_id, counts) = &lines[0];
    assert_eq!((key_id, counts.len()), (&None, 2));
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u32>(), 20);
}

#[test]
fn a_renewal_is_nobodys_request() {
    let (mut world, mut background) = (world(), Background::default());
    world.keycloak.token_life_seconds = 300;
    world.key_request(&key(1)).forwarded();
    told(&mut world);
    while background.renewed().done == 0 {
        world.now = world.now.plus_ms(1000);
        world.key_request(&key(1)).forwarded();
        world.tick(&mut background);
    }
    let lines = told(&mut world);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].1.len(), 1, "hits alone: {lines:?}");
}

#[test]
fn a_request_that_goes_away_has_no_outcome() {
    let mut world = world();
    let mut client = Client::send(&mut world, 1);
    world.abort(&mut client.exchange);
    assert_eq!(told(&mut world), []);
}
