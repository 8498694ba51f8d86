//! The configuration of a filter: one flat JSON object, read and bounded at start.
//!
//! The host hands over text. [`Config::from_json`] refuses what is unknown, out of
//! bounds or contradictory with a message that names the field, its bounds and
//! what to write instead; it never repeats a value, since a secret may stand in
//! the wrong place. The names are a contract, held together with the JSON Schema
//! that Kong reads and the README's table by a test.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api_key::format::KeyFormat;
use crate::api_key::hash::{BCRYPT_COST_MAX, BCRYPT_COST_MIN};
use crate::api_key::record::is_scope;
use crate::clock::UnixMillis;
use crate::signing_key::SigningKey;

mod read;

pub use read::ConfigError;
use read::{boolean, error, integer, one_of, required, small, text, text_or};

/// The defaults that the filter and the native tool must agree on.
pub mod defaults {
    /// The gateway's client in the realm.
    pub const CLIENT_ID: &str = "api-key-gateway";
    /// The issuer of the gateway's assertions. Keycloak takes only `https` URLs;
    /// this one can belong to nobody (RFC 6761, 6.4), and nothing is fetched from it.
    pub const ASSERTION_ISSUER: &str = "https://api-key-gateway.invalid";
    /// The alias of the identity provider that stands for the gateway.
    pub const IDENTITY_PROVIDER: &str = "api-keys";
    /// What keys begin with.
    pub const KEY_PREFIX: &str = "sk_live_";
    /// Keys that one owner may hold.
    pub const MAX_KEYS_PER_USER: u64 = 5;
    /// The bcrypt cost of new keys.
    pub const BCRYPT_COST: u64 = 10;
}

/// The fields as they are written. Each is read by [`Config::from_json`], so that
/// the message for a wrong type can name the field without showing the value.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    mode: Option<Value>,
    enabled: Option<Value>,
    storage: Option<Value>,
    hash_algorithm: Option<Value>,
    bcrypt_cost: Option<Value>,
    key_prefix: Option<Value>,
    max_keys_per_user: Option<Value>,
    cache_ttl_seconds: Option<Value>,
    negative_ttl_seconds: Option<Value>,
    keycloak_url: Option<Value>,
    realm: Option<Value>,
    keycloak_upstream: Option<Value>,
    yield_upstream: Option<Value>,
    callout_timeout_ms: Option<Value>,
    client_id: Option<Value>,
    signing_key: Option<Value>,
    signing_key_property: Option<Value>,
    assertion_issuer: Option<Value>,
    identity_provider: Option<Value>,
    scope: Option<Value>,
    headers: Option<Value>,
    on_missing_key: Option<Value>,
    fallback_until: Option<Value>,
    index_key: Option<Value>,
    revocation_poll_seconds: Option<Value>,
    throttle_failures_per_minute: Option<Value>,
    clock_skew_seconds: Option<Value>,
    l1_entries: Option<Value>,
    l2_slots: Option<Value>,
    admin_role: Option<Value>,
    audience: Option<Value>,
}

/// What to do with a request that carries no API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissingKey {
    /// A Bearer token passes untouched; nothing at all is refused.
    Bearer,
    /// Every request without a key passes untouched.
    Pass,
    /// Every request without a key is refused.
    Reject,
}

/// How the hash of a new key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// bcrypt with the configured cost.
    Bcrypt,
    /// SHA-256, as safe for keys of 190 random bits.
    Sha256,
}

/// Where a callout goes: `host:port` on Kong, a cluster's name on Envoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// What the host is told.
    pub name: String,
    /// Whether Kong is told to use TLS: the configured value began with `https://`.
    pub tls: bool,
}

/// The realm's address, in the parts that requests need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Realm {
    /// `<keycloak_url>/realms/<realm>`, which tokens name as their issuer.
    pub issuer: String,
    /// `host[:port]`, for the Host header.
    pub authority: String,
    /// The path of the token endpoint.
    pub token_path: String,
    /// The path of the admin REST interface's users.
    pub users_path: String,
    /// The realm's name.
    pub name: String,
}

/// Where the signing key comes from.
#[derive(Clone)]
pub enum SigningKeySource {
    /// Written in the configuration.
    Inline(Box<SigningKey>),
    /// In a property of the host, by its path.
    Property(Vec<String>),
}

