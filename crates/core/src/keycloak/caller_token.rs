//! The token by which a caller of the management API proves its identity.
//!
//! It is an access token of the realm, verified with the realm's own keys (RFC 7515, 7519; RFC
//! 8725). ID tokens and refresh tokens do not count. Neither does a token made from an API key,
//! or a stolen key could make itself successors. Such tokens are the gateway's own token of an
//! owner, and any token that another client exchanged it for (RFC 8693). Keycloak writes the
//! grant of each access token into its `jti`, as `onrtac:…`: two letters each for the session,
//! the kind of token and the grant. A caller's token must come by one of [`CALLER_GRANTS`].

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::public_key::{Algorithm, PublicKey};
use super::users::is_user_id;
use super::{TOKEN_BYTES_MAX, token_context};
use crate::clock::UnixMillis;

/// The grants by which a caller's token may come, by Keycloak's short names: authorization
/// code, password, refresh token, client credentials, device, CIBA. The first step of each
/// is a sign-in, or a client's own secret. Missing are those that begin with another token:
/// token exchange (`te`), an assertion (`ag`), a permission ticket (`pg`).
const CALLER_GRANTS: [&str; 6] = ["ac", "ro", "rt", "cc", "dg", "ci"];

/// A token's header, as far as it is used. Keys that a token brings itself, or addresses of
/// keys, are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The algorithm of the signature.
    pub algorithm: Algorithm,
    /// The name of the key.
    pub kid: String,
}

/// The claims that a token needs to be accepted.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The realm's issuer.
    pub issuer: &'a str,
    /// The audience that must be among the token's, where one is configured. The roles
    /// of the client of this name count as well.
    pub audience: Option<&'a str>,
    /// Clients of the gateway itself, which mint from keys: their tokens are refused.
    pub refused_clients: &'a [&'a str],
    /// The largest difference between the clocks.
    pub clock_skew_ms: u64,
}

/// The caller, from a verified token.
#[derive(Clone, PartialEq, Eq)]
pub struct Caller {
    /// Keycloak's id of the user or service account.
    pub subject: String,
    /// The client that got the token (`azp`).
    pub client_id: String,
    /// The user's name (`preferred_username`), where the token tells it.
    pub username: Option<String>,
    /// The roles in the realm.
    pub realm_roles: Vec<String>,
    /// The roles of the client that the expected audience names; none without one.
    pub client_roles: Vec<String>,
    /// The token's `exp`.
    pub expires_at: UnixMillis,
}

impl Caller {
    /// Whether the caller holds the role, in the realm or of the audience's client.
    #[must_use]
    pub fn has_role(&self, name: &str) -> bool {
        let mut roles = self.realm_roles.iter().chain(&self.client_roles);
        roles.any(|role| role == name)
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("subject", &self.subject)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// Reasons a token is not accepted. For the log: a caller learns only that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("a token of more than {TOKEN_BYTES_MAX} bytes")]
    Oversized,
    /// Not three parts of base64url with JSON in the first two, or a member twice.
    #[error("not a signed JWT")]
    Malformed,
    /// An algorithm that is not accepted, such as `none`.
    #[error("its algorithm is none of RS256, PS256, ES256 and EdDSA")]
    Algorithm,
    /// Extensions that must be understood (RFC 7515, 4.1.11).
    #[error("its header has critical extensions")]
    Critical,
    /// A header `typ` of something else.
    #[error("its header's typ is neither JWT nor at+jwt")]
    HeaderType,
    /// No `kid`.
    #[error("its header names no key")]
    NoKey,
    /// The key at hand has another name, or is for another algorithm.
    #[error("its algorithm is not that of the key it names")]
    OtherKey,
    /// The signature is not the key's.
    #[error("wrong signature")]
    Signature,
    /// Signed, and claims are missing or of another form.
    #[error("it lacks iss, sub, exp or iat, or one of its claims has no usable form")]
    Claims,
    /// Another realm's, or Keycloak's under another name.
    #[error("another issuer than keycloak_url and realm name")]
    Issuer,
    /// Meant for others.
    #[error("its audience lacks the configured one; give the client an audience mapper")]
    Audience,
    /// Past its end.
    #[error("expired")]
    Expired,
    /// Before its begin.
    #[error("not yet valid; compare the clocks")]
    NotYetValid,
    /// An ID token, a refresh token, a logout token.
    #[error("no access token: its claim typ is not Bearer")]
    NotAccessToken,
    /// Bound to a key or certificate of the sender, which the gateway cannot see.
    #[error("bound to a key that the gateway cannot ask for a proof of")]
    Bound,
    /// No `azp`.
    #[error("it names no client (azp)")]
    NoClient,
    /// Minted from an API key.
    #[error("minted from an API key: a key manages no keys")]
    FromApiKey,
    /// A `jti` without the name of a grant.
    #[error("its jti does not say by which grant it came, as Keycloak's do")]
    NoGrant,
    /// Made from another token, and perhaps from an API key's.
    #[error("made from another token, which may be an API key's: a key manages no keys")]
    FromToken,
    /// A `sub` that no user of Keycloak has.
    #[error("its subject is no id of a user")]
    Subject,
}

/// The members of a header that are used.
#[derive(Deserialize)]
struct RawHeader {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: u64,
    iat: u64,
    nbf: Option<u64>,
    aud: Option<OneOrMany>,
    typ: Option<String>,
    azp: Option<String>,
    jti: Option<String>,
    #[serde(default, deserialize_with = "is_there")]
    cnf: bool,
    preferred_username: Option<String>,
    #[serde(default)]
    realm_access: Roles,
    #[serde(default)]
    resource_access: BTreeMap<String, Roles>,
}

#[derive(Deserialize, Default)]
struct Roles {
    #[serde(default)]
    roles: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn contains(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Many(many) => many.iter().any(|one| one == name),
        }
    }
}

