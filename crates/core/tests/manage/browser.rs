//! The API's headers for browsers: none, unless an origin is configured (CORS).

use serde_json::{Value, json};

use super::keycloak::User;
use super::request::{KEYS, Request};
use super::told::Told;
use super::world::World;

const ORIGIN: &str = "https://console.example.com";
const OTHER: &str = "https://evil.example.com";

/// Each path, and the methods that it takes.
const METHODS: [(&str, &str); 5] = [
    (KEYS, "GET, POST, DELETE"),
    ("/api/v1/api-keys/abc", "GET, PATCH, DELETE"),
    ("/api/v1/api-keys/abc/rotate?user_id=u", "POST"),
    ("/api/v1/api-keys/validate", "POST"),
    ("/api/v1/openapi.json", "GET"),
];

fn world(origins: &Value) -> World {
    World::with(vec![User::new("alice")], origins)
}

fn on() -> World {
    world(&json!({ "cors_origins": [ORIGIN, "http://localhost:3000"] }))
}

fn preflight(origin: &str) -> Request {
    Request::new("OPTIONS", KEYS)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization,content-type",
        )
}

/// The headers of an answer that browsers read.
fn allowed(told: &Told) -> Vec<&str> {
    let cors = told
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("access-control-"));
    cors.map(|(name, _)| *name).collect()
}

#[test]
fn without_origins_no_answer_speaks_of_any() {
    let mut world = world(&Value::Null);
    let token = world.token("alice");
    for (path, methods) in METHODS {
        let mut request = preflight(ORIGIN);
        request.path = path.into();
        let told = world.ask(&request);
        told.refused(405, "method_not_allowed");
        assert_eq!(told.header("allow"), Some(methods));
        assert_eq!(allowed(&told), [""; 0]);
    }
    let told = world.ask(&Request::list(&token).header("origin", ORIGIN));
    told.expect(200);
    assert_eq!(allowed(&told), [""; 0]);
    assert_eq!(told.header("vary"), None);
}

#[test]
fn a_preflight_of_a_configured_origin_is_answered_and_asks_nobody() {
    let mut world = on();
    for origin in [ORIGIN, "http://localhost:3000"] {
        for (path, methods) in METHODS {
            let mut request = preflight(origin);
            request.path = path.into();
            let told = world.ask(&request);
            assert_eq!(told.expect(204), Value::Null);
            assert_eq!(told.header("access-control-allow-origin"), Some(origin));
            assert_eq!(told.header("access-control-allow-methods"), Some(methods));
            assert_eq!(
                told.header("access-control-allow-headers"),
                Some("authorization, content-type, traceparent, tracestate")
            );
            assert_eq!(told.header("vary"), Some("origin"));
            assert_eq!(told.header("access-control-allow-credentials"), None);
        }
    }
    assert!(world.calls.is_empty());
}

#[test]
fn a_preflight_of_another_origin_or_of_none_is_refused() {
    let mut world = on();
    for request in [
        preflight(OTHER),
        preflight("null"),
        Request::new("OPTIONS", KEYS),
    ] {
        let told = world.ask(&request);
        told.refused(403, "forbidden");
        assert_eq!(allowed(&told), [""; 0]);
    }
    let mut request = preflight(ORIGIN);
    request.path = "/api/v1/other".into();
    world.ask(&request).refused(404, "not_found");
}

#[test]
fn answers_and_refusals_alike_can_be_read_by_a_configured_origin_alone() {
    let mut world = on();
    let token = world.token("alice");
    let new = json!({ "name": "n" });
    for request in [
        Request::list(&token),
        Request::create(&token, &new),
        Request::create(&token, &json!({})),
        Request::list("no token"),
        Request::new("GET", "/api/v1/openapi.json"),
        Request::new("GET", "/api/v1/nothing"),
        Request::new("PUT", KEYS),
    ] {
        let told = world.ask(&request.clone().header("origin", ORIGIN));
        assert_eq!(told.header("access-control-allow-origin"), Some(ORIGIN));
        assert_eq!(
            told.header("access-control-expose-headers"),
            Some("retry-after")
        );
        assert_eq!(told.header("vary"), Some("origin"));
        for other in [request.clone().header("origin", OTHER), request] {
            let told = world.ask(&other);
            assert_eq!(allowed(&told), [""; 0]);
        }
    }
}

#[test]
fn an_origin_that_comes_twice_is_refused() {
    let mut world = on();
    let request = Request::list(&world.token("alice"));
    let told = world.ask(&request.header("origin", ORIGIN).header("origin", OTHER));
    told.refused(400, "invalid_request");
}