impl fmt::Debug for SigningKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(key) => write!(f, "inline, kid {}", key.kid()),
            Self::Property(path) => write!(f, "property {}", path.join(".")),
        }
    }
}

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Off: every request passes untouched, as if the filter were not there.
    pub enabled: bool,
    /// How new keys are hashed; both are verified.
    pub hash_algorithm: HashAlgorithm,
    /// The bcrypt cost of new keys; 4 to 14 are verified.
    pub bcrypt_cost: u32,
    /// Prefix and index key.
    pub key_format: KeyFormat,
    /// Keys that one owner may hold.
    pub max_keys_per_user: u32,
    /// How long an exchanged token is reused.
    pub cache_ttl_ms: u64,
    /// How long a refused key is remembered.
    pub negative_ttl_ms: u64,
    /// The realm.
    pub realm: Realm,
    /// Where callouts to Keycloak go.
    pub keycloak_upstream: Upstream,
    /// Where a yield goes.
    pub yield_upstream: Upstream,
    /// The longest that one callout may take.
    pub callout_timeout_ms: u64,
    /// The gateway's client.
    pub client_id: String,
    /// The gateway's secret.
    pub signing_key: SigningKeySource,
    /// The issuer of the grant's assertions.
    pub assertion_issuer: String,
    /// The alias of the identity provider that owners are linked to.
    pub identity_provider: String,
    /// The scopes asked for when a key has none of its own.
    pub scope: Option<String>,
    /// The names of the headers that may carry a key, in lower case.
    pub headers: Vec<String>,
    /// What to do without a key.
    pub on_missing_key: OnMissingKey,
    /// Until then an unknown key passes untouched.
    pub fallback_until: Option<UnixMillis>,
    /// How far the clocks of the gateway, Keycloak and the services may be apart.
    pub clock_skew_ms: u64,
    /// Entries of each cache in worker memory.
    pub l1_entries: usize,
    /// Slots of each region in the host's shared data; a multiple of four.
    pub l2_slots: u32,
    /// Names all that decides which token a key gets: two filters share cache
    /// entries only where it is the same.
    pub fingerprint: [u8; 32],
}

impl Config {
    /// Reads and validates the configuration.
    ///
    /// # Errors
    /// [`ConfigError`], with the field and what it may be.
    pub fn from_json(text: &[u8]) -> Result<Self, ConfigError> {
        let raw = parse_object(text)?;
        let enabled = boolean(raw.enabled.as_ref(), "enabled", true)?;
        one_of(raw.storage.as_ref(), "storage", &[("keycloak", ())])?;
        exchange_mode_only(&raw)?;

        let key_format = key_format(&raw)?;
        let realm = realm(&raw)?;
        let signing_key = signing_key(&raw)?;
        let client_id = text_or(raw.client_id.as_ref(), "client_id", defaults::CLIENT_ID)?;
        let assertion_issuer = text_or(
            raw.assertion_issuer.as_ref(),
            "assertion_issuer",
            defaults::ASSERTION_ISSUER,
        )?;
        let identity_provider = text_or(
            raw.identity_provider.as_ref(),
            "identity_provider",
            defaults::IDENTITY_PROVIDER,
        )?;
        let scope = scope(&raw)?;
        // Read and bounded, though what they steer is not in this version.
        integer(
            raw.revocation_poll_seconds.as_ref(),
            "revocation_poll_seconds",
            0..=300,
            5,
        )?;
        let throttle = raw.throttle_failures_per_minute.as_ref();
        integer(throttle, "throttle_failures_per_minute", 0..=100_000, 20)?;

        let mut config = Self {
            enabled,
            hash_algorithm: one_of(
                raw.hash_algorithm.as_ref(),
                "hash_algorithm",
                &[
                    ("bcrypt", HashAlgorithm::Bcrypt),
                    ("sha256", HashAlgorithm::Sha256),
                ],
            )?,
            bcrypt_cost: small(
                raw.bcrypt_cost.as_ref(),
                "bcrypt_cost",
                u64::from(BCRYPT_COST_MIN)..=u64::from(BCRYPT_COST_MAX),
                defaults::BCRYPT_COST,
            )?,
            key_format,
            max_keys_per_user: small(
                raw.max_keys_per_user.as_ref(),
                "max_keys_per_user",
                1..=100,
                defaults::MAX_KEYS_PER_USER,
            )?,
            cache_ttl_ms: 1000
                * integer(
                    raw.cache_ttl_seconds.as_ref(),
                    "cache_ttl_seconds",
                    1..=86_400,
                    300,
                )?,
            negative_ttl_ms: 1000
                * integer(
                    raw.negative_ttl_seconds.as_ref(),
                    "negative_ttl_seconds",
                    0..=3600,
                    30,
                )?,
            realm,
            keycloak_upstream: upstream(raw.keycloak_upstream.as_ref(), "keycloak_upstream")?,
            yield_upstream: upstream(raw.yield_upstream.as_ref(), "yield_upstream")?,
            callout_timeout_ms: integer(
                raw.callout_timeout_ms.as_ref(),
                "callout_timeout_ms",
                100..=30_000,
                2000,
            )?,
            client_id,
            signing_key,
            assertion_issuer,
            identity_provider,
            scope,
            headers: headers(&raw)?,
            on_missing_key: one_of(
                raw.on_missing_key.as_ref(),
                "on_missing_key",
                &[
                    ("bearer", OnMissingKey::Bearer),
                    ("pass", OnMissingKey::Pass),
                    ("reject", OnMissingKey::Reject),
                ],
            )?,
            fallback_until: fallback_until(&raw)?,
            clock_skew_ms: 1000
                * integer(
                    raw.clock_skew_seconds.as_ref(),
                    "clock_skew_seconds",
                    0..=300,
                    30,
                )?,
            l1_entries: small(raw.l1_entries.as_ref(), "l1_entries", 1..=1_000_000, 10_000)?
                as usize,
            l2_slots: l2_slots(&raw)?,
            fingerprint: [0; 32],
        };
        config.fingerprint = config.compute_fingerprint(raw.index_key.as_ref());
        Ok(config)
    }

