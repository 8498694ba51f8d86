//! The token endpoint: the gateway's own token and the owner's (RFC 7523).
//!
//! Both calls prove the client by a signed assertion (RFC 7523, 2.2); the grant adds a second
//! one that names the owner (2.1). Keycloak accepts each `jti` once, and keeps it in its
//! events. The end of our `jti` names the signing key, so the events show the keys in use.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Call, Endpoint, TOKEN_BYTES_MAX, form, loggable};
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::signing_key::{SigningFailed, SigningKey};

const CLIENT_ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const JWT_BEARER_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// How long a client assertion is valid.
const CLIENT_ASSERTION_LIFE_SECONDS: u64 = 60;
/// The most that `iat` is dated back. Keycloak accepts no grant assertion from the future, not
/// even by a second, and no client assertion older than 60 s.
const BACK_DATING_MS_MAX: u64 = 30_000;

#[derive(Serialize)]
struct AssertionClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
}

/// Signs the assertion that proves the gateway's client.
///
/// # Errors
/// [`SigningFailed`].
pub fn client_assertion(
    config: &Config,
    key: &SigningKey,
    jti: &str,
    now: UnixMillis,
) -> Result<String, SigningFailed> {
    client_assertion_of(&config.client_id, config, key, jti, now)
}

/// Signs the assertion that proves a client of ours.
///
/// # Errors
/// [`SigningFailed`].
pub fn client_assertion_of(
    client_id: &str,
    config: &Config,
    key: &SigningKey,
    jti: &str,
    now: UnixMillis,
) -> Result<String, SigningFailed> {
    key.sign(&AssertionClaims {
        iss: client_id,
        sub: client_id,
        aud: &config.realm.issuer,
        iat: issued_at(config, now),
        exp: now.as_seconds() + CLIENT_ASSERTION_LIFE_SECONDS,
        jti: signed_by(key, jti),
    })
}

/// Signs the assertion that names the owner. The token that Keycloak gives for it
/// ends no later than `expires_at`.
///
/// # Errors
/// [`SigningFailed`].
pub fn grant_assertion(
    config: &Config,
    key: &SigningKey,
    owner_id: &str,
    jti: &str,
    now: UnixMillis,
    expires_at: UnixMillis,
) -> Result<String, SigningFailed> {
    key.sign(&AssertionClaims {
        iss: &config.assertion_issuer,
        sub: owner_id,
        aud: &config.realm.issuer,
        iat: issued_at(config, now),
        exp: expires_at.as_seconds(),
        jti: signed_by(key, jti),
    })
}

/// The id of an assertion, with the signing key's short name at its end.
fn signed_by(key: &SigningKey, jti: &str) -> String {
    [jti, key.short_kid()].join(".")
}

/// Dates an assertion back, so that it is not from the future if our clock is ahead of
/// Keycloak's.
fn issued_at(config: &Config, now: UnixMillis) -> u64 {
    now.minus_ms(config.clock_skew_ms.min(BACK_DATING_MS_MAX))
        .as_seconds()
}

/// The call for the gateway's own token (RFC 6749, 4.4).
#[must_use]
pub fn service_token_call(config: &Config, client_assertion: &str) -> Call {
    token_call(
        config,
        Endpoint::ServiceToken,
        &[
            ("grant_type", "client_credentials"),
            ("client_assertion_type", CLIENT_ASSERTION_TYPE),
            ("client_assertion", client_assertion),
        ],
    )
}

/// The same for a token with these scopes: refused where the client cannot have them.
#[must_use]
pub fn scoped_token_call(config: &Config, client_assertion: &str, scope: &str) -> Call {
    token_call(
        config,
        Endpoint::Scopes,
        &[
            ("grant_type", "client_credentials"),
            ("client_assertion_type", CLIENT_ASSERTION_TYPE),
            ("client_assertion", client_assertion),
            ("scope", scope),
        ],
    )
}

