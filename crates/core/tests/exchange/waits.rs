//! The order of waiting requests, the length of each wait, and of all waits together.

use apikeys_core::api_key::hash::hash_bcrypt;
use apikeys_core::exchange::gate::Gate;
use apikeys_core::exchange::{Output, Source};
use apikeys_core::machine::Effect;
use apikeys_core::rejection::{Reason, Rejection};
use serde_json::json;

use super::client::{Client, FAR, owner, plain_owner};
use super::keycloak::User;
use super::world::{Ended, START, World, id_of, key, other_secret, subject};

const DAY_MS: u64 = 86_400_000;

fn is_yield(client: &Client) -> bool {
    matches!(client.output, Output::Await(Effect::Yield { .. }))
}

/// The owner of a key under bcrypt of this cost.
fn costly(name: &str, number: u8, cost: u32) -> User {
    let hash = hash_bcrypt(key(number).as_bytes(), cost, [9; 16]).unwrap();
    User::new(name).with_key(id_of(&key(number)), &hash, FAR)
}

#[test]
fn nothing_is_waited_for_longer_than_the_time_that_is_left() {
    let mut world = World::new(vec![plain_owner("alice", 1)]);
    let mut leader = Client::send(&mut world, 1);
    assert_eq!(leader.timeout_ms(), 2000);
    let mut follower = Client::send(&mut world, 1);
    world.now = START.plus_ms(3980);
    leader.answer(&mut world);
    assert!(
        leader.is_looking_up() && leader.timeout_ms() == 20,
        "a call"
    );
    world.now = START.plus_ms(3990);
    leader.answer(&mut world);
    assert!(is_yield(&leader) && leader.wait_ms().is_none());
    assert_eq!(leader.timeout_ms(), 10, "a turn");
    follower.answer(&mut world);
    assert!(
        follower.wait_ms().is_some() && follower.timeout_ms() == 10,
        "a wait"
    );
    world.now = START.plus_ms(4000);
    leader.answer(&mut world);
    assert_eq!(
        leader.rejected(),
        (Rejection::IdentityProviderUnavailable, &Reason::Deadline)
    );
}

#[test]
fn a_slow_verification_is_waited_for_by_its_followers_too() {
    let changes = json!({ "callout_timeout_ms": 100 });
    let mut world = World::with(vec![costly("alice", 1, 10)], &changes);
    let mut leader = Client::send(&mut world, 1);
    leader.answer_until(&mut world, is_yield);
    let mut follower = None;
    // 86 slices of 3 ms: longer than two callouts.
    while !leader.is_over() {
        world.now = world.now.plus_ms(3);
        leader.answer(&mut world);
        if world.now >= START.plus_ms(150) {
            let follower = follower.get_or_insert_with(|| Client::send(&mut world, 1));
            if !follower.is_over() {
                follower.answer(&mut world);
            }
            assert!(leader.is_over() || follower.wait_ms().is_some(), "follows");
        }
    }
    assert!(world.now > START.plus_ms(200), "{:?}", world.now);
    assert_eq!(leader.forwarded().source, Source::FirstUse);
    let mut follower = follower.unwrap();
    if !follower.is_over() {
        follower.answer(&mut world);
    }
    assert_eq!(follower.forwarded().source, Source::L1);
    assert_eq!(world.keycloak.calls.lookup, 1);
}

#[test]
fn the_deadline_moves_once_and_who_queues_past_it_is_told_of_the_load() {
    let changes = json!({ "callout_timeout_ms": 100 });
    let mut world = World::with(vec![owner("alice", 1), costly("bob", 2, 10)], &changes);
    let mut holder = Client::send(&mut world, 1);
    holder.answer_until(&mut world, is_yield);
    let ticket = world.gate.ticket();
    let mut bob = Client::send(&mut world, 2);
    bob.answer(&mut world);
    world.abort(&mut holder.exchange);
    assert_eq!(bob.wait_ms(), Some(5));
    let asked_at = world.now;
    // Somebody else takes the gate before bob looks, and keeps it.
    drop(holder);
    let bobs = std::mem::take(&mut world.gate);
    assert_eq!(
        world.gate.show(ticket, "x", 16, world.now),
        apikeys_core::exchange::gate::Turn::Go
    );
    drop(bobs);
    while !bob.is_over() {
        world.now = world.now.plus_ms(10);
        world.gate.show(ticket, "x", 16, world.now);
        bob.answer(&mut world);
        assert!(world.now.since_ms(asked_at) < 5000, "no end");
    }
    assert_eq!(
        bob.rejected(),
        (Rejection::Overloaded, &Reason::VerificationDeadline)
    );
    // (32 + 1024) rounds of 0.4 ms, and a callout.
    let waited = world.now.since_ms(asked_at);
    assert!((500..=540).contains(&waited), "{waited}");
}

