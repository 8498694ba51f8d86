//! Which credential a request carries, read from its headers.
//!
//! Anything that could be understood in two ways is refused: a header twice, two
//! headers that differ, a list where one value belongs. What the gateway and the
//! service behind it understand differently is how credentials are smuggled.

use crate::api_key::format::ApiKey;
use crate::config::{Config, OnMissingKey};
use crate::sabotage::{Sabotage, is};

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

/// The most headers that are looked at. Kong shows a filter no more than 100, the
/// pseudo-headers among them, and does not say when it hides some.
const HEADERS_MAX: usize = 99;

/// A rejection, and why, for the log.
type Refusal = (Rejection, Reason);

/// Finds the one credential of a request.
///
/// # Errors
/// The rejection and its reason.
pub fn extract(config: &Config, headers: &Headers) -> Result<Credentials, Refusal> {
    if headers.len() > HEADERS_MAX {
        return Err((Rejection::AmbiguousCredentials, Reason::TooManyHeaders));
    }
    let mut found: Option<Credential<'_>> = None;
    // A Bearer token counts as one wherever keys are looked for.
    let also = (!config.headers.iter().any(|name| name == AUTHORIZATION)).then_some(AUTHORIZATION);
    for name in config.headers.iter().map(String::as_str).chain(also) {
        let Some(value) = only_value(config, headers, name)? else {
            continue;
        };
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
            let remove = headers_to_remove(config, headers, key.expose().as_bytes())?;
            Ok(Credentials::Key { key, remove })
        }
        without_key => {
            let passes = match config.on_missing_key {
                OnMissingKey::Pass => true,
                OnMissingKey::Bearer => matches!(without_key, Some(Credential::Bearer(_))),
                OnMissingKey::Reject => false,
            };
            if !passes {
                return Err((Rejection::MissingCredentials, Reason::NoCredentials));
            }
            match headers
                .iter()
                .find(|(name, value)| hides_key(config, name, value))
            {
                Some((name, _)) => {
                    Err((Rejection::InvalidApiKey, Reason::KeyElsewhere(name.clone())))
                }
                None => Ok(Credentials::Pass),
            }
        }
    }
}

const AUTHORIZATION: &str = "authorization";

/// The value of a header that may come once; none if it is absent or empty.
fn only_value<'a>(
    config: &Config,
    headers: &'a Headers,
    name: &str,
) -> Result<Option<&'a [u8]>, Refusal> {
    let mut values = headers
        .iter()
        .filter(|(header, _)| header.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim_ascii());
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() || is_joined(config, name, value) {
        let reason = Reason::HeaderTwice(name.to_owned());
        return Err((Rejection::AmbiguousCredentials, reason));
    }
    Ok(Some(value).filter(|value| !value.is_empty()))
}

/// Reads a header's value, which is not empty and has no space at its ends.
fn read<'a>(config: &Config, name: &str, value: &'a [u8]) -> Credential<'a> {
    if name != AUTHORIZATION {
        return Credential::Key(value);
    }
    let takes_keys = config.headers.iter().any(|header| header == AUTHORIZATION);
    match scheme_of(value) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"apikey") && takes_keys => {
            Credential::Key(rest)
        }
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer") => {
            if config.key_format.has_prefix(rest) && takes_keys {
                Credential::Key(rest)
            } else if is_bearer_token(config, rest) {
                Credential::Bearer(rest)
            } else {
                Credential::Other(value)
            }
        }
        _ => Credential::Other(value),
    }
}

/// Whether this can be a Bearer token and no key: of the characters that RFC 6750,
/// 2.1, allows, and where imported keys are, of a JWT's two dots, since any other
/// string may be such a key.
fn is_bearer_token(config: &Config, text: &[u8]) -> bool {
    let unpadded = text.trim_ascii_end();
    let end = unpadded
        .iter()
        .rposition(|&b| b != b'=')
        .map_or(0, |last| last + 1);
    let (token, _) = unpadded.split_at_checked(end).unwrap_or_default();
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(b);
    let dots = token.iter().filter(|&&b| b == b'.').count();
    let may_be_imported = dots != 2 && config.key_format.parse(text).is_ok();
    !token.is_empty() && token.iter().all(allowed) && !may_be_imported
}

/// Whether a header holds a key of ours, in whatever form: it would pass on to the
/// service (invariant 6). Found by prefix and checksum.
fn hides_key(config: &Config, name: &str, value: &[u8]) -> bool {
    let (prefix, length) = (
        config.key_format.prefix().as_bytes(),
        config.key_format.key_bytes(),
    );
    !name.starts_with(':')
        && value
            .windows(length)
            .any(|window| window.starts_with(prefix) && config.key_format.parse(window).is_ok())
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
    name != AUTHORIZATION
        || value.split(|&byte| byte == b',').any(|element| {
            let element = element.trim_ascii();
            !matches!(read(config, name, element), Credential::Other(_))
        })
}

