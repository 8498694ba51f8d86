//! Requests with missing, doubled, forged or spoofed credentials.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::client::Request;
use crate::wait::now_seconds;
use crate::world::{Case, Host, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("credentials::nothing_at_all_is_401", nothing),
        Case::new("credentials::a_key_and_a_token_are_400", key_and_token),
        Case::new("credentials::a_header_twice_is_400", header_twice),
        Case::new(
            "credentials::a_forged_token_with_a_key_is_400",
            forged_and_key,
        ),
        Case::new(
            "credentials::a_forged_token_is_refused_by_the_service",
            forged,
        ),
        Case::new(
            "credentials::headers_that_claim_an_identity_are_not_believed",
            spoofed,
        ),
        Case::new(
            "credentials::a_key_in_the_guise_of_a_token_goes_nowhere",
            disguised,
        ),
        Case::new(
            "credentials::a_key_beside_a_token_in_any_header_is_refused",
            beside_token,
        ),
        Case::new("credentials::a_key_in_the_query_is_none", in_query).not_on(
            &[Host::Kong],
            "nginx ends each line of its log with the request's query, whatever a filter does",
        ),
        Case::new(
            "credentials::what_a_client_says_of_its_address_is_dropped",
            address,
        )
        .needs(Need::OwnEnvoy),
        Case::new(
            "credentials::each_answer_has_a_request_id_of_its_own",
            request_ids,
        ),
    ]
}

fn nothing(world: &World) {
    let request_id = world
        .gateway
        .send(&Request::orders())
        .problem(401, "missing_credentials");
    world.expect_logged(&request_id, r#""reason":"no credentials""#);
    let empty = Request::orders()
        .header("X-API-Key", "")
        .header("Authorization", " ");
    let empty = world.gateway.send(&empty);
    empty.problem(401, "missing_credentials");
}

#[track_caller]
fn ambiguous(world: &World, request: &Request, reason: &str) {
    let answer = world.gateway.send(request);
    // nginx, and so Kong, refuses some of these before the filter sees them.
    if matches!(world.host, Host::Kong | Host::Nginx)
        && answer.status == 400
        && answer.json().is_null()
    {
        return;
    }
    let request_id = answer.problem(400, "ambiguous_credentials");
    world.expect_logged(&request_id, reason);
}

fn key_and_token(world: &World) {
    let token = world.keycloak.password_token("demo-cli", "bob", "bob");
    let request = Request::orders()
        .bearer(&token)
        .header("X-API-Key", &world.api_key);
    ambiguous(world, &request, "two different credentials");
}

fn header_twice(world: &World) {
    let key = &world.api_key;
    for request in [
        Request::orders().api_key(key).api_key(key),
        Request::orders().api_key(key).bearer("a.b.c"),
        Request::orders()
            .header("X-API-Key", key)
            .header("x-api-key", key),
        Request::orders()
            .header("X-API-Key", key)
            .header("X-API-Key", "other"),
    ] {
        ambiguous(world, &request, "more than once");
    }
}

/// A token with the right claims for alice that nobody signed.
fn forged_token(world: &World, algorithm: &str) -> String {
    let users = world.keycloak.get("users?exact=true&username=alice");
    let claims = json!({
        "iss": world.keycloak.issuer(), "sub": users[0]["id"], "preferred_username": "alice",
        "exp": now_seconds() + 300, "iat": now_seconds(), "typ": "Bearer",
    });
    let header = json!({"alg": algorithm, "typ": "JWT"});
    let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signature = if algorithm == "none" {
        ""
    } else {
        "c2lnbmF0dXJl"
    };
    format!("{}.{}.{signature}", encode(&header), encode(&claims))
}

fn forged_and_key(world: &World) {
    let request = Request::orders()
        .bearer(&forged_token(world, "none"))
        .header("X-API-Key", &world.api_key);
    ambiguous(world, &request, "two different credentials");
}

fn forged(world: &World) {
    for algorithm in ["none", "RS256", "ES256"] {
        let request = Request::orders().bearer(&forged_token(world, algorithm));
        let answer = world.gateway.send(&request);
        assert_eq!(answer.status, 401, "{algorithm}: {}", answer.describe());
        // The validator's refusal, not the gateway's, which lets tokens pass.
        assert!(answer.json()["code"].is_null(), "{}", answer.describe());
    }
}

fn spoofed(world: &World) {
    let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"admin","preferred_username":"admin"}"#);
    let spoof = |request: Request| {
        request
            .header("X-Jwt-Payload", &claims)
            .header("X-Userinfo", &claims)
            .header("X-Consumer-Username", "admin")
            .header("X-Credential-Identifier", "admin")
            .header("X-Authenticated-Userid", "admin")
            .header("X-Forwarded-User", "admin")
            .header("X-Envoy-Fault-Delay-Request", "1")
    };
    let orders = world
        .gateway
        .send(&spoof(Request::orders().api_key(&world.api_key)))
        .orders();
    assert_eq!(orders.username, "alice");
    let without = world.gateway.send(&spoof(Request::orders()));
    without.problem(401, "missing_credentials");
}

fn request_ids(world: &World) {
    let id = |request: &Request| {
        let answer = world.gateway.send(request);
        answer.problem(401, "missing_credentials")
    };
    let request = Request::orders();
    assert_ne!(id(&request), id(&request));
    let forged = request.header("X-Request-Id", "x\",\"code\":\"fine");
    let answer = world.gateway.send(&forged);
    answer.problem(401, "missing_credentials");
}

/// Each would reach the service with the key in it if the gateway took it for a token.
fn disguised(world: &World) {
    let key = &world.api_key;
    for value in [
        format!("Bearer Bearer {key}"),
        format!("Bearer ApiKey {key}"),
        format!("Bearer \"{key}\""),
        format!("Bearer ={key}"),
        format!("Bearer token={key}"),
        format!("Bearer eyJ.{key}"),
        format!("Token {key}"),
        key.clone(),
    ] {
        let request = Request::orders().header("Authorization", &value);
        let answer = world.gateway.send(&request);
        let code = answer.json()["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            matches!(code.as_str(), "missing_credentials" | "invalid_api_key"),
            "{}",
            answer.describe()
        );
        answer.problem(401, &code);
    }
}

fn beside_token(world: &World) {
    let token = world.keycloak.password_token("demo-cli", "bob", "bob");
    let key = &world.api_key;
    for (name, value) in [
        ("X-Other", key.clone()),
        ("Cookie", format!("key={key}")),
        ("X-Original-Authorization", format!("ApiKey {key}")),
    ] {
        let request = Request::orders().bearer(&token).header(name, value);
        let request_id = world.gateway.send(&request).invalid_api_key();
        world.expect_logged(&request_id, r#""code":"invalid_api_key""#);
    }
}

/// A query ends up in logs and histories; the last trial looks for it in ours.
fn in_query(world: &World) {
    let path = format!("/orders?api_key={}&apikey={}", world.api_key, world.api_key);
    let answer = world.gateway.send(&Request::orders().at(&path));
    answer.problem(401, "missing_credentials");
}

fn address(world: &World) {
    let request = Request::orders()
        .api_key(&world.api_key)
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Real-IP", "203.0.113.7")
        .header("X-Envoy-External-Address", "203.0.113.7")
        .header("Forwarded", "for=203.0.113.7")
        .header("X-Envoy-External-Address", "203.0.113.7");
    let headers = world.gateway.send(&request).orders().headers;
    let claims: Vec<_> = headers
        .iter()
        .filter(|(_, value)| value.to_string().contains("203.0.113.7"))
        .collect();
    assert!(claims.is_empty(), "{claims:?}");
}
