//! Tokens that are accepted from a caller, and the users that the caller may act for.

use serde_json::{Value, json};

use super::client::Client;
use super::keycloak::{GATEWAY_CLIENT, MANAGER_CLIENT, RealmKey, User};
use super::keys::key;
use super::request::{KEYS, Request};
use super::told::Told;
use super::world::{AUDIENCE, World};

const MINUTE_MS: u64 = 60_000;

fn world() -> World {
    World::new(vec![User::new("alice"), User::new("bob")])
}

/// The answer to a token with these claims as well.
fn with_claims(world: &mut World, changes: &Value) -> Told {
    let mut claims = world.claims("alice");
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    let token = RealmKey::Es256.sign(&claims);
    world.ask(&Request::list(&token))
}

#[test]
fn a_token_of_each_algorithm_is_taken() {
    let mut world = world();
    world.keycloak.keys = RealmKey::OF_EACH_KIND.to_vec();
    for key in RealmKey::OF_EACH_KIND {
        let token = key.sign(&world.claims("alice"));
        let told = world.ask(&Request::list(&token));
        assert_eq!(told.ids(), [""; 0], "{key:?}");
    }
    assert_eq!(world.count("keys"), 1, "all are in one answer");
}

#[test]
fn a_token_that_is_not_for_this_is_refused_and_its_holder_is_told_what_helps() {
    let mut world = world();
    let now = world.now.as_seconds();
    for (changes, told) in [
        (json!({ "exp": now - 31 }), "The token has expired."),
        (json!({ "iat": now + 31 }), ""),
        (json!({ "nbf": now + 31 }), ""),
        (
            json!({ "iss": "https://login.example.com/realms/other" }),
            "",
        ),
        (json!({ "aud": "account" }), "The token is not meant for"),
        (json!({ "aud": null }), "The token is not meant for"),
        (json!({ "typ": "ID" }), "This is no access token."),
        (json!({ "typ": "Refresh" }), "This is no access token."),
        (json!({ "azp": GATEWAY_CLIENT }), "made from an API key"),
        (json!({ "azp": MANAGER_CLIENT }), "made from an API key"),
        (json!({ "azp": null }), ""),
        (json!({ "jti": "trrtte:1" }), "made from another token"),
        (json!({ "jti": "trrtag:1" }), "made from another token"),
        (json!({ "jti": "1" }), ""),
        (json!({ "cnf": { "jkt": "abc" } }), ""),
        (json!({ "sub": "../alice" }), ""),
        (json!({ "sub": null }), ""),
    ] {
        let answer = with_claims(&mut world, &changes);
        let detail = answer.refused(401, "invalid_token");
        assert!(
            detail.contains(told) && told.is_empty() == detail.is_empty(),
            "{changes}"
        );
        let challenge = answer.header("www-authenticate");
        assert_eq!(
            challenge,
            Some(r#"Bearer realm="demo", error="invalid_token""#)
        );
    }
    assert_eq!(
        (world.count("keys"), world.count("token")),
        (0, 0),
        "for none of them Keycloak is asked"
    );
}

#[test]
fn forged_tokens_are_counted_by_their_address_and_lock_nobody_out() {
    let mut world = world();
    world.address = Some("192.0.2.7:443".to_owned());
    let forged = Request::list(&world.forged("alice"));
    let verified = (0..100)
        .map(|_| world.ask(&forged).status)
        .take_while(|status| *status == 401)
        .count();
    assert_eq!(verified, 20 + 10, "the failures of a minute, and then few");
    let told = world.ask(&forged);
    told.refused(429, "throttled");
    assert_eq!(told.header("retry-after"), Some("60"));
    let good = Request::list(&world.token("alice"));
    world.ask(&good).refused(429, "throttled");
    world.address = Some("192.0.2.8:443".to_owned());
    assert_eq!(world.ask(&good).status, 200, "from elsewhere");
    world.address = Some("192.0.2.7:443".to_owned());
    world.pass(100);
    assert_eq!(world.ask(&good).status, 200, "the next turn");
}

#[test]
fn a_token_that_is_over_is_no_failure_of_its_address() {
    let mut world = world();
    world.address = Some("192.0.2.7:443".to_owned());
    let over = world.now.as_seconds() - 31;
    for _ in 0..100 {
        let told = with_claims(&mut world, &json!({ "exp": over }));
        told.refused(401, "invalid_token");
    }
    let good = Request::list(&world.token("alice"));
    assert_eq!(world.ask(&good).status, 200);
}

#[test]
fn a_token_that_is_not_the_realms_is_refused() {
    let mut world = world();
    let claims = world.claims("alice");
    let good = world.token("alice");
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "typ": "JWT", "kid": kid });
    let es256 = RealmKey::Es256.kid();
    let mut changed = good.clone();
    changed.replace_range(good.len() - 10..good.len() - 9, "_");
    for (why, token) in [
        (
            "unsigned",
            RealmKey::Es256.sign_as(&header("none", &es256), &claims),
        ),
        (
            "a shared secret",
            RealmKey::Es256.sign_as(&header("HS256", &es256), &claims),
        ),
        (
            "another key's name",
            RealmKey::Later.sign_as(&header("ES256", &es256), &claims),
        ),
        (
            "another algorithm",
            RealmKey::EdDsa.sign_as(&header("EdDSA", &es256), &claims),
        ),
        (
            "no key's name",
            RealmKey::Es256.sign_as(&json!({ "alg": "ES256" }), &claims),
        ),
        ("a changed signature", changed),
        ("no token", "abc".to_owned()),
        ("none at all", String::new()),
    ] {
        let told = world.ask(&Request::list(&token));
        assert_eq!(told.refused(401, "invalid_token"), "", "{why}");
    }
    world.ask(&Request::list(&good)).expect(200);
}

