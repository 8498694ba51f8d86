//! The cost of a stranger is bounded: failures are counted by address, and look-ups that come to
//! nothing have a fixed rate.

use apikeys_core::api_key::format::KeyFormat;
use apikeys_core::exchange::{Output, Pass, Source};
use apikeys_core::machine::Effect;
use apikeys_core::rejection::{Reason, Rejection};
use serde_json::json;

use super::client::{Client, owner, plain_owner};
use super::keycloak::{User, sha256_of};
use super::world::{Ended, World, id_of, key, other_secret};

/// A well-formed key that nobody has, another for each number.
fn unknown(number: u32) -> String {
    let bytes = number.to_be_bytes();
    let mut at = 0;
    let format = KeyFormat::new("sk_live_").unwrap();
    let key = format.generate(|drawn| {
        for byte in drawn {
            *byte = (bytes[at % 4] >> ((at / 4 % 2) * 4)) & 15;
            at += 1;
        }
    });
    key.expose().to_owned()
}

const ADDRESS: &str = "192.0.2.7:40000";

/// A world with all requests from one address.
fn world(owners: Vec<User>) -> World {
    let mut world = World::new(owners);
    world.address = Some(ADDRESS.to_owned());
    world
}

fn refused(ended: Ended) -> Rejection {
    ended.rejected().0
}

/// Sends keys that nobody has, from one address, until the answer is to wait.
fn until_throttled(world: &mut World) -> u32 {
    for at in 0..1000 {
        match refused(world.key_request(&unknown(at))) {
            Rejection::InvalidApiKey => {}
            Rejection::Throttled => return at,
            other => panic!("{other:?}"),
        }
    }
    panic!("never told to wait");
}

#[test]
fn a_key_that_was_verified_before_is_refreshed_from_wherever_it_comes() {
    let mut world = world(vec![owner("alice", 1)]);
    world.expect_source(&key(1), Source::FirstUse, "alice");
    world.now = world.now.plus_ms(301_000);
    until_throttled(&mut world);
    world.next_worker();
    world.expect_source(&key(1), Source::Refresh, "alice");
    // With another secret the key is nobody's.
    let guessed = world.key_request(&other_secret(&key(1), 1));
    assert_eq!(refused(guessed), Rejection::Throttled);
}

/// Otherwise an address past its limit could find out which keys were once good.
#[test]
fn a_key_that_was_good_once_is_told_nothing_else_than_the_others() {
    let mut world = world(vec![plain_owner("alice", 1)]);
    world.expect_source(&key(1), Source::FirstUse, "alice");
    world.now = world.now.plus_ms(301_000);
    world.keycloak.users[0].enabled = false;
    until_throttled(&mut world);
    for _ in 0..2 {
        assert_eq!(refused(world.key_request(&key(1))), Rejection::Throttled);
    }
}

/// Whatever is wrong with a key: to be told to wait must not tell it.
#[test]
fn each_reason_for_which_a_key_is_refused_counts_alike() {
    let disabled = User {
        enabled: false,
        ..plain_owner("bob", 2)
    };
    let over = User::new("carol").with_key(
        id_of(&key(3)),
        &sha256_of(&key(3)),
        super::world::START.minus_ms(1000),
    );
    let owners = vec![plain_owner("alice", 1), disabled, over];
    for presented in [
        unknown(1),
        "sk_live_short".to_owned(),
        other_secret(&key(1), 1),
        key(2),
        key(3),
    ] {
        let mut world = world(owners.clone());
        let answers: Vec<_> = (0..22)
            .map(|_| refused(world.key_request(&presented)))
            .collect();
        assert!(
            answers[..20]
                .iter()
                .all(|it| *it == Rejection::InvalidApiKey)
        );
        assert_eq!(answers[20..], [Rejection::Throttled; 2], "{presented}");
    }
}

#[test]
fn what_is_not_the_callers_fault_does_not_count() {
    let mut world = world(vec![plain_owner("alice", 1)]);
    let pairs = [("x-api-key", key(1))];
    let pairs = pairs
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    for _ in 0..30 {
        let ended = world.request_with(&pairs, |_, _| Err("timed out"));
        assert_eq!(refused(ended), Rejection::IdentityProviderUnavailable);
        // The breaker must not interfere here.
        world.now = world.now.plus_ms(60_000);
    }
    for _ in 0..30 {
        assert_eq!(refused(world.request(&[])), Rejection::MissingCredentials);
        let two = [
            ("x-api-key", "sk_live_a"),
            ("authorization", "ApiKey sk_live_b"),
        ];
        assert_eq!(
            refused(world.request(&two)),
            Rejection::AmbiguousCredentials
        );
    }
    world.expect_source(&key(1), Source::FirstUse, "alice");
}

