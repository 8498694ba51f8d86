//! The settings of a key by the API: given with a new key, changed, taken away.

use apikeys_core::api_key::record::Field;
use apikeys_core::exchange::Source;
use serde_json::{Value, json};

use super::client::Client;
use super::keycloak::User;
use super::request::Request;
use super::world::World;

fn world() -> World {
    World::new(vec![User::new("alice"), User::new("bob")])
}

/// Every setting, as it is told again.
fn settings() -> Value {
    json!({
        "name": "CI", "rate_limit": "100/60",
        "allowed_addresses": ["10.0.0.0/8", "2001:db8::/32"],
        "environment": "live", "labels": "team=pay",
    })
}

#[track_caller]
fn expect_members(told: &Value, expected: &Value) {
    for (member, value) in expected.as_object().unwrap() {
        assert_eq!(&told[member], value, "{member}");
    }
}

fn stored(world: &mut World, field: Field, id: &str) -> Vec<String> {
    let attributes = &world.keycloak.user("alice").attributes;
    attributes
        .get(&field.attribute(id))
        .cloned()
        .unwrap_or_default()
}

#[test]
fn a_new_key_has_its_settings_and_its_replacement_inherits_them() {
    let mut world = world();
    let token = world.token("alice");
    let told = world.ask(&Request::create(&token, &settings()));
    let (id, _) = told.made();
    expect_members(&told.body(), &settings());
    assert_eq!(stored(&mut world, Field::RateLimit, &id), ["100/60"]);
    let networks = stored(&mut world, Field::AllowedAddresses, &id);
    assert_eq!(networks, ["10.0.0.0/8 2001:db8::/32"]);
    let shown = world.ask(&Request::show(&token, &id)).expect(200);
    expect_members(&shown, &settings());
    let listed = world.ask(&Request::list(&token)).expect(200);
    assert_eq!(listed["keys"][0], shown);
    let told = world.ask(&Request::rotate(&token, &id, &json!({})));
    expect_members(&told.expect(201), &settings());
    expect_members(&told.body()["replaces"], &settings());
    // A key may be made switched off.
    let body = json!({ "name": "later", "disabled": true });
    let told = world.ask(&Request::create(&token, &body));
    assert_eq!(told.expect(201)["state"], "disabled");
}

#[test]
fn a_patch_changes_its_members_and_leaves_the_rest() {
    let mut world = world();
    let token = world.token("alice");
    let (id, _) = world.ask(&Request::create(&token, &settings())).made();
    let (other, _) = world.make("alice");
    let before = world.ask(&Request::show(&token, &other)).body();
    let patch = json!({ "name": " Laptop ", "rate_limit": "5/1", "labels": null });
    for kind in [
        "application/json",
        "application/merge-patch+json",
        "Application/Merge-Patch+JSON; charset=utf-8",
    ] {
        let request = Request::update(&token, &id, &patch);
        let told = world
            .ask(&request.replace("content-type", kind))
            .expect(200);
        assert_eq!(told["name"], "Laptop");
        assert_eq!(told["rate_limit"], "5/1");
        assert_eq!(told.get("labels"), None);
        for kept in ["environment", "allowed_addresses"] {
            assert_eq!(told[kept], settings()[kept], "{kept}");
        }
        let shown = world.ask(&Request::show(&token, &id)).expect(200);
        assert_eq!(told, shown, "as it is shown");
    }
    // Sent three times, written once.
    assert_eq!(world.count("write"), 3);
    assert!(stored(&mut world, Field::Labels, &id).is_empty());
    assert_eq!(world.ask(&Request::show(&token, &other)).body(), before);
    world.expect_nothing_held();
    world.expect_no_lock();
}

#[test]
fn a_change_is_in_force_in_every_worker_of_the_node_when_it_is_answered() {
    let mut world = world();
    let gateways = [world.add_gateway(0), world.add_gateway(0)];
    let (id, key) = world.make("alice");
    for gateway in gateways {
        world.exchange(gateway, &key).unwrap();
        let (_, source) = world.exchange(gateway, &key).unwrap();
        assert_eq!(source, Source::L1);
    }
    let token = world.token("alice");
    let patch = json!({ "rate_limit": "5/1" });
    world.ask(&Request::update(&token, &id, &patch)).expect(200);
    // The record is read again.
    let (_, source) = world.exchange(gateways[0], &key).unwrap();
    assert_eq!(source, Source::Refresh);
}