/// A member is there, with any value, even `null`.
fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A token's parts (RFC 7515, 3.1).
struct Parts<'a> {
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
    /// The signed part.
    message: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, CallerError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(CallerError::Oversized);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(CallerError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(CallerError::Malformed)?;
        Ok(Self {
            header,
            claims,
            signature,
            message,
        })
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, CallerError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| CallerError::Malformed)
}

fn json<T: DeserializeOwned>(part: &str, fault: CallerError) -> Result<T, CallerError> {
    serde_json::from_slice(&decoded(part)?).map_err(|_| fault)
}

/// Reads a token's header, which names the key to verify with. Costs little: nonsense is
/// refused before anything is computed or fetched.
///
/// # Errors [`CallerError`] when the token cannot be accepted.
pub fn read_header(token: &str) -> Result<Header, CallerError> {
    header_of(&Parts::of(token)?)
}

fn header_of(parts: &Parts<'_>) -> Result<Header, CallerError> {
    // Three parts: neither of the latter two may hold another dot.
    for part in [parts.claims, parts.signature] {
        let in_part = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if part.is_empty() || !part.bytes().all(in_part) {
            return Err(CallerError::Malformed);
        }
    }
    let header: RawHeader = json(parts.header, CallerError::Malformed)?;
    let algorithm = Algorithm::from_name(&header.alg).ok_or(CallerError::Algorithm)?;
    if header.crit {
        return Err(CallerError::Critical);
    }
    // RFC 7519, 5.1 and RFC 9068, 2.1: a media type, in any case of letters.
    let is_jwt = |typ: &String| {
        ["JWT", "at+jwt", "application/at+jwt"]
            .iter()
            .any(|known| typ.eq_ignore_ascii_case(known))
    };
    if !header.typ.as_ref().is_none_or(is_jwt) {
        return Err(CallerError::HeaderType);
    }
    let kid = header.kid.ok_or(CallerError::NoKey)?;
    Ok(Header { algorithm, kid })
}

/// Judges a token by its claims alone: a token with bad claims then costs neither a key set nor
/// a verification.
///
/// # Errors
/// [`CallerError`] when the token cannot be accepted under any signature.
pub fn check_claims(
    expected: &Expected<'_>,
    token: &str,
    now: UnixMillis,
) -> Result<(), CallerError> {
    let parts = Parts::of(token)?;
    header_of(&parts)?;
    judge(expected, &parts, now).map(drop)
}

/// Verifies a token with the key that its header names: the claims first, then the signature,
/// by the key's algorithm.
///
/// # Errors [`CallerError`] when the token is not accepted.
pub fn verify(
    expected: &Expected<'_>,
    key: &PublicKey,
    token: &str,
    now: UnixMillis,
) -> Result<Caller, CallerError> {
    let parts = Parts::of(token)?;
    let header = header_of(&parts)?;
    if header.kid != key.kid() || !key.is_for(header.algorithm) {
        return Err(CallerError::OtherKey);
    }
    let caller = judge(expected, &parts, now)?;
    let signature = decoded(parts.signature)?;
    if key.verifies(header.algorithm, parts.message.as_bytes(), &signature) {
        Ok(caller)
    } else {
        Err(CallerError::Signature)
    }
}

/// Judges the claims; they are trusted only once the signature is verified.
fn judge(
    expected: &Expected<'_>,
    parts: &Parts<'_>,
    now: UnixMillis,
) -> Result<Caller, CallerError> {
    let claims: Claims = json(parts.claims, CallerError::Claims)?;
    if claims.iss != expected.issuer {
        return Err(CallerError::Issuer);
    }
    if claims.typ.as_deref() != Some("Bearer") {
        return Err(CallerError::NotAccessToken);
    }
    if claims.cnf {
        return Err(CallerError::Bound);
    }
    let expires_at = UnixMillis::from_seconds(claims.exp);
    if now >= expires_at.plus_ms(expected.clock_skew_ms) {
        return Err(CallerError::Expired);
    }
    let latest_begin = now.plus_ms(expected.clock_skew_ms);
    let begins = [Some(claims.iat), claims.nbf];
    if begins
        .into_iter()
        .flatten()
        .any(|begin| UnixMillis::from_seconds(begin) > latest_begin)
    {
        return Err(CallerError::NotYetValid);
    }
    if let Some(audience) = expected.audience
        && !claims.aud.is_some_and(|aud| aud.contains(audience))
    {
        return Err(CallerError::Audience);
    }
    let client_id = claims.azp.ok_or(CallerError::NoClient)?;
    if expected.refused_clients.contains(&client_id.as_str()) {
        return Err(CallerError::FromApiKey);
    }
    if !CALLER_GRANTS.contains(&grant_of(claims.jti.as_deref())?) {
        return Err(CallerError::FromToken);
    }
    if !is_user_id(&claims.sub) {
        return Err(CallerError::Subject);
    }
    let mut by_client = claims.resource_access;
    let of_audience = expected.audience.and_then(|name| by_client.remove(name));
    Ok(Caller {
        subject: claims.sub,
        client_id,
        username: claims.preferred_username,
        realm_roles: claims.realm_access.roles,
        client_roles: of_audience.unwrap_or_default().roles,
        expires_at,
    })
}

/// The short name of a token's grant.
fn grant_of(jti: Option<&str>) -> Result<&str, CallerError> {
    let (_, _, grant) = jti.and_then(token_context).ok_or(CallerError::NoGrant)?;
    Ok(grant)
}

#[cfg(test)]
mod tests;
