//! The life of a key by the API: made, told, rotated, ended.

use apikeys_core::api_key::record::Field;
use apikeys_core::exchange::Source;
use serde_json::{Value, json};

use super::client::Client;
use super::keycloak::{User, sha256_of};
use super::keys::{id_of, key};
use super::request::{KEYS, Request};
use super::world::{START, World};

const DAY_MS: u64 = 86_400_000;

fn alice() -> User {
    User::new("alice").with_profile(&json!({
        "username": "alice", "email": "alice@example.com", "emailVerified": true,
        "firstName": "Alice", "lastName": "Example", "createdTimestamp": 1,
        "requiredActions": [], "notBefore": 0,
    }))
}

fn world() -> World {
    World::new(vec![alice(), User::new("bob")])
}

fn new(name: &str) -> Value {
    json!({ "name": name })
}

#[test]
fn a_key_that_is_made_is_exchanged_and_is_gone_when_it_is_revoked() {
    let mut world = world();
    let gateway = world.add_gateway(0);
    let token = world.token("alice");
    let body = json!({ "name": " Laptop ", "expires_days": 7, "scopes": ["orders:read"] });
    let told = world.ask(&Request::create(&token, &body));
    let (id, key) = told.made();
    let made = told.body();
    let words = [&made["name"], &made["state"], &made["scopes"]];
    assert_eq!(
        words,
        [&json!("Laptop"), &json!("active"), &json!(["orders:read"])]
    );
    assert!(key.starts_with(&format!("sk_live_{id}_")));
    let made_at = made["created"].as_str().unwrap().to_owned();
    let ends_at = made["expires_at"].as_str().unwrap().to_owned();
    let ends_at = apikeys_core::clock::UnixMillis::parse_rfc3339(&ends_at).unwrap();
    assert_eq!(ends_at.minus_ms(7 * DAY_MS).to_rfc3339(), made_at);
    assert_eq!(
        world.exchange(gateway, &key),
        Ok(("alice".into(), Source::FirstUse))
    );
    assert_eq!(world.keycloak.granted_scopes, ["orders:read"]);
    let told = world.ask(&Request::revoke(&token, &id));
    assert_eq!((told.expect(204), told.text), (json!(null), None));
    assert_eq!(world.exchange(gateway, &key), Err("invalid_api_key"));
    world.expect_nothing_held();
    world.expect_no_lock();
}

#[test]
fn what_is_stored_is_the_hash_that_the_configuration_asks_for() {
    for (algorithm, begins) in [("bcrypt", "$2b$04$"), ("sha256", "$sha256$")] {
        let changes = json!({ "hash_algorithm": algorithm });
        let mut world = World::with(vec![alice()], &changes);
        let gateway = world.add_gateway(0);
        let (_, key) = world.make("alice");
        let stored = &world.keycloak.user("alice").attributes["apiKeys"][0];
        let hash = stored.splitn(3, ':').last().unwrap();
        assert!(hash.starts_with(begins));
        world.exchange(gateway, &key).unwrap();
    }
}

#[test]
fn no_two_keys_are_alike_and_nobodys_profile_changes() {
    let mut world = world();
    let before = world.keycloak.user("alice").profile.clone();
    let made: Vec<_> = (0..5).map(|_| world.make("alice")).collect();
    for (at, (id, text)) in made.iter().enumerate() {
        assert!(
            made[..at]
                .iter()
                .all(|(other, theirs)| other != id && theirs != text)
        );
    }
    world
        .ask(&Request::revoke(&world.token("alice"), &made[2].0))
        .expect(204);
    let alice = world.keycloak.user("alice");
    assert_eq!(alice.profile, before);
    assert_eq!(alice.key_ids().len(), 4);
    assert_eq!(alice.attributes["apiKeyIndex"].len(), 4);
    let described = |id: &str| alice.attributes.keys().any(|name| name.contains(id));
    assert!(!described(&made[2].0) && described(&made[3].0));
}

