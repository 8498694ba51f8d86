//! Keys that are no good: one answer for all of them, remembered for a while.

use apikeys_core::cache::CachedRefusal;
use apikeys_core::exchange::{Output, Pass};
use apikeys_core::rejection::Refused;
use apikeys_core::rejection::{Reason, Rejection};
use serde_json::{Value, json};

use super::client::{Client, owner, plain_owner};
use super::keycloak::User;
use super::world::{Ended, START, World, id_of, key, other_secret, subject};

fn alice() -> User {
    owner("alice", 1)
}

#[test]
fn a_refused_key_is_asked_for_again_after_the_negative_ttl() {
    let mut world = World::new(vec![]);
    world.key_request(&key(1)).rejected();
    world.keycloak.users = vec![alice()];
    world.key_request(&key(1)).rejected();
    world.now = world.now.plus_ms(30_000);
    world.key_request(&key(1)).forwarded();
}

#[test]
fn with_a_negative_ttl_of_zero_nothing_is_remembered() {
    let mut world = World::with(vec![], &json!({ "negative_ttl_seconds": 0 }));
    world.key_request(&key(1)).rejected();
    world.keycloak.users = vec![alice()];
    world.key_request(&key(1)).forwarded();
}

#[test]
fn an_unknown_key_that_falls_back_takes_nobody_the_service_token() {
    let until = START.plus_ms(3_600_000);
    let changes = json!({ "fallback_until": until.to_rfc3339() });
    let mut world = World::with(vec![alice(), plain_owner("bob", 5)], &changes);
    world.key_request(&key(1)).forwarded();
    let before = world.keycloak.calls.service_token;
    let mut unknown = Client::send(&mut world, 2);
    unknown.answer_until(&mut world, |client| !client.is_looking_up());
    // It fetches a token of its own now; a known key goes on with the kept one.
    let mut known = Client::send(&mut world, 5);
    assert!(known.is_looking_up());
    unknown.answer_until(&mut world, Client::is_over);
    known.answer_until(&mut world, Client::is_over);
    assert!(matches!(unknown.output, Output::Pass(Pass::Fallback)));
    assert_eq!(subject(known.forwarded()), "bob");
    assert_eq!(world.keycloak.calls.service_token, before + 1);
}

#[test]
fn who_follows_goes_by_what_another_worker_learned_if_that_is_all_there_is_to_know() {
    let until = START.plus_ms(3_600_000).to_rfc3339();
    for (changes, refused, over) in [
        (Value::Null, Refused::Invalid, true),
        (Value::Null, Refused::Unseen, true),
        (json!({ "fallback_until": until }), Refused::Unseen, false),
    ] {
        let mut world = World::with(vec![alice()], &changes);
        let leader = Client::send(&mut world, 1);
        let mut follower = Client::send(&mut world, 1);
        let parsed = world.config.key_format.parse(key(1).as_bytes()).unwrap();
        let cache = &mut world.worker.cache;
        let digest = cache.digest(&parsed);
        let refusal = CachedRefusal {
            refused,
            owner_id: None,
        };
        cache.remember_refused(&digest, refusal, world.now, world.now, &mut world.shared);
        follower.answer(&mut world);
        assert_eq!(follower.is_over(), over, "{refused:?} {changes}");
        assert!(!leader.is_over());
    }
}

#[test]
fn the_log_tells_the_id_of_a_key_and_what_its_refusal_was_remembered_as() {
    let mut world = World::new(vec![alice()]);
    for (presented, said) in [
        (key(2), "refused before (Unknown)"),
        (other_secret(&key(1), 0), "refused before (Invalid)"),
    ] {
        for _ in 0..2 {
            world.key_request(&presented).rejected();
            assert_eq!(world.ended_key_id.as_deref(), Some(id_of(&presented)));
        }
        let (_, reason) = world.key_request(&presented).rejected();
        assert_eq!(reason.to_string(), said);
    }
}

/// Found by the simulation: Keycloak checks the present roles. After a role is removed, every
/// key looks unknown, even with an older token.
#[test]
fn a_known_key_does_not_fall_back_when_the_gateway_has_lost_its_role() {
    let until = START.plus_ms(3_600_000);
    let changes = json!({ "fallback_until": until.to_rfc3339() });
    let mut world = World::with(vec![alice()], &changes);
    let fell_back = |ended: &Ended| matches!(ended, Ended::Passed(Pass::Fallback));
    assert!(fell_back(&world.key_request(&key(2))));
    world.keycloak.management_roles = vec!["query-users"];
    let (rejection, reason) = world.key_request(&key(1)).rejected();
    assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
    assert_eq!(reason, Reason::MissingRole);
    world.keycloak.management_roles = vec!["view-users"];
    world.key_request(&key(1)).forwarded();
    assert!(fell_back(&world.key_request(&key(3))));
}

