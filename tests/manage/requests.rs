//! Requests that are not what they should be, each refused by what it says alone.

use serde_json::json;

use super::keycloak::User;
use super::keys::key;
use super::request::{KEYS, Request};
use super::world::World;

fn world() -> World {
    World::new(vec![User::new("alice")])
}

#[test]
fn a_member_that_is_not_what_it_should_be_is_named_and_its_value_is_not_repeated() {
    let mut world = world();
    let token = world.token("alice");
    for (body, named) in [
        (json!({}), "name"),
        (json!({ "name": null }), "name"),
        (json!({ "name": "" }), "name"),
        (json!({ "name": " \t" }), "name"),
        (json!({ "name": "a\u{0}b" }), "name"),
        (json!({ "name": "n".repeat(101) }), "name"),
        (json!({ "name": "n", "expires_days": 0 }), "expires_days"),
        (
            json!({ "name": "n", "expires_days": 36_501 }),
            "expires_days",
        ),
        (json!({ "name": "n", "expires_days": 1.5 }), "expires_days"),
        (json!({ "name": "n", "expires_days": -1 }), "expires_days"),
        (json!({ "name": "n", "expires_days": "7" }), "expires_days"),
        (json!({ "name": "n", "scopes": "orders:read" }), "scopes"),
        (json!({ "name": "n", "scopes": [] }), "scopes"),
        (json!({ "name": "n", "scopes": ["a", "a"] }), "scopes"),
        (json!({ "name": "n", "scopes": ["a b"] }), "scopes"),
        (json!({ "name": "n", "scopes": [1] }), "scopes"),
        (
            json!({ "name": "n", "scopes": ["a".repeat(1025)] }),
            "scopes",
        ),
        (json!({ "name": "n", key(1): 1 }), "not known here"),
        (json!({ "name": [key(1)] }), "name"),
        (json!([]), "JSON object"),
        (json!("text"), "JSON object"),
    ] {
        let detail = world
            .ask(&Request::create(&token, &body))
            .refused(400, "invalid_request");
        assert!(detail.contains(named), "{named}: {detail}");
    }
    for (body, named) in [
        (json!({ "grace_seconds": -1 }), "grace_seconds"),
        (json!({ "grace_seconds": 604_801 }), "grace_seconds"),
        (json!({ "grace_seconds": "0" }), "grace_seconds"),
        (json!({ "expires_days": 0 }), "expires_days"),
        (json!({ "name": "n" }), "not known here"),
    ] {
        let detail = world.ask(&Request::rotate(&token, "abc", &body));
        assert!(
            detail.refused(400, "invalid_request").contains(named),
            "{named}"
        );
    }
    for body in [
        json!({}),
        json!({ "api_key": [key(1)] }),
        json!({ "key": key(1) }),
    ] {
        let request = Request::validate("x").with_json(&body);
        let detail = world.ask(&request).refused(400, "invalid_request");
        assert!(detail.contains("api_key"), "{detail}");
    }
    assert!(world.calls.is_empty(), "nobody is asked");
    world.expect_nothing_held();
}

#[test]
fn what_is_no_json_is_refused() {
    let mut world = world();
    let token = world.token("alice");
    let deep = "[".repeat(5_000);
    for body in [
        &b""[..],
        b"{",
        b"name=n",
        b"{\"name\":\"n\"} {}",
        b"\xef\xbb\xbf{\"name\":\"n\"}",
        b"{\"name\":\"\xff\"}",
        deep.as_bytes(),
    ] {
        let request = Request::new("POST", KEYS).bearer(&token);
        let told = world.ask(&request.with_body("application/json", body));
        told.refused(400, "invalid_request");
    }
}

#[test]
fn a_body_of_any_length_up_to_the_bound_is_read_and_none_above() {
    let mut world = world();
    let token = world.token("alice");
    let of_length = |length: usize| {
        let text = json!({ "name": "n" }).to_string();
        let padded = format!("{text}{}", " ".repeat(length - text.len()));
        Request::new("POST", KEYS)
            .bearer(&token)
            .with_body("application/json", padded.as_bytes())
    };
    world.ask(&of_length(16_384)).made();
    world
        .ask(&of_length(16_385))
        .refused(413, "payload_too_large");
    // More comes than was said, or nothing can be had of it.
    let liar = of_length(16_385).replace("content-length", "14");
    world.ask(&liar).refused(413, "payload_too_large");
    let mut client = super::client::Client::send(&mut world, &of_length(100));
    client.input(&mut world, &apikey_jwt_exchange::manage::Input::Body(None));
    client.told().refused(413, "payload_too_large");
    world.expect_nothing_held();
}