#[test]
fn a_key_that_no_gateway_would_find_is_not_made() {
    let mut world = world();
    world.keycloak.user("alice").unsearchable = true;
    let request = Request::create(&world.token("alice"), &new("Laptop"));
    let told = world.ask(&request);
    let detail = told.refused(409, "owner_not_eligible");
    assert!(
        detail.contains("Keycloak's search does not find"),
        "{detail}"
    );
    let alice = world.keycloak.user("alice");
    assert_eq!(alice.key_ids(), [] as [String; 0]);
    assert!(alice.attributes.values().all(Vec::is_empty));
    world.expect_nothing_held();
    world.expect_no_lock();
}

#[test]
fn a_key_whose_look_up_is_not_answered_is_told() {
    let mut world = world();
    let request = Request::create(&world.token("alice"), &new("Laptop"));
    let told = world.ask_with(&request, |asked, reply| match asked {
        "look-up" => Err("no answer"),
        _ => Ok(reply),
    });
    told.made();
    world.expect_nothing_held();
}

#[test]
fn the_limit_holds_and_is_told_and_an_ended_key_makes_room() {
    let mut world = World::with(vec![alice()], &json!({ "max_keys_per_user": 2 }));
    let token = world.token("alice");
    let (first, _) = world.make("alice");
    world.make("alice");
    for _ in 0..2 {
        let told = world.ask(&Request::create(&token, &new("third")));
        let detail = told.refused(409, "key_limit_reached");
        assert!(
            detail.contains("holds 2 keys") && detail.contains("may hold 2"),
            "{detail}"
        );
    }
    world.ask(&Request::revoke(&token, &first)).expect(204);
    world.make("alice");
    let token = world.token("alice");
    assert_eq!(world.ask(&Request::list(&token)).ids().len(), 2);
    world.expect_no_lock();
}

#[test]
fn keys_are_listed_newest_first_and_page_by_page() {
    let mut world = World::with(vec![alice()], &json!({ "max_keys_per_user": 7 }));
    let mut made: Vec<String> = (0..7)
        .map(|_| {
            world.pass(2_000);
            world.make("alice").0
        })
        .collect();
    made.reverse();
    let token = world.token("alice");
    assert_eq!(world.ask(&Request::list(&token)).ids(), made);
    let page = |world: &mut World, query: &str| {
        let told = world.ask(&Request::new("GET", &format!("{KEYS}?{query}")).bearer(&token));
        (told.ids(), told.body()["next"].as_str().map(str::to_owned))
    };
    let (mut found, mut after) = (Vec::new(), String::new());
    for length in [3, 3, 1] {
        let (ids, next) = page(&mut world, &format!("limit=3{after}"));
        assert_eq!(ids.len(), length);
        assert_eq!(next.is_some(), length == 3);
        after = format!("&after={}", next.unwrap_or_default());
        found.extend(ids);
    }
    assert_eq!(found, made);
    // A page that ends with the last key is the last one.
    let (ids, next) = page(&mut world, "limit=7");
    assert_eq!((ids.len(), next), (7, None));
    // After a key that is gone the list begins anew.
    assert_eq!(page(&mut world, "limit=2&after=gone").0, made[..2]);
}

#[test]
fn each_key_is_shown_with_its_state() {
    let ends = |days: u64| START.plus_ms(days * DAY_MS);
    let (rotated, expired, broken) = (key(1), key(2), key(3));
    let mut user = alice()
        .with_key(id_of(&rotated), &sha256_of(&rotated), ends(9))
        .with_field(Field::ReplacedBy, id_of(&rotated), "zzzzzzzzzzzz")
        .with_field(Field::GraceUntil, id_of(&rotated), &ends(1).to_rfc3339())
        .with_key(id_of(&expired), &sha256_of(&expired), START)
        .with_field(Field::Name, id_of(&expired), "old")
        .with_key(id_of(&broken), "no-hash", ends(9));
    user.attributes
        .get_mut("apiKeys")
        .unwrap()
        .push("not a record".into());
    let mut world = World::new(vec![user]);
    let token = world.token("alice");
    for (key, state, name) in [
        (&rotated, "rotating", ""),
        (&expired, "expired", "old"),
        (&broken, "unusable", ""),
    ] {
        let shown = world.ask(&Request::show(&token, id_of(key))).expect(200);
        assert_eq!(
            (&shown["state"], &shown["name"]),
            (&json!(state), &json!(name))
        );
    }
    assert_eq!(world.ask(&Request::list(&token)).ids().len(), 3);
    let shown = world.ask(&Request::show(&token, id_of(&rotated))).body();
    assert_eq!(shown["replaced_by"], "zzzzzzzzzzzz");
    assert_eq!(shown["grace_until"], ends(1).to_rfc3339());
    // A key can be ended in any state.
    for key in [&rotated, &expired, &broken] {
        world.ask(&Request::revoke(&token, id_of(key))).expect(204);
        world
            .ask(&Request::show(&token, id_of(key)))
            .refused(404, "key_not_found");
    }
}

