//! Tokens that are renewed before their end, and those that a service refused.

use apikeys_core::background::{Background, Renewed};
use apikeys_core::exchange::{Exchange, Output, Source};
use apikeys_core::keycloak::Call;
use apikeys_core::rejection::Rejection;
use serde_json::json;

use super::client::{Client, owner, plain_owner};
use super::keys::new_worker;
use super::world::{World, key, subject};

/// A node without polls, so that only renewals run between requests.
fn world() -> World {
    let users = vec![owner("alice", 1), plain_owner("bob", 2)];
    let mut world = World::with(users, &json!({ "revocation_poll_seconds": 0 }));
    world.keycloak.token_life_seconds = 300;
    world
}

/// The source of the token that this key's request gets.
fn source(world: &mut World, number: u8) -> Source {
    world.key_request(&key(number)).forwarded().source
}

fn grants(world: &World) -> u32 {
    world.keycloak.calls.grant
}

fn is_grant(call: &Call) -> bool {
    call.form
        .as_deref()
        .is_some_and(|form| form.contains("&assertion="))
}

#[test]
fn a_busy_key_sees_no_cold_request() {
    let (mut world, mut background) = (world(), Background::default());
    assert_eq!(source(&mut world, 1), Source::FirstUse);
    for _ in 0..3600 {
        world.now = world.now.plus_ms(1000);
        assert_eq!(source(&mut world, 1), Source::L1);
        world.tick(&mut background);
    }
    // An hour of tokens that are kept for 270 s, renewed 27 to 54 s before.
    let renewed = background.renewed();
    assert!((13..=17).contains(&renewed.done), "{renewed:?}");
    assert_eq!(renewed.failed, 0);
    assert_eq!(u64::from(grants(&world)), 1 + renewed.done);
}

#[test]
fn a_root_context_that_calls_out_at_ticks_alone_makes_one_call_at_each() {
    let (mut world, _) = due();
    let mut background = Background::at_ticks_alone();
    let before = grants(&world);
    let mut ticks = 0;
    while background.renewed().done == 0 {
        let mut calls = 0;
        world.tick_with(&mut background, |_, reply| {
            calls += 1;
            Ok(reply)
        });
        assert!(calls <= 1, "{calls} calls at a tick");
        world.now = world.now.plus_ms(200);
        ticks += 1;
        assert!(ticks < 20, "it renews");
    }
    assert!(ticks >= 2, "a look-up and a grant");
    assert_eq!(grants(&world), before + 1);
}

#[test]
fn a_node_that_does_not_answer_costs_no_renewal_where_another_does() {
    for (gone, done) in [(1, 1), (2, 0)] {
        let (mut world, mut background) = due();
        let mut refused = 0;
        for _ in 0..10 {
            world.tick_with(&mut background, |call, reply| {
                let is_gone = is_grant(call) && refused < gone;
                refused += u32::from(is_gone);
                if is_gone {
                    Err("connection refused")
                } else {
                    Ok(reply)
                }
            });
            world.now = world.now.plus_ms(200);
        }
        assert_eq!(background.renewed().done, done, "{gone} of its calls");
    }
}

#[test]
fn a_key_that_is_not_in_use_is_not_renewed() {
    let (mut world, mut background) = (world(), Background::default());
    source(&mut world, 1);
    for _ in 0..600 {
        world.now = world.now.plus_ms(1000);
        world.tick(&mut background);
    }
    assert_eq!(background.renewed(), Renewed::default());
    assert_eq!(grants(&world), 1);
    assert_eq!(source(&mut world, 1), Source::Refresh);
}

#[test]
fn one_worker_of_a_node_renews_and_the_others_take_its_token() {
    let (mut world, mut backgrounds) = (world(), [Background::default(), Background::default()]);
    let mut other = new_worker(&world.config, b"worker 2");
    source(&mut world, 1);
    for _ in 0..900 {
        world.now = world.now.plus_ms(1000);
        for background in &mut backgrounds {
            assert!(matches!(source(&mut world, 1), Source::L1 | Source::L2));
            world.tick(background);
            std::mem::swap(&mut world.worker, &mut other);
        }
    }
    let [one, two] = backgrounds.map(|background| background.renewed());
    assert_eq!((one.failed, two.failed), (0, 0));
    assert!((3..=4).contains(&(one.done + two.done)), "{one:?} {two:?}");
    assert_eq!(u64::from(grants(&world)), 1 + one.done + two.done);
}

/// A token of alice's that is due.
fn due() -> (World, Background) {
    let mut world = world();
    source(&mut world, 1);
    while source(&mut world, 1) == Source::L1 && world.worker.sizes().renewing == 0 {
        world.now = world.now.plus_ms(1000);
    }
    assert_eq!((grants(&world), world.worker.sizes().renewing), (1, 1));
    (world, Background::default())
}

/// Without shared data there is no lease, so a renewal does not see that another one runs.
#[test]
fn a_key_that_is_being_renewed_does_not_hold_up_the_renewal_of_others() {
    let users = vec![plain_owner("alice", 1), plain_owner("bob", 2)];
    let without = json!({ "revocation_poll_seconds": 0, "l2_slots": 0 });
    let mut world = World::with(users, &without);
    world.keycloak.token_life_seconds = 300;
    for number in [1, 2] {
        source(&mut world, number);
    }
    while world.worker.sizes().renewing < 2 {
        world.now = world.now.plus_ms(1000);
        for number in [1, 2] {
            assert_eq!(source(&mut world, number), Source::L1);
        }
    }
    let _first = world.with_env(Exchange::renew).unwrap();
    let (mut second, _) = world.with_env(Exchange::renew).unwrap();
    // Both tokens are due, so these requests schedule both keys again.
    for number in [1, 2] {
        source(&mut world, number);
    }
    assert!(world.with_env(Exchange::renew).is_none());
    world.abort(&mut second);
    world.now = world.now.plus_ms(100);
    source(&mut world, 2);
    let (again, _) = world.with_env(Exchange::renew).unwrap();
    assert_eq!(again.key_id(), second.key_id());
}

