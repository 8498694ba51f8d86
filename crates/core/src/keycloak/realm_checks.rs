//! A realm's own settings: its issuer, and the right to write its users' attributes.
//!
//! The exchange needs nothing of this. It is asked so that an operator learns before a customer
//! does that gateway and realm do not fit.

use serde::Deserialize;

use super::{Call, Endpoint, loggable};
use crate::config::Config;

/// The call for the realm's issuer (OpenID Connect Discovery 1.0, 4). Needs no token.
#[must_use]
pub fn discovery_call(config: &Config) -> Call {
    Call {
        endpoint: Endpoint::Discovery,
        method: "GET",
        path: config.realm.discovery_path.clone(),
        bearer: None,
        form: None,
        json: None,
    }
}

/// The call for the realm's user profile; the role `view-users` suffices.
#[must_use]
pub fn profile_call(config: &Config, service_token: &str) -> Call {
    let path = format!("{}/profile", config.realm.users_path);
    Call::get(Endpoint::UserProfile, path, service_token)
}

/// The users that may write attributes missing from the user profile. Keys are stored in such
/// attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributePolicy {
    /// `ADMIN_EDIT`: administrators alone.
    Administrators,
    /// `ENABLED`: each user may write its own, hashes of keys among them.
    Everybody,
    /// `ADMIN_VIEW`, or none at all: nobody.
    Nobody,
}

impl AttributePolicy {
    /// Reads `unmanagedAttributePolicy` of a user profile.
    ///
    /// # Errors [`RealmError::Malformed`] for an unknown policy.
    pub fn of(policy: Option<&str>) -> Result<Self, RealmError> {
        match policy {
            Some("ADMIN_EDIT") => Ok(Self::Administrators),
            Some("ENABLED") => Ok(Self::Everybody),
            Some("ADMIN_VIEW" | "DISABLED") | None => Ok(Self::Nobody),
            Some(_) => Err(RealmError::Malformed),
        }
    }
}

/// Reasons an answer about the realm cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RealmError {
    /// There is no realm of this name.
    #[error(
        "Keycloak answered 404: there is no such realm where keycloak_url and realm say; \
         check both, and the address that callouts go to"
    )]
    NoRealm,
    /// Another status.
    #[error("Keycloak answered {0}")]
    Status(u16),
    /// Not the expected JSON.
    #[error("an answer that does not say it")]
    Malformed,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserProfile {
    unmanaged_attribute_policy: Option<String>,
}

/// Reads an answer to [`discovery_call`]: the realm's issuer, fit for a log, if it differs from
/// the configured one; else none.
///
/// # Errors
/// [`RealmError`].
pub fn read_discovery_answer(
    config: &Config,
    status: u16,
    body: &[u8],
) -> Result<Option<String>, RealmError> {
    let Discovery { issuer } = read(status, body)?;
    Ok((issuer != config.realm.issuer).then(|| loggable(&issuer)))
}

/// Reads an answer to [`profile_call`].
///
/// # Errors
/// [`RealmError`].
pub fn read_profile_answer(status: u16, body: &[u8]) -> Result<AttributePolicy, RealmError> {
    let profile: UserProfile = read(status, body)?;
    AttributePolicy::of(profile.unmanaged_attribute_policy.as_deref())
}

fn read<'a, T: Deserialize<'a>>(status: u16, body: &'a [u8]) -> Result<T, RealmError> {
    match status {
        200 => serde_json::from_slice(body).map_err(|_| RealmError::Malformed),
        404 => Err(RealmError::NoRealm),
        _ => Err(RealmError::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::config;

    #[test]
    fn asks_the_realm_without_a_token_and_the_profile_with_one() {
        let call = discovery_call(&config());
        assert_eq!(
            (call.method, call.path.as_str(), call.bearer),
            ("GET", "/realms/demo/.well-known/openid-configuration", None)
        );
        let call = profile_call(&config(), "TOKEN");
        assert_eq!(call.path, "/admin/realms/demo/users/profile");
        assert_eq!(call.bearer.as_deref(), Some("TOKEN"));
    }

    #[test]
    fn an_issuer_is_the_configurations_to_the_letter() {
        let read = |issuer: &str| {
            let body = serde_json::json!({ "issuer": issuer, "jwks_uri": "x" }).to_string();
            read_discovery_answer(&config(), 200, body.as_bytes()).unwrap()
        };
        assert_eq!(read("https://login.example.com/realms/demo"), None);
        for other in [
            "https://login.example.com/realms/demo/",
            "http://login.example.com/realms/demo",
            "https://Login.example.com/realms/demo",
            "",
        ] {
            assert_eq!(read(other).as_deref(), Some(other));
        }
        let long = "x".repeat(31);
        assert_eq!(read(&long).as_deref(), Some("(withheld)"));
    }

    #[test]
    fn tells_who_may_write_attributes() {
        use AttributePolicy::{Administrators, Everybody, Nobody};
        for (body, policy) in [
            (
                r#"{"unmanagedAttributePolicy":"ADMIN_EDIT"}"#,
                Administrators,
            ),
            (
                r#"{"unmanagedAttributePolicy":"ENABLED","attributes":[]}"#,
                Everybody,
            ),
            (r#"{"unmanagedAttributePolicy":"ADMIN_VIEW"}"#, Nobody),
            (r#"{"unmanagedAttributePolicy":null}"#, Nobody),
            (r#"{"attributes":[],"groups":[]}"#, Nobody),
        ] {
            assert_eq!(
                read_profile_answer(200, body.as_bytes()),
                Ok(policy),
                "{body}"
            );
        }
    }

    #[test]
    fn refuses_answers_that_do_not_say_it() {
        for body in [
            "",
            "<html>",
            "[]",
            "1",
            r#"{"issuer":1,"unmanagedAttributePolicy":1}"#,
        ] {
            let body = body.as_bytes();
            let discovery = read_discovery_answer(&config(), 200, body);
            assert_eq!(discovery, Err(RealmError::Malformed));
            assert_eq!(read_profile_answer(200, body), Err(RealmError::Malformed));
        }
        let unknown = br#"{"unmanagedAttributePolicy":"SOMETHING"}"#;
        assert_eq!(
            read_profile_answer(200, unknown),
            Err(RealmError::Malformed)
        );
        for (status, error) in [
            (404, RealmError::NoRealm),
            (403, RealmError::Status(403)),
            (302, RealmError::Status(302)),
        ] {
            assert_eq!(read_profile_answer(status, b"{}"), Err(error));
            assert_eq!(read_discovery_answer(&config(), status, b"{}"), Err(error));
        }
    }
}