#[test]
fn a_rotated_key_works_beside_its_replacement_until_its_grace_ends() {
    let mut world = world();
    let gateway = world.add_gateway(0);
    let body = json!({ "name": "CI", "expires_days": 30, "scopes": ["orders:read"] });
    let token = world.token("alice");
    let told = world.ask(&Request::create(&token, &body));
    let ((old_id, old), made) = (told.made(), told.body());
    world.exchange(gateway, &old).unwrap();
    world.pass(10_000);
    let request = Request::rotate(&token, &old_id, &json!({ "grace_seconds": 120 }));
    let told = world.ask(&request);
    let ((id, new), rotated) = (told.made(), told.body());
    for inherited in ["name", "scopes", "expires_at"] {
        assert_eq!(rotated[inherited], made[inherited], "{inherited}");
    }
    assert_ne!(id, old_id);
    let replaced = &rotated["replaces"];
    assert_eq!(
        (&replaced["key_id"], &replaced["state"]),
        (&json!(old_id), &json!("rotating"))
    );
    assert_eq!(replaced["replaced_by"], json!(id));
    assert!(world.exchange(gateway, &old).is_ok() && world.exchange(gateway, &new).is_ok());
    let again = world.ask(&Request::rotate(&token, &old_id, &json!({})));
    again.refused(409, "key_rotating");
    // Its end is stored in whole seconds.
    world.pass(121_000);
    assert_eq!(world.exchange(gateway, &old), Err("invalid_api_key"));
    assert!(world.exchange(gateway, &new).is_ok());
    // The new one can be rotated in turn.
    let token = world.token("alice");
    world.ask(&Request::rotate(&token, &id, &json!({}))).made();
    assert_eq!(
        world.keycloak.user("alice").key_ids().len(),
        2,
        "the oldest is swept"
    );
}

#[test]
fn a_rotation_without_grace_ends_the_old_key_at_once_on_the_whole_node() {
    let mut world = world();
    let gateways = [world.add_gateway(0), world.add_gateway(0)];
    let (old_id, old) = world.make("alice");
    for gateway in gateways {
        world.exchange(gateway, &old).unwrap();
    }
    let request = Request::rotate(
        &world.token("alice"),
        &old_id,
        &json!({ "grace_seconds": 0 }),
    );
    let told = world.ask(&request);
    let (_, new) = told.made();
    assert!(told.body().get("replaces").is_none());
    for gateway in gateways {
        assert_eq!(world.exchange(gateway, &old), Err("invalid_api_key"));
        assert!(world.exchange(gateway, &new).is_ok());
    }
}

#[test]
fn a_rotation_needs_no_body_and_its_end_can_be_asked_for() {
    let mut world = world();
    let (id, _) = world.make("alice");
    let token = world.token("alice");
    let path = format!("{KEYS}/{id}/rotate");
    let request = Request::new("POST", &path).bearer(&token);
    let told = world.ask(&request);
    let replaced = told.expect(201)["replaces"].clone();
    let grace = START.plus_ms(DAY_MS).to_rfc3339();
    assert!(
        replaced["grace_until"].as_str().unwrap() >= grace.as_str(),
        "a day, as documented"
    );
    let (second, _) = told.made();
    for (days, ends) in [(1, 1), (400, 400)] {
        let body = json!({ "expires_days": days, "grace_seconds": 0 });
        let (id, _) = world.make("alice");
        let told = world.ask(&Request::rotate(&token, &id, &body)).expect(201);
        let ends_at = told["expires_at"].as_str().unwrap().to_owned();
        assert!(ends_at.as_str() >= START.plus_ms(ends * DAY_MS).to_rfc3339().as_str());
        assert!(ends_at.as_str() < START.plus_ms((ends + 1) * DAY_MS).to_rfc3339().as_str());
    }
    world.ask(&Request::revoke(&token, &second)).expect(204);
}

