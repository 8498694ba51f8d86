//! The terms of a key: its rate limit, its networks, its switch. They hold for every request that
//! goes on with a token, whatever gave it.

use apikeys_core::api_key::record::Field;
use apikeys_core::background::Background;
use apikeys_core::exchange::{Output, Source};
use apikeys_core::rejection::{Reason, Rejection};
use serde_json::{Value, json};

use super::client::{Client, owner, plain_owner, plain_owner_with, set_fact};
use super::keycloak::User;
use super::keys::new_worker;
use super::world::{Ended, World, key, other_secret};

const INSIDE: &str = "10.1.2.3:4567";
const OUTSIDE: &str = "192.0.2.7:4567";

fn limited(limit: &str) -> User {
    plain_owner_with("alice", 1, Field::RateLimit, limit)
}

/// A world in which alice's key comes from 10.0.0.0/8 alone.
fn bound(changes: &Value) -> World {
    let alice = plain_owner_with("alice", 1, Field::AllowedAddresses, "10.0.0.0/8 ::1/128");
    World::with(vec![alice], changes)
}

fn from(world: &mut World, address: Option<&str>) -> Ended {
    world.address = address.map(str::to_owned);
    world.key_request(&key(1))
}

#[track_caller]
fn expect_not_allowed(ended: Ended) {
    let told = (Rejection::AddressNotAllowed, Reason::AddressNotAllowed);
    assert_eq!(ended.rejected(), told);
}

/// The wait that a spent limit tells, in milliseconds.
#[track_caller]
fn wait_ms(ended: Ended) -> u64 {
    match ended.rejected() {
        (Rejection::RateLimited(spent), Reason::RateLimited(same)) if spent == same => {
            spent.wait_ms
        }
        other => panic!("not limited: {other:?}"),
    }
}

#[test]
fn workers_of_a_node_let_no_more_through_than_a_limit_allows() {
    let mut world = World::new(vec![limited("4/60"), plain_owner("bob", 2)]);
    for _ in 0..2 {
        world.key_request(&key(1)).forwarded();
        world.key_request(&key(1)).forwarded();
        world.next_worker();
    }
    assert!((14_000..=15_000).contains(&wait_ms(world.key_request(&key(1)))));
    assert_eq!(world.worker.take_lost_buckets(), 0);
    // Nobody else is held up.
    world.expect_source(&key(2), Source::FirstUse, "bob");
    world.now = world.now.plus_ms(15_000);
    world.expect_source(&key(1), Source::L1, "alice");
    assert!(wait_ms(world.key_request(&key(1))) > 14_000);
}

#[test]
fn routes_with_other_settings_count_together() {
    let mut world = World::new(vec![limited("2/60")]);
    world.key_request(&key(1)).forwarded();
    world.reconfigure(&json!({ "scope": "profile" }));
    world.key_request(&key(1)).forwarded();
    wait_ms(world.key_request(&key(1)));
}

#[test]
fn each_of_a_crowd_that_waits_for_one_exchange_spends_a_token_of_its_own() {
    let mut world = World::new(vec![limited("2/60")]);
    let mut clients: Vec<Client> = (0..4).map(|_| Client::send(&mut world, 1)).collect();
    for client in &mut clients {
        client.answer_until(&mut world, Client::is_over);
    }
    let forwarded = |client: &&Client| matches!(client.output, Output::Forward(_));
    assert_eq!(clients.iter().filter(forwarded).count(), 2);
    for client in clients.iter().filter(|client| !forwarded(client)) {
        assert!(matches!(client.rejected().0, Rejection::RateLimited(_)));
    }
}

#[test]
fn a_stale_token_spends_one_as_well() {
    let mut world = World::with(
        vec![limited("2/86400")],
        &json!({ "stale_if_error_seconds": 3600 }),
    );
    world.keycloak.token_life_seconds = 7200;
    world.key_request(&key(1)).forwarded();
    world.now = world.now.plus_ms(301_000);
    let mut down = || {
        let request = [("x-api-key", &*key(1))];
        world.request_with(&request, |_, _| Err("refused"))
    };
    assert_eq!(down().forwarded().source, Source::Stale);
    wait_ms(down());
}

#[test]
fn a_renewal_spends_none_and_needs_no_address() {
    let mut alice = limited("11/86400");
    set_fact(&mut alice, 1, Field::AllowedAddresses, "10.0.0.0/8");
    let mut world = World::with(vec![alice], &json!({ "revocation_poll_seconds": 0 }));
    world.keycloak.token_life_seconds = 300;
    world.address = Some(INSIDE.into());
    let mut background = Background::default();
    for _ in 0..11 {
        world.key_request(&key(1)).forwarded();
        world.now = world.now.plus_ms(25_000);
        for _ in 0..10 {
            world.now = world.now.plus_ms(200);
            world.tick(&mut background);
        }
    }
    assert!(background.renewed().done > 0, "{:?}", background.renewed());
    wait_ms(world.key_request(&key(1)));
}

