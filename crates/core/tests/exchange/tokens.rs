//! The owner's token: its subject, its life, its source.

use serde_json::json;

use super::client::{FAR, owner, plain_owner};
use super::keycloak::{User, bcrypt_of, claims};
use super::world::{START, World, id_of, key, subject};

#[test]
fn each_owner_gets_its_own_token() {
    let bob = plain_owner("bob", 2);
    let mut world = World::new(vec![owner("alice", 1), bob]);
    for _ in 0..2 {
        for (number, owner) in [(1, "alice"), (2, "bob")] {
            assert_eq!(subject(&world.key_request(&key(number)).forwarded()), owner);
        }
    }
}

#[test]
fn a_keys_scopes_go_before_the_configured_ones() {
    let scoped = owner("alice", 1).with_scopes(id_of(&key(1)), "orders:read");
    let plain = plain_owner("bob", 2);
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
fn the_service_token_is_kept_and_renewed_before_its_end() {
    let users = (1..=4).map(|number| plain_owner("alice", number));
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
    let mut world = World::new(vec![owner("alice", 1)]);
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
