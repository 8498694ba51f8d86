//! The caches: their contents, the life of an entry, and its use for other requests.

use apikeys_core::exchange::{Output, Source, Worker};
use apikeys_core::machine::Effect;
use apikeys_core::rejection::{Reason, Rejection};
use serde_json::json;

use super::client::{Client, ending, owner, plain_owner};
use super::keycloak::{Calls, ISSUER, claims, jwt, refused, token_answer};
use super::world::{Ended, START, World, headers, key};

#[test]
fn a_keys_header_is_removed_wherever_the_token_comes_from() {
    let mut world = World::new(vec![owner("alice", 1)]);
    let mut leader = Client::send(&mut world, 1);
    let mut follower = Client::send(&mut world, 1);
    leader.answer_until(&mut world, Client::is_over);
    follower.answer_until(&mut world, Client::is_over);
    let warm = Client::send(&mut world, 1);
    world.next_worker();
    let shared = Client::send(&mut world, 1);
    for (client, source) in [
        (leader, Source::FirstUse),
        (follower, Source::L1),
        (warm, Source::L1),
        (shared, Source::L2),
    ] {
        let forward = client.forwarded();
        assert_eq!(
            (forward.source, forward.remove.as_slice()),
            (source, &["x-api-key".to_owned()][..])
        );
    }
}

#[test]
fn the_ttl_runs_from_the_look_up_however_slow_the_grant() {
    let changes = json!({ "cache_ttl_seconds": 60 });
    let mut world = World::with(vec![plain_owner("alice", 1)], &changes);
    let mut client = Client::send(&mut world, 1);
    client.answer_until(&mut world, Client::is_looking_up);
    client.answer_until(&mut world, Client::is_granting);
    world.now = START.plus_ms(1900);
    client.answer(&mut world);
    client.forwarded();
    world.now = START.plus_ms(59_999);
    world.expect_source(&key(1), Source::L1, "alice");
    world.now = START.plus_ms(60_000);
    world.expect_source(&key(1), Source::Refresh, "alice");
}

#[test]
fn a_token_shorter_than_the_skew_is_kept_for_half_of_its_life() {
    let mut world = World::new(vec![plain_owner("alice", 1)]);
    world.keycloak.token_life_seconds = 30;
    for _ in 0..10 {
        world.key_request(&key(1)).forwarded();
    }
    assert_eq!(world.keycloak.calls.grant, 1);
    world.now = START.plus_ms(14_900);
    world.expect_source(&key(1), Source::L1, "alice");
    world.now = START.plus_ms(15_100);
    world.expect_source(&key(1), Source::Refresh, "alice");
}

/// A grant's answer: the token ends `ms` after the start by its `exp`, and its
/// `expires_in` is as given.
fn grant_ending(ms: u64, expires_in: u64) -> Vec<u8> {
    let exp = START.plus_ms(ms).as_seconds();
    let token = jwt(&json!({ "iss": ISSUER, "sub": "alice", "exp": exp }));
    token_answer(&token, expires_in)
}

#[test]
fn no_remembered_token_is_used_at_or_after_its_keys_end() {
    let ends_at = START.plus_ms(40_000);
    let changes = json!({ "clock_skew_seconds": 0 });
    let mut world = World::with(vec![ending("alice", 1, ends_at)], &changes);
    let mut client = Client::send(&mut world, 1);
    client.answer_until(&mut world, Client::is_granting);
    // Keycloak rounds: a token may end a second past the key's end.
    client.reply(&mut world, 200, &grant_ending(41_000, 100));
    client.forwarded();
    world.now = ends_at.minus_ms(1);
    world.expect_source(&key(1), Source::L1, "alice");
    world.now = ends_at;
    let (rejection, reason) = world.key_request(&key(1)).rejected();
    assert_eq!(
        (rejection, reason),
        (Rejection::InvalidApiKey, Reason::Expired)
    );
}