#[test]
fn a_change_of_the_limit_is_in_force_once_it_is_seen() {
    let mut world = World::new(vec![limited("1/86400")]);
    world.key_request(&key(1)).forwarded();
    set_fact(&mut world.keycloak.users[0], 1, Field::RateLimit, "3/86400");
    wait_ms(world.key_request(&key(1)));
    world.revoke("alice").unwrap();
    world.now = world.now.plus_ms(1000);
    world.key_request(&key(1)).forwarded();
}

#[test]
fn a_key_is_served_from_its_networks_alone_whatever_gives_the_token() {
    let mut world = bound(&Value::Null);
    expect_not_allowed(from(&mut world, Some(OUTSIDE)));
    assert_eq!(world.keycloak.calls.grant, 1);
    // Its token is cached now, and no request asks Keycloak for another.
    for _ in 0..2 {
        for address in [None, Some(OUTSIDE), Some("/run/socket"), Some("[::2]:1")] {
            expect_not_allowed(from(&mut world, address));
        }
        for address in [INSIDE, "[::1]:4567", "[::ffff:10.1.1.1]:1"] {
            from(&mut world, Some(address)).forwarded();
        }
        world.next_worker();
    }
    assert_eq!(world.keycloak.calls.grant, 1);
}

#[test]
fn an_address_is_asked_for_even_where_no_failures_are_counted() {
    let mut world = bound(&json!({ "throttle_failures_per_minute": 0 }));
    from(&mut world, Some(INSIDE)).forwarded();
    expect_not_allowed(from(&mut world, Some(OUTSIDE)));
}

#[test]
fn a_wrong_secret_from_elsewhere_is_told_nothing_of_the_networks() {
    let mut world = bound(&Value::Null);
    world.address = Some(OUTSIDE.into());
    let (rejection, reason) = world.key_request(&other_secret(&key(1), 1)).rejected();
    assert_eq!(
        (rejection, reason),
        (Rejection::InvalidApiKey, Reason::WrongSecret)
    );
}

#[test]
fn a_good_key_from_elsewhere_is_no_failure_of_its_address() {
    let mut world = bound(&json!({ "throttle_failures_per_minute": 2 }));
    for _ in 0..10 {
        expect_not_allowed(from(&mut world, Some(OUTSIDE)));
    }
}

#[test]
fn a_disabled_key_is_refused_and_served_again_when_it_is_enabled() {
    let mut world = World::new(vec![plain_owner_with("alice", 1, Field::Disabled, "true")]);
    let told = (Rejection::InvalidApiKey, Reason::Disabled);
    assert_eq!(world.key_request(&key(1)).rejected(), told);
    let (_, reason) = world.key_request(&key(1)).rejected();
    assert!(matches!(reason, Reason::Remembered(_)), "{reason}");
    set_fact(&mut world.keycloak.users[0], 1, Field::Disabled, "false");
    world.now = world.now.plus_ms(1000);
    world.revoke("alice").unwrap();
    world.expect_source(&key(1), Source::FirstUse, "alice");
}

#[test]
fn a_key_that_is_disabled_while_it_is_warm_is_refused_once_that_is_seen() {
    let mut world = World::new(vec![owner("alice", 1)]);
    world.key_request(&key(1)).forwarded();
    set_fact(&mut world.keycloak.users[0], 1, Field::Disabled, "true");
    world.now = world.now.plus_ms(1000);
    world.revoke("alice").unwrap();
    let (_, reason) = world.key_request(&key(1)).rejected();
    assert_eq!(reason, Reason::Disabled);
}

#[test]
fn terms_that_cannot_be_read_refuse_the_key() {
    for (field, value) in [
        (Field::RateLimit, "100 per minute"),
        (Field::AllowedAddresses, "anywhere"),
        (Field::Disabled, "yes"),
        (Field::Labels, "a\tb"),
    ] {
        let mut world = World::new(vec![plain_owner_with("alice", 1, field, value)]);
        let (rejection, reason) = world.key_request(&key(1)).rejected();
        assert_eq!(rejection, Rejection::InvalidApiKey, "{field:?}");
        assert!(matches!(reason, Reason::Lookup(_)), "{field:?}: {reason}");
    }
}

#[test]
fn limits_in_a_workers_memory_are_bounded() {
    let users = (1..=40).map(|number| {
        plain_owner_with(&format!("user-{number}"), number, Field::RateLimit, "5/60")
    });
    let mut world = World::with(users.collect(), &json!({ "l1_entries": 16 }));
    world.worker = new_worker(&world.config, b"small");
    for number in 1..=40 {
        world.key_request(&key(number)).forwarded();
        world.now = world.now.plus_ms(100);
    }
    assert_eq!(world.worker.sizes().limited, 16);
}
