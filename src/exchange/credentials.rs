//! Which credential a request carries, read from its headers.
//!
//! Anything that could be understood in two ways is refused: a header twice, two
//! headers that differ, a list where one value belongs. What the gateway and the
//! service behind it understand differently is how credentials are smuggled.

use crate::api_key::format::ApiKey;
use crate::config::{Config, OnMissingKey};

use super::rejection::{Reason, Rejection};

/// A request's headers, names in lower case as HTTP/2 has them; pseudo-headers may
/// be among them.
pub type Headers = [(String, Vec<u8>)];

/// What to do with a request, by its credentials.
#[derive(Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Exchange this key; all these headers hold it and must go.
    Key {
        /// The key.
        key: ApiKey,
        /// The headers to remove, `authorization` not among them: it is replaced.
        remove: Vec<String>,
    },
    /// No key, and the request may go on without.
    Pass,
}

/// One header's credential.
#[derive(PartialEq, Eq)]
enum Credential<'a> {
    /// Meant to be an API key.
    Key(&'a [u8]),
    /// A Bearer token that is no key.
    Bearer(&'a [u8]),
    /// Another scheme.
    Other(&'a [u8]),
}

/// Finds the one credential of a request.
///
/// # Errors
/// The rejection and its reason.
pub fn extract(config: &Config, headers: &Headers) -> Result<Credentials, (Rejection, Reason)> {
    let mut found: Option<Credential<'_>> = None;
    for name in &config.headers {
        let mut values = headers
            .iter()
            .filter(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, v)| v);
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err((
                Rejection::AmbiguousCredentials,
                Reason::HeaderTwice(name.clone()),
            ));
        }
        let value = value.trim_ascii();
        if value.is_empty() {
            continue;
        }
        if is_joined(config, name, value) {
            return Err((
                Rejection::AmbiguousCredentials,
                Reason::HeaderTwice(name.clone()),
            ));
        }
        let credential = read(config, name, value);
        match &found {
            Some(first) if *first != credential => {
                return Err((Rejection::AmbiguousCredentials, Reason::TwoCredentials));
            }
            _ => found = Some(credential),
        }
    }
    match found {
        Some(Credential::Key(presented)) => {
            let key = config
                .key_format
                .parse(presented)
                .map_err(|reason| (Rejection::InvalidApiKey, reason.into()))?;
            let remove = headers_to_remove(config, headers, key.expose().as_bytes());
            Ok(Credentials::Key { key, remove })
        }
        without_key => {
            let passes = match config.on_missing_key {
                OnMissingKey::Pass => true,
                OnMissingKey::Bearer => matches!(without_key, Some(Credential::Bearer(_))),
                OnMissingKey::Reject => false,
            };
            if passes {
                Ok(Credentials::Pass)
            } else {
                Err((Rejection::MissingCredentials, Reason::NoCredentials))
            }
        }
    }
}

/// Reads a header's value, which is not empty and has no space at its ends.
fn read<'a>(config: &Config, name: &str, value: &'a [u8]) -> Credential<'a> {
    if name != "authorization" {
        return Credential::Key(value);
    }
    match scheme_of(value) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"apikey") => Credential::Key(rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer") => {
            if config.key_format.has_prefix(rest) {
                Credential::Key(rest)
            } else {
                Credential::Bearer(rest)
            }
        }
        _ => Credential::Other(value),
    }
}

/// Scheme and the rest, of `scheme SP rest`; a scheme alone has an empty rest.
fn scheme_of(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = value
        .iter()
        .position(|byte| byte.is_ascii_whitespace())
        .unwrap_or(value.len());
    let (scheme, rest) = value.split_at_checked(end)?;
    Some((scheme, rest.trim_ascii_start()))
}

/// Whether the value is a list, as hosts make of a header that came twice (RFC
/// 9110, 5.3), in which one element could be a key or a token. The parameters of
/// other schemes (Digest) are lists as well and none of ours.
fn is_joined(config: &Config, name: &str, value: &[u8]) -> bool {
    if !value.contains(&b',') {
        return false;
    }
    name != "authorization"
        || value.split(|&byte| byte == b',').any(|element| {
            let element = element.trim_ascii();
            !matches!(read(config, name, element), Credential::Other(_))
        })
}