/// The call for the owner's token (RFC 7523, 2.1).
#[must_use]
pub fn grant_call(
    config: &Config,
    grant_assertion: &str,
    client_assertion: &str,
    scope: Option<&str>,
) -> Call {
    let mut pairs = vec![
        ("grant_type", JWT_BEARER_GRANT),
        ("assertion", grant_assertion),
        ("client_assertion_type", CLIENT_ASSERTION_TYPE),
        ("client_assertion", client_assertion),
    ];
    pairs.extend(scope.map(|scope| ("scope", scope)));
    token_call(config, Endpoint::Grant, &pairs)
}

fn token_call(config: &Config, endpoint: Endpoint, pairs: &[(&str, &str)]) -> Call {
    Call {
        endpoint,
        method: "POST",
        path: config.realm.token_path.clone(),
        bearer: None,
        form: Some(form(pairs)),
        json: None,
    }
}

/// A token that Keycloak gave, with its claims.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// The token itself.
    pub jwt: String,
    /// Its subject.
    pub subject: String,
    /// Its end by our clock: the earlier of `exp` and now plus `expires_in`, so
    /// that a gateway whose clock is behind does not overrate it.
    pub expires_at: UnixMillis,
    /// Its `exp`, by Keycloak's clock: services accept it until then.
    pub exp: UnixMillis,
    /// Its `iat`, by Keycloak's clock, if it has one.
    pub issued_at: Option<UnixMillis>,
    /// The roles of client `realm-management` that it carries.
    pub management_roles: Vec<String>,
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessToken")
            .field("subject", &self.subject)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Reasons the token endpoint gave no usable token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The owner may not have a token: disabled, unlinked or deleted.
    #[error("Keycloak refuses the owner: {0}")]
    OwnerRefused(&'static str),
    /// Keycloak refused for a reason that is ours or its own, not the owner's.
    #[error("Keycloak answered {status}: {error}: {description}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// OAuth's error code (RFC 6749, 5.2).
        error: String,
        /// Keycloak's explanation.
        description: String,
    },
    /// Neither a token nor an OAuth error.
    #[error("an answer with status {status} that is no token: {what}")]
    Unusable {
        /// The HTTP status.
        status: u16,
        /// The missing or wrong part.
        what: &'static str,
    },
    /// A token that no gateway would forward.
    #[error(
        "the token has more than {TOKEN_BYTES_MAX} bytes; give the client fewer roles and claims"
    )]
    TooLarge,
    /// A token that has ended before it arrives.
    #[error(
        "an answer with status 200 that is no token: the token has expired already; \
         compare the clocks"
    )]
    Expired,
    /// The token names another issuer than the configuration does.
    #[error(
        "tokens name another issuer than keycloak_url and realm do; \
         set keycloak_url to Keycloak's public base URL"
    )]
    Issuer,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: u64,
    token_type: String,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: String,
    #[serde(default)]
    error_description: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: u64,
    /// Used for the clock alone: no value of it spoils a token.
    #[serde(default)]
    iat: Value,
    #[serde(default)]
    resource_access: Value,
}