#[test]
fn a_token_that_ends_two_seconds_after_its_key_is_refused_whatever_its_expires_in_says() {
    let ends_at = START.plus_ms(100_000);
    for (ends_ms, expires_in) in [(102_000, 102), (102_000, 90), (300_000, 90)] {
        let mut world = World::new(vec![ending("alice", 1, ends_at)]);
        let mut client = Client::send(&mut world, 1);
        client.answer_until(&mut world, Client::is_granting);
        client.reply(&mut world, 200, &grant_ending(ends_ms, expires_in));
        assert_eq!(
            client.rejected(),
            (
                Rejection::IdentityProviderUnavailable,
                &Reason::TokenOutlivesKey
            ),
            "{ends_ms} {expires_in}"
        );
    }
}

#[test]
fn a_key_that_ends_while_the_grant_is_out_is_refused() {
    let ends_at = START.plus_ms(1500);
    let mut world = World::new(vec![ending("alice", 1, ends_at)]);
    let mut client = Client::send(&mut world, 1);
    client.answer_until(&mut world, Client::is_granting);
    world.now = ends_at;
    client.reply(&mut world, 200, &grant_ending(2000, 100));
    assert_eq!(
        client.rejected(),
        (Rejection::InvalidApiKey, &Reason::Expired)
    );
}

#[test]
fn a_key_whose_last_token_is_over_when_it_comes_is_expired_and_no_fault_of_keycloak() {
    // In the second case Keycloak's clock is ahead, in the third it is wrong.
    for (key_ends_ms, is_expired) in [(500, true), (29_500, true), (31_500, false)] {
        let ends_at = START.plus_ms(1_000 + key_ends_ms);
        let mut world = World::new(vec![ending("alice", 1, ends_at)]);
        let mut client = Client::send(&mut world, 1);
        client.answer_until(&mut world, Client::is_granting);
        world.now = START.plus_ms(1_010);
        client.reply(&mut world, 200, &grant_ending(1_000, 0));
        let expected = if is_expired {
            (Rejection::InvalidApiKey, "key expired")
        } else {
            (Rejection::IdentityProviderUnavailable, "compare the clocks")
        };
        let (rejection, reason) = client.rejected();
        assert_eq!(rejection, expected.0, "{key_ends_ms}");
        assert!(reason.to_string().contains(expected.1), "{reason}");
    }
}

#[test]
fn a_key_in_its_last_second_is_expired_and_no_fault_of_keycloak() {
    let mut world = World::new(vec![ending("alice", 1, START.plus_ms(500))]);
    let mut client = Client::send(&mut world, 1);
    client.answer_until(&mut world, Client::is_over);
    assert_eq!(
        client.rejected(),
        (Rejection::InvalidApiKey, &Reason::Expired)
    );
    assert_eq!(world.keycloak.calls.grant, 0);
}

#[test]
fn a_service_token_that_may_not_look_up_is_forgotten() {
    let mut world = World::new(vec![plain_owner("alice", 1)]);
    let mut client = Client::send(&mut world, 1);
    client.answer_until(&mut world, Client::is_looking_up);
    client.reply(&mut world, 403, b"");
    assert_eq!(client.rejected().0, Rejection::IdentityProviderUnavailable);
    world.key_request(&key(1)).forwarded();
    assert_eq!(world.keycloak.calls.service_token, 2);
}

#[test]
fn a_worker_says_how_much_it_holds() {
    let mut world = World::new(vec![owner("alice", 1)]);
    let sizes = |world: &World| {
        let sizes = world.worker.sizes();
        let kept = [sizes.tokens, sizes.verified, sizes.refused];
        (kept, sizes.pending, sizes.flights, sizes.failures)
    };
    assert_eq!(sizes(&world), ([0, 0, 0], 0, 0, 0));
    let mut client = Client::send(&mut world, 1);
    let mut follower = Client::send(&mut world, 1);
    assert_eq!(sizes(&world), ([0, 0, 0], 2, 1, 0));
    assert_eq!(world.gate.places(), 0);
    client.answer_until(&mut world, |client| {
        matches!(client.output, Output::Await(Effect::Yield { .. }))
    });
    assert_eq!(world.gate.places(), 1);
    client.answer_until(&mut world, Client::is_over);
    follower.answer_until(&mut world, Client::is_over);
    assert_eq!(sizes(&world), ([1, 1, 0], 0, 0, 0));
    for number in [2, 3] {
        world.key_request(&key(number)).rejected();
    }
    assert_eq!(sizes(&world), ([1, 1, 2], 0, 0, 2));
    assert_eq!(world.gate.places(), 0);
}