#[test]
fn a_verification_that_is_late_is_told_of_the_load() {
    let mut world = World::new(vec![owner("alice", 1)]);
    let mut client = Client::send(&mut world, 1);
    client.answer_until(&mut world, is_yield);
    world.now = world.now.plus_ms(100_000);
    client.answer(&mut world);
    assert_eq!(
        client.rejected(),
        (Rejection::Overloaded, &Reason::VerificationDeadline)
    );
}

#[test]
fn a_row_of_leaders_that_hang_up_does_not_hold_a_follower() {
    let mut world = World::new(vec![owner("alice", 1)]);
    let mut leader = Client::send(&mut world, 1);
    let mut follower = Client::send(&mut world, 1);
    let mut hangs_up_at = START.plus_ms(3000);
    while !follower.is_over() {
        world.now = world.now.plus_ms(follower.wait_ms().unwrap());
        if world.now >= hangs_up_at {
            world.abort(&mut leader.exchange);
            leader = Client::send(&mut world, 1);
            hangs_up_at = world.now.plus_ms(3000);
        }
        follower.answer(&mut world);
        assert!(world.now <= START.plus_ms(9000), "no end");
    }
    assert_eq!(follower.rejected().1, &Reason::Deadline);
}

#[test]
fn the_gate_is_free_while_the_grant_is_out() {
    let mut world = World::new(vec![owner("alice", 1), owner("bob", 2)]);
    let mut alice = Client::send(&mut world, 1);
    alice.answer_until(&mut world, is_yield);
    let mut bob = Client::send(&mut world, 2);
    bob.answer(&mut world);
    assert_eq!(bob.wait_ms(), Some(5), "alice computes");
    alice.answer_until(&mut world, Client::is_granting);
    bob.answer(&mut world);
    assert_eq!(bob.wait_ms(), None, "bob computes");
}

#[test]
fn who_lost_the_gate_computes_nothing_until_it_is_free_again() {
    let changes = json!({ "callout_timeout_ms": 30_000 });
    let mut world = World::with(vec![owner("alice", 1), owner("bob", 2)], &changes);
    let mut alice = Client::send(&mut world, 1);
    alice.answer_until(&mut world, is_yield);
    let mut bob = Client::send(&mut world, 2);
    bob.answer(&mut world);
    // Alice shows no sign of life for longer than her place is kept.
    world.now = world.now.plus_ms(5001);
    bob.answer(&mut world);
    assert_eq!(bob.wait_ms(), None, "bob computes");
    for _ in 0..10 {
        alice.answer(&mut world);
        assert_eq!(alice.wait_ms(), Some(5));
    }
    bob.answer_until(&mut world, Client::is_granting);
    alice.answer_until(&mut world, Client::is_over);
    assert_eq!(subject(alice.forwarded()), "alice");
}

#[test]
fn the_queue_is_looked_at_the_less_often_the_longer_it_is() {
    let users = (1..=10).map(|number| owner("alice", number)).collect();
    let mut world = World::new(users);
    let waits: Vec<Option<u64>> = (1..=10)
        .map(|number| {
            let mut client = Client::send(&mut world, number);
            client.answer_until(&mut world, is_yield);
            client.wait_ms()
        })
        .collect();
    let expected = [5, 20, 35, 50, 65, 80, 95, 100, 100].map(Some);
    assert_eq!((waits[0], &waits[1..]), (None, &expected[..]));
}