#[test]
fn an_unknown_key_that_falls_back_is_no_failure() {
    let changes = json!({ "fallback_until": "2030-01-01T00:00:00Z" });
    let mut world = World::with(vec![], &changes);
    for at in 0..30 {
        let ended = world.key_request(&unknown(at));
        assert!(matches!(ended, Ended::Passed(Pass::Fallback)), "{at}");
    }
}

#[test]
fn an_address_that_the_host_does_not_tell_is_not_held_against_all_others() {
    for address in [None, Some("/run/gateway.sock".to_owned())] {
        let mut world = world(vec![]);
        world.address = address;
        for at in 0..40 {
            let ended = world.key_request(&unknown(at));
            assert_eq!(refused(ended), Rejection::InvalidApiKey);
        }
    }
}

#[test]
fn nothing_is_counted_against_a_key_id() {
    let mut world = world(vec![owner("alice", 1)]);
    for at in 0..40 {
        world.address = Some(format!("192.0.2.{at}"));
        let ended = world.key_request(&other_secret(&key(1), at));
        assert_eq!(refused(ended), Rejection::InvalidApiKey);
    }
    world.address = Some("198.51.100.1".to_owned());
    world.expect_source(&key(1), Source::FirstUse, "alice");
}

#[test]
fn who_hangs_up_before_the_verdict_has_failed() {
    let mut world = world(vec![plain_owner("alice", 1)]);
    for at in 0..20 {
        let mut client = Client::send_key(&mut world, &unknown(at));
        world.abort(&mut client.exchange);
    }
    assert_eq!(refused(world.key_request(&key(1))), Rejection::Throttled);
}

#[test]
fn who_hangs_up_with_a_key_that_was_verified_has_not() {
    let mut world = world(vec![plain_owner("alice", 1)]);
    world.expect_source(&key(1), Source::FirstUse, "alice");
    for _ in 0..30 {
        world.now = world.now.plus_ms(301_000);
        let mut client = Client::send(&mut world, 1);
        client.answer_until(&mut world, Client::is_granting);
        world.abort(&mut client.exchange);
    }
    world.expect_source(&key(1), Source::Refresh, "alice");
}

#[test]
fn a_client_that_keeps_disconnecting_with_a_verified_key_causes_ten_calls_a_second() {
    let mut world = world(vec![plain_owner("alice", 1), plain_owner("bob", 2)]);
    world.expect_source(&key(1), Source::FirstUse, "alice");
    world.now = world.now.plus_ms(301_000);
    let mut calls = 0;
    for _ in 0..1000 {
        let mut client = Client::send(&mut world, 1);
        calls += u32::from(matches!(client.output, Output::Await(Effect::Call { .. })));
        world.abort(&mut client.exchange);
        world.now = world.now.plus_ms(1);
    }
    assert_eq!(calls, 10);
    // None of them is a failure of the address.
    world.expect_source(&key(2), Source::FirstUse, "bob");
    world.expect_source(&key(1), Source::Refresh, "alice");
}

#[test]
fn a_request_that_waits_leads_at_the_end_of_the_pause() {
    let mut world = world(vec![plain_owner("alice", 1)]);
    world.expect_source(&key(1), Source::FirstUse, "alice");
    world.now = world.now.plus_ms(301_000);
    let mut gone = Client::send(&mut world, 1);
    let mut waiting = Client::send(&mut world, 1);
    world.now = world.now.plus_ms(70);
    world.abort(&mut gone.exchange);
    waiting.answer(&mut world);
    assert_eq!(waiting.wait_ms(), Some(100));
    world.now = world.now.plus_ms(100);
    waiting.answer(&mut world);
    assert!(matches!(waiting.output, Output::Await(Effect::Call { .. })));
}

