//! A key for a token: the same way, the same caches, the same verdicts as the exchange.

use apikeys_core::exchange::Source;
use serde_json::json;

use super::client::Client;
use super::keycloak::{User, bcrypt_of, claims, sha256_of};
use super::keys::{id_of, key};
use super::request::Request;
use super::world::{START, World};

fn users() -> Vec<User> {
    let ends_at = START.plus_ms(30 * 86_400_000);
    vec![
        User::new("a-1")
            .with_profile(&json!({ "username": "alice" }))
            .with_key(id_of(&key(1)), &sha256_of(&key(1)), ends_at),
        User::new("b-2").with_key(id_of(&key(2)), &bcrypt_of(&key(2)), ends_at),
    ]
}

#[test]
fn a_good_key_gives_its_owners_token_and_says_whose_it_is() {
    let mut world = World::new(users());
    let told = world.ask(&Request::validate(&key(1))).expect(200);
    assert_eq!(
        (&told["user_id"], &told["username"], &told["key_id"]),
        (&json!("a-1"), &json!("alice"), &json!(id_of(&key(1))))
    );
    assert_eq!(told["token_type"], "Bearer");
    let token = claims(told["access_token"].as_str().unwrap());
    assert_eq!(token["sub"], "a-1");
    let left_ms = token["exp"].as_u64().unwrap() * 1000 - world.now.0;
    assert_eq!(told["expires_in"], left_ms / 1000);
    world.expect_nothing_held();
}

#[test]
fn the_token_is_the_one_that_the_gateway_forwards() {
    let mut world = World::new(users());
    let gateway = world.add_gateway(0);
    for number in [1, 2] {
        world.exchange(gateway, &key(number)).unwrap();
        let grants = world.keycloak.calls.grant;
        let token = |world: &mut World| {
            let told = world.ask(&Request::validate(&key(number))).expect(200);
            told["access_token"].clone()
        };
        let first = token(&mut world);
        assert_eq!(token(&mut world), first);
        assert_eq!(world.keycloak.calls.grant, grants, "from the caches");
    }
    // And the other way round.
    let later = world.add_gateway(0);
    assert_eq!(
        world.exchange(later, &key(1)),
        Ok(("a-1".into(), Source::L2))
    );
}