/// Reads an answer of the token endpoint.
///
/// The token's signature is not verified here: it came from the token endpoint
/// itself, over the gateway's own connection (OpenID Connect Core, 3.1.3.7), and
/// the service behind verifies it.
///
/// # Errors
/// [`TokenError`].
pub fn read_token_answer(
    config: &Config,
    status: u16,
    body: &[u8],
    now: UnixMillis,
) -> Result<AccessToken, TokenError> {
    if status != 200 {
        return Err(refusal(status, body));
    }
    let unusable = |what| TokenError::Unusable { status, what };
    let answer: TokenAnswer =
        serde_json::from_slice(body).map_err(|_| unusable("not the JSON of a token answer"))?;
    if !answer.token_type.eq_ignore_ascii_case("bearer") {
        return Err(unusable("token_type is not Bearer"));
    }
    if answer.access_token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLarge);
    }
    // Goes into a header: nothing but the characters of a JWT.
    let in_jwt = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if !answer.access_token.bytes().all(in_jwt) {
        return Err(unusable("access_token is not a JWT"));
    }
    let mut parts = answer.access_token.split('.');
    let (Some(_), Some(payload), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(unusable("access_token is not a JWT"));
    };
    let claims = URL_SAFE_NO_PAD.decode(payload).ok();
    let claims: Claims = claims
        .and_then(|claims| serde_json::from_slice(&claims).ok())
        .ok_or(unusable("access_token lacks iss, sub or exp"))?;
    if claims.iss != config.realm.issuer {
        return Err(TokenError::Issuer);
    }
    let by_duration = now.plus_ms(answer.expires_in.saturating_mul(1000));
    let exp = UnixMillis::from_seconds(claims.exp);
    let expires_at = exp.min(by_duration);
    if expires_at <= now {
        return Err(TokenError::Expired);
    }
    let roles = claims
        .resource_access
        .pointer("/realm-management/roles")
        .and_then(Value::as_array);
    let management_roles = roles
        .into_iter()
        .flatten()
        .filter_map(|role| role.as_str().map(str::to_owned))
        .collect();
    Ok(AccessToken {
        jwt: answer.access_token,
        subject: claims.sub,
        expires_at,
        exp,
        issued_at: claims.iat.as_u64().map(UnixMillis::from_seconds),
        management_roles,
    })
}

