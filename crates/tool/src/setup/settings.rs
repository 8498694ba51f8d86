//! The required values of identity providers and clients, field by field.

use serde_json::{Value, json};

use super::amend::{Setting, lookup};
use super::clients::Duty;
use super::plan::Wanted;

/// The oldest assertion that Keycloak accepts; an assertion is made for one request.
const ASSERTION_AGE_SECONDS: std::ops::RangeInclusive<u64> = 60..=3600;
/// How far the gateway's clock may be ahead of Keycloak's.
const SKEW_SECONDS: std::ops::RangeInclusive<u64> = 0..=30;

/// "Always use lightweight access token" of the admin console.
const LIGHTWEIGHT: &str = "client.use.lightweight.access.token.enabled";

pub(crate) fn provider_settings(provider: &Value, wanted: &Wanted) -> Vec<Setting> {
    let mut settings = vec![
        Setting::new(&["hideOnLogin"], json!(true), "nobody logs in by it"),
        Setting::new(
            &["config", "issuer"],
            json!(wanted.assertion_issuer),
            "what the gateway's assertions name",
        ),
        Setting::new(
            &["config", "jwtAuthorizationGrantEnabled"],
            json!("true"),
            "its assertions are grants (RFC 7523)",
        ),
        Setting::new(
            &["config", "jwtAuthorizationGrantAssertionSignatureAlg"],
            json!("ES256"),
            "what the gateway signs with",
        ),
        Setting::new(
            &["config", "jwtAuthorizationGrantAssertionReuseAllowed"],
            json!("false"),
            "an assertion is good for one token",
        ),
        Setting::new(
            &["config", "jwtAuthorizationGrantLimitAccessTokenExp"],
            json!("true"),
            "a token must not outlive its key",
        ),
    ];
    let bounded = [
        (
            "jwtAuthorizationGrantMaxAllowedAssertionExpiration",
            ASSERTION_AGE_SECONDS,
            "seconds; the oldest assertion that is taken",
        ),
        (
            "jwtAuthorizationGrantAllowedClockSkew",
            SKEW_SECONDS,
            "seconds; clocks of two machines differ",
        ),
    ];
    for (name, bounds, why) in bounded {
        let is = provider.pointer(&format!("/config/{name}"));
        let is = is
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok());
        // Keep a tighter bound: somebody set it on purpose.
        if !is.is_some_and(|is: u64| bounds.contains(&is)) {
            let value = json!(bounds.end().to_string());
            settings.push(Setting {
                path: vec!["config", name],
                ..Setting::new(&[], value, why)
            });
        }
    }
    settings
}

/// The settings of a provider for locks: of no use for anything else.
pub(crate) fn lock_settings() -> [Setting; 3] {
    let links_alone = "its links are locks, and nobody logs in by it";
    [
        Setting::new(&["enabled"], json!(false), links_alone),
        Setting::new(&["hideOnLogin"], json!(true), links_alone),
        Setting::new(
            &["config", "jwtAuthorizationGrantEnabled"],
            json!("false"),
            "nothing is granted in its name",
        ),
    ]
}

pub(crate) fn client_settings(client: &Value, duty: Duty, provider: &str) -> Vec<Setting> {
    let (own_name, signer, not_used) = match duty {
        Duty::Exchange => (
            "it looks owners up in its own name",
            "what the gateway signs with",
            "the gateway has no use for it",
        ),
        Duty::Manage => (
            "it writes keys in its own name",
            "what it signs with",
            "the management API has no use for it",
        ),
    };
    let mut settings = vec![
        Setting::new(
            &["clientAuthenticatorType"],
            json!("client-jwt"),
            "it signs in with its key: there is no second secret",
        ),
        Setting::new(&["publicClient"], json!(false), "it signs in"),
        Setting::new(&["serviceAccountsEnabled"], json!(true), own_name),
        Setting::new(&["standardFlowEnabled"], json!(false), not_used),
        Setting::new(&["implicitFlowEnabled"], json!(false), not_used),
        Setting::new(&["directAccessGrantsEnabled"], json!(false), not_used),
        Setting::new(
            &["attributes", "use.jwks.string"],
            json!("true"),
            "the key is given here",
        ),
        Setting::new(
            &["attributes", "token.endpoint.auth.signing.alg"],
            json!("ES256"),
            signer,
        ),
    ];
    if duty == Duty::Exchange {
        settings.push(Setting::new(
            &["attributes", "oauth2.jwt.authorization.grant.enabled"],
            json!("true"),
            "it exchanges assertions for tokens (RFC 7523)",
        ));
        settings.push(Setting::new(
            &["attributes", "oauth2.jwt.authorization.grant.idp"],
            json!(provider),
            "whose assertions it may exchange",
        ));
    }
    if duty == Duty::Exchange && lookup(client, &["consentRequired"]) == Some(&json!(true)) {
        settings.push(Setting::new(
            &["consentRequired"],
            json!(false),
            "no owner is there to be asked, so the grant is refused",
        ));
    }
    let no_proof = "it has no such proof to give, so it gets no token";
    let off_if_on: [(&[&'static str], &'static str); 6] = [
        (&["attributes", "use.jwks.url"], "the key is given here"),
        (
            &["attributes", "oauth2.device.authorization.grant.enabled"],
            not_used,
        ),
        (&["attributes", "oidc.ciba.grant.enabled"], not_used),
        (
            &["attributes", LIGHTWEIGHT],
            "lightweight tokens list no roles, and it works by its own",
        ),
        (&["attributes", "dpop.bound.access.tokens"], no_proof),
        (
            &["attributes", "tls.client.certificate.bound.access.tokens"],
            no_proof,
        ),
    ];
    for (path, why) in off_if_on {
        if lookup(client, path) == Some(&json!("true")) {
            settings.push(Setting::new(path, json!("false"), why));
        }
    }
    settings
}
