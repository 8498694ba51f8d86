//! The answer to a client with a refused request, and the reason, only for the log.
//!
//! A rejection is a fixed status and code. All reasons why a key is no good share one, so that an
//! answer helps nobody to guess. The reason goes to the log.

use serde_json::json;

use crate::api_key::format::MalformedKey;
use crate::api_key::terms::RateLimit;
use crate::keycloak::token::TokenError;
use crate::keycloak::users::{LOOKUP_ROLE, LookupError, LookupRefusal};
use crate::keycloak::{Endpoint, loggable};

/// Seconds after which a client may try again when Keycloak could not answer.
const RETRY_UNAVAILABLE_SECONDS: u32 = 5;
/// Seconds after which a client may try again when too many new keys come at once.
const RETRY_OVERLOADED_SECONDS: u32 = 1;

/// An answer to a client: Problem Details (RFC 9457).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// The request has no credential to exchange.
    MissingCredentials,
    /// Malformed, unknown, revoked, expired, wrong secret, owner disabled.
    InvalidApiKey,
    /// Two different credentials, or a header twice.
    AmbiguousCredentials,
    /// Too many failures from this address.
    Throttled,
    /// Keycloak is unreachable, slow or misconfigured.
    IdentityProviderUnavailable,
    /// The queue of first-use verifications is full.
    Overloaded,
    /// The key's own rate limit is spent.
    RateLimited(Spent),
    /// The key may not come from this address.
    AddressNotAllowed,
}

/// A key's rate limit, and the time until it lets the next request through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spent {
    /// The limit.
    pub limit: RateLimit,
    /// Milliseconds until the bucket has the next token.
    pub wait_ms: u64,
}

impl Spent {
    /// A placeholder, where only the kind of rejection matters.
    pub(crate) const ANY: Self = Self {
        limit: RateLimit {
            requests: 1,
            seconds: 1,
        },
        wait_ms: 1,
    };

    /// Seconds until the next request is let through; at least 1.
    fn seconds(self) -> u32 {
        u32::try_from(self.wait_ms.div_ceil(1000).max(1)).unwrap_or(u32::MAX)
    }

    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
    pub(crate) fn headers(self) -> [(&'static str, String); 2] {
        let RateLimit { requests, seconds } = self.limit;
        [
            ("ratelimit", format!("\"key\";r=0;t={}", self.seconds())),
            (
                "ratelimit-policy",
                format!("\"key\";q={requests};w={seconds}"),
            ),
        ]
    }
}

impl Rejection {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::MissingCredentials,
        Self::InvalidApiKey,
        Self::AmbiguousCredentials,
        Self::Throttled,
        Self::IdentityProviderUnavailable,
        Self::Overloaded,
        Self::RateLimited(Spent::ANY),
        Self::AddressNotAllowed,
    ];