#[test]
fn a_refusal_is_remembered_and_one_answer_for_all() {
    let mut world = World::new(users());
    world.keycloak.user("b-2").enabled = false;
    let typo = format!("{}0", &key(1)[..58]);
    for bad in [
        &key(9),
        &key(2),
        &typo,
        "sk_live_",
        "",
        "x",
        "an old key of another system",
    ] {
        let told = world.ask(&Request::validate(bad));
        assert_eq!(
            told.refused(401, "invalid_api_key"),
            "",
            "one answer for all"
        );
        assert_eq!(
            told.header("www-authenticate"),
            Some(r#"ApiKey realm="demo""#)
        );
    }
    let asked = world.calls.len();
    for bad in [key(9), key(2)] {
        let told = world.ask(&Request::validate(&bad));
        told.refused(401, "invalid_api_key");
        assert!(told.reason.unwrap().contains("refused before"));
    }
    assert_eq!(world.calls.len(), asked);
}

#[test]
fn imported_keys_are_validated_as_they_are_exchanged() {
    let imported = "an-old-key-of-the-older-system-01";
    let changes = json!({ "index_key": "aW5kZXgga2V5IG9mIHRoZSBob3N0IG1vZGVsLCAzMi4=" });
    let config = super::keys::config(&changes);
    let id = config
        .key_format
        .parse(imported.as_bytes())
        .unwrap()
        .id()
        .to_owned();
    let user = User::new("a-1").with_key(&id, &sha256_of(imported), START.plus_ms(86_400_000));
    let mut world = World::with(vec![user], &changes);
    let told = world.ask(&Request::validate(imported)).expect(200);
    assert_eq!(
        (&told["key_id"], &told["user_id"]),
        (&json!(id), &json!("a-1"))
    );
}

#[test]
fn it_takes_no_credentials_of_the_caller_and_looks_at_none() {
    let mut world = World::new(users());
    for request in [
        Request::validate(&key(1)).header("authorization", "Bearer nonsense"),
        Request::validate(&key(1)).header("x-api-key", &key(2)),
    ] {
        assert_eq!(world.ask(&request).expect(200)["user_id"], "a-1");
    }
}

#[test]
fn the_header_that_keys_come_in_makes_no_difference() {
    for headers in [
        json!(["x-api-key"]),
        json!(["authorization"]),
        json!(["x-a", "x-b"]),
    ] {
        let mut world = World::with(users(), &json!({ "headers": headers }));
        world.ask(&Request::validate(&key(1))).expect(200);
        world
            .ask(&Request::validate(&key(9)))
            .refused(401, "invalid_api_key");
    }
}

#[test]
fn nothing_passes_that_the_gateway_would_let_pass() {
    let until = START.plus_ms(3_600_000).to_rfc3339();
    for changes in [
        json!({ "fallback_until": until }),
        json!({ "on_missing_key": "pass" }),
        json!({ "enabled": false }),
    ] {
        let mut world = World::with(users(), &changes);
        world
            .ask(&Request::validate(&key(9)))
            .refused(401, "invalid_api_key");
        world
            .ask(&Request::validate("no key"))
            .refused(401, "invalid_api_key");
    }
}

#[test]
fn requests_with_one_key_at_once_make_one_exchange() {
    let mut world = World::new(users());
    let mut clients: Vec<Client> = (0..20)
        .map(|_| Client::send(&mut world, &Request::validate(&key(2))))
        .collect();
    for client in &mut clients {
        client.answer(&mut world);
    }
    for told in Client::finish_all(clients, &mut world) {
        told.expect(200);
    }
    assert_eq!((world.count("grant"), world.count("look-up")), (1, 1));
}

#[test]
fn only_the_key_itself_is_one() {
    let mut world = World::new(users());
    let good = key(1);
    for odd in [
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        format!("Bearer {good}"),
        format!("{good},{good}"),
        format!("{good}\u{0}"),
    ] {
        world
            .ask(&Request::validate(&odd))
            .refused(401, "invalid_api_key");
    }
    assert!(world.calls.is_empty());
}

/// Sends a text that is no key until the answer is to wait.
fn until_throttled(world: &mut World) -> usize {
    for at in 0..1000 {
        let told = world.ask(&Request::validate("sk_live_no"));
        if told.status == 429 {
            told.refused(429, "throttled");
            assert_eq!(told.header("retry-after"), Some("60"));
            return at;
        }
        told.refused(401, "invalid_api_key");
    }
    panic!("never told to wait");
}

#[test]
fn a_caller_is_told_to_wait_before_any_call_as_in_the_exchange() {
    let mut world = World::new(users());
    world.address = Some("192.0.2.7:1".to_owned());
    let gateway = world.add_gateway(0);
    assert_eq!(until_throttled(&mut world), 20);
    for bad in [&key(9), "sk_live_no"] {
        let told = world.ask(&Request::validate(bad));
        told.refused(429, "throttled");
    }
    assert!(world.calls.is_empty());
    // It counts together with the keys that the address sends through a gateway.
    assert_eq!(world.exchange(gateway, &key(9)), Err("throttled"));
    world.address = Some("192.0.2.8:1".to_owned());
    world.ask(&Request::validate(&key(1))).expect(200);
}

/// A gateway calls for many clients, and one of them sends bad keys.
#[test]
fn a_caller_that_sent_too_many_bad_keys_is_heard_with_those_that_were_good_before() {
    let changes = json!({ "cache_ttl_seconds": 30 });
    let mut world = World::with(users(), &changes);
    world.address = Some("192.0.2.7:1".to_owned());
    world.ask(&Request::validate(&key(2))).expect(200);
    for _ in 0..20 {
        until_throttled(&mut world);
        world.ask(&Request::validate(&key(2))).expect(200);
        world.pass(31_000);
        until_throttled(&mut world);
        world.ask(&Request::validate(&key(2))).expect(200);
    }
    let told = world.ask(&Request::validate(&key(1)));
    told.refused(429, "throttled");
}

#[test]
fn a_caller_for_many_is_never_told_to_wait_where_nothing_is_counted() {
    let changes = json!({ "throttle_failures_per_minute": 0 });
    let mut world = World::with(users(), &changes);
    world.address = Some("192.0.2.7:1".to_owned());
    for _ in 0..100 {
        let told = world.ask(&Request::validate("sk_live_no"));
        told.refused(401, "invalid_api_key");
    }
    world.ask(&Request::validate(&key(1))).expect(200);
}

#[test]
fn a_callers_own_token_counts_for_nothing() {
    let mut world = World::new(users());
    world.address = Some("192.0.2.7:1".to_owned());
    for _ in 0..30 {
        let told = world.ask(&Request::list("no.token.atall"));
        told.refused(401, "invalid_token");
    }
    world.ask(&Request::validate(&key(1))).expect(200);
}