/// Found in a review.
#[test]
fn a_known_key_does_not_fall_back_when_the_role_comes_back_meanwhile() {
    let until = START.plus_ms(3_600_000);
    let changes = json!({ "fallback_until": until.to_rfc3339() });
    let mut world = World::with(vec![alice()], &changes);
    world.key_request(&key(2));
    world.keycloak.management_roles = vec!["query-users"];
    world.now = world.now.plus_ms(1000);
    let mut known = Client::send(&mut world, 1);
    known.answer_until(&mut world, |client| !client.is_looking_up());
    world.keycloak.management_roles = vec!["view-users"];
    known.answer_until(&mut world, Client::is_over);
    assert_eq!(subject(known.forwarded()), "alice");
}

/// Found in a review.
#[test]
fn a_clock_set_back_makes_no_older_service_token_a_newer_one() {
    let until = START.plus_ms(3_600_000);
    let changes = json!({ "fallback_until": until.to_rfc3339() });
    let mut world = World::with(vec![alice()], &changes);
    world.key_request(&key(2));
    world.now = world.now.minus_ms(60_000);
    world.keycloak.management_roles = vec!["query-users"];
    world.now = world.now.plus_ms(50_000);
    let (_, reason) = world.key_request(&key(1)).rejected();
    assert_eq!(reason, Reason::MissingRole);
}

#[test]
fn a_lightweight_token_is_told_from_a_lost_role() {
    let mut world = World::new(vec![alice()]);
    world.keycloak.lightweight = true;
    let (rejection, reason) = world.key_request(&key(1)).rejected();
    assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
    assert_eq!(reason, Reason::LightweightToken("gateway's"));
    assert!(reason.to_string().contains("apikeys setup"));
    world.keycloak.lightweight = false;
    world.key_request(&key(1)).forwarded();
}

#[test]
fn a_lost_role_is_told_of_within_half_a_minute_and_is_no_unknown_key() {
    let mut world = World::new(vec![alice(), plain_owner("bob", 5)]);
    world.key_request(&key(1)).forwarded();
    world.keycloak.management_roles = vec!["query-users"];
    let (rejection, reason) = world.key_request(&key(5)).rejected();
    assert_eq!(
        (rejection, reason),
        (Rejection::InvalidApiKey, Reason::Unknown)
    );
    world.now = world.now.plus_ms(31_000);
    for _ in 0..2 {
        let (rejection, reason) = world.key_request(&key(5)).rejected();
        assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
        assert_eq!(reason, Reason::MissingRole);
    }
    world.keycloak.management_roles = vec!["view-users"];
    world.key_request(&key(5)).forwarded();
}

#[test]
fn a_flood_of_unknown_keys_fetches_few_service_tokens() {
    let mut world = World::new(vec![]);
    for number in 1..=100 {
        world.key_request(&key(number)).rejected();
        world.now = world.now.plus_ms(600);
    }
    assert_eq!(world.keycloak.calls.lookup, 100);
    assert_eq!(world.keycloak.calls.service_token, 2);
}

#[test]
fn a_key_that_was_unknown_without_a_look_at_the_roles_is_asked_for_before_it_falls_back() {
    let mut world = World::new(vec![]);
    world.key_request(&key(1)).rejected();
    let until = START.plus_ms(3_600_000);
    world.reconfigure(&json!({ "fallback_until": until.to_rfc3339() }));
    assert!(matches!(
        world.key_request(&key(1)),
        Ended::Passed(Pass::Fallback)
    ));
    assert_eq!(world.keycloak.calls.lookup, 3);
    // Once seen to be unknown, it is remembered so, for a route without fallback too.
    world.key_request(&key(1));
    world.reconfigure(&Value::Null);
    let (_, reason) = world.key_request(&key(1)).rejected();
    assert_eq!(reason, Reason::Remembered(Refused::Unknown));
    assert_eq!(world.keycloak.calls.lookup, 3);
}