/// The headers that hold the key anywhere in their value: those it was taken from,
/// and any other that would carry it on to the service (invariant 6).
fn headers_to_remove(config: &Config, headers: &Headers, key: &[u8]) -> Vec<String> {
    let holds_key = |value: &[u8]| value.windows(key.len()).any(|window| window == key);
    let mut remove: Vec<String> = Vec::new();
    for (name, value) in headers {
        let replaced = name.eq_ignore_ascii_case("authorization");
        let pseudo = name.starts_with(':');
        let ours = config
            .headers
            .iter()
            .any(|header| name.eq_ignore_ascii_case(header));
        if !replaced && !pseudo && (ours || holds_key(value)) && !remove.contains(name) {
            remove.push(name.clone());
        }
    }
    remove
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::config;

    const KEY: &str = "sk_live_abc123def456_0123456789abcdefghijABCDEFGHIJ012twXKk";

    fn key() -> String {
        // The checksum of the constant is made here, so that it is right.
        let mut next = 0_u8;
        let key = config().key_format.generate(|bytes| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(1);
            }
        });
        key.expose().to_owned()
    }

    fn headers(pairs: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    fn extracted(pairs: &[(&str, &str)]) -> Result<Credentials, (Rejection, Reason)> {
        extract(&config(), &headers(pairs))
    }

    fn rejected(pairs: &[(&str, &str)]) -> Rejection {
        extracted(pairs).expect_err("a rejection").0
    }

    #[test]
    fn takes_a_key_in_each_of_its_forms() {
        let key = key();
        for (name, value, removed) in [
            ("authorization", format!("ApiKey {key}"), vec![]),
            ("authorization", format!("APIKEY   {key} "), vec![]),
            ("authorization", format!("bEARER {key}"), vec![]),
            ("Authorization", format!("apikey\t{key}"), vec![]),
            ("x-api-key", key.clone(), vec!["x-api-key".to_owned()]),
            (
                "X-API-Key",
                format!(" {key} "),
                vec!["X-API-Key".to_owned()],
            ),
        ] {
            let Ok(Credentials::Key { key: found, remove }) = extracted(&[(name, &value)]) else {
                panic!("{name}: {value}")
            };
            assert_eq!(found.expose(), key);
            assert_eq!(remove, removed);
        }
    }

    #[test]
    fn the_same_key_in_two_headers_is_one_credential() {
        let key = key();
        let bearer = format!("Bearer {key}");
        let both = extracted(&[("authorization", &bearer), ("x-api-key", &key)]);
        assert!(matches!(both, Ok(Credentials::Key { remove, .. }) if remove == ["x-api-key"]));
    }

    #[test]
    fn a_header_that_holds_the_key_as_well_is_removed() {
        let key = key();
        let copy = format!("token={key}; path=/");
        let found = extracted(&[("x-api-key", &key), ("cookie", &copy), (":path", &copy)]);
        let Ok(Credentials::Key { remove, .. }) = found else {
            panic!("a key")
        };
        assert_eq!(remove, ["x-api-key", "cookie"]);
    }

    #[test]
    fn two_credentials_are_refused() {
        let key = key();
        let apikey = format!("ApiKey {key}");
        let joined = format!("ApiKey {key},ApiKey {key}");
        let hidden = format!("Basic eDp5, Bearer {key}");
        for pairs in [
            &[
                ("authorization", "Bearer a.b.c"),
                ("x-api-key", key.as_str()),
            ][..],
            &[("authorization", "Basic eDp5"), ("x-api-key", &key)],
            &[("authorization", &apikey), ("x-api-key", "another")],
            &[("authorization", &apikey), ("authorization", &apikey)],
            &[("x-api-key", &key), ("X-Api-Key", &key)],
            &[("authorization", &joined)],
            &[("authorization", &hidden)],
            &[("authorization", "Bearer a.b.c, Bearer d.e.f")],
            &[("x-api-key", "one,two")],
        ] {
            assert_eq!(
                rejected(pairs),
                Rejection::AmbiguousCredentials,
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_a_key_is_an_invalid_key() {
        let mut mistyped = key();
        mistyped.replace_range(30..31, if &mistyped[30..31] == "x" { "y" } else { "x" });
        let mistyped = format!("Bearer {mistyped}");
        let long = "a".repeat(73);
        for pairs in [
            &[("authorization", "ApiKey")][..],
            &[("authorization", "ApiKey  ")],
            &[("authorization", "ApiKey two words")],
            &[("authorization", "ApiKey ApiKey x")],
            &[("authorization", &mistyped)],
            &[("authorization", "Bearer sk_live_")],
            &[("x-api-key", KEY)],
            &[("x-api-key", &long)],
        ] {
            assert_eq!(rejected(pairs), Rejection::InvalidApiKey, "{pairs:?}");
        }
        let not_utf8 = vec![("x-api-key".to_owned(), b"\xff\xfe\xfd".to_vec())];
        let (rejection, reason) = extract(&config(), &not_utf8).unwrap_err();
        assert_eq!(rejection, Rejection::InvalidApiKey);
        assert!(matches!(reason, Reason::Malformed(_)));
    }

    #[test]
    fn without_a_key_the_policy_decides() {
        let with_policy = |policy, pairs: &[(&str, &str)]| {
            let mut config = config();
            config.on_missing_key = policy;
            extract(&config, &headers(pairs)).map_err(|(rejection, _)| rejection)
        };
        let jwt = [("authorization", "Bearer a.b.c")];
        let basic = [("authorization", "Basic eDp5")];
        let missing = || Err(Rejection::MissingCredentials);
        for (policy, pairs, expected) in [
            (OnMissingKey::Bearer, &jwt[..], Ok(Credentials::Pass)),
            (OnMissingKey::Bearer, &basic, missing()),
            (OnMissingKey::Bearer, &[], missing()),
            (
                OnMissingKey::Bearer,
                &[("authorization", " "), ("x-api-key", "")],
                missing(),
            ),
            (OnMissingKey::Pass, &[], Ok(Credentials::Pass)),
            (OnMissingKey::Pass, &basic, Ok(Credentials::Pass)),
            (OnMissingKey::Reject, &jwt, missing()),
            (OnMissingKey::Reject, &[], missing()),
        ] {
            assert_eq!(with_policy(policy, pairs), expected, "{policy:?} {pairs:?}");
        }
        let digest = [("authorization", "Digest username=\"a\", realm=\"b\"")];
        assert_eq!(
            with_policy(OnMissingKey::Pass, &digest),
            Ok(Credentials::Pass)
        );
    }
}
