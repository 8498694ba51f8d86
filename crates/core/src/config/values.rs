//! The values of the configuration: plain types, and the defaults that others must agree on.

use std::fmt;

pub use crate::api_key::hash::HashAlgorithm;
use crate::signing_key::SigningKey;

/// The defaults that the filter and the native tool must agree on.
pub mod defaults {
    /// The gateway's client in the realm.
    pub const CLIENT_ID: &str = "api-key-gateway";
    /// The client that may write users, for the management API.
    pub const MANAGEMENT_CLIENT_ID: &str = "api-key-manager";
    /// The realm role that lets a caller of the management API act for others.
    pub const ADMIN_ROLE: &str = "api-key-admin";
    /// The issuer of the gateway's assertions. Keycloak takes only `https` URLs;
    /// this one can belong to nobody (RFC 6761, 6.4), and nothing is fetched from it.
    pub const ASSERTION_ISSUER: &str = "https://api-key-gateway.invalid";
    /// The alias of the identity provider that stands for the gateway.
    pub const IDENTITY_PROVIDER: &str = "api-keys";
    /// The start of every key.
    pub const KEY_PREFIX: &str = "sk_live_";
    /// Keys that one owner may hold.
    pub const MAX_KEYS_PER_USER: u64 = 5;
    /// The bcrypt cost of new keys.
    pub const BCRYPT_COST: u64 = 10;
}

/// How to handle a request without an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissingKey {
    /// A Bearer token passes untouched; nothing at all is refused.
    Bearer,
    /// Every request without a key passes untouched.
    Pass,
    /// Every request without a key is refused.
    Reject,
}

/// How to handle a CORS preflight, which carries no credentials (Fetch, 3.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preflight {
    /// It is handled as any request without a key.
    Refuse,
    /// It passes untouched, for the service to answer.
    Pass,
}

/// The target of callouts: `host:port` on Kong, a cluster's name on Envoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The name that the host gets.
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
    /// The path of the realm's public keys (its `jwks_uri`).
    pub certs_path: String,
    /// The path of the realm's discovery document (OpenID Connect Discovery 1.0, 4).
    pub discovery_path: String,
    /// The path of the admin REST interface's users.
    pub users_path: String,
    /// The path of the admin REST interface's events of users.
    pub events_path: String,
    /// The path of the admin REST interface's log of administrators' changes.
    pub admin_events_path: String,
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

/// In front of a service, or the management API.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mode {
    Exchange,
    Manage,
}