    /// SHA-256 over all that decides which token a key gets, each part with its
    /// length before it.
    fn compute_fingerprint(&self, index_key: Option<&Value>) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [
            self.realm.issuer.as_str(),
            &self.client_id,
            &self.assertion_issuer,
            &self.identity_provider,
            self.scope.as_deref().unwrap_or_default(),
            self.key_format.prefix(),
            index_key.and_then(Value::as_str).unwrap_or_default(),
        ] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

fn parse_object(text: &[u8]) -> Result<RawConfig, ConfigError> {
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
    RawConfig::deserialize(value).or_else(|fault| {
        // All fields are of any type, so only an unknown name can end here.
        error("configuration", fault.to_string())
    })
}

fn exchange_mode_only(raw: &RawConfig) -> Result<(), ConfigError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mode {
        Exchange,
        Manage,
    }
    let modes = [("exchange", Mode::Exchange), ("manage", Mode::Manage)];
    if one_of(raw.mode.as_ref(), "mode", &modes)? == Mode::Manage {
        return error(
            "mode",
            "\"manage\" is not in this version; write \"exchange\"",
        );
    }
    for (field, value) in [("admin_role", &raw.admin_role), ("audience", &raw.audience)] {
        if value.is_some() {
            return error(field, "belongs to mode \"manage\" alone; remove it");
        }
    }
    Ok(())
}

