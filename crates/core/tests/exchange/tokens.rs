//! The owner's token: its subject, its life, its source.

use apikeys_core::clock::UnixMillis;
use apikeys_core::exchange::{Pass, Source};
use serde_json::json;

use super::keycloak::{Calls, User, bcrypt_of, claims, sha256_of};
use super::world::{Ended, START, World, id_of, key, subject};

const FAR: UnixMillis = UnixMillis(START.0 + 90 * 86_400_000);

fn alice(number: u8) -> User {
    User::new("alice").with_key(id_of(&key(number)), &bcrypt_of(&key(number)), FAR)
}

#[test]
fn a_first_use_verifies_and_every_later_request_comes_from_the_cache() {
    let mut world = World::new(vec![alice(1)]);
    world.expect_source(&key(1), Source::FirstUse, "alice");
    assert_eq!(world.ended_key_id.as_deref(), Some(id_of(&key(1))));
    let calls = world.keycloak.calls;
    assert_eq!(
        calls,
        Calls {
            service_token: 1,
            lookup: 1,
            grant: 1
        }
    );
    // 32 rounds in slices of 12, and a turn for the signatures.
    assert_eq!(world.yields, 2 + 1);
    world.expect_source(&key(1), Source::L1, "alice");
    world.next_worker();
    world.expect_source(&key(1), Source::L2, "alice");
    assert_eq!(world.keycloak.calls, calls);
}

#[test]
fn each_owner_gets_its_own_token() {
    let bob = User::new("bob").with_key(id_of(&key(2)), &sha256_of(&key(2)), FAR);
    let mut world = World::new(vec![alice(1), bob]);
    for _ in 0..2 {
        for (number, owner) in [(1, "alice"), (2, "bob")] {
            assert_eq!(subject(&world.key_request(&key(number)).forwarded()), owner);
        }
    }
}

#[test]
fn a_refresh_after_the_ttl_asks_keycloak_and_computes_no_bcrypt() {
    let mut world = World::with(vec![alice(1)], &json!({ "cache_ttl_seconds": 60 }));
    world.expect_source(&key(1), Source::FirstUse, "alice");
    world.now = world.now.plus_ms(60_000);
    world.yields = 0;
    world.expect_source(&key(1), Source::Refresh, "alice");
    assert_eq!(
        world.keycloak.calls,
        Calls {
            service_token: 1,
            lookup: 2,
            grant: 2
        }
    );
    assert_eq!(world.yields, 0);
    world.now = world.now.plus_ms(60_000);
    world.next_worker();
    world.expect_source(&key(1), Source::Refresh, "alice");
}

#[test]
fn a_changed_hash_is_verified_anew() {
    let mut world = World::with(vec![alice(1)], &json!({ "cache_ttl_seconds": 60 }));
    world.expect_source(&key(1), Source::FirstUse, "alice");
    let rehashed = User::new("alice").with_key(id_of(&key(1)), &sha256_of(&key(1)), FAR);
    world.keycloak.users = vec![rehashed];
    world.now = world.now.plus_ms(60_000);
    world.expect_source(&key(1), Source::FirstUse, "alice");
}

#[test]
fn no_token_is_used_past_its_end_less_the_skew() {
    let mut world = World::with(vec![alice(1)], &json!({ "cache_ttl_seconds": 86_400 }));
    world.keycloak.token_life_seconds = 100;
    world.expect_source(&key(1), Source::FirstUse, "alice");
    let granted_at = world.now;
    world.now = granted_at.plus_ms(69_000);
    world.expect_source(&key(1), Source::L1, "alice");
    world.now = granted_at.plus_ms(70_001);
    world.expect_source(&key(1), Source::Refresh, "alice");
}

#[test]
fn a_token_ends_with_its_key_and_the_key_is_refused_after() {
    let ends_at = START.plus_ms(40_000);
    let owner = User::new("alice").with_key(id_of(&key(1)), &bcrypt_of(&key(1)), ends_at);
    let mut world = World::new(vec![owner]);
    let forward = world.key_request(&key(1)).forwarded();
    let exp = claims(&forward.authorization["Bearer ".len()..])["exp"]
        .as_u64()
        .unwrap();
    assert!(exp <= ends_at.as_seconds(), "{exp}");
    world.now = ends_at.minus_ms(1);
    // In its last second any outcome is allowed: the cache does not decide it.
    let _ = world.key_request(&key(1));
    world.now = ends_at;
    world.key_request(&key(1)).rejected();
}