    /// Its place in [`Self::ALL`], whatever limit is spent.
    #[must_use]
    pub fn place(self) -> usize {
        let of_this_code = |known: &Self| known.code() == self.code();
        Self::ALL.iter().position(of_this_code).unwrap_or_default()
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::MissingCredentials | Self::InvalidApiKey => 401,
            Self::AmbiguousCredentials => 400,
            Self::AddressNotAllowed => 403,
            Self::Throttled | Self::RateLimited(_) => 429,
            Self::IdentityProviderUnavailable | Self::Overloaded => 503,
        }
    }

    /// The code by which programs tell rejections apart.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::MissingCredentials => "missing_credentials",
            Self::InvalidApiKey => "invalid_api_key",
            Self::AmbiguousCredentials => "ambiguous_credentials",
            Self::Throttled => "throttled",
            Self::IdentityProviderUnavailable => "identity_provider_unavailable",
            Self::Overloaded => "overloaded",
            Self::RateLimited(_) => "rate_limited",
            Self::AddressNotAllowed => "address_not_allowed",
        }
    }

    /// A short description for people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::MissingCredentials => "The request carries no API key and no token",
            Self::InvalidApiKey => "The API key is not valid",
            Self::AmbiguousCredentials => "The request carries more than one credential",
            Self::Throttled => "Too many failed requests from this address",
            Self::IdentityProviderUnavailable => "The identity provider cannot be asked right now",
            Self::Overloaded => "Too many new API keys are being verified right now",
            Self::RateLimited(_) => "The API key's rate limit is reached",
            Self::AddressNotAllowed => "The API key may not be used from this address",
        }
    }

    /// Seconds for `Retry-After` (RFC 9110, 10.2.3), if trying again can help.
    #[must_use]
    pub fn retry_after_seconds(self) -> Option<u32> {
        match self {
            Self::Throttled => Some(60),
            Self::IdentityProviderUnavailable => Some(RETRY_UNAVAILABLE_SECONDS),
            Self::Overloaded => Some(RETRY_OVERLOADED_SECONDS),
            Self::RateLimited(spent) => Some(spent.seconds()),
            _ => None,
        }
    }

    /// The headers of the answer.
    #[must_use]
    pub fn headers(self, realm: &str) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", "application/problem+json".to_owned()),
            ("cache-control", "no-store".to_owned()),
        ];
        if self.status() == 401 {
            let challenge = format!("ApiKey realm=\"{realm}\", Bearer realm=\"{realm}\"");
            headers.push(("www-authenticate", challenge));
        }
        if let Some(seconds) = self.retry_after_seconds() {
            headers.push(("retry-after", seconds.to_string()));
        }
        if let Self::RateLimited(spent) = self {
            headers.extend(spent.headers());
        }
        headers
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(self, request_id: &str) -> String {
        json!({
            "type": format!("urn:api-key-gateway:problem:{}", self.code()),
            "title": self.title(),
            "status": self.status(),
            "code": self.code(),
            "request_id": request_id,
        })
        .to_string()
    }
}

/// The kind of refusal of a key, as far as it matters for the next request with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Keycloak answered that the key has no owner, and the gateway had the role to see one.
    Unknown,
    /// Keycloak answered that the key has no owner. The gateway had the role to see one a while
    /// before: that is enough for a refusal, but not for a fallback.
    Unseen,
    /// It has an owner and must not be used.
    Invalid,
}

impl Refused {
    /// The word for the log, which does not tell the two kinds of unknown keys apart.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown | Self::Unseen => "Unknown",
            Self::Invalid => "Invalid",
        }
    }
}