fn key_format(raw: &RawConfig) -> Result<KeyFormat, ConfigError> {
    let prefix = text_or(raw.key_prefix.as_ref(), "key_prefix", defaults::KEY_PREFIX)?;
    let format = KeyFormat::new(&prefix).or_else(|fault| error("key_prefix", fault.to_string()))?;
    let Some(index_key) = text(raw.index_key.as_ref(), "index_key")? else {
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

fn realm(raw: &RawConfig) -> Result<Realm, ConfigError> {
    const URL: &str = "must be Keycloak's public base URL, as https://login.example.com, without \
                       a query, a fragment, a user name or a slash at the end";
    let url = required(raw.keycloak_url.as_ref(), "keycloak_url")?;
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
    let name = required(raw.realm.as_ref(), "realm")?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~ ".contains(&byte);
    if name.len() > 255 || !name.bytes().all(allowed) || name.trim() != name {
        return error(
            "realm",
            "must be 1 to 255 letters, digits, '-', '.', '_', '~' or spaces",
        );
    }
    let in_path = name.replace(' ', "%20");
    Ok(Realm {
        issuer: format!("{url}/realms/{in_path}"),
        authority: authority.to_owned(),
        token_path: format!("{path}/realms/{in_path}/protocol/openid-connect/token"),
        users_path: format!("{path}/admin/realms/{in_path}/users"),
        name,
    })
}

fn signing_key(raw: &RawConfig) -> Result<SigningKeySource, ConfigError> {
    let inline = text(raw.signing_key.as_ref(), "signing_key")?;
    let property = text(raw.signing_key_property.as_ref(), "signing_key_property")?;
    match (inline, property) {
        (Some(_), Some(_)) => error(
            "signing_key",
            "and signing_key_property contradict each other; keep one of the two",
        ),
        (None, None) => error(
            "signing_key",
            "is missing; write the PEM of the gateway's key, or name the host property that \
             holds it in signing_key_property",
        ),
        (Some(pem), None) => SigningKey::parse(&pem)
            .map(|key| SigningKeySource::Inline(Box::new(key)))
            .or_else(|fault| error("signing_key", fault.to_string())),
        (None, Some(path)) => {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            if path.len() < 2 || path.iter().any(String::is_empty) {
                return error(
                    "signing_key_property",
                    "must be a path with dots, as ngx.apikey_signing_key on Kong or \
                     env.APIKEY_SIGNING_KEY for a WASI environment variable",
                );
            }
            Ok(SigningKeySource::Property(path))
        }
    }
}

fn scope(raw: &RawConfig) -> Result<Option<String>, ConfigError> {
    let scope = text(raw.scope.as_ref(), "scope")?;
    match scope {
        Some(scope) if !is_scope(&scope) => error(
            "scope",
            "must be OAuth scopes with single spaces between, as \"orders profile\"",
        ),
        scope => Ok(scope),
    }
}

fn headers(raw: &RawConfig) -> Result<Vec<String>, ConfigError> {
    const NAMES: &str = "must be a list of 1 to 8 header names in lower case, each once, as \
                         [\"authorization\", \"x-api-key\"]";
    let Some(value) = &raw.headers else {
        return Ok(vec!["authorization".to_owned(), "x-api-key".to_owned()]);
    };
    let listed = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+.^_|~-".contains(&b);
    let mut names: Vec<String> = Vec::with_capacity(listed.len());
    for name in listed {
        let name = name.as_str().unwrap_or_default();
        let valid = (1..=64).contains(&name.len()) && name.bytes().all(allowed);
        if !valid || names.iter().any(|known| known == name) {
            return error("headers", NAMES);
        }
        names.push(name.to_owned());
    }
    if names.is_empty() || names.len() > 8 {
        return error("headers", NAMES);
    }
    if let Some(name) = names
        .iter()
        .find(|name| NOT_CREDENTIALS.contains(&name.as_str()))
    {
        return error(
            "headers",
            format!("{name} cannot carry a key; choose another name"),
        );
    }
    Ok(names)
}

/// Headers that routing and framing need, which no key may take away.
const NOT_CREDENTIALS: [&str; 6] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "upgrade",
];

fn fallback_until(raw: &RawConfig) -> Result<Option<UnixMillis>, ConfigError> {
    text(raw.fallback_until.as_ref(), "fallback_until")?
        .map(|at| UnixMillis::parse_rfc3339(&at))
        .transpose()
        .or_else(|_| {
            error(
                "fallback_until",
                "must be an RFC 3339 instant, as 2026-12-31T00:00:00Z",
            )
        })
}

fn l2_slots(raw: &RawConfig) -> Result<u32, ConfigError> {
    let slots = small(raw.l2_slots.as_ref(), "l2_slots", 0..=65_536, 4096)?;
    if !slots.is_multiple_of(4) {
        return error("l2_slots", "must be a multiple of 4, from 0 (off) to 65536");
    }
    Ok(slots)
}

fn upstream(value: Option<&Value>, field: &str) -> Result<Upstream, ConfigError> {
    let written = required(value, field)?;
    let (name, tls) = match written.strip_prefix("https://") {
        Some(name) => (name, true),
        None => (written.strip_prefix("http://").unwrap_or(&written), false),
    };
    if name.is_empty() || name.len() > 255 || !name.bytes().all(|b| b.is_ascii_graphic()) {
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

#[cfg(test)]
mod tests;