#[test]
fn ended_and_broken_keys_cannot_be_rotated() {
    let (expired, broken) = (key(2), key(3));
    let user = alice()
        .with_key(id_of(&expired), &sha256_of(&expired), START)
        .with_key(id_of(&broken), "no-hash", START.plus_ms(DAY_MS));
    let mut world = World::new(vec![user]);
    let token = world.token("alice");
    for key in [&expired, &broken] {
        let told = world.ask(&Request::rotate(&token, id_of(key), &json!({})));
        told.refused(409, "key_ended");
    }
    let told = world.ask(&Request::rotate(&token, "abcabcabcabc", &json!({})));
    told.refused(404, "key_not_found");
    assert_eq!(world.count("write"), 0);
    world.expect_no_lock();
}

#[test]
fn to_revoke_what_is_not_there_is_done_already() {
    let mut world = world();
    let (id, _) = world.make("alice");
    let (kept, _) = world.make("alice");
    let token = world.token("alice");
    for _ in 0..3 {
        world.ask(&Request::revoke(&token, &id)).expect(204);
    }
    world
        .ask(&Request::revoke(&token, "nothing-here"))
        .expect(204);
    // Another's key is none of one's own.
    world
        .ask(&Request::revoke(&world.token("bob"), &kept))
        .expect(204);
    assert_eq!(world.keycloak.user("alice").key_ids(), [kept]);
    assert_eq!(world.count("write"), 3);
    world.expect_no_lock();
}

#[test]
fn a_revocation_is_in_force_in_every_worker_of_the_node_when_it_is_answered() {
    for ticks in [true, false] {
        let mut world = world();
        world.ticks = ticks;
        let gateways = [world.add_gateway(0), world.add_gateway(0)];
        let (id, key) = world.make("alice");
        let (_, bobs) = world.make("bob");
        for gateway in gateways {
            world.exchange(gateway, &key).unwrap();
            world.exchange(gateway, &bobs).unwrap();
        }
        world
            .ask(&Request::revoke(&world.token("alice"), &id))
            .expect(204);
        // Without ticks within a second.
        world.pass(if ticks { 0 } else { 1_000 });
        for gateway in gateways {
            assert_eq!(world.exchange(gateway, &key), Err("invalid_api_key"));
            let (_, source) = world.exchange(gateway, &bobs).unwrap();
            assert_eq!(source, Source::L1, "nobody else's is dropped");
        }
        let validated = world.ask(&Request::validate(&key));
        validated.refused(401, "invalid_api_key");
    }
}

#[test]
fn a_revocation_is_answered_when_the_other_workers_cannot_be_told() {
    let mut world = World::with(vec![alice()], &json!({ "l2_slots": 0 }));
    let (id, _) = world.make("alice");
    let told = world.ask(&Request::revoke(&world.token("alice"), &id));
    told.expect(204);
    assert!(told.reason.unwrap().contains("could not be told"));
}

#[test]
fn the_first_key_links_its_owner_and_the_end_of_the_last_unlinks() {
    let mut user = alice();
    user.unlink();
    let mut world = World::new(vec![user]);
    let (first, _) = world.make("alice");
    assert!(world.keycloak.user("alice").is_linked());
    let (second, _) = world.make("alice");
    let token = world.token("alice");
    world.ask(&Request::revoke(&token, &first)).expect(204);
    assert!(world.keycloak.user("alice").is_linked());
    world.ask(&Request::revoke(&token, &second)).expect(204);
    assert!(!world.keycloak.user("alice").is_linked());
}

#[test]
fn who_was_unlinked_makes_no_key_until_an_administrator_does() {
    let mut world = world();
    world.make("alice");
    world.keycloak.user("alice").unlink();
    let told = world.ask(&Request::create(&world.token("alice"), &new("again")));
    told.refused(409, "owner_not_eligible");
    let request = Request::create(&world.admin(), &new("again")).for_user("alice");
    world.ask(&request).made();
    assert!(world.keycloak.user("alice").is_linked());
}

