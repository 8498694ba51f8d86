//! Requests that the management API refuses.

use std::time::{Duration, Instant};

use serde_json::json;

use super::self_check::Changed;
use crate::client::Request;
use crate::expect::claims;
use crate::portal::{Caller, expect_problem, post};
use crate::wait;
use crate::world::{Case, Host, Need, World};

const CADDY_WAITS: &str =
    "Caddy's HTTP server answers once it has read a body, even one that never comes";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("management::nobody_manages_keys_without_a_token", no_token),
        Case::new("management::an_api_key_manages_no_keys", by_key),
        Case::new(
            "management::a_token_made_from_a_key_manages_no_keys",
            by_exchanged_token,
        ),
        Case::new(
            "management::a_token_that_another_client_exchanged_a_keys_for_manages_no_keys",
            by_token_of_another_client,
        ),
        Case::new("management::a_token_of_others_is_refused", foreign_tokens),
        Case::new("management::a_token_for_others_is_refused", no_audience),
        Case::new("management::a_disabled_owner_gets_no_key", disabled),
        Case::new(
            "management::whom_an_administrator_unlinked_gets_no_key",
            unlinked,
        ),
        Case::new(
            "management::all_keys_of_an_owner_that_keycloak_refuses_to_write_can_be_ended",
            refused,
        ),
        Case::new(
            "management::all_keys_of_an_owner_that_is_too_large_to_read_can_be_ended",
            too_large,
        ),
        Case::new("management::bodies_that_are_none_are_refused", bodies)
            .not_on(&[Host::Caddy], CADDY_WAITS),
        Case::new(
            "management::a_body_that_never_comes_ends_the_request",
            slow_body,
        )
        .not_on(&[Host::Caddy], CADDY_WAITS),
        Case::new("management::other_paths_and_methods_are_told_so", paths),
        Case::new("management::a_browser_of_elsewhere_may_not_call", cors),
        Case::new(
            "management::who_hangs_up_leaves_nothing_that_others_wait_for",
            hang_up,
        ),
        Case::new(
            "management::without_keycloak_nothing_is_managed",
            without_keycloak,
        )
        .needs(Need::StoppedKeycloak),
    ]
}

fn caller(world: &World) -> Caller {
    Caller::new_user(&world.keycloak, &world.gateway)
}

fn no_token(world: &World) {
    let keys = || Request::orders().at("/api/v1/api-keys");
    let answer = world.gateway.send(&keys());
    expect_problem(&answer, 401, "missing_credentials");
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer realm=\"demo\"")
    );
    for value in [
        "Basic YTpi",
        "Bearer",
        "Bearer x",
        "Bearer a.b.c",
        "bearer  ",
    ] {
        let answer = world.gateway.send(&keys().header("Authorization", value));
        expect_problem(&answer, 401, "invalid_token");
    }
}