#[test]
fn a_flood_of_new_keys_is_looked_up_at_a_fixed_rate() {
    // From many addresses, so that none of them fails too often.
    let mut world = world(vec![]);
    let mut calls = Vec::new();
    let mut overloaded = 0;
    let mut clients = Vec::new();
    for at in 0..1000 {
        world.address = Some(format!("198.51.{}.{}", at / 250, at % 250));
        let client = Client::send_key(&mut world, &unknown(at));
        if client.is_over() {
            let (rejection, reason) = client.rejected();
            assert_eq!(rejection, Rejection::Overloaded);
            assert_eq!(*reason, Reason::TooManyNewKeys);
            overloaded += 1;
        } else {
            clients.push(client);
        }
    }
    // As long as nobody knows that they are strangers, a quarter of all places is theirs.
    assert_eq!((clients.len(), overloaded), (256, 744));
    let start = world.now;
    while world.now < start.plus_ms(3000) {
        world.now = world.now.plus_ms(10);
        for client in clients.iter_mut().filter(|client| !client.is_over()) {
            let before = world.keycloak.calls.lookup;
            client.answer(&mut world);
            if world.keycloak.calls.lookup > before {
                calls.push(world.now.since_ms(start));
            }
        }
        // Soon only those wait that get a turn within a callout's time.
        if world.now >= start.plus_ms(100) {
            assert!(world.worker.sizes().pending <= 100);
        }
    }
    assert!(clients.iter().all(Client::is_over));
    assert!((190..=200).contains(&calls.len()), "{}", calls.len());
    let in_the_first_second = calls.iter().filter(|at| **at < 1000).count();
    assert!((140..=150).contains(&in_the_first_second), "{calls:?}");
}

/// Strangers that fail at one instant, until no more are looked up.
fn flood(world: &mut World) -> u32 {
    let before = world.keycloak.calls.lookup;
    let address = world.address.take();
    for at in 0..200 {
        let mut client = Client::send_key(world, &unknown(1000 + at));
        let waits = |client: &Client| {
            let effect = &client.output;
            matches!(effect, Output::Await(Effect::Yield { wait_ms, .. }) if wait_ms.is_some())
        };
        client.answer_until(world, |client| client.is_over() || waits(client));
        if waits(&client) {
            world.abort(&mut client.exchange);
            break;
        }
    }
    world.address = address;
    world.keycloak.calls.lookup - before
}

#[test]
fn good_keys_spend_nothing_of_what_strangers_have() {
    let owners = (1..=250).map(|number| plain_owner(&format!("user-{number}"), number));
    let mut world = World::new(owners.collect());
    for number in 1..=250 {
        let mut client = Client::send(&mut world, number);
        client.answer_until(&mut world, Client::is_over);
        client.forwarded();
    }
    assert_eq!(flood(&mut world), 100);
    assert_eq!(flood(&mut world), 0);
}

/// Each of them costs a look-up, and a verification that only its owner can end well.
#[test]
fn whatever_ends_without_a_verified_key_draws_from_what_strangers_have() {
    let disabled = User {
        enabled: false,
        ..plain_owner("bob", 2)
    };
    let owners = vec![plain_owner("alice", 1), disabled];
    let hang_up = |world: &mut World| {
        let mut client = Client::send(world, 1);
        client.answer_until(world, Client::is_looking_up);
        world.abort(&mut client.exchange);
    };
    let present = |world: &mut World, key: &str| {
        let mut client = Client::send_key(world, key);
        client.answer_until(world, Client::is_over);
        client.rejected();
    };
    for at in 0..4 {
        let mut world = World::new(owners.clone());
        match at {
            0 => hang_up(&mut world),
            1 => present(&mut world, &other_secret(&key(1), 1)),
            2 => present(&mut world, &key(2)),
            _ => present(&mut world, &unknown(1)),
        }
        assert_eq!(flood(&mut world), 99, "{at}");
    }
}

#[test]
fn look_ups_beyond_the_limit_wait_and_known_keys_have_room_beside_them() {
    let owners = (1..=60).map(|number| plain_owner(&format!("user-{number}"), number));
    let short = json!({ "cache_ttl_seconds": 30 });
    let mut world = World::with(owners.collect(), &short);
    world.expect_source(&key(60), Source::FirstUse, "user-60");
    world.now = world.now.plus_ms(30_000);
    let mut clients: Vec<_> = (1..=40)
        .map(|number| Client::send(&mut world, number))
        .collect();
    let looking_up = |clients: &[Client]| clients.iter().filter(|one| one.is_looking_up()).count();
    assert_eq!(looking_up(&clients), 12);
    // A request with a token in the cache asks for nothing, and a known key goes at once.
    let mut known = Client::send(&mut world, 60);
    assert!(known.is_looking_up());
    world.abort(&mut known.exchange);
    // Those that hang up give their places back, while they wait and while they ask.
    for client in &mut clients {
        world.abort(&mut client.exchange);
    }
    let sizes = world.worker.sizes();
    assert_eq!((sizes.calls, sizes.new_keys, sizes.pending), (0, 0, 0));
    let mut clients: Vec<_> = (1..=40)
        .map(|number| Client::send(&mut world, number))
        .collect();
    for _ in 0..100 {
        world.now = world.now.plus_ms(5);
        for client in clients.iter_mut().filter(|client| !client.is_over()) {
            client.answer(&mut world);
        }
    }
    for client in &clients {
        assert!(
            matches!(client.output, Output::Forward(_)),
            "{:?}",
            client.output
        );
    }
    assert_eq!(world.worker.sizes().calls, 0);
}