#[test]
fn a_keys_scopes_go_before_the_configured_ones() {
    let scoped = alice(1).with_scopes(id_of(&key(1)), "orders:read");
    let plain = User::new("bob").with_key(id_of(&key(2)), &sha256_of(&key(2)), FAR);
    let mut world = World::with(vec![scoped, plain], &json!({ "scope": "profile email" }));
    world.key_request(&key(1)).forwarded();
    world.key_request(&key(2)).forwarded();
    assert_eq!(
        world.keycloak.granted_scopes,
        ["orders:read", "profile email"]
    );
}

#[test]
fn an_imported_key_is_found_by_its_derived_id() {
    let index_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let changes = json!({ "index_key": index_key });
    let legacy = "legacy-key-0123456789";
    let id = super::world::config(&changes)
        .key_format
        .parse(legacy.as_bytes())
        .unwrap();
    let owner = User::new("alice").with_key(id.id(), &bcrypt_of(legacy), FAR);
    let mut world = World::with(vec![owner], &changes);
    let forward = world.request(&[("x-api-key", legacy)]).forwarded();
    assert_eq!(
        (subject(&forward).as_str(), &forward.remove[..]),
        ("alice", &["x-api-key".into()][..])
    );
}

#[test]
fn a_bearer_token_passes_and_a_disabled_filter_touches_nothing() {
    let mut world = World::new(vec![alice(1)]);
    let passed = world.request(&[("authorization", "Bearer eyJ.x.y")]);
    assert!(matches!(passed, Ended::Passed(Pass::NoKey)));
    let mut off = World::with(vec![alice(1)], &json!({ "enabled": false }));
    assert!(matches!(
        off.key_request(&key(1)),
        Ended::Passed(Pass::Disabled)
    ));
    assert!(matches!(off.request(&[]), Ended::Passed(Pass::Disabled)));
}

#[test]
fn the_service_token_is_kept_and_renewed_before_its_end() {
    let users = (1..=4).map(|number| {
        User::new("alice").with_key(id_of(&key(number)), &sha256_of(&key(number)), FAR)
    });
    let mut world = World::new(users.collect());
    world.key_request(&key(1)).forwarded();
    world.now = START.plus_ms(260_000);
    world.key_request(&key(2)).forwarded();
    assert_eq!(world.keycloak.calls.service_token, 1);
    world.now = START.plus_ms(280_000);
    world.key_request(&key(3)).forwarded();
    assert_eq!(world.keycloak.calls.service_token, 2);
}

#[test]
fn assertions_begin_with_the_keys_id_so_that_keycloaks_events_name_it() {
    let mut world = World::new(vec![alice(1)]);
    let mut assertion_ids = Vec::new();
    let headers = super::world::headers(&[("x-api-key", &key(1))]);
    let mut exchange = apikeys_core::exchange::Exchange::new();
    let mut output = world.begin(&mut exchange, &headers);
    use apikeys_core::exchange::Output;
    use apikeys_core::machine::{Effect, Event};
    loop {
        output = match output {
            Output::Await(Effect::Call { call, .. }) => {
                if let Some(form) = call
                    .form
                    .as_deref()
                    .filter(|form| form.contains("jwt-bearer&assertion="))
                {
                    for name in ["&assertion=", "&client_assertion="] {
                        let jwt = form.split_once(name).unwrap().1.split('&').next().unwrap();
                        assertion_ids.push(claims(jwt)["jti"].as_str().unwrap().to_owned());
                    }
                }
                let (status, body) = world.keycloak.answer(&call, world.now);
                world.input(
                    &mut exchange,
                    Event::Answer {
                        status,
                        body: Some(&body),
                    },
                )
            }
            Output::Await(Effect::Yield { .. }) => world.input(
                &mut exchange,
                Event::Answer {
                    status: 204,
                    body: Some(b""),
                },
            ),
            _ => break,
        };
    }
    assert_eq!(assertion_ids.len(), 2);
    assert_ne!(assertion_ids[0], assertion_ids[1]);
    for jti in assertion_ids {
        assert!(jti.starts_with(&format!("{}.", id_of(&key(1)))), "{jti}");
    }
}