/// The reason for which a request was refused, only for the log. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No credential at all, or none of a form that counts.
    #[error("no credentials")]
    NoCredentials,
    /// A CORS preflight, which `preflight` refuses.
    #[error("a CORS preflight, which carries no credentials: see preflight")]
    Preflight,
    /// A header came more than once.
    #[error("header {0} more than once")]
    HeaderTwice(String),
    /// Two headers with different credentials.
    #[error("two different credentials")]
    TwoCredentials,
    /// More headers than a host shows.
    #[error("more headers than can be looked through")]
    TooManyHeaders,
    /// A key in a header from which no key is read.
    #[error("header {0} holds a key and is not read for one: see headers")]
    KeyElsewhere(String),
    /// The key stands in a header that the gateway made anew before the filter ran: the service
    /// would get it.
    #[error("header {0} holds the key, and the gateway has passed it on already")]
    KeyBeyondReach(String),
    /// The presented string cannot be a key.
    #[error("malformed key: {0}")]
    Malformed(#[from] MalformedKey),
    /// Refused a short while ago, and remembered.
    #[error("refused before ({})", .0.word())]
    Remembered(Refused),
    /// The key has no owner.
    #[error("unknown key")]
    Unknown,
    /// The key was found and must not be used.
    #[error("{0}")]
    Lookup(#[from] LookupRefusal),
    /// The key's life is over.
    #[error("key expired")]
    Expired,
    /// The id is known, but the secret differs.
    #[error("wrong secret")]
    WrongSecret,
    /// Keycloak gives the owner no token.
    #[error("{0}")]
    OwnerRefused(&'static str),
    /// A callout failed on its way.
    #[error("Keycloak's {endpoint} callout failed: {failure}")]
    Callout {
        /// Which.
        endpoint: Endpoint,
        /// The host's description.
        failure: String,
    },
    /// The answer to the look-up says nothing about the key.
    #[error("look-up: {0}")]
    LookupFault(LookupError),
    /// The token endpoint gave no token.
    #[error("{endpoint}: {error}")]
    TokenFault {
        /// For the gateway or for an owner.
        endpoint: Endpoint,
        /// The fault of its answer.
        error: TokenError,
    },
    /// The gateway's token cannot look keys up.
    #[error(
        "the gateway's service account lacks the role {LOOKUP_ROLE} of client realm-management; \
         grant it, or run: apikeys setup"
    )]
    MissingRole,
    /// A token of one of our clients lists no roles, so nobody can tell its rights. A search
    /// without the role finds nobody, and every key would look unknown.
    #[error(
        "the {0} client gives lightweight access tokens, which list no roles: turn off \
         \"Always use lightweight access token\" of that client, or run: apikeys setup"
    )]
    LightweightToken(&'static str),
    /// The manager's token cannot write users.
    #[error(
        "the management client's service account lacks the role manage-users of client \
         realm-management; grant it, or run: apikeys setup"
    )]
    MissingManageRole,
    /// The token is for another subject.
    #[error("the token's subject is not the key's owner: check the owner's identity-provider link")]
    ForeignSubject,
    /// The token ends after the key does.
    #[error(
        "the token outlives the key: set jwtAuthorizationGrantLimitAccessTokenExp on the \
         identity provider, or run: apikeys setup"
    )]
    TokenOutlivesKey,
    /// An assertion could not be signed.
    #[error("an assertion could not be signed")]
    Signing,
    /// The request waited as long as it may: for Keycloak, or for another request that asks it.
    #[error("the exchange's deadline has passed")]
    Deadline,
    /// The request waited as long as it may for its key's verification.
    #[error("the exchange's deadline has passed")]
    VerificationDeadline,
    /// Too many verifications wait already.
    #[error("the queue of first-use verifications is full")]
    QueueFull,
    /// Too many requests wait already.
    #[error("too many requests wait for an exchange")]
    TooManyPending,
    /// The address has failed too often.
    #[error("too many failures from this address")]
    Throttled,
    /// The key is switched off.
    #[error("key disabled")]
    Disabled,
    /// The key's own rate limit is spent.
    #[error("the key's rate limit of {} is spent", .0.limit)]
    RateLimited(Spent),
    /// The key may not come from this address, or the host gives none.
    #[error("the key may not come from this address")]
    AddressNotAllowed,
    /// More new keys came than may wait for their look-up, or this one waited for too long.
    #[error("too many keys that are new here wait for their look-up")]
    TooManyNewKeys,
    /// Keycloak did not answer other requests, and is left alone for a moment.
    #[error("Keycloak does not answer and is left alone for a moment")]
    BreakerOpen,
    /// Keycloak is slow or has only just come back, and more keys came than may ask it at once.
    #[error("too many keys wait for Keycloak, which is slow or has only just come back")]
    TooManyReturn,
    /// The stored hash of a key to renew has changed: the key is verified anew when a request
    /// brings it.
    #[error("the stored hash was changed: the key's next request verifies it")]
    NoKeyAtHand,
    /// The address of yields does not answer.
    #[error("yield_upstream does not answer: {0}")]
    YieldFailed(String),
}

impl Reason {
    /// A failed callout; `why` is the host's description.
    #[must_use]
    pub fn callout(endpoint: Endpoint, why: &str) -> Self {
        let failure = loggable(why);
        Self::Callout { endpoint, failure }
    }

