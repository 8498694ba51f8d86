//! The fields of the configuration, in one table.
//!
//! A row has the field's name, the rule that it is read by (type, bounds, default) and, for people, its
//! meaning. From the rows come [`RawConfig`], with a reader for each field, and [`fields`]. From `fields`,
//! `tests/house/generated.rs` writes the schema in `kong/apikey_jwt_exchange.meta.json`, the table in
//! `docs/settings.md` and the short one in `README.md`. The filter itself holds no meanings.

use serde::Deserialize;
use serde_json::Value;

use super::read::{
    Boolean, Choice, ConfigError, Integer, List, Name, Required, Rule, Text, integer,
    is_header_name, is_origin,
};
use super::values::{HashAlgorithm, Mode, OnMissingKey, Preflight, defaults};
use crate::api_key::hash::{BCRYPT_COST_MAX, BCRYPT_COST_MIN};

#[cfg(not(target_family = "wasm"))]
pub use super::read::Kind;

macro_rules! table {
    (
        both { $($name:ident: $rule:ty = $value:expr, $about:expr;)* }
        manage { $($managed:ident: $managed_rule:ty = $managed_value:expr, $managed_about:expr;)* }
    ) => {
        /// The fields as they are written. Each accepts any type here, so that the message for
        /// a wrong type can name the field without showing the value.
        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct RawConfig {
            $($name: Option<Value>,)*
            $($managed: Option<Value>,)*
        }

        impl RawConfig {
            $(table!(@reader $name, $rule, $value);)*
            $(table!(@reader $managed, $managed_rule, $managed_value);)*

            /// The first field that is there and belongs to mode `manage` alone.
            pub(super) fn first_of_mode_manage(&self) -> Option<&'static str> {
                [$((stringify!($managed), self.$managed.is_some())),*]
                    .into_iter()
                    .find_map(|(field, given)| given.then_some(field))
            }
        }

        /// All fields, in the order of the schema and the pages.
        #[cfg(not(target_family = "wasm"))]
        #[must_use]
        pub fn fields() -> Vec<Field> {
            vec![
                $(Field { name: stringify!($name), kind: Rule::kind(&$value), mode_manage: false, about: $about },)*
                $(Field { name: stringify!($managed), kind: Rule::kind(&$managed_value), mode_manage: true, about: $managed_about },)*
            ]
        }
    };
    (@reader $name:ident, $rule:ty, $value:expr) => {
        pub(super) fn $name(&self) -> Result<<$rule as Rule>::Read, ConfigError> {
            const RULE: $rule = $value;
            RULE.read(self.$name.as_ref(), stringify!($name))
        }
    };
}

