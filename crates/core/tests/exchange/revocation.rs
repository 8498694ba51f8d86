//! Revocations on this node: no cache keeps a revoked key alive, nor does an exchange that was
//! under way.

use apikeys_core::exchange::{Output, Source};
use apikeys_core::machine::Effect;
use apikeys_core::rejection::{Reason, Rejection};
use apikeys_core::revocation::{NotShared, Notice};
use serde_json::json;

use super::client::{Client, FAR, plain_owner};
use super::keycloak::sha256_of;
use super::world::{START, World, id_of, key, subject};

/// Time enough to be clearly later than a revocation made now.
const LATER_MS: u64 = 1000;

/// Alice and bob, both warm.
fn warm() -> World {
    let mut world = World::new(vec![plain_owner("alice", 1), plain_owner("bob", 2)]);
    world.expect_source(&key(1), Source::FirstUse, "alice");
    world.expect_source(&key(2), Source::FirstUse, "bob");
    world.expect_source(&key(1), Source::L1, "alice");
    world
}

#[test]
fn a_revoked_owners_token_is_served_from_no_cache() {
    let mut world = warm();
    world.keycloak.users[0].remove_key(id_of(&key(1)));
    assert_eq!(world.revoke("alice"), Ok(()));
    for _ in 0..2 {
        let (rejection, _) = world.key_request(&key(1)).rejected();
        assert_eq!(rejection, Rejection::InvalidApiKey);
        world.next_worker();
    }
    world.expect_source(&key(2), Source::L2, "bob");
}

#[test]
fn an_owner_whose_key_is_still_good_is_asked_for_again_and_cached_again() {
    let mut world = warm();
    world.revoke("alice").unwrap();
    world.now = world.now.plus_ms(LATER_MS);
    // The verification is bound to the stored hash, which is the same.
    world.expect_source(&key(1), Source::Refresh, "alice");
    world.expect_source(&key(1), Source::L1, "alice");
    world.next_worker();
    world.expect_source(&key(1), Source::L2, "alice");
}

#[test]
fn another_worker_acts_on_it_at_its_tick_and_within_a_second_without_one() {
    for ticks in [true, false] {
        let mut world = warm();
        world.next_worker();
        world.expect_source(&key(1), Source::L2, "alice");
        world.now = world.now.plus_ms(300);
        let mut first = World::new(vec![]).worker;
        first
            .revoke_owner("alice", world.now, &mut world.shared)
            .unwrap();
        world.now = world.now.plus_ms(if ticks { 200 } else { 699 });
        if ticks {
            let notice = world.worker.tick(world.now, &mut world.shared);
            assert_eq!(notice, None);
        } else {
            world.expect_source(&key(1), Source::L1, "alice");
            world.now = world.now.plus_ms(1);
        }
        world.expect_source(&key(1), Source::Refresh, "alice");
    }
}

#[test]
fn an_exchange_whose_look_up_was_before_the_revocation_looks_up_again() {
    for removed in [true, false] {
        let mut world = World::new(vec![plain_owner("alice", 1)]);
        let mut client = Client::send(&mut world, 1);
        client.answer_until(&mut world, Client::is_granting);
        if removed {
            world.keycloak.users[0].remove_key(id_of(&key(1)));
        }
        world.now = world.now.plus_ms(10);
        world.revoke("alice").unwrap();
        client.answer(&mut world);
        assert!(client.is_looking_up(), "{:?}", client.output);
        client.answer_until(&mut world, Client::is_over);
        if removed {
            assert_eq!(client.rejected().0, Rejection::InvalidApiKey);
        } else {
            client.forwarded();
            assert_eq!(world.keycloak.calls.lookup, 2);
        }
    }
}

#[test]
fn an_exchange_asks_once_for_a_revocation_and_not_for_another_owners() {
    let mut world = World::new(vec![plain_owner("alice", 1)]);
    let mut client = Client::send(&mut world, 1);
    client.answer_until(&mut world, Client::is_granting);
    world.revoke("bob").unwrap();
    client.answer(&mut world);
    client.forwarded();
    // An exchange that began after the news, within the margin around the instant.
    world.revoke("alice").unwrap();
    let mut client = Client::send(&mut world, 1);
    client.answer_until(&mut world, Client::is_over);
    client.forwarded();
    assert_eq!(world.keycloak.calls.lookup, 2);
    world.expect_source(&key(1), Source::Refresh, "alice");
}

#[test]
fn what_an_exchange_stores_that_began_before_a_revocation_is_dead() {
    let mut world = World::new(vec![plain_owner("alice", 1)]);
    let mut slow = Client::send(&mut world, 1);
    slow.answer_until(&mut world, Client::is_granting);
    // Another worker of the node learns of the revocation.
    let elsewhere = world.worker;
    let mut other = World::new(vec![plain_owner("alice", 1)]);
    world.worker = other.worker;
    world.now = START.plus_ms(500);
    world.revoke("alice").unwrap();
    (other.worker, world.worker) = (world.worker, elsewhere);
    world.now = START.plus_ms(900);
    slow.answer(&mut world);
    slow.forwarded();
    world.worker = other.worker;
    world.expect_source(&key(1), Source::Refresh, "alice");
}

#[test]
fn a_refused_key_is_served_as_soon_as_a_change_of_its_owner_is_seen() {
    let mut world = World::new(vec![plain_owner("alice", 1)]);
    world.keycloak.users[0].enabled = false;
    world.key_request(&key(1)).rejected();
    world.keycloak.users[0].enabled = true;
    world.now = world.now.plus_ms(LATER_MS);
    let (_, reason) = world.key_request(&key(1)).rejected();
    assert!(matches!(reason, Reason::Remembered(_)), "{reason}");
    world.revoke("alice").unwrap();
    world.expect_source(&key(1), Source::FirstUse, "alice");
    world.next_worker();
    world.now = world.now.plus_ms(LATER_MS);
    world.expect_source(&key(1), Source::Refresh, "alice");
}

