//! Keycloak's requests and answers as plain values: nothing here does I/O.
//!
//! Each request is a [`Call`] for a shell to send; each answer is checked here before anything
//! of it is believed (invariant 11).

pub mod admin_events;
pub mod caller_token;
pub mod claim;
pub mod jwks;
pub mod key_store;
pub mod lightweight;
pub mod owner;
pub mod public_key;
pub mod realm_checks;
pub mod refusal;
pub mod token;
pub mod user_events;
pub mod users;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use crate::trace::TraceContext;

/// Bytes of an answer that are read; a larger one is refused unread, since reading
/// it would hold the worker. An owner with a hundred keys takes about half of it.
pub const ANSWER_BYTES_MAX: usize = 128 * 1024;

/// Bytes of the longest access token that is read, an owner's or a caller's: Envoy takes no
/// more in all headers of a request, unless it is told to.
pub const TOKEN_BYTES_MAX: usize = 60 * 1024;

/// Characters of a form or query that need no encoding (RFC 3986, 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A request to Keycloak.
#[derive(Clone, PartialEq, Eq)]
pub struct Call {
    /// Its endpoint: metrics are counted by it.
    pub endpoint: Endpoint,
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: &'static str,
    /// Path and query.
    pub path: String,
    /// The Bearer token to send, if the endpoint wants one.
    pub bearer: Option<String>,
    /// A form (`application/x-www-form-urlencoded`), for `POST`.
    pub form: Option<String>,
    /// A JSON text, for `POST` and `PUT`.
    pub json: Option<String>,
}

impl Call {
    /// A `GET` of this path with this Bearer token.
    #[must_use]
    pub fn get(endpoint: Endpoint, path: String, bearer: &str) -> Self {
        Self {
            endpoint,
            method: "GET",
            path,
            bearer: Some(bearer.to_owned()),
            form: None,
            json: None,
        }
    }

    /// Sends a JSON text with this Bearer token.
    #[must_use]
    pub fn with_json(
        endpoint: Endpoint,
        method: &'static str,
        path: String,
        body: &serde_json::Value,
        bearer: &str,
    ) -> Self {
        Self {
            method,
            json: Some(body.to_string()),
            ..Self::get(endpoint, path, bearer)
        }
    }

    /// The call's headers, with the trace's. The host adds its own. `authorization` holds a token.
    #[must_use]
    pub fn headers(&self, trace: Option<&TraceContext>) -> Vec<(&'static str, Zeroizing<String>)> {
        let own = |text: &str| Zeroizing::new(text.to_owned());
        let mut headers = vec![("accept", own("application/json"))];
        if let Some(token) = &self.bearer {
            headers.push(("authorization", Zeroizing::new(format!("Bearer {token}"))));
        }
        if self.form.is_some() {
            headers.push(("content-type", own("application/x-www-form-urlencoded")));
        } else if self.json.is_some() {
            headers.push(("content-type", own("application/json")));
        }
        let trace = trace.into_iter().flat_map(TraceContext::headers);
        headers.extend(trace.map(|(name, value)| (name, own(value))));
        headers
    }

    /// The body to send; empty if it has none.
    #[must_use]
    pub fn body(&self) -> &str {
        let body = self.form.as_deref().or(self.json.as_deref());
        body.unwrap_or_default()
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the token nor the form, which holds assertions, nor the JSON, which
        // holds hashes; the path has no more than public ids.
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Keycloak's endpoints, as faults and metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// The token endpoint, asked for the gateway's own token.
    ServiceToken,
    /// The admin REST interface, asked for a key's owner.
    Lookup,
    /// The token endpoint, asked for the owner's token.
    Grant,
    /// The realm's public keys.
    Jwks,
    /// The token endpoint, asked whether the gateway's tokens can have some scopes.
    Scopes,
    /// The admin REST interface, asked for an owner and its keys.
    Owner,
    /// The realm's events.
    Events,
    /// A change of an owner's keys.
    Change,
    /// The realm's discovery document.
    Discovery,
    /// The realm's user profile.
    UserProfile,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ServiceToken => "service-token",
            Self::Lookup => "look-up",
            Self::Grant => "grant",
            Self::Jwks => "jwks",
            Self::Scopes => "scopes",
            Self::Owner => "owner",
            Self::Events => "events",
            Self::Change => "change",
            Self::Discovery => "discovery",
            Self::UserProfile => "user-profile",
        })
    }
}