#[test]
fn a_link_under_another_id_is_no_way_to_anothers_tokens() {
    let mut world = world();
    let links = &mut world.keycloak.user("alice").links;
    links.insert("api-keys".into(), ("bob".into(), "bob".into()));
    let told = world.ask(&Request::create(&world.token("alice"), &new("n")));
    told.refused(503, "identity_provider_unavailable");
    assert!(
        told.reason
            .unwrap()
            .contains("under another id than its own")
    );
    world.keycloak.user("bob").unlink();
    let told = world.ask(&Request::create(&world.token("bob"), &new("n")));
    told.refused(503, "identity_provider_unavailable");
    assert_eq!(world.count("write"), 0);
    world.expect_no_lock();
}

#[test]
fn without_the_locks_provider_nothing_is_changed() {
    let mut world = world();
    world.keycloak.providers = vec!["api-keys".into()];
    let told = world.ask(&Request::create(&world.token("alice"), &new("n")));
    told.refused(503, "identity_provider_unavailable");
    assert!(told.reason.unwrap().contains("apikeys setup"));
    assert_eq!(world.count("write"), 0);
}

#[test]
fn scopes_are_asked_for_before_a_key_is_made_and_a_rotation_inherits_them() {
    let mut world = world();
    let token = world.token("alice");
    let body = json!({ "name": "n", "scopes": ["orders:read", "profile"] });
    let (id, _) = world.ask(&Request::create(&token, &body)).made();
    assert_eq!(world.count("scopes"), 1);
    let bad = json!({ "name": "n", "scopes": ["orders:read", "nothing:such"] });
    let told = world.ask(&Request::create(&token, &bad));
    told.refused(400, "invalid_scope");
    assert_eq!(world.count("lock"), 1, "no lock for what is refused");
    let told = world.ask(&Request::rotate(&token, &id, &json!({})));
    assert_eq!(
        told.expect(201)["scopes"],
        json!(["orders:read", "profile"])
    );
    assert_eq!(world.count("scopes"), 2);
}

#[test]
fn hashing_takes_turns_and_one_key_is_hashed_at_a_time() {
    let mut world = World::with(
        vec![alice(), User::new("bob")],
        &json!({ "bcrypt_cost": 6 }),
    );
    let requests = ["alice", "bob"].map(|user| Request::create(&world.token(user), &new("n")));
    let [mut first, mut second] = requests.map(|request| Client::send(&mut world, &request));
    for (client, places) in [(&mut first, 1), (&mut second, 2)] {
        while world.members[0].gate.places() < places {
            world.pass(client.takes_ms());
            client.answer(&mut world);
        }
    }
    assert_eq!((first.waits_for(), second.waits_for()), ("turn", "wait"));
    // 64 rounds, 14 to a slice.
    for _ in 0..3 {
        assert_eq!(first.waits_for(), "turn");
        first.answer(&mut world);
    }
    first.answer_until(&mut world, "lock");
    assert_eq!(world.members[0].gate.places(), 1);
    second.answer_until(&mut world, "lock");
    for client in [first, second] {
        client.finish_with(&mut world, |_, reply| Ok(reply)).made();
    }
    world.expect_nothing_held();
}

/// The text in the place of an id may be an imported key, which has no prefix.
#[test]
fn the_log_names_a_key_once_it_is_found() {
    let mut world = world();
    let (id, _) = world.make("alice");
    let token = world.token("alice");
    let imported = "an-old-key-of-the-older-system-01";
    for (request, named) in [
        (Request::show(&token, imported), None),
        (Request::rotate(&token, imported, &json!({})), None),
        (Request::revoke(&token, imported), None),
        (Request::show(&token, &id), Some(&id)),
        (Request::revoke(&token, &id), Some(&id)),
        (Request::revoke(&token, &id), None),
    ] {
        let mut client = Client::send(&mut world, &request);
        client.answer_until(&mut world, "nothing");
        let report = client.manage.report();
        assert!(!format!("{report:?}").contains(imported));
        assert_eq!(
            (&report.caller, &report.owner),
            (&Some("alice".into()), &Some("alice".into()))
        );
        if request.method != "POST" {
            assert_eq!(report.key_id.as_ref(), named);
        }
    }
}