#[test]
fn refusals_of_two_keys_of_one_owner_do_not_end_each_other() {
    let alice = plain_owner("alice", 1).with_key(id_of(&key(2)), &sha256_of(&key(2)), FAR);
    let mut world = World::with(vec![alice], &json!({ "stale_if_error_seconds": 3600 }));
    for number in [1, 2] {
        world.expect_source(&key(number), Source::FirstUse, "alice");
    }
    world.keycloak.users[0].enabled = false;
    world.now = world.now.plus_ms(301_000);
    for (number, remembered) in [(1, false), (2, false), (1, true), (2, true), (1, true)] {
        let (_, reason) = world.key_request(&key(number)).rejected();
        let is_remembered = matches!(reason, Reason::Remembered(_));
        assert_eq!(is_remembered, remembered, "{number}: {reason}");
        world.now = world.now.plus_ms(1000);
    }
}

#[test]
fn a_stale_token_goes_on_under_its_own_owners_name() {
    let users = vec![plain_owner("alice", 1), plain_owner("bob", 2)];
    let mut world = World::with(users, &json!({ "stale_if_error_seconds": 3600 }));
    world.keycloak.token_life_seconds = 7200;
    world.expect_source(&key(1), Source::FirstUse, "alice");
    // The key's record moves to bob, and no poll has told of it.
    world.keycloak.users = vec![plain_owner("bob", 1)];
    world.now = world.now.plus_ms(301_000);
    let mut client = Client::send(&mut world, 1);
    client.answer_until(&mut world, Client::is_granting);
    while !client.is_over() {
        if client.is_granting() {
            client.fail(&mut world);
        } else {
            client.answer(&mut world);
        }
    }
    assert_eq!(client.forwarded().source, Source::Stale);
    assert_eq!(subject(client.forwarded()), "alice");
    assert_eq!(client.exchange.owner_id(), Some("alice"));
    let owner = client.exchange.identity().into_iter().nth(1).unwrap();
    assert_eq!(owner, ("x-api-key-owner", "alice".into()));
}

#[test]
fn a_refusal_is_remembered_though_it_revokes_the_owners_stale_token() {
    let users = vec![plain_owner("alice", 1)];
    let mut world = World::with(users, &json!({ "stale_if_error_seconds": 3600 }));
    world.expect_source(&key(1), Source::FirstUse, "alice");
    world.keycloak.users[0].enabled = false;
    world.now = world.now.plus_ms(301_000);
    let (_, reason) = world.key_request(&key(1)).rejected();
    assert!(matches!(reason, Reason::Lookup(_)), "{reason}");
    for _ in 0..2 {
        let (_, reason) = world.key_request(&key(1)).rejected();
        assert!(matches!(reason, Reason::Remembered(_)), "{reason}");
        world.next_worker();
    }
}

#[test]
fn no_entry_from_before_the_clock_was_set_back_comes_back() {
    let mut world = warm();
    let before = world.now;
    world.now = before.minus_ms(100_000);
    world.expect_source(&key(1), Source::Refresh, "alice");
    let notice = world.worker.tick(world.now, &mut world.shared);
    assert_eq!(notice, Some(Notice::ClockSetBack));
    // If bob's entry had been kept, it would count again.
    world.now = before.plus_ms(1000);
    world.expect_source(&key(2), Source::Refresh, "bob");
    world.next_worker();
    world.expect_source(&key(1), Source::Refresh, "alice");
}

#[test]
fn a_look_up_before_the_clock_was_set_back_counts_from_when_it_was() {
    let mut world = World::with(
        vec![plain_owner("alice", 1)],
        &json!({ "cache_ttl_seconds": 60 }),
    );
    world.now = START.plus_ms(50_000);
    let mut client = Client::send(&mut world, 1);
    client.answer_until(&mut world, Client::is_granting);
    let Output::Await(Effect::Call { call, .. }) = &client.output else {
        panic!("a call: {:?}", client.output);
    };
    let (status, body) = world.keycloak.answer(call, world.now);
    world.now = START;
    client.reply(&mut world, status, &body);
    client.forwarded();
    world.now = START.plus_ms(60_000);
    world.expect_source(&key(1), Source::Refresh, "alice");
}

#[test]
fn a_log_that_is_gone_drops_everything_after_the_third_look() {
    let mut world = warm();
    world.shared.0.clear();
    for at in 1..=3 {
        world.expect_source(&key(1), Source::L1, "alice");
        world.now = world.now.plus_ms(200);
        let notice = world.worker.tick(world.now, &mut world.shared);
        assert_eq!(notice, (at == 3).then_some(Notice::LogLost));
    }
    world.expect_source(&key(1), Source::Refresh, "alice");
}

#[test]
fn without_shared_data_a_worker_revokes_for_itself_and_says_so() {
    let changes = json!({ "l2_slots": 0 });
    let mut world = World::with(vec![plain_owner("alice", 1)], &changes);
    world.expect_source(&key(1), Source::FirstUse, "alice");
    world.now = world.now.plus_ms(LATER_MS);
    assert_eq!(world.revoke("alice"), Err(NotShared::Off));
    world.expect_source(&key(1), Source::Refresh, "alice");
    assert!(world.shared.0.is_empty());
}
