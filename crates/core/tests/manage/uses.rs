//! The last uses of keys, from Keycloak's own log of grants.

use serde_json::{Value, json};

use super::keycloak::{GrantEvent, User};
use super::request::{KEYS, Request};
use super::world::World;

fn world() -> World {
    World::new(vec![User::new("alice"), User::new("bob")])
}

/// The last use of each key that is listed, the newest key first.
fn last_uses(world: &mut World) -> Vec<Value> {
    let token = world.token("alice");
    let told = world.ask(&Request::list(&token)).expect(200);
    let keys = told["keys"].as_array().unwrap().iter();
    keys.map(|key| key["last_used"].clone()).collect()
}

/// So many grants for a key, a second apart.
fn use_often(world: &mut World, user: &str, id: &str, times: usize) {
    for at in 0..times {
        world.pass(1_000);
        world.keycloak.grants.push(GrantEvent {
            time: world.now,
            user_id: user.into(),
            client_assertion_id: Some(format!("{id}.use-{at}")),
        });
    }
}

#[test]
fn a_key_that_was_exchanged_is_listed_with_its_last_use() {
    let mut world = world();
    let gateway = world.add_gateway(0);
    let (_, used) = world.make("alice");
    world.pass(2_000);
    let (unused, _) = world.make("alice");
    let (_, bobs) = world.make("bob");
    for key in [&used, &bobs] {
        world.exchange(gateway, key).unwrap();
    }
    let at = world.keycloak.grants[0].time.to_rfc3339();
    world.pass(3_000);
    assert_eq!(last_uses(&mut world), [Value::Null, json!(at)]);
    let token = world.token("alice");
    let shown = world.ask(&Request::show(&token, &used[8..20])).expect(200);
    assert_eq!(shown["last_used"], at);
    assert_eq!(shown.get("unused_since"), None);
    // Events reach back to that first use alone.
    let shown = world.ask(&Request::show(&token, &unused)).expect(200);
    assert!(shown.get("last_used").is_none());
    assert_eq!(shown["unused_since"], at);
}

#[test]
fn a_key_that_is_younger_than_the_oldest_event_was_never_used() {
    let mut world = world();
    use_often(&mut world, "bob", "somebodyskey", 1);
    world.pass(2_000);
    let (id, _) = world.make("alice");
    let token = world.token("alice");
    let shown = world.ask(&Request::show(&token, &id)).expect(200);
    assert_eq!(shown["unused_since"], shown["created"]);
}

#[test]
fn where_the_realm_keeps_no_events_keys_are_listed_without_their_uses() {
    let mut world = world();
    let gateway = world.add_gateway(0);
    world.keycloak.keeps_grants = false;
    let (_, key) = world.make("alice");
    world.exchange(gateway, &key).unwrap();
    let token = world.token("alice");
    let told = world.ask(&Request::list(&token)).expect(200);
    for member in ["last_used", "unused_since"] {
        assert_eq!(told["keys"][0].get(member), None);
    }
    // A role, an answer and the way to it can be missing as well.
    world.keycloak.keeps_grants = true;
    world.keycloak.manager_roles = vec!["manage-users"];
    assert_eq!(last_uses(&mut world), [Value::Null]);
    world.keycloak.manager_roles.push("view-events");
    let request = Request::list(&world.token("alice"));
    for answer in [
        Ok((500, b"".to_vec())),
        Ok((200, b"{}".to_vec())),
        Err("reset"),
    ] {
        let lose = |what, reply| {
            if what == "events" {
                answer.clone()
            } else {
                Ok(reply)
            }
        };
        let told = world.ask_with(&request, lose).expect(200);
        assert_eq!(told["keys"][0].get("unused_since"), None);
    }
}

#[test]
fn events_are_looked_through_page_by_page_as_long_as_a_key_has_no_use() {
    let mut world = world();
    let (rare, _) = world.make("alice");
    world.pass(2_000);
    let (frequent, _) = world.make("alice");
    use_often(&mut world, "alice", &rare, 1);
    let rarely = world.now.to_rfc3339();
    use_often(&mut world, "alice", &frequent, 150);
    use_often(&mut world, "bob", &rare, 1);
    let now = world.keycloak.grants[150].time.to_rfc3339();
    assert_eq!(last_uses(&mut world), [json!(now), json!(rarely)]);
    assert_eq!(world.count("events"), 2);
    let token = world.token("alice");
    let only = Request::new("GET", &format!("{KEYS}?limit=1")).bearer(&token);
    world.ask(&only).expect(200);
    assert_eq!(world.count("events"), 3, "nobody asks what is known");
}

#[test]
fn no_more_than_five_pages_are_looked_through_and_the_answer_says_how_far_they_reach() {
    let mut world = world();
    let (rare, _) = world.make("alice");
    world.pass(2_000);
    let (frequent, _) = world.make("alice");
    use_often(&mut world, "alice", &rare, 1);
    use_often(&mut world, "alice", &frequent, 700);
    let read_to = world.keycloak.grants[701 - 500].time.to_rfc3339();
    let uses = last_uses(&mut world);
    assert!(uses[0].is_string() && uses[1].is_null());
    assert_eq!(world.count("events"), 5);
    let token = world.token("alice");
    let shown = world.ask(&Request::show(&token, &rare)).expect(200);
    assert_eq!(shown["unused_since"], read_to);
}

#[test]
fn events_without_a_key_in_them_are_passed_over() {
    let mut world = world();
    let (id, _) = world.make("alice");
    use_often(&mut world, "alice", &id, 1);
    let at = world.now.to_rfc3339();
    for id in [None, Some("no-dot"), Some("manager.abc"), Some("")] {
        world.pass(1_000);
        world.keycloak.grants.push(GrantEvent {
            time: world.now,
            user_id: "alice".into(),
            client_assertion_id: id.map(str::to_owned),
        });
    }
    assert_eq!(last_uses(&mut world), [json!(at)]);
}

#[test]
fn an_owner_without_keys_is_asked_for_alone() {
    let mut world = world();
    assert_eq!(last_uses(&mut world), [Value::Null; 0]);
    assert_eq!((world.count("user"), world.count("events")), (1, 0));
}