#[test]
fn a_leader_is_waited_for_in_growing_steps_the_longer_the_more_wait() {
    let mut world = World::new(vec![owner("alice", 1), owner("bob", 2)]);
    let mut waiters = vec![Client::send(&mut world, 1)];
    // One waits for the leader, one for the service token.
    let mut looks = |world: &mut World, number: u8, times: usize| {
        let mut client = Client::send(world, number);
        let mut waits = vec![client.wait_ms().unwrap()];
        for _ in 1..times {
            client.answer(world);
            waits.push(client.wait_ms().unwrap());
        }
        waiters.push(client);
        waits
    };
    assert_eq!(looks(&mut world, 1, 6), [5, 10, 20, 40, 41, 41]);
    assert_eq!(looks(&mut world, 2, 6), [5, 10, 20, 40, 41, 41]);
    for _ in 0..200 {
        looks(&mut world, 1, 1);
    }
    assert_eq!(looks(&mut world, 1, 7), [5, 10, 20, 40, 80, 142, 142]);
}

#[test]
fn who_fetches_the_service_token_is_waited_for_and_succeeded_at_once() {
    let mut world = World::new(vec![plain_owner("alice", 1), plain_owner("bob", 2)]);
    let mut alice = Client::send(&mut world, 1);
    let mut bob = Client::send(&mut world, 2);
    for ms in [50, 1500, 2500] {
        world.now = START.plus_ms(ms);
        bob.answer(&mut world);
        assert!(bob.wait_ms().is_some(), "{ms}: one fetches for all");
    }
    world.abort(&mut alice.exchange);
    bob.answer(&mut world);
    assert!(
        matches!(bob.output, Output::Await(Effect::Call { .. })),
        "{:?}",
        bob.output
    );
    bob.answer_until(&mut world, Client::is_over);
    assert_eq!(subject(bob.forwarded()), "bob");
}

#[test]
fn a_clock_set_back_a_day_makes_nobody_wait_longer() {
    let mut world = World::new(vec![owner("alice", 1)]);
    let mut leader = Client::send(&mut world, 1);
    leader.answer(&mut world);
    let mut follower = Client::send(&mut world, 1);
    world.now = START.minus_ms(DAY_MS);
    let mut waited = 0;
    while !follower.is_over() {
        let wait = follower.wait_ms().unwrap();
        waited += wait;
        world.now = world.now.plus_ms(wait);
        follower.answer(&mut world);
        assert!(waited < 10_000, "no end");
    }
    assert!(waited <= 4000 + 41, "{waited}");
    assert_eq!(follower.rejected().1, &Reason::Deadline);
    assert!(!leader.is_over());
}

#[test]
fn a_clock_set_back_a_day_hides_no_leaders_failure() {
    let mut world = World::new(vec![owner("alice", 1)]);
    let mut leader = Client::send(&mut world, 1);
    leader.answer(&mut world);
    let mut follower = Client::send(&mut world, 1);
    world.now = START.minus_ms(DAY_MS);
    follower.answer(&mut world);
    assert!(follower.wait_ms().is_some());
    world.now = world.now.plus_ms(5);
    leader.fail(&mut world);
    for _ in 0..2 {
        // It waits for a moment, and asks once more.
        world.now = world.now.plus_ms(100);
        leader.answer(&mut world);
        leader.fail(&mut world);
    }
    world.now = world.now.plus_ms(5);
    follower.answer(&mut world);
    assert_eq!(follower.rejected(), leader.rejected());
    assert_eq!(world.keycloak.calls.lookup, 0);
}

#[test]
fn a_refused_wait_is_told_of_and_not_asked_for_again() {
    for kind in ["wait", "turn"] {
        let mut world = World::new(vec![owner("alice", 1)]);
        let mut client = Client::send(&mut world, 1);
        if kind == "wait" {
            client = Client::send(&mut world, 1);
            assert!(client.wait_ms().is_some());
        } else {
            client.answer_until(&mut world, is_yield);
            assert!(client.wait_ms().is_none());
        }
        client.reply(&mut world, 503, b"");
        let (rejection, reason) = client.rejected();
        assert_eq!(rejection, Rejection::Overloaded, "{kind}");
        assert_eq!(reason, &Reason::YieldFailed("status 503".into()));
    }
}

