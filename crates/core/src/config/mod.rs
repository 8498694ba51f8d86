//! The configuration of a filter: one flat JSON object, read and bounded at start.
//!
//! The host hands over text. [`Config::from_json`] refuses fields that are unknown, out of
//! bounds or contradictory. Its message names the field, the bounds and the remedy; it never
//! repeats a value, since a secret may stand in the wrong place. Names, defaults and bounds are
//! a contract and stand in [`table`], from which the JSON Schema that Kong reads and the tables
//! of the pages are written.

use sha2::{Digest, Sha256};

use crate::api_key::format::KeyFormat;
use crate::clock::UnixMillis;

mod fields;
mod management;
mod read;
pub mod table;
mod values;

pub use fields::check_realm_name;
pub(crate) use fields::{IDENTITY, is_made_by_gateways};
use fields::{
    assertion_issuer, fallback_until, headers, key_format, parse_object, realm, scope, signing_key,
    upstream,
};
pub use management::Management;
pub use read::ConfigError;
pub use values::{
    HashAlgorithm, OnMissingKey, Preflight, Realm, SigningKeySource, Upstream, defaults,
};

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
    /// The time for which an exchanged token is reused.
    pub cache_ttl_ms: u64,
    /// The time for which a refused key is remembered.
    pub negative_ttl_ms: u64,
    /// The realm.
    pub realm: Realm,
    /// The target of callouts to Keycloak.
    pub keycloak_upstream: Upstream,
    /// The target of yields.
    pub yield_upstream: Upstream,
    /// The longest time of one callout.
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
    /// Tells the service the key and its owner.
    pub identity_headers: bool,
    /// How to handle a request without a key.
    pub on_missing_key: OnMissingKey,
    /// How to handle a CORS preflight.
    pub preflight: Preflight,
    /// Until then an unknown key passes untouched.
    pub fallback_until: Option<UnixMillis>,
    /// The time between two polls for administrators' changes; 0 means no polls.
    pub revocation_poll_ms: u64,
    /// Refusals in a minute after which a source address must wait; 0 means never.
    pub throttle_failures_per_minute: u64,
    /// The time past its TTL for which a token may be used while Keycloak cannot be asked; 0
    /// means none.
    pub stale_if_error_ms: u64,
    /// The number of audit lines for a thousand requests that a cache answers.
    pub audit_hits_per_1000: u32,
    /// Requests are counted by key and outcome.
    pub usage: bool,
    /// The largest difference between the clocks of the gateway, Keycloak and the services.
    pub clock_skew_ms: u64,
    /// Entries of each cache in worker memory.
    pub l1_entries: usize,
    /// Slots of each region in the host's shared data; a multiple of four.
    pub l2_slots: u32,
    /// The management API's own fields, in mode `manage`. None in mode `exchange`.
    pub management: Option<Management>,
    /// A digest of all settings that decide a key's token: two filters share cache entries only
    /// if their fingerprints are equal.
    pub fingerprint: [u8; 32],
}

/// A number with bounds below 2^32.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Config {
    /// Reads and validates the configuration.
    ///
    /// # Errors
    /// [`ConfigError`], with the field and its allowed values.
    pub fn from_json(text: &[u8]) -> Result<Self, ConfigError> {
        let raw = parse_object(text)?;
        let enabled = raw.enabled()?;
        raw.storage()?;
        let management = management::management(&raw)?;
        let key_format = key_format(&raw)?;
        let realm = realm(&raw)?;
        let signing_key = signing_key(&raw)?;
        let client_id = raw.client_id()?;
        let assertion_issuer = assertion_issuer(&raw)?;
        let identity_provider = raw.identity_provider()?;
        let scope = scope(&raw)?;

        let mut config = Self {
            enabled,
            hash_algorithm: raw.hash_algorithm()?,
            bcrypt_cost: small(raw.bcrypt_cost()?),
            key_format,
            max_keys_per_user: small(raw.max_keys_per_user()?),
            cache_ttl_ms: 1000 * raw.cache_ttl_seconds()?,
            negative_ttl_ms: 1000 * raw.negative_ttl_seconds()?,
            realm,
            keycloak_upstream: upstream(&raw.keycloak_upstream()?, "keycloak_upstream")?,
            yield_upstream: upstream(&raw.yield_upstream()?, "yield_upstream")?,
            callout_timeout_ms: raw.callout_timeout_ms()?,
            client_id,
            signing_key,
            assertion_issuer,
            identity_provider,
            scope,
            headers: headers(&raw)?,
            identity_headers: raw.identity_headers()?,
            on_missing_key: raw.on_missing_key()?,
            preflight: raw.preflight()?,
            fallback_until: fallback_until(&raw)?,
            revocation_poll_ms: 1000 * raw.revocation_poll_seconds()?,
            throttle_failures_per_minute: raw.throttle_failures_per_minute()?,
            stale_if_error_ms: 1000 * raw.stale_if_error_seconds()?,
            audit_hits_per_1000: small(raw.audit_hits_per_1000()?),
            usage: raw.usage()?,
            clock_skew_ms: 1000 * raw.clock_skew_seconds()?,
            l1_entries: small(raw.l1_entries()?) as usize,
            l2_slots: small(raw.l2_slots()?),
            management,
            fingerprint: [0; 32],
        };
        config.fingerprint = config.compute_fingerprint(raw.index_key()?.as_deref());
        Ok(config)
    }

    /// SHA-256 over all settings that decide a key's token, each with its length before it.
    fn compute_fingerprint(&self, index_key: Option<&str>) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [
            self.realm.issuer.as_str(),
            &self.client_id,
            &self.assertion_issuer,
            &self.identity_provider,
            self.scope.as_deref().unwrap_or_default(),
            self.key_format.prefix(),
            index_key.unwrap_or_default(),
            // Decides how long an entry may be used.
            &self.clock_skew_ms.to_string(),
        ] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests;