#[test]
fn without_a_token_one_is_asked_for() {
    let mut world = world();
    for request in [
        Request::new("GET", KEYS),
        Request::new("GET", KEYS).header("x-api-key", &key(1)),
    ] {
        let told = world.ask(&request);
        told.refused(401, "missing_credentials");
        assert_eq!(
            told.header("www-authenticate"),
            Some(r#"Bearer realm="demo""#)
        );
    }
    assert!(world.calls.is_empty());
}

#[test]
fn an_api_key_in_a_tokens_place_is_refused() {
    let mut world = world();
    for value in [
        format!("ApiKey {}", key(1)),
        format!("apikey {}", key(1)),
        format!("Bearer {}", key(1)),
        "ApiKey".to_owned(),
    ] {
        let told = world.ask(&Request::new("GET", KEYS).header("authorization", &value));
        let detail = told.refused(401, "invalid_token");
        assert!(detail.starts_with("An API key manages no keys"), "{detail}");
    }
    for value in ["Basic YWxpY2U6c2VjcmV0", "Negotiate", "", "Bearer"] {
        let told = world.ask(&Request::new("GET", KEYS).header("authorization", value));
        told.refused(401, "invalid_token");
    }
    let twice = Request::list(&world.token("alice")).bearer(&world.token("bob"));
    world.ask(&twice).refused(400, "invalid_request");
    assert!(world.calls.is_empty());
}

#[test]
fn a_token_that_was_minted_from_a_key_makes_no_key() {
    let mut world = world();
    let (_, made) = world.make("alice");
    let minted = world.ask(&Request::validate(&made)).expect(200);
    // As the realm would sign it, even for the audience.
    let mut claims = super::keycloak::claims(minted["access_token"].as_str().unwrap());
    claims["aud"] = json!(AUDIENCE);
    let token = RealmKey::Es256.sign(&claims);
    let told = world.ask(&Request::create(&token, &json!({ "name": "another" })));
    let detail = told.refused(401, "invalid_token");
    assert!(detail.contains("made from an API key"), "{detail}");
    // As another client would get it, by an assertion or by exchanging the first.
    claims["azp"] = json!("console");
    assert_eq!(claims["jti"].as_str().unwrap().get(..7), Some("trrtag:"));
    for jti in [claims["jti"].clone(), json!("trrtte:1")] {
        claims["jti"] = jti;
        let token = RealmKey::Es256.sign(&claims);
        let told = world.ask(&Request::create(&token, &json!({ "name": "another" })));
        let detail = told.refused(401, "invalid_token");
        assert!(detail.contains("made from another token"), "{detail}");
    }
    claims["jti"] = json!("onrtac:1");
    let token = RealmKey::Es256.sign(&claims);
    world.ask(&Request::list(&token)).expect(200);
}

#[test]
fn an_administrator_acts_for_another_and_nobody_else_does() {
    let mut world = world();
    let body = json!({ "name": "for alice" });
    let (admin, bob) = (world.admin(), world.token("bob"));
    let request = Request::create(&admin, &body).for_user("alice");
    let (id, _) = world.ask(&request).made();
    assert_eq!(world.keycloak.user("alice").key_ids(), [id.as_str()]);
    for request in [
        Request::create(&bob, &body),
        Request::list(&bob),
        Request::show(&bob, &id),
        Request::update(&bob, &id, &json!({ "disabled": false })),
        Request::revoke(&bob, &id),
        Request::rotate(&bob, &id, &json!({})),
    ] {
        let detail = world
            .ask(&request.for_user("alice"))
            .refused(403, "forbidden");
        assert!(detail.contains("api-key-admin"), "{detail}");
    }
    let list = Request::list(&admin).for_user("alice");
    assert_eq!(world.ask(&list).ids(), [id.as_str()]);
    let own = world.token("alice");
    world
        .ask(&Request::show(&own, &id).for_user("alice"))
        .expect(200);
    let told = world.ask(&Request::revoke(&admin, &id).for_user("alice"));
    told.expect(204);
    world.ask(&list).expect(200);
    assert_eq!(world.keycloak.user("alice").key_ids(), [""; 0]);
}

#[test]
fn a_role_of_the_audiences_client_counts_and_another_clients_does_not() {
    let mut world = world();
    for (client, status) in [(AUDIENCE, 200), ("account", 403)] {
        let mut claims = world.claims("operator");
        claims["resource_access"] = json!({ client: { "roles": ["api-key-admin"] } });
        let request = Request::list(&RealmKey::Es256.sign(&claims)).for_user("alice");
        assert_eq!(world.ask(&request).status, status, "{client}");
    }
    let changes = json!({ "admin_role": "key-boss" });
    let mut world = World::with(vec![User::new("alice")], &changes);
    let admin = world.admin();
    world
        .ask(&Request::list(&admin).for_user("alice"))
        .refused(403, "forbidden");
}

#[test]
fn a_service_principal_manages_its_own_keys() {
    let account = User::new("5f0c-sa").with_profile(&json!({
        "username": "service-account-billing", "serviceAccountClientId": "billing",
    }));
    let mut world = World::new(vec![account]);
    let gateway = world.add_gateway(0);
    let mut claims = world.claims("5f0c-sa");
    claims["azp"] = json!("billing");
    claims["preferred_username"] = json!("service-account-billing");
    let token = RealmKey::Es256.sign(&claims);
    let (id, made) = world
        .ask(&Request::create(&token, &json!({ "name": "job" })))
        .made();
    let (owner, _) = world.exchange(gateway, &made).unwrap();
    assert_eq!(owner, "5f0c-sa");
    assert_eq!(world.ask(&Request::list(&token)).ids(), [id.as_str()]);
    world.ask(&Request::revoke(&token, &id)).expect(204);
}

#[test]
fn the_gateways_own_accounts_are_given_no_key() {
    for client in [GATEWAY_CLIENT, MANAGER_CLIENT] {
        let name = format!("service-account-{client}");
        let account = User::new("5f0c-sa").with_profile(&json!({ "username": name }));
        let mut world = World::new(vec![account]);
        let request = Request::create(&world.admin(), &json!({ "name": "n" }));
        let told = world.ask(&request.for_user("5f0c-sa"));
        told.refused(409, "owner_not_eligible");
        assert_eq!(world.count("write"), 0);
    }
}

#[test]
fn the_realms_keys_are_fetched_once_and_for_an_unknown_name_once_a_minute() {
    let mut world = world();
    let alice = Request::list(&world.token("alice"));
    world.ask(&alice).expect(200);
    world.ask(&alice).expect(200);
    assert_eq!(world.count("keys"), 1);
    let unknown = Request::list(&RealmKey::Later.sign(&world.claims("alice")));
    for _ in 0..20 {
        world.ask(&unknown).refused(401, "invalid_token");
    }
    assert_eq!(world.count("keys"), 1, "asked for a moment ago");
    world.pass(MINUTE_MS);
    for _ in 0..20 {
        world.ask(&unknown).refused(401, "invalid_token");
        world.ask(&alice).expect(200);
    }
    assert_eq!(world.count("keys"), 2);
    // The realm's new key is one of those names.
    world.pass(MINUTE_MS);
    world.keycloak.keys = vec![RealmKey::Later];
    world.ask(&unknown).expect(200);
    world.ask(&alice).refused(401, "invalid_token");
    assert_eq!(world.count("keys"), 3);
}

#[test]
fn many_callers_at_once_have_the_realms_keys_and_the_managers_token_fetched_once() {
    let mut world = world();
    let token = world.token("alice");
    let mut clients: Vec<Client> = (0..20)
        .map(|_| Client::send(&mut world, &Request::list(&token)))
        .collect();
    for what in ["keys", "token"] {
        for client in &mut clients {
            while client.waits_for() == "turn" {
                client.answer(&mut world);
            }
        }
        assert_eq!(clients[0].waits_for(), what);
        assert!(
            clients[1..]
                .iter()
                .all(|client| client.waits_for() == "wait")
        );
        for client in &mut clients {
            client.answer(&mut world);
        }
    }
    for told in Client::finish_all(clients, &mut world) {
        told.expect(200);
    }
    assert_eq!((world.count("keys"), world.count("token")), (1, 1));
}

#[test]
fn while_the_realms_keys_cannot_be_had_nobody_is_judged() {
    let mut world = world();
    let request = Request::list(&world.token("alice"));
    for answer in [
        (500, "{}"),
        (200, "<html>"),
        (200, "{\"keys\":[]}"),
        (404, ""),
    ] {
        let told = world.ask_with(&request, |_, _| Ok((answer.0, answer.1.into())));
        told.refused(503, "identity_provider_unavailable");
        world.pass(5_000);
    }
    world.ask(&request).expect(200);
}

#[test]
fn the_manager_without_its_role_is_unavailable_and_the_log_says_which() {
    let mut world = world();
    world.keycloak.manager_roles = vec!["view-users"];
    let request = Request::list(&world.token("alice"));
    let told = world.ask(&request);
    told.refused(503, "identity_provider_unavailable");
    assert!(told.reason.unwrap().contains("manage-users"));
    world.keycloak.manager_roles = vec!["manage-users"];
    world.ask(&request).expect(200);
}

#[test]
fn a_manager_with_lightweight_tokens_is_unavailable_and_the_log_names_the_switch() {
    let mut world = world();
    world.keycloak.lightweight = true;
    let request = Request::list(&world.token("alice"));
    let told = world.ask(&request);
    told.refused(503, "identity_provider_unavailable");
    let reason = told.reason.unwrap();
    assert!(
        reason.contains("management client gives lightweight access tokens"),
        "{reason}"
    );
    world.keycloak.lightweight = false;
    world.ask(&request).expect(200);
}

#[test]
fn an_outage_of_the_realms_keys_refuses_nobody_whose_key_is_known() {
    let mut world = world();
    world.ask(&Request::list(&world.token("alice"))).expect(200);
    world.pass(11 * MINUTE_MS);
    let lose_keys = |what, reply| {
        if what == "keys" {
            Err("reset")
        } else {
            Ok(reply)
        }
    };
    let request = Request::list(&world.token("alice"));
    world.ask_with(&request, lose_keys).expect(200);
    world.pass(2 * MINUTE_MS);
    // A bad token is refused as ever; an unknown kid cannot be judged now.
    let mut claims = world.claims("alice");
    claims["exp"] = json!(world.now.as_seconds() - 60);
    let expired = Request::list(&RealmKey::Es256.sign(&claims));
    world
        .ask_with(&expired, lose_keys)
        .refused(401, "invalid_token");
    world.pass(2 * MINUTE_MS);
    let unknown = Request::list(&RealmKey::Later.sign(&world.claims("alice")));
    let told = world.ask_with(&unknown, lose_keys);
    told.refused(503, "identity_provider_unavailable");
}

#[test]
fn a_managers_token_that_keycloak_refuses_is_fetched_anew_once() {
    let new = json!({ "name": "n" });
    for of in [
        |token: &str, _: &str| Request::list(token),
        |token: &str, id: &str| Request::revoke(token, id),
        |token: &str, id: &str| Request::rotate(token, id, &json!({})),
    ] {
        let mut world = world();
        let (id, _) = world.make("alice");
        let request = of(&world.token("alice"), &id);
        world.keycloak.revoke_tokens();
        let told = world.ask(&request);
        assert!(told.status < 300, "{}: {:?}", told.status, told.reason);
        assert_eq!(world.count("token"), 2);
        // A second token that is refused is not followed by a third.
        world.keycloak.takes_no_token = true;
        let request = Request::create(&world.token("alice"), &new);
        let told = world.ask(&request);
        told.refused(503, "identity_provider_unavailable");
        assert_eq!(world.count("token"), 3);
        world.expect_no_lock();
        world.expect_nothing_held();
    }
}