#[test]
fn wrong_secrets_for_one_id_keep_nobody_elses_first_use_out() {
    let mut world = World::new(vec![owner("alice", 1), owner("bob", 2)]);
    let mut wrong: Vec<Client> = (0..65)
        .map(|number| Client::send_key(&mut world, &other_secret(&key(1), number)))
        .collect();
    let mut bob = Client::send(&mut world, 2);
    for _ in 0..4000 {
        world.now = world.now.plus_ms(1);
        for client in wrong.iter_mut().filter(|client| !client.is_over()) {
            client.answer(&mut world);
        }
        if !bob.is_over() {
            bob.answer(&mut world);
        }
    }
    assert_eq!(subject(bob.forwarded()), "bob");
    for client in &wrong {
        assert_eq!(
            client.rejected(),
            (Rejection::InvalidApiKey, &Reason::WrongSecret)
        );
    }
}

#[test]
fn a_follower_from_the_start_waits_as_long_as_its_leader_verifies() {
    let changes = json!({ "callout_timeout_ms": 100 });
    let mut world = World::with(vec![costly("alice", 1, 10)], &changes);
    let mut leader = Client::send(&mut world, 1);
    let mut follower = Client::send(&mut world, 1);
    leader.answer_until(&mut world, is_yield);
    while !leader.is_over() {
        world.now = world.now.plus_ms(3);
        leader.answer(&mut world);
        if !follower.is_over() {
            follower.answer(&mut world);
        }
    }
    if !follower.is_over() {
        follower.answer(&mut world);
    }
    leader.forwarded();
    follower.forwarded();
}

#[test]
fn a_wait_may_take_three_seconds_more_than_was_asked_for() {
    let mut world = World::new(vec![plain_owner("alice", 1)]);
    let _leader = Client::send(&mut world, 1);
    let follower = Client::send(&mut world, 1);
    assert_eq!((follower.wait_ms(), follower.timeout_ms()), (Some(5), 3005));
}

#[test]
fn who_fetches_the_service_token_has_a_callouts_time_and_a_second() {
    for (ms, fetches) in [(2999, false), (3000, true)] {
        let mut world = World::new(vec![plain_owner("alice", 1), plain_owner("bob", 2)]);
        let _silent = Client::send(&mut world, 1);
        let mut waiting = Client::send(&mut world, 2);
        assert!(is_yield(&waiting));
        world.now = START.plus_ms(ms);
        waiting.answer(&mut world);
        let called = matches!(waiting.output, Output::Await(Effect::Call { .. }));
        assert_eq!(called, fetches, "{ms}: {:?}", waiting.output);
    }
}

#[test]
fn a_leaders_deadline_that_only_a_clock_step_can_have_made_so_far_is_not_taken_over() {
    for (back_ms, waits_on) in [(64_000, true), (64_001, false)] {
        let mut world = World::new(vec![plain_owner("alice", 1)]);
        let _silent = Client::send(&mut world, 1);
        let now = START.minus_ms(back_ms);
        world.now = now;
        let mut follower = Client::send(&mut world, 1);
        // Its own deadline.
        world.now = now.plus_ms(4000);
        follower.answer(&mut world);
        assert_eq!(is_yield(&follower), waits_on, "{:?}", follower.output);
    }
}

#[test]
fn a_shell_with_threads_gets_each_bcrypt_whole_and_its_verdict_decides() {
    let mut world = World::new(vec![costly("alice", 1, 5)]);
    world.gate = Gate::apart(2);
    let mut yields = 0;
    let wrong = other_secret(&key(1), 1);
    for sent in [wrong.as_str(), &key(1)] {
        let ended = world.request_led(&[("x-api-key", sent)], |effect, answer| {
            yields += u32::from(matches!(effect, Effect::Yield { .. }));
            Ok(answer())
        });
        match ended {
            Ended::Forwarded(forward) => assert_eq!(forward.source, Source::FirstUse),
            other => assert_eq!(other.rejected().1, Reason::WrongSecret),
        }
    }
    assert_eq!(yields, 1, "the turn before the right key's signatures");
}

#[test]
fn a_verdict_that_does_not_come_is_a_refusal_and_the_next_request_is_served() {
    let mut world = World::new(vec![costly("alice", 1, 5)]);
    world.gate = Gate::apart(1);
    let mut client = Client::send(&mut world, 1);
    let computes = |client: &Client| matches!(client.output, Output::Await(Effect::Compute { .. }));
    client.answer_until(&mut world, computes);
    client.fail(&mut world);
    let refused = (Rejection::Overloaded, &Reason::VerificationDeadline);
    assert_eq!(client.rejected(), refused);
    world.expect_source(&key(1), Source::FirstUse, "alice");
}