#[test]
fn an_unknown_key_is_refused_from_the_very_instant_at_which_the_fallback_ends() {
    let until = START.plus_ms(3_600_000);
    for (now, passes) in [(until.minus_ms(1), true), (until, false)] {
        let changes = json!({ "fallback_until": until.to_rfc3339() });
        let mut world = World::with(vec![], &changes);
        world.now = now;
        let mut client = Client::send(&mut world, 1);
        client.answer_until(&mut world, Client::is_over);
        let passed = matches!(client.output, Output::Pass(_));
        assert_eq!(passed, passes, "{:?}", client.output);
    }
}

#[test]
fn a_refusal_of_the_client_with_401_is_no_verdict_on_the_key() {
    let mut world = World::new(vec![plain_owner("alice", 1)]);
    let mut client = Client::send(&mut world, 1);
    client.answer_until(&mut world, Client::is_granting);
    let (_, body) = refused("User not found");
    client.reply(&mut world, 401, &body);
    assert_eq!(client.rejected().0, Rejection::IdentityProviderUnavailable);
    world.key_request(&key(1)).forwarded();
}

#[test]
fn a_queued_request_computes_nothing_once_another_worker_has_verified_its_key() {
    let mut world = World::new(vec![owner("alice", 1), owner("bob", 2)]);
    let mut alice = Client::send(&mut world, 1);
    alice.answer_until(&mut world, |client| {
        matches!(client.output, Output::Await(Effect::Yield { .. }))
    });
    let mut bob = Client::send(&mut world, 2);
    bob.answer(&mut world);
    assert_eq!(bob.wait_ms(), Some(5), "behind alice");
    let gate = std::mem::take(&mut world.gate);
    let ours: Worker = {
        let mut other = World::new(vec![]);
        other.next_worker();
        std::mem::replace(&mut world.worker, other.worker)
    };
    world.expect_source(&key(2), Source::FirstUse, "bob");
    (world.worker, world.gate) = (ours, gate);
    world.abort(&mut alice.exchange);
    let mut turns = 0;
    while !bob.is_over() {
        bob.answer(&mut world);
        turns += u32::from(matches!(bob.output, Output::Await(Effect::Yield { .. })));
    }
    assert_eq!(bob.forwarded().source, Source::Refresh);
    assert!(turns <= 1, "{turns} turns: for a signature at most");
}

#[test]
fn assertions_live_as_long_as_their_use_takes_and_no_longer() {
    for (ttl, skew, life) in [(300, 30, 360), (1, 0, 60), (600, 300, 1200)] {
        let changes = json!({ "cache_ttl_seconds": ttl, "clock_skew_seconds": skew });
        let mut world = World::with(vec![plain_owner("alice", 1)], &changes);
        let mut client = Client::send(&mut world, 1);
        client.answer_until(&mut world, Client::is_granting);
        let Output::Await(Effect::Call { call, .. }) = &client.output else {
            panic!("{:?}", client.output)
        };
        let form = call.form.as_deref().unwrap();
        let ends = |name: &str| {
            let rest = form.split_once(name).unwrap().1;
            claims(rest.split('&').next().unwrap())["exp"]
                .as_u64()
                .unwrap()
        };
        let now = START.as_seconds();
        assert_eq!(
            (ends("&assertion="), ends("&client_assertion=")),
            (now + life, now + 60),
            "{ttl} {skew}"
        );
    }
}

#[test]
fn a_request_with_more_than_a_hundred_headers_is_refused_unread() {
    for (count, refused) in [(100, false), (101, true)] {
        let mut world = World::new(vec![plain_owner("alice", 1)]);
        let key = key(1);
        let mut pairs = vec![("x-api-key", key.as_str())];
        pairs.resize(count, ("x-other", "1"));
        assert_eq!(headers(&pairs).len(), count);
        match world.request(&pairs) {
            Ended::Rejected(rejection, Reason::TooManyHeaders) => {
                assert_eq!(rejection, Rejection::AmbiguousCredentials);
                assert!(refused, "{count}");
                assert_eq!(world.keycloak.calls, Calls::default());
            }
            ended => assert!(!refused, "{count}: {ended:?}"),
        }
    }
}