/// The headers that hold the key anywhere in their value: those it was taken from,
/// and any other that would carry it on to the service (invariant 6).
///
/// # Errors
/// One of them came twice: Kong removes some headers once alone. Or another header
/// holds another key.
fn headers_to_remove(
    config: &Config,
    headers: &Headers,
    key: &[u8],
) -> Result<Vec<String>, Refusal> {
    let holds_key = |value: &[u8]| value.windows(key.len()).any(|window| window == key);
    let mut remove: Vec<String> = Vec::new();
    for (name, value) in headers {
        let replaced = name.eq_ignore_ascii_case(AUTHORIZATION);
        let pseudo = name.starts_with(':');
        let ours = config
            .headers
            .iter()
            .any(|header| name.eq_ignore_ascii_case(header));
        if replaced || pseudo {
            continue;
        }
        if !(ours || holds_key(value)) {
            if hides_key(config, name, value) {
                return Err((Rejection::AmbiguousCredentials, Reason::TwoCredentials));
            }
            continue;
        }
        let same = headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        if same.count() > 1 {
            let reason = Reason::HeaderTwice(name.clone());
            return Err((Rejection::AmbiguousCredentials, reason));
        }
        if !is(Sabotage::KeyStays) {
            remove.push(name.clone());
        }
    }
    Ok(remove)
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

    fn with(policy: OnMissingKey, names: &[&str], pairs: &[(&str, &str)]) -> Option<Rejection> {
        let mut config = config();
        config.on_missing_key = policy;
        config.headers = names.iter().map(|&name| name.to_owned()).collect();
        extract(&config, &headers(pairs))
            .err()
            .map(|(rejection, _)| rejection)
    }

    const BOTH: [&str; 2] = ["authorization", "x-api-key"];

    #[test]
    fn no_key_passes_in_the_guise_of_something_else() {
        let key = key();
        for form in [
            "Bearer Bearer KEY",
            "Bearer ApiKey KEY",
            "Bearer \"KEY\"",
            "Bearer =KEY",
            "Bearer token=KEY",
            "Bearer eyJ KEY",
            "Bearer eyJ.KEY",
            "KEY",
            "Token KEY",
        ] {
            let value = form.replace("KEY", &key);
            for policy in [OnMissingKey::Bearer, OnMissingKey::Pass] {
                let refused = with(policy, &BOTH, &[("authorization", &value)]);
                assert!(refused.is_some(), "{policy:?} {form}");
            }
            let beside = [
                ("authorization", "Bearer a.b.c"),
                ("x-other", value.as_str()),
            ];
            let refused = with(OnMissingKey::Bearer, &BOTH, &beside);
            assert_eq!(refused, Some(Rejection::InvalidApiKey), "{form}");
        }
        for value in [format!("ApiKey {key}"), format!("Bearer {key}")] {
            let refused = with(
                OnMissingKey::Pass,
                &["x-api-key"],
                &[("authorization", &value)],
            );
            assert_eq!(refused, Some(Rejection::InvalidApiKey));
        }
    }

    #[test]
    fn a_bearer_token_counts_even_where_authorization_carries_no_keys() {
        let jwt = ("authorization", "Bearer a.b.c");
        assert_eq!(with(OnMissingKey::Bearer, &["x-api-key"], &[jwt]), None);
        let both = with(
            OnMissingKey::Bearer,
            &["x-api-key"],
            &[jwt, ("x-api-key", &key())],
        );
        assert_eq!(both, Some(Rejection::AmbiguousCredentials));
    }

    #[test]
    fn where_keys_are_imported_a_bearer_token_must_look_like_a_jwt() {
        let mut importing = config();
        importing.key_format = importing.key_format.with_index_key(&[1; 32]);
        let bearer = |token: &str| {
            let headers = headers(&[("authorization", &format!("Bearer {token}"))]);
            extract(&importing, &headers).map_err(|(rejection, _)| rejection)
        };
        assert_eq!(
            bearer("legacy-key-0123456789"),
            Err(Rejection::MissingCredentials)
        );
        assert_eq!(bearer("eyJhbGciOi.eyJpc3Mi.c2ln"), Ok(Credentials::Pass));
        assert_eq!(bearer("short"), Ok(Credentials::Pass));
    }

    #[test]
    fn more_headers_than_a_host_shows_are_refused() {
        let many = |count: usize| {
            let mut headers = headers(&[("x-api-key", &key())]);
            headers.extend((1..count).map(|at| (format!("x-{at}"), vec![])));
            extract(&config(), &headers).map_err(|(rejection, _)| rejection)
        };
        assert!(many(99).is_ok());
        assert_eq!(many(100), Err(Rejection::AmbiguousCredentials));
    }

    #[test]
    fn a_header_that_holds_the_key_twice_over_is_refused() {
        let key = key();
        let twice = [
            ("x-api-key", key.as_str()),
            ("referer", &key),
            ("Referer", "other"),
        ];
        assert_eq!(rejected(&twice), Rejection::AmbiguousCredentials);
    }
}