/// Separates a refusal of the owner from all others.
fn refusal(status: u16, body: &[u8]) -> TokenError {
    let Ok(answer) = serde_json::from_slice::<ErrorAnswer>(body) else {
        return TokenError::Unusable {
            status,
            what: "neither a token nor an OAuth error",
        };
    };
    if status == 400 && answer.error == "invalid_grant" {
        match answer.error_description.as_str() {
            "User is not enabled" | "User disabled" => {
                return TokenError::OwnerRefused("owner disabled");
            }
            "Account is not fully set up" => {
                return TokenError::OwnerRefused("owner has a required action");
            }
            "User not found" => return TokenError::OwnerRefused("owner unlinked or deleted"),
            _ => {}
        }
    }
    TokenError::Refused {
        status,
        error: loggable(&answer.error),
        description: loggable(&answer.error_description),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_support::{config, jwt};

    const NOW: UnixMillis = UnixMillis(1_700_000_000_500);

    fn answer(claims: &Value, expires_in: u64) -> Vec<u8> {
        json!({ "access_token": jwt(claims), "expires_in": expires_in, "token_type": "Bearer" })
            .to_string()
            .into_bytes()
    }

    fn claims() -> Value {
        json!({
            "iss": config().realm.issuer, "sub": "owner-1", "exp": 1_700_000_300_u64,
            "resource_access": { "realm-management": { "roles": ["view-users"] } },
        })
    }

    fn read(status: u16, body: &[u8]) -> Result<AccessToken, TokenError> {
        read_token_answer(&config(), status, body, NOW)
    }

    #[test]
    fn reads_subject_end_and_roles() {
        let token = read(200, &answer(&claims(), 300)).unwrap();
        assert_eq!(token.subject, "owner-1");
        assert_eq!(token.expires_at, UnixMillis(1_700_000_300_000));
        assert_eq!(token.management_roles, ["view-users"]);
        assert!(!format!("{token:?}").contains(&token.jwt));
    }

    #[test]
    fn the_end_is_the_earlier_of_exp_and_expires_in() {
        let token = read(200, &answer(&claims(), 60)).unwrap();
        assert_eq!(token.expires_at, NOW.plus_ms(60_000));
    }

    #[test]
    fn refuses_answers_that_are_no_token() {
        let mut foreign = claims();
        foreign["iss"] = json!("https://evil.example/realms/demo");
        let mut endless = claims();
        endless["exp"] = Value::Null;
        let mut over = claims();
        over["exp"] = json!(1_700_000_000);
        let mut lasting = serde_json::from_slice::<Value>(&answer(&claims(), 300)).unwrap();
        lasting["expires_in"] = Value::Null;
        let of_token = |token: &str| {
            json!({"access_token": token, "expires_in": 1, "token_type": "Bearer"})
                .to_string()
                .into_bytes()
        };
        let bodies = [
            b"<html>".to_vec(),
            b"".to_vec(),
            b"[]".to_vec(),
            answer(&claims(), 300)[..40].to_vec(),
            answer(&endless, 300),
            lasting.to_string().into_bytes(),
            of_token("a.b\r\nx: y.c"),
            of_token("a.b.c,a.b.c"),
            of_token("a.b.c\0"),
            of_token("a.b"),
            of_token(""),
            json!({"access_token": jwt(&claims()), "expires_in": 1, "token_type": "mac"})
                .to_string()
                .into(),
        ];
        for body in bodies {
            let fault = read(200, &body).unwrap_err();
            assert!(matches!(fault, TokenError::Unusable { .. }), "{fault}");
        }
        assert_eq!(read(200, &answer(&foreign, 300)), Err(TokenError::Issuer));
        for expired in [answer(&claims(), 0), answer(&over, 300)] {
            assert_eq!(read(200, &expired), Err(TokenError::Expired));
        }
    }

    #[test]
    fn tells_a_refused_owner_from_a_refused_gateway() {
        let refused = |error: &str, description: &str| {
            let body = json!({ "error": error, "error_description": description });
            read(400, body.to_string().as_bytes()).unwrap_err()
        };
        for owner in [
            "User is not enabled",
            "User disabled",
            "User not found",
            "Account is not fully set up",
        ] {
            assert!(matches!(
                refused("invalid_grant", owner),
                TokenError::OwnerRefused(_)
            ));
        }
        for ours in [
            "Invalid token audience",
            "Token reuse detected",
            "User not found!",
        ] {
            assert!(
                matches!(refused("invalid_grant", ours), TokenError::Refused { .. }),
                "{ours}"
            );
        }
        assert!(matches!(
            refused("invalid_scope", "User not found"),
            TokenError::Refused { .. }
        ));
        assert!(matches!(
            read(302, b"").unwrap_err(),
            TokenError::Unusable { status: 302, .. }
        ));
    }

    #[test]
    fn assertions_name_the_realm_and_end_as_asked() {
        let key = crate::test_support::signing_key();
        let ends_at = NOW.plus_ms(7000);
        let jwt = grant_assertion(&config(), &key, "owner-1", "id.1", NOW, ends_at).unwrap();
        let payload = URL_SAFE_NO_PAD
            .decode(jwt.split('.').nth(1).unwrap())
            .unwrap();
        let payload: Value = serde_json::from_slice(&payload).unwrap();
        let expected = json!({
            "iss": config().assertion_issuer, "sub": "owner-1", "aud": config().realm.issuer,
            "iat": 1_699_999_970_u64, "exp": 1_700_000_007_u64, "jti": "id.1.DXEzWNr5",
        });
        assert_eq!(payload, expected);
    }

    #[test]
    fn a_line_break_after_a_valid_token_is_no_token() {
        let split = format!("{}\r\nx: y", jwt(&claims()));
        let body = json!({ "access_token": split, "expires_in": 300, "token_type": "Bearer" });
        let fault = read(200, body.to_string().as_bytes()).unwrap_err();
        assert!(matches!(fault, TokenError::Unusable { .. }), "{fault}");
    }

    #[test]
    fn an_owner_is_refused_with_400_alone() {
        let body = json!({ "error": "invalid_grant", "error_description": "User not found" });
        let fault = read(401, body.to_string().as_bytes()).unwrap_err();
        assert!(
            matches!(fault, TokenError::Refused { status: 401, .. }),
            "{fault}"
        );
    }
}