#[test]
fn a_token_that_is_due_is_used_to_its_end_while_keycloak_fails() {
    let (mut world, mut background) = due();
    let began = world.now;
    let mut asked = 0;
    while world.now < began.plus_ms(20_000) {
        assert_eq!(source(&mut world, 1), Source::L1);
        world.tick_with(&mut background, |_, _| {
            asked += 1;
            Err("connection refused")
        });
        world.now = world.now.plus_ms(200);
    }
    // Each lost look-up leaves a claim of this worker, which holds for a while.
    assert!((2..=20).contains(&asked), "{asked}");
    assert_eq!(background.renewed().done, 0);
    world.now = world.now.plus_ms(5000);
    source(&mut world, 1);
    world.tick(&mut background);
    assert_eq!(background.renewed().done, 1);
}

#[test]
fn what_is_dead_is_refused_as_soon_as_its_renewal_shows_it() {
    let (mut world, mut background) = due();
    world.keycloak.users[0].enabled = false;
    world.tick(&mut background);
    assert_eq!(background.renewed(), Renewed { done: 0, failed: 1 });
    let (rejection, _) = world.key_request(&key(1)).rejected();
    assert_eq!(rejection, Rejection::InvalidApiKey);
}

#[test]
fn a_key_whose_hash_was_changed_is_left_to_its_next_request() {
    let (mut world, mut background) = due();
    let began = world.now;
    world.keycloak.users[0] = plain_owner("alice", 1);
    let yields = world.yields;
    world.tick(&mut background);
    assert_eq!(background.renewed(), Renewed { done: 0, failed: 1 });
    assert_eq!(
        world.yields, yields,
        "nothing is computed without a request"
    );
    assert_eq!(source(&mut world, 1), Source::L1);
    world.now = began.plus_ms(60_000);
    assert_eq!(source(&mut world, 1), Source::FirstUse);
}

#[test]
fn a_request_that_comes_for_a_lost_renewal_waits_for_nothing_of_it() {
    let (mut world, mut background) = due();
    let call = {
        world.worker.tick(world.now, &mut world.shared);
        world.with_watch(|watch, env| background.tick(watch, env))
    };
    assert!(call.is_some());
    // No answer comes, and the token ends meanwhile: a request follows the renewal.
    world.now = world.now.plus_ms(60_000);
    let mut client = Client::send(&mut world, 1);
    for _ in 0..3 {
        if matches!(client.output, Output::Await(_)) {
            client.answer(&mut world);
        }
    }
    let Output::Forward(forward) = &client.output else {
        panic!("forwarded, not {:?}", client.output)
    };
    assert_eq!(subject(forward), "alice");
}

#[test]
fn a_renewal_that_ends_badly_leaves_no_failure_to_those_that_wait() {
    let (mut world, mut background) = due();
    while background.renewed().failed == 0 {
        world.tick_with(&mut background, |call, reply| match is_grant(call) {
            true => Err("timed out"),
            false => Ok(reply),
        });
        assert_eq!(background.renewed().done, 0);
        world.now = world.now.plus_ms(200);
    }
    assert_eq!(background.renewed().failed, 1);
    assert_eq!(world.worker.sizes().failures, 0);
}

/// The token of the last request was refused by the service.
fn refused(world: &mut World, number: u8) -> bool {
    let client = Client::send(world, number);
    assert!(matches!(client.output, Output::Forward(_)));
    world.with_env(|env| client.exchange.token_refused(env))
}

#[test]
fn a_token_that_the_service_refuses_is_fetched_anew_once_a_minute() {
    let mut world = world();
    source(&mut world, 1);
    world.now = world.now.plus_ms(1);
    assert!(refused(&mut world, 1));
    assert_eq!(source(&mut world, 1), Source::Refresh);
    for _ in 0..50 {
        world.now = world.now.plus_ms(1000);
        assert!(!refused(&mut world, 1), "a minute has not passed");
    }
    assert_eq!(grants(&world), 2);
    world.now = world.now.plus_ms(11_000);
    assert!(refused(&mut world, 1));
    assert_eq!(source(&mut world, 1), Source::Refresh);
    assert_eq!(grants(&world), 3);
}

#[test]
fn a_refused_token_is_not_taken_from_shared_data_again_and_a_newer_one_is() {
    let mut world = world();
    source(&mut world, 1);
    let mut other = new_worker(&world.config, b"worker 2");
    std::mem::swap(&mut world.worker, &mut other);
    assert_eq!(source(&mut world, 1), Source::L2);
    world.now = world.now.plus_ms(1);
    assert!(refused(&mut world, 1));
    std::mem::swap(&mut world.worker, &mut other);
    assert!(refused(&mut world, 1), "each worker for itself");
    world.now = world.now.plus_ms(1);
    assert_eq!(source(&mut world, 1), Source::Refresh);
    std::mem::swap(&mut world.worker, &mut other);
    assert_eq!(source(&mut world, 1), Source::L2);
    assert_eq!(grants(&world), 2);
}

#[test]
fn a_request_that_took_no_token_along_drops_none() {
    let mut world = world();
    source(&mut world, 1);
    let exchange = Exchange::new();
    assert!(!exchange.has_forwarded());
    assert!(!world.with_env(|env| exchange.token_refused(env)));
    assert_eq!(source(&mut world, 1), Source::L1);
}
