//! The main job: a key goes in, and the service sees a token of the key's owner.

use std::time::Duration;

use crate::client::Request;
use crate::owner::{Key, Record};
use crate::wait::{self, now_seconds};
use crate::world::{Case, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("exchange::a_users_key_becomes_a_token_of_that_user", alice),
        Case::new(
            "exchange::a_service_principals_key_becomes_its_token",
            service,
        ),
        Case::new("exchange::accepts_a_new_key_at_once", new_key),
        Case::new(
            "exchange::the_key_reaches_the_service_in_no_header",
            no_header,
        ),
        Case::new("exchange::a_request_with_a_body_is_held_whole", with_body),
        Case::new("exchange::keycloaks_event_log_names_the_key", event_log),
        Case::new("exchange::a_bearer_jwt_passes_untouched", bearer_jwt),
        Case::new(
            "exchange::requests_on_one_connection_do_not_mix",
            keep_alive,
        ),
    ]
}

fn alice(world: &World) {
    let orders = world.gateway.orders(&world.api_key).orders();
    assert_eq!(orders.username, "alice");
    let users = world.keycloak.get("users?exact=true&username=alice");
    assert_eq!(orders.subject, users[0]["id"]);
    let claims = &orders.claims;
    assert_eq!(claims["sub"], users[0]["id"]);
    assert_eq!(claims["iss"], world.keycloak.issuer());
    assert_eq!(claims["azp"], "api-key-gateway");
    assert!(claims["exp"].as_u64().unwrap() > now_seconds(), "{claims}");
}

fn service(world: &World) {
    let orders = world.gateway.orders(&world.service_api_key).orders();
    assert_eq!(orders.username, "service-account-billing-service");
    let account = world.keycloak.service_account_id("billing-service");
    assert_eq!(orders.subject, account);
}

fn new_key(world: &World) {
    let (owner, key) = world.owner();
    let orders = world.gateway.orders(&key.text).orders();
    assert_eq!(orders.subject, owner.id);
    assert_eq!(orders.username, owner.username);
}

fn no_header(world: &World) {
    let key = &world.api_key;
    let secret = key.rsplit('_').next().unwrap();
    let known = [
        Request::orders().api_key(key),
        Request::orders().header("X-API-Key", key),
        // The same key twice is one credential.
        Request::orders().bearer(key).header("X-API-Key", key),
    ];
    let copies = [
        Request::orders()
            .header("X-API-Key", key)
            .header("Cookie", format!("theme=dark; key={key}"))
            .header("X-Copy", key),
        Request::orders()
            .api_key(key)
            .header("X-Original-Authorization", format!("ApiKey {key}")),
    ];
    let (kept, refused) = match world.host.removes_any_header() {
        true => (&copies[..], &[][..]),
        false => (&[][..], &copies[..]),
    };
    for request in refused {
        let answer = world.gateway.send(request);
        answer.problem(400, "ambiguous_credentials");
    }
    for request in known.iter().chain(kept).cloned() {
        let orders = world
            .gateway
            .send(&request.header("X-Kept", "yes"))
            .orders();
        assert_eq!(orders.username, "alice");
        assert_eq!(orders.headers["x-kept"], "yes");
        let names: Vec<_> = orders
            .headers
            .iter()
            .filter(|(_, value)| value.to_string().contains(secret))
            .map(|(name, _)| name)
            .collect();
        assert!(names.is_empty(), "the service saw the key in {names:?}");
        assert!(orders.lacks("x-api-key"), "x-api-key is left");
    }
}

fn bearer_jwt(world: &World) {
    let token = world.keycloak.password_token("demo-cli", "bob", "bob");
    let orders = world
        .gateway
        .send(&Request::orders().bearer(&token))
        .orders();
    assert_eq!(orders.username, "bob");
    assert!(orders.token == token, "the service saw another token");
    assert_eq!(orders.claims["azp"], "demo-cli");
}

fn keep_alive(world: &World) {
    let (owner, key) = world.owner();
    let mut connection = world.gateway.connect();
    for _ in 0..3 {
        let request = Request::orders().api_key(&world.api_key);
        assert_eq!(connection.send(&request).orders().username, "alice");
        let request = Request::orders().api_key(&key.text);
        assert_eq!(connection.send(&request).orders().subject, owner.id);
        let nothing = connection.send(&Request::orders());
        nothing.problem(401, "missing_credentials");
    }
}

/// The body arrives while the key is verified, and is larger than a gateway's buffer.
fn with_body(world: &World) {
    for bytes in [0, 1, 60_000, 3_000_000] {
        let key = Key::random();
        let owner = world.owner_of(&[Record::bcrypt(&key, "2b", 10)]);
        let request = Request::orders().api_key(&key.text).post(vec![b'x'; bytes]);
        let orders = world.gateway.send(&request).orders();
        assert_eq!(orders.subject, owner.id);
        assert_eq!(orders.headers["content-length"], bytes.to_string());
    }
}

/// Keycloak's own event log shows the use of a key and its time: the filter writes
/// nothing.
fn event_log(world: &World) {
    let (owner, key) = world.owner();
    world.gateway.orders(&key.text).orders();
    let query = format!("events?type=JWT_AUTHORIZATION_GRANT&user={}", owner.id);
    wait::until("an event", Duration::from_secs(10), || {
        let events = world.keycloak.get(&query);
        let id = events[0]["details"]["client_assertion_id"].as_str();
        let named = id.is_some_and(|id| id.starts_with(&format!("{}.", key.id)));
        named.then_some(()).ok_or_else(|| events.to_string())
    });
}
