//! The fields that need more than a type and bounds.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::read::{ConfigError, error};
use super::table::RawConfig;
use super::values::{Realm, SigningKeySource, Upstream};
use crate::api_key::format::KeyFormat;
use crate::api_key::record::is_scope;
use crate::clock::UnixMillis;
use crate::signing_key::SigningKey;

pub(super) fn parse_object(text: &[u8]) -> Result<RawConfig, ConfigError> {
    let value: Value = match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(fault) => {
            let (line, column) = (fault.line(), fault.column());
            return error(
                "configuration",
                format!("is not JSON (line {line}, column {column}); write one flat object"),
            );
        }
    };
    if !value.is_object() {
        return error("configuration", "must be one flat JSON object");
    }
    // Read from the text: a parsed value does not show that a field came twice.
    serde_json::from_slice(text).or_else(|fault: serde_json::Error| {
        // All fields accept any type here, so the fault is an unknown name or a name that comes
        // twice.
        error("configuration", fault.to_string())
    })
}

pub(super) fn key_format(raw: &RawConfig) -> Result<KeyFormat, ConfigError> {
    let prefix = raw.key_prefix()?;
    // The start of every JWT: base64url of `{"`.
    if "eyJ".starts_with(&prefix) || prefix.starts_with("eyJ") {
        return error(
            "key_prefix",
            "must not be what JWTs begin with: each would be taken for a key",
        );
    }
    let format = KeyFormat::new(&prefix).or_else(|fault| error("key_prefix", fault.to_string()))?;
    let Some(index_key) = raw.index_key()? else {
        return Ok(format);
    };
    let bytes = STANDARD
        .decode(index_key)
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    let Some(bytes) = bytes else {
        return error(
            "index_key",
            "must be base64 of exactly 32 bytes; make one with: openssl rand -base64 32",
        );
    };
    Ok(format.with_index_key(&bytes))
}

/// Checks whether a filter can work for a realm of this name.
///
/// # Errors
/// The rule that the name breaks.
pub fn check_realm_name(name: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~ ".contains(&byte);
    let dots = name == "." || name == "..";
    let length = (1..=255).contains(&name.len());
    if dots || !length || !name.bytes().all(allowed) || name.trim() != name {
        return Err(
            "must be 1 to 255 ASCII letters, digits, '-', '.', '_', '~' or spaces, not dots alone",
        );
    }
    Ok(())
}

pub(super) fn realm(raw: &RawConfig) -> Result<Realm, ConfigError> {
    const URL: &str = "must be Keycloak's public base URL, as https://login.example.com, without \
                       a query, a fragment, a user name or a slash at the end";
    let url = raw.keycloak_url()?;
    let Some(rest) = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))
    else {
        return error("keycloak_url", URL);
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]/%".contains(&byte);
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if authority.is_empty() || url.ends_with('/') || !rest.bytes().all(allowed) {
        return error("keycloak_url", URL);
    }
    let name = raw.realm()?;
    check_realm_name(&name).or_else(|rule| error("realm", rule))?;
    let in_path = name.replace(' ', "%20");
    Ok(Realm {
        issuer: format!("{url}/realms/{in_path}"),
        authority: authority.to_owned(),
        token_path: format!("{path}/realms/{in_path}/protocol/openid-connect/token"),
        certs_path: format!("{path}/realms/{in_path}/protocol/openid-connect/certs"),
        discovery_path: format!("{path}/realms/{in_path}/.well-known/openid-configuration"),
        users_path: format!("{path}/admin/realms/{in_path}/users"),
        events_path: format!("{path}/admin/realms/{in_path}/events"),
        admin_events_path: format!("{path}/admin/realms/{in_path}/admin-events"),
        name,
    })
}

pub(super) fn signing_key(raw: &RawConfig) -> Result<SigningKeySource, ConfigError> {
    let key = signing_key_of(
        raw.signing_key()?,
        "signing_key",
        raw.signing_key_property()?,
        "signing_key_property",
    )?;
    match key {
        Some(key) => Ok(key),
        None => error(
            "signing_key",
            "is missing; write the PEM of the gateway's key, or name the host property that \
             holds it in signing_key_property",
        ),
    }
}