fn by_key(world: &World) {
    for value in [
        format!("ApiKey {}", world.api_key),
        format!("Bearer {}", world.api_key),
    ] {
        let request = post("", br#"{"name":"n"}"#).header("Authorization", value);
        let answer = world.gateway.send(&request);
        let request_id = expect_problem(&answer, 401, "invalid_token");
        world.expect_logged(&request_id, "an API key in a token's place");
    }
}

fn by_exchanged_token(world: &World) {
    // As if the gateway's client had the audience: the token is refused because it is the
    // gateway's.
    let client = world.keycloak.client_id("api-key-gateway");
    let mapper = json!({
        "name": "e2e-audience", "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": {"included.custom.audience": "api-key-manager", "access.token.claim": "true"},
    });
    let path = format!("clients/{client}/protocol-mappers/models");
    let made = world.keycloak.must("POST", &path, Some(&mapper));
    let (owner, key) = world.owner();
    let token = world.gateway.orders(&key.text).orders().token;
    let mapper = made.created_id.expect("its id");
    world
        .keycloak
        .must("DELETE", &format!("{path}/{mapper}"), None);
    let answer = world
        .gateway
        .send(&post("", br#"{"name":"n"}"#).bearer(&token));
    let request_id = expect_problem(&answer, 401, "invalid_token");
    world.expect_logged(&request_id, "minted from an API key");
    let keys = world.keycloak.get(&format!("users/{}", owner.id));
    assert_eq!(keys["attributes"]["apiKeys"].as_array().unwrap().len(), 1);
}

/// A client with standard token exchange (RFC 8693) takes a key's token, and gets one for the
/// management API's audience.
fn by_token_of_another_client(world: &World) {
    const SECRET: &str = "of-the-exchanger";
    let keycloak = &world.keycloak;
    let audience = |name: &str, of: &str| {
        json!({
            "name": name, "protocol": "openid-connect",
            "protocolMapper": "oidc-audience-mapper",
            "config": {"included.custom.audience": of, "access.token.claim": "true"},
        })
    };
    let client = json!({
        "clientId": "e2e-exchanger", "secret": SECRET, "standardFlowEnabled": false,
        "serviceAccountsEnabled": true,
        "attributes": {"standard.token.exchange.enabled": "true"},
        "protocolMappers": [audience("manager", "api-key-manager")],
    });
    let client = keycloak.must("POST", "clients", Some(&client));
    let gateway = format!(
        "clients/{}/protocol-mappers/models",
        keycloak.client_id("api-key-gateway")
    );
    let mapper = audience("e2e-exchanger", "e2e-exchanger");
    let mapper = keycloak.must("POST", &gateway, Some(&mapper));
    let (owner, key) = world.owner();
    let token = world.gateway.orders(&key.text).orders().token;
    let exchanged = keycloak.exchanged_token("e2e-exchanger", SECRET, &token);
    let own = keycloak.client_token("e2e-exchanger", SECRET);
    for path in [
        format!("{gateway}/{}", mapper.created_id.expect("its id")),
        format!("clients/{}", client.created_id.expect("its id")),
    ] {
        keycloak.must("DELETE", &path, None);
    }
    let claims = claims(&exchanged);
    assert_eq!(claims["sub"], owner.id.as_str());
    assert_eq!(claims["azp"], "e2e-exchanger");
    let request = post("", br#"{"name":"n"}"#);
    let answer = world.gateway.send(&request.clone().bearer(&exchanged));
    let request_id = expect_problem(&answer, 401, "invalid_token");
    world.expect_logged(&request_id, "made from another token");
    let keys = keycloak.get(&format!("users/{}", owner.id));
    assert_eq!(keys["attributes"]["apiKeys"].as_array().unwrap().len(), 1);
    // With its own secret the client is a caller like any other: its token is valid, but its
    // account is gone.
    let answer = world.gateway.send(&request.bearer(&own));
    expect_problem(&answer, 404, "user_not_found");
}

fn foreign_tokens(world: &World) {
    let caller = caller(world);
    let (head, signature) = caller.token.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    for token in [
        format!("{head}.{other}{}", &signature[1..]),
        format!("{head}."),
        world.keycloak.master_token(),
    ] {
        let answer = world
            .gateway
            .send(&post("", br#"{"name":"n"}"#).bearer(&token));
        expect_problem(&answer, 401, "invalid_token");
    }
}

fn no_audience(world: &World) {
    let token = world.keycloak.password_token("demo-cli", "bob", "bob");
    let answer = world
        .gateway
        .send(&post("", br#"{"name":"n"}"#).bearer(&token));
    let request_id = expect_problem(&answer, 401, "invalid_token");
    world.expect_logged(&request_id, "its audience lacks the configured one");
}

fn disabled(world: &World) {
    let caller = caller(world);
    world
        .keycloak
        .edit_user(&caller.id, |user| user["enabled"] = json!(false));
    let answer = caller.post("", &json!({"name": "n"}));
    expect_problem(&answer, 409, "owner_not_eligible");
}

fn unlinked(world: &World) {
    let caller = caller(world);
    let made = caller.create(&json!({"name": "n"}));
    let link = format!("users/{}/federated-identity/api-keys", caller.id);
    world.keycloak.must("DELETE", &link, None);
    let answer = caller.post("", &json!({"name": "n"}));
    expect_problem(&answer, 409, "owner_not_eligible");
    // Ending a key needs no link.
    assert_eq!(caller.delete(&format!("/{}", made.id)).status, 204);
}

/// Ends all keys, and expects the records to stay.
#[track_caller]
fn end_all(caller: &Caller) {
    let answer = caller.delete("?all=true");
    assert_eq!(answer.status, 200, "{}", answer.describe());
    assert_eq!(answer.json()["records_kept"], true, "{}", answer.describe());
}

fn refused(world: &World) {
    let caller = caller(world);
    world.keycloak.edit_user(&caller.id, |user| {
        user["attributes"]["e2ePhone"] = json!(["abc"]);
    });
    let made = caller.create(&json!({"name": "n"}));
    assert_eq!(world.gateway.orders(&made.key).status, 200);
    let declared = Changed::new(world, "users/profile", |profile| {
        profile["attributes"].as_array_mut().unwrap().push(json!({
            "name": "e2ePhone", "validations": {"pattern": {"pattern": "^[0-9]+$"}},
            "permissions": {"view": ["admin", "user"], "edit": ["admin", "user"]},
        }));
    });
    for answer in [
        caller.delete(&format!("/{}", made.id)),
        caller.post("", &json!({"name": "n"})),
    ] {
        let request_id = expect_problem(&answer, 409, "owner_record_unusable");
        assert_eq!(answer.header("retry-after"), None);
        let detail = answer.json()["detail"].to_string();
        assert!(detail.contains("because of: e2ePhone"), "{detail}");
        world.expect_logged(&request_id, "e2ePhone: error-pattern-no-match");
    }
    assert_eq!(world.gateway.orders(&made.key).status, 200, "it goes on");
    end_all(&caller);
    assert_eq!(world.gateway.orders(&made.key).status, 401);
    // The owner becomes valid again, here by the profile.
    drop(declared);
    let answer = caller.delete("?all=true");
    assert_eq!(answer.json(), json!({"records_kept": false}));
    assert_eq!(caller.keys(), [json!(null); 0]);
    caller.create(&json!({"name": "n"}));
    assert_eq!(world.gateway.orders(&made.key).status, 401);
}

fn too_large(world: &World) {
    let caller = caller(world);
    let made = caller.create(&json!({"name": "n"}));
    assert_eq!(world.gateway.orders(&made.key).status, 200);
    world.keycloak.edit_user(&caller.id, |user| {
        let values: Vec<String> = (0..100).map(|at| format!("{at:01500}")).collect();
        user["attributes"]["picture"] = json!(values);
    });
    let id = format!("/{}", made.id);
    for answer in [caller.get(""), caller.get(&id), caller.delete(&id)] {
        expect_problem(&answer, 409, "owner_record_unusable");
    }
    end_all(&caller);
    // The look-up of such an owner fails, so the key's end shows once the owner is small
    // again.
    world.keycloak.edit_user(&caller.id, |user| {
        user["attributes"]["picture"] = json!(["small"]);
    });
    wait::until("the look-up", Duration::from_secs(30), || {
        let answer = world.gateway.orders(&made.key);
        match answer.status {
            503 => Err(answer.describe()),
            status => {
                assert_eq!(status, 401);
                Ok(())
            }
        }
    });
}

fn bodies(world: &World) {
    let caller = caller(world);
    let send = |request: Request| world.gateway.send(&request.bearer(&caller.token));
    let path = "/api/v1/api-keys";
    let filled = |length: usize| {
        let mut body = br#"{"name":"n"}"#.to_vec();
        body.resize(length, b' ');
        body
    };
    let answer = send(post("", &filled(16 * 1024 + 1)));
    expect_problem(&answer, 413, "payload_too_large");
    let answer = send(post("", &filled(16 * 1024)));
    assert_eq!(answer.status, 201, "{}", answer.describe());
    crate::secrets::register(answer.json()["api_key"].as_str().unwrap());
    for body in [
        "",
        "{",
        "[]",
        "null",
        r#"{"name":1}"#,
        r#"{"name":"n","x":1}"#,
    ] {
        let answer = send(post("", body.as_bytes()));
        expect_problem(&answer, 400, "invalid_request");
    }
    let form = Request::orders().at(path).post(b"name=n".to_vec());
    expect_problem(&send(form.clone()), 415, "unsupported_media_type");
    let text = form.header("Content-Type", "text/plain");
    expect_problem(&send(text), 415, "unsupported_media_type");
    let chunked = Request::orders()
        .at(path)
        .method("POST")
        .header("Content-Type", "application/json")
        .header("Transfer-Encoding", "chunked");
    expect_problem(&send(chunked), 411, "length_required");
}

fn slow_body(world: &World) {
    let caller = caller(world);
    let request = Request::orders()
        .at("/api/v1/api-keys")
        .method("POST")
        .header("Content-Type", "application/json")
        .header("Content-Length", "20")
        .bearer(&caller.token);
    let started = Instant::now();
    match world.gateway.connect().send_unless_closed(&request) {
        Some(answer) => {
            expect_problem(&answer, 400, "invalid_request");
        }
        // nginx ends the connection by itself (client_body_timeout).
        None => assert_eq!(world.host, Host::Kong, "no answer"),
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
}

fn paths(world: &World) {
    let caller = caller(world);
    for path in ["/x/y", "/validate/x"] {
        expect_problem(&caller.get(path), 404, "not_found");
    }
    let answer = caller.post("/abc", &json!({}));
    expect_problem(&answer, 405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("GET, PATCH, DELETE"));
    let unknown = caller.post("/abc123def456/rotate", &json!({}));
    expect_problem(&unknown, 404, "key_not_found");
    let odd = caller.get("?limit=0");
    expect_problem(&odd, 400, "invalid_request");
}

fn cors(world: &World) {
    let preflight = Request::orders()
        .at("/api/v1/api-keys")
        .method("OPTIONS")
        .header("Origin", "https://evil.example")
        .header("Access-Control-Request-Method", "POST");
    let answer = world.gateway.send(&preflight);
    expect_problem(&answer, 405, "method_not_allowed");
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

/// The client leaves at each step: the next caller can change the owner's keys.
fn hang_up(world: &World) {
    let caller = caller(world);
    for at in 0..4 {
        let body = format!(r#"{{"name":"left {at}"}}"#);
        let connection = world.gateway.connect();
        connection.send_only(&post("", body.as_bytes()).bearer(&caller.token));
    }
    wait::until("the next change", Duration::from_secs(90), || {
        let answer = caller.post("", &json!({"name": "after all"}));
        match answer.status {
            201 => Ok(()),
            // Some of the keys may have been made.
            409 => {
                let key = caller.keys()[0]["key_id"].as_str().unwrap().to_owned();
                assert_eq!(caller.delete(&format!("/{key}")).status, 204);
                Err(answer.describe())
            }
            _ => Err(answer.describe()),
        }
    });
}

fn without_keycloak(world: &World) {
    // The cached keys of the realm still verify the token.
    world.start_keycloak();
    let caller = caller(world);
    caller.keys();
    world.stop_keycloak();
    for answer in [
        caller.get(""),
        caller.post("", &json!({"name": "n"})),
        caller.delete("/abc123def456"),
    ] {
        expect_problem(&answer, 503, "identity_provider_unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
}
