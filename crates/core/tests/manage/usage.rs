//! The number of requests with a key, as its node has them.

use serde_json::json;

use super::keycloak::User;
use super::request::Request;
use super::world::World;

const MINUTE_MS: u64 = 60_000;

#[test]
fn the_requests_of_all_workers_of_a_node_with_a_key_are_told_by_outcome() {
    let mut world = World::new(vec![User::new("alice")]);
    let workers = [world.add_gateway(0), world.add_gateway(0)];
    let other_node = world.add_node();
    let other = world.add_gateway(other_node);
    let (id, key) = world.make("alice");
    let (unused, _) = world.make("alice");
    for gateway in [workers[0], workers[0], workers[1], other] {
        world.exchange(gateway, &key).unwrap();
    }
    world.pass(MINUTE_MS);
    world.pass(1_000);
    let token = world.token("alice");
    let told = world.ask(&Request::usage(&token, &id)).expect(200);
    assert_eq!(told["key_id"], id.as_str());
    assert_eq!(told["scope"], "node");
    let forwarded = json!({ "hit": 2, "refresh": 0, "first_use": 1, "stale": 0 });
    assert_eq!(told["forwarded"], forwarded);
    assert_eq!(told["refused"]["invalid_api_key"], 0);
    assert_eq!(told["to"], world.now.to_rfc3339());
    let told = world.ask(&Request::usage(&token, &unused)).expect(200);
    assert_eq!(told["forwarded"]["hit"], 0);
    assert_eq!(
        world.count("events"),
        0,
        "Keycloak's events are not asked for"
    );
}

#[test]
fn where_requests_are_not_counted_there_is_no_such_path() {
    for changes in [json!({ "usage": false }), json!({ "l2_slots": 0 })] {
        let mut world = World::with(vec![User::new("alice")], &changes);
        let (id, _) = world.make("alice");
        let token = world.token("alice");
        let told = world.ask(&Request::usage(&token, &id));
        let detail = told.refused(404, "not_found");
        assert!(detail.contains("not counted"), "{detail}");
    }
}