/// A signing key, from one of two fields: its text, or the host property that holds it.
pub(super) fn signing_key_of(
    inline: Option<String>,
    inline_field: &str,
    property: Option<String>,
    property_field: &str,
) -> Result<Option<SigningKeySource>, ConfigError> {
    match (inline, property) {
        (Some(_), Some(_)) => error(
            inline_field,
            format!("and {property_field} contradict each other; keep one of the two"),
        ),
        (None, None) => Ok(None),
        (Some(pem), None) => SigningKey::parse(&pem)
            .map(|key| Some(SigningKeySource::Inline(Box::new(key))))
            .or_else(|fault| error(inline_field, fault.to_string())),
        (None, Some(path)) => {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
            let is_name = |part: &String| !part.is_empty() && part.bytes().all(allowed);
            if path.len() < 2 || !path.iter().all(is_name) {
                return error(
                    property_field,
                    "must be a path with dots, as ngx.apikey_signing_key on Kong or \
                     env.APIKEY_SIGNING_KEY for a WASI environment variable",
                );
            }
            Ok(Some(SigningKeySource::Property(path)))
        }
    }
}

pub(super) fn assertion_issuer(raw: &RawConfig) -> Result<String, ConfigError> {
    let issuer = raw.assertion_issuer()?;
    let is_url = issuer.starts_with("https://") || issuer.starts_with("http://");
    if !is_url || !issuer.bytes().all(|b| b.is_ascii_graphic()) {
        return error(
            "assertion_issuer",
            "must be an https URL: Keycloak takes no other issuer",
        );
    }
    Ok(issuer)
}

pub(super) fn scope(raw: &RawConfig) -> Result<Option<String>, ConfigError> {
    match raw.scope()? {
        Some(scope) if !is_scope(&scope) => error(
            "scope",
            "must be OAuth scopes with single spaces between, as \"orders profile\"",
        ),
        scope => Ok(scope),
    }
}

pub(super) fn headers(raw: &RawConfig) -> Result<Vec<String>, ConfigError> {
    let names = raw.headers()?;
    if let Some(name) = names.iter().find(|name| is_set_by_others(name)) {
        return error(
            "headers",
            format!("{name} cannot carry a key; choose another name"),
        );
    }
    Ok(names)
}

/// Whether a header of this name is the gateway's own, or this filter's.
fn is_set_by_others(name: &str) -> bool {
    FRAMING.contains(&name) || is_made_by_gateways(name) || IDENTITY.contains(&name)
}

/// The headers that name the key and its owner: [`crate::exchange::identity`] takes them out of
/// each request.
pub(crate) const IDENTITY: [&str; 3] = ["x-api-key-id", "x-api-key-owner", "x-api-key-name"];

/// Headers that a gateway makes anew before the filter runs, so removing the client's takes
/// nothing from the service. Headers that begin with `x-forwarded-` are among them.
const MADE_BY_GATEWAYS: [&str; 7] = [
    ":authority",
    "host",
    "connection",
    "forwarded",
    "te",
    "upgrade",
    "via",
];

/// Whether gateways make this header anew before the filter runs.
pub(crate) fn is_made_by_gateways(name: &str) -> bool {
    const FORWARDED: &str = "x-forwarded-";
    let start = name.get(..FORWARDED.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(FORWARDED))
        || MADE_BY_GATEWAYS
            .iter()
            .any(|made| name.eq_ignore_ascii_case(made))
}

/// Headers that framing needs: no key's header may be one of these.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

pub(super) fn fallback_until(raw: &RawConfig) -> Result<Option<UnixMillis>, ConfigError> {
    raw.fallback_until()?
        .map(|at| UnixMillis::parse_rfc3339(&at))
        .transpose()
        .or_else(|_| {
            error(
                "fallback_until",
                "must be an RFC 3339 instant, as 2026-12-31T00:00:00Z",
            )
        })
}

pub(super) fn upstream(written: &str, field: &str) -> Result<Upstream, ConfigError> {
    let (name, tls) = match written.strip_prefix("https://") {
        Some(name) => (name, true),
        None => (written.strip_prefix("http://").unwrap_or(written), false),
    };
    let allowed = |b: u8| b.is_ascii_graphic() && b != b'/';
    if name.is_empty() || name.len() > 255 || !name.bytes().all(allowed) {
        return error(
            field,
            "must be host:port on Kong (https://host:port for TLS) or a cluster's name on Envoy",
        );
    }
    Ok(Upstream {
        name: name.to_owned(),
        tls,
    })
}