// A meaning is one line of Markdown, with links as docs/settings.md writes them. The schema gets its text.
table! {
    both {
        mode: Choice<Mode> = Choice(&[("exchange", Mode::Exchange), ("manage", Mode::Manage)]),
            about("`exchange`: keys for tokens, in front of a service. `manage`: the [management API](management-api.md), on a route of its own");
        enabled: Boolean = Boolean { default: true },
            about("`false`: every request passes untouched, **with the key it carries**")
                .variable("API_KEY_ENABLED");
        storage: Choice<()> = Choice(&[("keycloak", ())]),
            about("where keys are kept").variable("API_KEY_STORAGE");
        hash_algorithm: Choice<HashAlgorithm> = Choice(&[
            ("bcrypt", HashAlgorithm::Bcrypt),
            ("sha256", HashAlgorithm::Sha256),
        ]),
            about("how new keys are hashed (`mode` `manage`); both are verified")
                .variable("API_KEY_HASH_ALGORITHM");
        bcrypt_cost: Integer = integer(BCRYPT_COST_MIN as u64, BCRYPT_COST_MAX as u64, defaults::BCRYPT_COST),
            about("cost of new keys (`mode` `manage`); costs of 4 to 14 are verified");
        key_prefix: Name = Name { most: 16, default: defaults::KEY_PREFIX },
            about("the beginning of every key; not the beginning of JWTs (`eyJ`)")
                .variable("API_KEY_PREFIX")
                .schema("1 to 16 letters, digits, `_`, `-`", r#""pattern": "^[A-Za-z0-9_-]{1,16}$""#);
        max_keys_per_user: Integer = integer(1, 100, defaults::MAX_KEYS_PER_USER),
            about("keys that one owner may hold (`mode` `manage`)").variable("API_KEY_MAX_PER_USER");
        cache_ttl_seconds: Integer = integer(1, 86_400, 300),
            about("how long an exchanged token is reused, and how long a revoked key may work on where `revocation_poll_seconds` is 0 or events are off")
                .variable("API_KEY_EXCHANGE_CACHE_TTL");
        negative_ttl_seconds: Integer = integer(0, 3600, 30),
            about("how long a refused key is remembered; 0 is off");
        keycloak_url: Required = Required { most: 2048 },
            about("Keycloak's public base URL, which tokens name as issuer")
                .schema(
                    "an `http` or `https` URL, no slash at its end",
                    r#""pattern": "^https?://[A-Za-z0-9._~:\\[\\]%-]+(/[A-Za-z0-9._~:\\[\\]/%-]*[A-Za-z0-9._~:\\[\\]%-])?$""#,
                );
        realm: Required = Required { most: 255 },
            about("the realm of the owners")
                .schema(
                    "1 to 255 ASCII letters, digits, `-`, `.`, `_`, `~`, spaces",
                    r#""pattern": "^[A-Za-z0-9._~-]([A-Za-z0-9._~ -]{0,253}[A-Za-z0-9._~-])?$""#,
                );
        keycloak_upstream: Required = Required { most: 263 },
            about("where callouts go: `host:port` of the loopback server on Kong, a cluster's name on Envoy")
                .schema("1 to 255 visible characters", r#""pattern": "^(https?://)?[!-.0-~]{1,255}$""#);
        yield_upstream: Required = Required { most: 263 },
            about("where yields go, in the same form: `/yield` there answers at once, `/wait` late")
                .schema("1 to 255 visible characters", r#""pattern": "^(https?://)?[!-.0-~]{1,255}$""#);
        callout_timeout_ms: Integer = integer(100, 30_000, 2000),
            about("the longest that one callout may take; an exchange may take twice that, plus the time for bcrypt");
        client_id: Name = Name { most: 255, default: defaults::CLIENT_ID },
            about("the gateway's client");
        signing_key: Text = Text { most: 16_384 },
            about("the gateway's secret: PEM (PKCS#8, P-256) or its base64 body")
                .or("signing_key_property")
                .at_least(80);
        signing_key_property: Text = Text { most: 255 },
            about("the host property that holds the gateway's secret: `ngx.<variable>` on Kong, `env.<NAME>` on Envoy")
                .or("signing_key")
                .schema("names with dots between", r#""pattern": "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)+$""#);
        assertion_issuer: Name = Name { most: 255, default: defaults::ASSERTION_ISSUER },
            about("issuer of the gateway's assertions, as the identity provider has it")
                .schema("an `http` or `https` URL of at most 255 characters", r#""pattern": "^https?://[!-~]+$""#);
        identity_provider: Name = Name { most: 255, default: defaults::IDENTITY_PROVIDER },
            about("alias of the identity provider that owners are linked to");
        scope: Text = Text { most: 1024 },
            about("asked for when the key has no scopes of its own; without it, the client's defaults")
                .schema("scopes with single spaces between", r#""pattern": "^[!#-\\[\\]-~]+( [!#-\\[\\]-~]+)*$""#);
        headers: List = List {
            most: 8,
            allows: is_header_name,
            problem: "must be a list of 1 to 8 header names in lower case, each once, as \
                      [\"authorization\", \"x-api-key\"]",
            default: &["authorization", "x-api-key"],
        },
            about("the names of the headers that may carry a key")
                .schema("1 to 8 in lower case", r#""items": {
          "type": "string",
          "pattern": "^[a-z0-9!#$%&'*+.^_|~-]{1,64}$",
          "not": {
            "enum": [
              "host", "content-length", "transfer-encoding", "connection", "te", "upgrade",
              "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-path",
              "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto",
              "x-api-key-id", "x-api-key-owner", "x-api-key-name"
            ]
          }
        }"#);
        identity_headers: Boolean = Boolean { default: false },
            about("tells the service the key: `X-API-Key-ID`, `X-API-Key-Owner` and `X-API-Key-Name`; see [who called](identity.md)");
        on_missing_key: Choice<OnMissingKey> = Choice(&[
            ("bearer", OnMissingKey::Bearer),
            ("pass", OnMissingKey::Pass),
            ("reject", OnMissingKey::Reject),
        ]),
            about("without a key: `bearer` lets a Bearer token through and answers 401 to nothing at all; `pass` lets all through; `reject` none");
        preflight: Choice<Preflight> = Choice(&[
            ("refuse", Preflight::Refuse),
            ("pass", Preflight::Pass),
        ]),
            about("a CORS preflight, which carries no credentials: `refuse` takes it as any request without a key; `pass` lets it through for the service to answer");
        fallback_until: Text = Text { most: 255 },
            about("until then a key that Keycloak does not know passes untouched: for a migration")
                .schema("an RFC 3339 instant, in quotes", r#""format": "date-time",
        "pattern": "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$""#);
        // Kong's validator quotes a value that fails a plain pattern. This one stands in a double negation.
        index_key: Text = Text { most: 44 },
            about("turns [imported keys](keys.md#imported-keys) on; `openssl rand -base64 32` makes one. A secret")
                .at_least(44)
                .schema("base64 of 32 bytes", r#""not": {
          "not": { "pattern": "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$" }
        }"#);
        revocation_poll_seconds: Integer = integer(0, 300, 5),
            about("how often one worker of a node reads Keycloak's admin events: **a revoked key works on for no longer than this and a second**. 0 is off");
        throttle_failures_per_minute: Integer = integer(0, 100_000, 20),
            about("refused keys in a minute after which a source address is told to wait ([throttling](how-it-works.md#throttling)); 0 is off");
        stale_if_error_seconds: Integer = integer(0, 86_400, 0),
            about("for how long past `cache_ttl_seconds` a token may be used [when Keycloak is gone](how-it-works.md#when-keycloak-is-gone); 0 is not at all");
        audit_hits_per_1000: Integer = integer(0, 1000, 0),
            about("of a thousand requests that a cache answers so many are in the [audit log](audit.md)");
        usage: Boolean = Boolean { default: false },
            about("`true`: requests are counted by key and outcome, for the [audit log](audit.md#requests-by-key) and the [management API](management-api.md#requests-with-a-key)");
        clock_skew_seconds: Integer = integer(0, 300, 30),
            about("how far the clocks of gateway, Keycloak and services may be apart");
        l1_entries: Integer = integer(1, 1_000_000, 10_000),
            about("entries of each cache in a worker's memory");
        l2_slots: Integer = Integer { least: 0, most: 65_536, step: 4, default: 4096 },
            about("slots of each cache that all workers of a node share; 0 is off");
    }
    manage {
        management_client_id: Name = Name { most: 255, default: defaults::MANAGEMENT_CLIENT_ID },
            about("`mode` `manage` alone: the client that may write users; another than `client_id`");
        management_signing_key: Text = Text { most: 16_384 },
            about("`mode` `manage` alone: that client's key; without it, the gateway's. A secret")
                .at_least(80);
        management_signing_key_property: Text = Text { most: 255 },
            about("`mode` `manage` alone: the host property that holds that key")
                .schema("names with dots between", r#""pattern": "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)+$""#);
        admin_role: Name = Name { most: 255, default: defaults::ADMIN_ROLE },
            about("`mode` `manage` alone: the realm role that lets a caller act for other owners");
        audience: Text = Text { most: 255 },
            about("`mode` `manage` alone, and required there: the audience that `aud` of a caller's token must name; `account` is in the tokens that Keycloak gives to any client");
        cors_origins: List = List {
            most: 16,
            allows: is_origin,
            problem: "must be a list of 1 to 16 origins, each once, as \
                      [\"https://console.example.com\"]; there is no wildcard",
            default: &[],
        },
            about("`mode` `manage` alone: the origins that browsers may call from; no wildcard")
                .schema("1 to 16 in lower case", r#""items": {
          "type": "string",
          "maxLength": 263,
          "pattern": "^https?://[a-z0-9._:\\[\\]-]+$"
        }"#);
    }
}

/// A field as the schema and the pages show it.
#[cfg(not(target_family = "wasm"))]
#[derive(Debug)]
pub struct Field {
    /// The name in the configuration.
    pub name: &'static str,
    /// Type, bounds and default.
    pub kind: Kind,
    /// Whether it belongs to mode `manage` alone.
    pub mode_manage: bool,
    /// All else.
    pub about: About,
}

/// The part of a field's row that is for people and for Kong's schema.
#[cfg(not(target_family = "wasm"))]
#[derive(Debug)]
pub struct About {
    /// One line of Markdown.
    pub meaning: &'static str,
    /// The variable of `make run` and `make up` that sets the field.
    pub variable: Option<&'static str>,
    /// The other of two fields of which exactly one is required.
    pub or: Option<&'static str>,
    /// The shortest text.
    pub shortest: usize,
    /// The bounds in words, and as members of the field's schema, where the rule cannot say them.
    pub schema: Option<(&'static str, &'static str)>,
}

#[cfg(not(target_family = "wasm"))]
const fn about(meaning: &'static str) -> About {
    About {
        meaning,
        variable: None,
        or: None,
        shortest: 1,
        schema: None,
    }
}

#[cfg(not(target_family = "wasm"))]
impl About {
    const fn variable(mut self, name: &'static str) -> Self {
        self.variable = Some(name);
        self
    }

    const fn or(mut self, other: &'static str) -> Self {
        self.or = Some(other);
        self
    }

    const fn at_least(mut self, shortest: usize) -> Self {
        self.shortest = shortest;
        self
    }

    const fn schema(mut self, words: &'static str, members: &'static str) -> Self {
        self.schema = Some((words, members));
        self
    }
}