#[test]
fn a_key_that_was_verified_before_waits_for_no_flood() {
    let short = json!({ "cache_ttl_seconds": 30 });
    let mut world = World::with(vec![plain_owner("alice", 1)], &short);
    world.expect_source(&key(1), Source::FirstUse, "alice");
    world.now = world.now.plus_ms(30_000);
    for at in 0..400 {
        world.address = Some(format!("198.51.{}.{}", at / 250, at % 250));
        drop(Client::send_key(&mut world, &unknown(at)));
    }
    let yields = world.yields;
    world.expect_source(&key(1), Source::Refresh, "alice");
    assert_eq!(world.yields, yields);
}

#[test]
fn who_has_failed_too_often_meanwhile_loses_its_turn() {
    let mut world = world(vec![plain_owner("alice", 1)]);
    let mut clients: Vec<Client> = (0..150)
        .map(|at| Client::send_key(&mut world, &unknown(at)))
        .collect();
    for _ in 0..10_000 {
        world.now = world.now.plus_ms(1);
        clients
            .iter_mut()
            .filter(|client| !client.is_over())
            .for_each(|client| client.answer(&mut world));
    }
    let throttled = |client: &&Client| client.rejected().0 == Rejection::Throttled;
    // The first twenty learn the fault of their key, and most others are not looked up.
    assert_eq!(clients.iter().filter(throttled).count(), 130);
    let lookups = world.keycloak.calls.lookup;
    assert!((20..=40).contains(&lookups), "{lookups}");
}

#[test]
fn a_turn_that_a_host_gives_too_early_is_waited_for_again() {
    let mut world = world(vec![plain_owner("alice", 1)]);
    flood(&mut world);
    let mut client = Client::send(&mut world, 1);
    assert_eq!(client.wait_ms(), Some(20));
    world.now = world.now.plus_ms(5);
    client.answer(&mut world);
    assert_eq!(client.wait_ms(), Some(15));
    world.now = world.now.plus_ms(15);
    client.answer_until(&mut world, Client::is_over);
    client.forwarded();
}

#[test]
fn a_clock_that_is_set_back_ends_the_wait_for_a_turn() {
    let mut world = world(vec![plain_owner("alice", 1)]);
    flood(&mut world);
    let mut client = Client::send(&mut world, 1);
    assert_eq!(client.wait_ms(), Some(20));
    world.now = world.now.minus_ms(3_600_000);
    client.answer(&mut world);
    assert!(matches!(client.output, Output::Await(Effect::Call { .. })));
    client.answer_until(&mut world, Client::is_over);
    client.forwarded();
}

#[test]
fn those_that_wait_for_the_service_token_do_not_go_at_one_moment() {
    let mut world = world(vec![]);
    world.address = None;
    let mut clients: Vec<Client> = (0..200)
        .map(|at| Client::send_key(&mut world, &unknown(at)))
        .collect();
    // Keycloak takes its time with the token.
    while world.now < super::world::START.plus_ms(1900) {
        world.now = world.now.plus_ms(10);
        for client in &mut clients[1..] {
            client.answer(&mut world);
        }
    }
    assert_eq!(world.keycloak.calls.lookup, 0);
    let start = world.now;
    while world.now < start.plus_ms(1000) {
        for client in clients.iter_mut().filter(|client| !client.is_over()) {
            client.answer(&mut world);
        }
        world.now = world.now.plus_ms(10);
    }
    let lookups = world.keycloak.calls.lookup;
    assert!((50..=152).contains(&lookups), "{lookups}");
}

#[test]
fn who_follows_an_address_that_has_failed_too_often_is_not_told_to_wait() {
    let mut world = world(vec![]);
    // So the next waits its turn.
    flood(&mut world);
    let key = unknown(20_000);
    world.address = Some(ADDRESS.to_owned());
    let mut leader = Client::send_key(&mut world, &key);
    world.address = None;
    let mut follower = Client::send_key(&mut world, &key);
    // The leader's address fails too often meanwhile.
    world.address = Some(ADDRESS.to_owned());
    for at in 0..20 {
        let mut client = Client::send_key(&mut world, &unknown(30_000 + at));
        world.abort(&mut client.exchange);
    }
    world.now = world.now.plus_ms(20);
    leader.answer(&mut world);
    assert_eq!(leader.rejected().0, Rejection::Throttled);
    world.address = None;
    world.now = world.now.plus_ms(1_900);
    follower.answer_until(&mut world, Client::is_over);
    assert_eq!(follower.rejected().0, Rejection::InvalidApiKey);
}