    /// The answer to the client.
    #[must_use]
    pub const fn rejection(&self) -> Rejection {
        match self {
            Self::NoCredentials | Self::Preflight => Rejection::MissingCredentials,
            Self::HeaderTwice(_)
            | Self::TwoCredentials
            | Self::TooManyHeaders
            | Self::KeyBeyondReach(_) => Rejection::AmbiguousCredentials,
            Self::KeyElsewhere(_)
            | Self::Malformed(_)
            | Self::Remembered(_)
            | Self::Unknown
            | Self::Lookup(_)
            | Self::Expired
            | Self::Disabled
            | Self::WrongSecret
            | Self::OwnerRefused(_) => Rejection::InvalidApiKey,
            Self::RateLimited(spent) => Rejection::RateLimited(*spent),
            Self::AddressNotAllowed => Rejection::AddressNotAllowed,
            Self::Callout { .. }
            | Self::LookupFault(_)
            | Self::TokenFault { .. }
            | Self::MissingRole
            | Self::LightweightToken(_)
            | Self::MissingManageRole
            | Self::ForeignSubject
            | Self::TokenOutlivesKey
            | Self::Signing
            | Self::Deadline
            | Self::BreakerOpen => Rejection::IdentityProviderUnavailable,
            Self::VerificationDeadline
            | Self::QueueFull
            | Self::TooManyPending
            | Self::TooManyNewKeys
            | Self::TooManyReturn
            | Self::NoKeyAtHand
            | Self::YieldFailed(_) => Rejection::Overloaded,
            Self::Throttled => Rejection::Throttled,
        }
    }

    /// Whether the reason says only that Keycloak cannot be asked now, and nothing about the key,
    /// the owner or the gateway's configuration.
    #[must_use]
    pub const fn is_outage(&self) -> bool {
        match self {
            Self::Callout { .. }
            | Self::BreakerOpen
            | Self::TooManyReturn
            | Self::Deadline
            | Self::VerificationDeadline => true,
            Self::LookupFault(LookupError::Status(status))
            | Self::TokenFault {
                error: TokenError::Refused { status, .. } | TokenError::Unusable { status, .. },
                ..
            } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_the_documented_one() {
        let documented = [
            ("missing_credentials", 401, None),
            ("invalid_api_key", 401, None),
            ("ambiguous_credentials", 400, None),
            ("throttled", 429, Some("60")),
            ("identity_provider_unavailable", 503, Some("5")),
            ("overloaded", 503, Some("1")),
            ("rate_limited", 429, Some("1")),
            ("address_not_allowed", 403, None),
        ];
        let titles: std::collections::HashSet<&str> =
            Rejection::ALL.into_iter().map(Rejection::title).collect();
        assert_eq!(titles.len(), Rejection::ALL.len(), "each says its own");
        for (rejection, (code, status, retry_after)) in Rejection::ALL.into_iter().zip(documented) {
            let body: serde_json::Value = serde_json::from_str(&rejection.body("r-1")).unwrap();
            assert_eq!(body["code"], code);
            assert_eq!(body["status"], status);
            assert_eq!(body["request_id"], "r-1");
            assert_eq!(body["type"], format!("urn:api-key-gateway:problem:{code}"));
            assert!(
                body["title"]
                    .as_str()
                    .is_some_and(|title| !title.is_empty())
            );
            assert_eq!(body.as_object().unwrap().len(), 5);
            let headers = rejection.headers("demo");
            let header = |name: &str| {
                headers
                    .iter()
                    .find(|(found, _)| *found == name)
                    .map(|(_, value)| value.as_str())
            };
            assert_eq!(header("content-type"), Some("application/problem+json"));
            assert_eq!(header("retry-after"), retry_after);
            let challenge =
                (status == 401).then_some(r#"ApiKey realm="demo", Bearer realm="demo""#);
            assert_eq!(header("www-authenticate"), challenge);
        }
    }

    #[test]
    fn a_spent_limit_tells_its_policy_and_when_to_come_back() {
        let limit = RateLimit::parse("100/60").unwrap();
        for (wait_ms, seconds) in [(1, "1"), (1000, "1"), (1001, "2"), (59_400, "60")] {
            let headers = Rejection::RateLimited(Spent { limit, wait_ms }).headers("demo");
            let of = |name: &str| {
                let found = headers.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.as_str()).unwrap()
            };
            assert_eq!(of("retry-after"), seconds);
            assert_eq!(of("ratelimit"), format!("\"key\";r=0;t={seconds}"));
            assert_eq!(of("ratelimit-policy"), "\"key\";q=100;w=60");
        }
    }

    #[test]
    fn a_request_id_cannot_break_out_of_the_body() {
        let body = Rejection::Overloaded.body("\",\"code\":\"x\n");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&body["code"], &body["request_id"]),
            (&json!("overloaded"), &json!("\",\"code\":\"x\n"))
        );
    }
}