/// Session, kind and grant of an access token, which Keycloak writes before the colon of its
/// `jti` in two letters each, as in `trltcc:` (measured, 26.7.5). None for another `jti`.
fn token_context(jti: &str) -> Option<(&str, &str, &str)> {
    let (context, _) = jti.split_once(':')?;
    let (session, rest) = context.split_at_checked(2)?;
    let (kind, grant) = rest.split_at_checked(2)?;
    (grant.len() == 2).then_some((session, kind, grant))
}

/// Writes name and value pairs as a form.
fn form(pairs: &[(&str, &str)]) -> String {
    let mut form = String::with_capacity(2048);
    for (name, value) in pairs {
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str(name);
        form.push('=');
        form.extend(utf8_percent_encode(value, UNRESERVED));
    }
    form
}

/// Cuts a text from Keycloak to fit a log line: printable ASCII, at most 120 characters.
/// Keycloak's error texts name no secret. Another server in its place could echo one, so a text
/// with anything like a token in it is dropped.
#[must_use]
pub fn loggable(text: &str) -> String {
    let longest_word = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .map(str::len)
        .max();
    if longest_word.unwrap_or(0) > 30 {
        return "(withheld)".to_owned();
    }
    text.chars()
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .take(120)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_encodes_all_that_has_a_meaning_in_one() {
        assert_eq!(
            form(&[("a", "x y&z=1+2%"), ("b", "ü.~-_")]),
            "a=x%20y%26z%3D1%2B2%25&b=%C3%BC.~-_"
        );
    }

    #[test]
    fn a_foreign_text_cannot_forge_a_log_line_or_carry_a_token_into_it() {
        assert_eq!(
            loggable("User not found\nadmin=1"),
            "User not found?admin=1"
        );
        assert_eq!(loggable(&"ab ".repeat(100)).len(), 120);
        let word = |length| loggable(&format!("bad key {}", "x".repeat(length)));
        assert_eq!(word(30), format!("bad key {}", "x".repeat(30)));
        assert_eq!(word(31), "(withheld)");
    }

    #[test]
    fn the_log_tells_the_endpoints_apart() {
        let endpoints = [
            Endpoint::ServiceToken,
            Endpoint::Lookup,
            Endpoint::Grant,
            Endpoint::Jwks,
            Endpoint::Scopes,
            Endpoint::Owner,
            Endpoint::Events,
            Endpoint::Change,
            Endpoint::Discovery,
            Endpoint::UserProfile,
        ];
        assert_eq!(
            endpoints.map(|endpoint| endpoint.to_string()),
            [
                "service-token",
                "look-up",
                "grant",
                "jwks",
                "scopes",
                "owner",
                "events",
                "change",
                "discovery",
                "user-profile",
            ]
        );
    }

    #[test]
    fn an_answer_with_a_hundred_keys_is_read() {
        use crate::api_key::record::{Field, index_value, key_value};
        let id = |at: usize| format!("{at:012}");
        let hash = format!("$2b$10${}", ".".repeat(53));
        let mut attributes = serde_json::json!({
            "apiKeys": (0..100).map(|at| key_value(&id(at), &hash)).collect::<Vec<_>>(),
            "apiKeyIndex": (0..100).map(|at| index_value(&id(at))).collect::<Vec<_>>(),
        });
        for at in 0..100 {
            for field in [Field::Name, Field::Created, Field::ExpiresAt] {
                attributes[field.attribute(&id(at))] = vec!["2026-01-28T00:00:00Z"].into();
            }
        }
        let length = attributes.to_string().len();
        assert!(
            (ANSWER_BYTES_MAX / 4..ANSWER_BYTES_MAX).contains(&length),
            "{length}"
        );
    }

    #[test]
    fn debug_output_holds_neither_token_nor_form() {
        let call = Call {
            endpoint: Endpoint::Lookup,
            method: "POST",
            path: "/p".into(),
            bearer: Some("SECRET1".into()),
            form: Some("SECRET2".into()),
            json: Some("SECRET3".into()),
        };
        assert!(!format!("{call:?}").contains("SECRET"));
    }
}
