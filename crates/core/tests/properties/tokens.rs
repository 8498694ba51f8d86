//! Answers of the token endpoint: a token is believed where a strict reader believes it,
//! and an owner is refused by Keycloak's own words alone.
//!
//! The first line is the status, the second the claims, the rest the body, in which
//! `{jwt}` stands for a token with those claims.

use std::sync::LazyLock;

use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::keycloak::TOKEN_BYTES_MAX;
use apikeys_core::keycloak::token::{AccessToken, TokenError, read_token_answer};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::outgoing::assert_loggable;
use super::{filled, first_line, strict_json};

pub const NOW: UnixMillis = UnixMillis(1_800_000_000_500);

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let config = json!({
        "keycloak_url": "https://login.example.com", "realm": "demo",
        "keycloak_upstream": "keycloak", "yield_upstream": "yield",
        "signing_key_property": "env.UNUSED",
    });
    Config::from_json(config.to_string().as_bytes()).unwrap()
});

pub fn holds(data: &[u8]) {
    let (status, rest) = first_line(data);
    let status = std::str::from_utf8(status)
        .ok()
        .and_then(|text| text.parse().ok());
    let status: u16 = status.unwrap_or(200);
    let (claims, body) = first_line(rest);
    let jwt = format!(
        "eyJhbGciOiJSUzI1NiJ9.{}.c2ln",
        URL_SAFE_NO_PAD.encode(claims)
    );
    let body = filled(body, &[("{jwt}", jwt.as_bytes())]);
    let read = read_token_answer(&CONFIG, status, &body, NOW);
    let value = strict_json(&body).unwrap_or(Value::Null);
    match read {
        Ok(token) => {
            assert_eq!(status, 200);
            assert_believable(&token, &value);
            assert!(!format!("{token:?}").contains(&token.jwt));
        }
        Err(error) => {
            assert_refused(&error, status, &value);
            if status == 200 && is_token(&value) {
                // Whole and of our issuer. Written anew, no name comes twice and all is UTF-8,
                // so no reason to refuse is left.
                let again = read_token_answer(&CONFIG, 200, &written_anew(&value), NOW);
                assert!(again.is_ok(), "{error}: {value}");
            }
        }
    }
}

fn written_anew(answer: &Value) -> Vec<u8> {
    let claims = claims_of(answer["access_token"].as_str().unwrap()).unwrap();
    let jwt = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut answer = answer.clone();
    answer["access_token"] = json!(jwt);
    answer.to_string().into_bytes()
}

fn claims_of(jwt: &str) -> Option<Value> {
    let parts: Vec<&str> = jwt.split('.').collect();
    let [_, payload, _] = parts.as_slice() else {
        return None;
    };
    strict_json(&URL_SAFE_NO_PAD.decode(payload).ok()?)
}

fn assert_believable(token: &AccessToken, answer: &Value) {
    assert_eq!(answer["access_token"], json!(token.jwt));
    assert!(is_token(answer), "{answer}");
    let claims = claims_of(&token.jwt).unwrap();
    assert_eq!(claims["sub"], json!(token.subject));
    let exp = claims["exp"].as_u64().unwrap();
    assert_eq!(token.exp.0, exp.saturating_mul(1000));
    let life_ms = answer["expires_in"].as_u64().unwrap().saturating_mul(1000);
    assert_eq!(token.expires_at, token.exp.min(NOW.plus_ms(life_ms)));
    assert!(token.expires_at > NOW);
    let roles = claims.pointer("/resource_access/realm-management/roles");
    for role in &token.management_roles {
        let listed = roles.and_then(Value::as_array).unwrap();
        assert!(listed.contains(&json!(role)), "{role} is in no list");
    }
}

/// Whether this is the whole answer with a token that is to be believed.
fn is_token(answer: &Value) -> bool {
    let text =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let (Some(jwt), Some(kind)) = (text(answer, "access_token"), text(answer, "token_type")) else {
        return false;
    };
    let in_jwt = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let Some(claims) = claims_of(&jwt) else {
        return false;
    };
    let exp = claims.get("exp").and_then(Value::as_u64);
    let life = answer.get("expires_in").and_then(Value::as_u64);
    kind.eq_ignore_ascii_case("bearer")
        && jwt.bytes().all(in_jwt)
        && text(&claims, "iss").as_deref() == Some("https://login.example.com/realms/demo")
        && text(&claims, "sub").is_some()
        && exp.is_some_and(|exp| exp.saturating_mul(1000) > NOW.0)
        && life.is_some_and(|life| life > 0)
}

fn assert_refused(error: &TokenError, status: u16, answer: &Value) {
    let words = [
        "User is not enabled",
        "User disabled",
        "Account is not fully set up",
        "User not found",
    ];
    match error {
        TokenError::OwnerRefused(_) => {
            assert_eq!((status, &answer["error"]), (400, &json!("invalid_grant")));
            let said = answer["error_description"].as_str().unwrap();
            assert!(words.contains(&said), "{said}");
        }
        TokenError::Refused {
            status: said,
            error,
            description,
        } => {
            assert_eq!(*said, status);
            assert_loggable(error);
            assert_loggable(description);
        }
        TokenError::TooLarge => {
            let jwt = answer["access_token"].as_str().unwrap();
            assert!(jwt.len() > TOKEN_BYTES_MAX, "{}", jwt.len());
        }
        TokenError::Expired => {
            let jwt = answer["access_token"].as_str().unwrap();
            let exp = claims_of(jwt).unwrap()["exp"].as_u64().unwrap();
            let life = answer["expires_in"].as_u64().unwrap();
            assert!(
                exp.saturating_mul(1000) <= NOW.0 || life == 0,
                "{exp} {life}"
            );
        }
        TokenError::Issuer => {
            let jwt = answer["access_token"].as_str().unwrap();
            let issuer = claims_of(jwt).unwrap()["iss"].clone();
            assert_ne!(issuer, json!("https://login.example.com/realms/demo"));
        }
        TokenError::Unusable { status: said, .. } => assert_eq!(*said, status),
    }
}