#[test]
fn a_key_is_switched_off_and_on_again() {
    let mut world = world();
    let gateway = world.add_gateway(0);
    let (id, key) = world.make("alice");
    world.exchange(gateway, &key).unwrap();
    let token = world.token("alice");
    let told = world.ask(&Request::update(&token, &id, &json!({ "disabled": true })));
    assert_eq!(world.exchange(gateway, &key), Err("invalid_api_key"));
    assert_eq!(
        (&told.expect(200)["state"], &told.body()["disabled"]),
        (&json!("disabled"), &json!(true))
    );
    assert_eq!(stored(&mut world, Field::Disabled, &id), ["true"]);
    // A replacement would work.
    let rotated = world.ask(&Request::rotate(&token, &id, &json!({})));
    rotated.refused(409, "key_disabled");
    for on in [json!(false), Value::Null] {
        let told = world.ask(&Request::update(&token, &id, &json!({ "disabled": on })));
        assert_eq!(told.expect(200)["state"], "active");
        assert_eq!(told.body().get("disabled"), None);
    }
    assert!(stored(&mut world, Field::Disabled, &id).is_empty());
    assert!(world.exchange(gateway, &key).is_ok());
}

#[test]
fn who_may_end_a_key_may_change_it_and_nobody_else() {
    let mut world = world();
    let (id, _) = world.make("alice");
    let patch = json!({ "environment": "test" });
    let request = Request::update(&world.token("bob"), &id, &patch);
    world.ask(&request).refused(404, "key_not_found");
    world
        .ask(&request.for_user("alice"))
        .refused(403, "forbidden");
    assert_eq!(world.count("write"), 1, "the making of the key");
    let request = Request::update(&world.admin(), &id, &patch).for_user("alice");
    assert_eq!(world.ask(&request).expect(200)["environment"], "test");
}

#[test]
fn a_patch_that_changes_nothing_or_something_else_is_refused() {
    let mut world = world();
    let token = world.token("alice");
    for (body, named) in [
        (json!({}), "no member"),
        (json!({ "name": null }), "name"),
        (json!({ "expires_days": 7 }), "not known here"),
        (json!({ "key_id": "abc" }), "not known here"),
        (json!({ "disabled": 1 }), "disabled"),
        (json!({ "rate_limit": "fast" }), "rate_limit"),
        (json!([]), "JSON object"),
    ] {
        let told = world.ask(&Request::update(&token, "abc", &body));
        let detail = told.refused(400, "invalid_request");
        assert!(detail.contains(named), "{detail}");
    }
    let request = Request::new("PATCH", "/api/v1/api-keys/abc").bearer(&token);
    let none = world.ask(&request.with_body("application/json", b""));
    none.refused(400, "invalid_request");
    assert!(world.calls.is_empty(), "nobody is asked");
}

#[test]
fn the_log_names_the_members_that_were_changed_and_no_value() {
    let mut world = world();
    let (id, _) = world.make("alice");
    let token = world.token("alice");
    let patch = json!({ "environment": "secretly", "name": "a key", "disabled": false });
    let request = Request::update(&token, &id, &patch);
    let mut client = Client::send(&mut world, &request);
    client.answer_until(&mut world, "nothing");
    let report = client.manage.report();
    assert_eq!(report.operation, "update");
    assert_eq!(report.key_id.as_ref(), Some(&id));
    assert_eq!(report.changed, ["environment"], "the others were so before");
    assert!(!format!("{report:?}").contains("secretly"));
}

#[test]
fn a_change_is_told_with_the_last_use_and_without_it_if_events_do_not_answer() {
    let mut world = world();
    let gateway = world.add_gateway(0);
    let (id, key) = world.make("alice");
    world.exchange(gateway, &key).unwrap();
    let token = world.token("alice");
    for label in ["a", "b"] {
        let request = Request::update(&token, &id, &json!({ "labels": label }));
        let told = world.ask_with(&request, |asked, reply| match (asked, label) {
            ("events", "b") => Err("no answer"),
            _ => Ok(reply),
        });
        let told = told.expect(200);
        assert_eq!(told["labels"], label);
        assert_eq!(told.get("last_used").is_some(), label == "a");
    }
}
