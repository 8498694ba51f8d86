//! The credential of a request, read from its headers.
//!
//! An ambiguous request is refused: a header twice, two headers that differ, a list where one
//! value belongs. Credentials are smuggled where the gateway and the service behind it read a
//! request differently.

use crate::api_key::format::{ApiKey, ID_LENGTH, IMPORTED_BYTES_MIN};
use crate::config::{Config, OnMissingKey, Preflight, is_made_by_gateways};
use crate::keycloak::loggable;

use crate::rejection::Reason;

/// A request's headers, names in lower case as HTTP/2 has them; pseudo-headers may
/// be among them.
pub type Headers = [(String, Vec<u8>)];

/// A header of a request: a copy, or where a host lends its memory, the host's own bytes.
pub trait Header {
    /// Its name, in lower case as HTTP/2 has it.
    fn name(&self) -> &str;
    /// Its value.
    fn value(&self) -> &[u8];
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Header for (N, V) {
    fn name(&self) -> &str {
        self.0.as_ref()
    }

    fn value(&self) -> &[u8] {
        self.1.as_ref()
    }
}

/// The step for a request, by its credentials.
#[derive(Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Exchange this key; all these headers hold it and must go.
    Key {
        /// The key.
        key: ApiKey,
        /// The headers to remove, `authorization` not among them: it is replaced.
        remove: Vec<String>,
    },
    /// The request has no key, and may go on without one.
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

/// The most headers that are read, with the pseudo-headers: Kong can show a filter no more.
pub const HEADERS_MAX: usize = 100;

/// Finds the one credential of a request.
///
/// # Errors
/// The reason of the refusal.
pub fn extract(config: &Config, headers: &[impl Header]) -> Result<Credentials, Reason> {
    if headers.len() > HEADERS_MAX {
        return Err(Reason::TooManyHeaders);
    }
    let mut found: Option<Credential<'_>> = None;
    // A Bearer token counts as a credential wherever keys are read from.
    let also = (!config.headers.iter().any(|name| name == AUTHORIZATION)).then_some(AUTHORIZATION);
    for name in config.headers.iter().map(String::as_str).chain(also) {
        let Some(value) = only_value(config, headers, name)? else {
            continue;
        };
        let credential = read(config, name, value);
        match &found {
            Some(first) if *first != credential => {
                return Err(Reason::TwoCredentials);
            }
            _ => found = Some(credential),
        }
    }
    match found {
        Some(Credential::Key(presented)) => {
            let key = config.key_format.parse(presented)?;
            let remove = headers_to_remove(config, headers, key.expose().as_bytes())?;
            Ok(Credentials::Key { key, remove })
        }
        without_key => {
            let preflight = without_key.is_none() && is_preflight(headers);
            let passes = match config.on_missing_key {
                _ if preflight && config.preflight == Preflight::Pass => true,
                OnMissingKey::Pass => true,
                OnMissingKey::Bearer => matches!(without_key, Some(Credential::Bearer(_))),
                OnMissingKey::Reject => false,
            };
            if !passes {
                let reason = if preflight {
                    Reason::Preflight
                } else {
                    Reason::NoCredentials
                };
                return Err(reason);
            }
            let mut headers = headers.iter();
            match headers.find(|header| hides_key(config, header.name(), header.value())) {
                Some(header) => Err(key_elsewhere(header.name())),
                None => Ok(Credentials::Pass),
            }
        }
    }
}

/// Whether this is the head of a CORS preflight (Fetch, 3.2.2): `OPTIONS`, from an origin,
/// that asks for a method.
fn is_preflight(headers: &[impl Header]) -> bool {
    let one = |name: &str| {
        let mut values = headers
            .iter()
            .filter(|header| header.name().eq_ignore_ascii_case(name));
        let value = values.next().map(Header::value);
        value.filter(|value| !value.is_empty() && values.next().is_none())
    };
    one(":method") == Some(b"OPTIONS")
        && one("origin").is_some()
        && one("access-control-request-method").is_some()
}

/// The header that carries the token to the service, and that may hold a key.
pub const AUTHORIZATION: &str = "authorization";

/// The value of a header that may come once; none if it is absent or empty.
fn only_value<'a>(
    config: &Config,
    headers: &'a [impl Header],
    name: &str,
) -> Result<Option<&'a [u8]>, Reason> {
    let mut values = headers
        .iter()
        .filter(|header| header.name().eq_ignore_ascii_case(name))
        .map(|header| header.value().trim_ascii());
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() || is_joined(config, name, value) {
        let reason = Reason::HeaderTwice(name.to_owned());
        return Err(reason);
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

/// Whether this can be a Bearer token and not a key: it has the characters of RFC 6750, 2.1, and,
/// where imported keys are allowed, a JWT's two dots, since any other string may be such a key.
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

/// Whether a text may hold a key that came with these headers: the prefix of keys made here, or,
/// where keys are imported, a word of a header from which keys are read.
#[must_use]
pub fn may_hold_key(config: &Config, headers: &Headers, text: &[u8]) -> bool {
    let format = &config.key_format;
    format.has_prefix_within(text)
        || format.takes_imported()
            && (headers.iter().filter(|(name, _)| is_read(config, name)))
                .flat_map(|(_, value)| value.split(u8::is_ascii_whitespace))
                .any(|word| word.len() >= IMPORTED_BYTES_MIN && holds(text, word))
}

/// Whether keys are read from the header of this name.
fn is_read(config: &Config, name: &str) -> bool {
    let mut read = config.headers.iter();
    read.any(|header| name.eq_ignore_ascii_case(header))
}

/// Whether a text holds the given part, which is not empty.
fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Whether a header holds a key of ours, in any form: it would pass on to the service (invariant
/// 6). Found by prefix and checksum.
fn hides_key(config: &Config, name: &str, value: &[u8]) -> bool {
    let (prefix, length) = (
        config.key_format.prefix().as_bytes(),
        config.key_format.key_bytes(),
    );
    is_looked_at(name)
        && (config
            .key_format
            .parts_like_keys(value)
            .any(|part| config.key_format.parse(part).is_ok())
            || name
                .as_bytes()
                .windows(length)
                .any(|window| is_like_a_key(prefix, window)))
}

/// Whether this header is searched for keys. A path is not: it is logged on its way.
fn is_looked_at(name: &str) -> bool {
    !name.starts_with(':') || name == ":authority"
}

/// Whether a part of a header's name looks like a key of ours as HTTP/2 would write it: in lower
/// case, for which the checksum does not hold.
fn is_like_a_key(prefix: &[u8], part: &[u8]) -> bool {
    let (start, rest) = part.split_at_checked(prefix.len()).unwrap_or_default();
    let (id, rest) = rest.split_at_checked(ID_LENGTH).unwrap_or_default();
    let letters = |text: &[u8]| text.iter().all(u8::is_ascii_alphanumeric);
    start.eq_ignore_ascii_case(prefix)
        && letters(id)
        && rest.strip_prefix(b"_").is_some_and(letters)
}

/// A key stands in a header from which none is read. The header's name is the client's own text,
/// and may be that key.
fn key_elsewhere(name: &str) -> Reason {
    Reason::KeyElsewhere(loggable(name))
}

/// Splits `scheme SP rest`; without a space the rest is empty.
fn scheme_of(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = value
        .iter()
        .position(|byte| byte.is_ascii_whitespace())
        .unwrap_or(value.len());
    let (scheme, rest) = value.split_at_checked(end)?;
    Some((scheme, rest.trim_ascii_start()))
}

/// Whether the value is a list, as hosts make it of a header that came twice (RFC 9110, 5.3),
/// with elements that could be a key or a token. The parameters of other schemes (Digest) are
/// lists as well, but do not count.
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

/// The headers that hold the key anywhere in their value: the one it was taken from, and any
/// other that would carry it on to the service (invariant 6).
///
/// # Errors
/// One of them came twice: Kong removes only one of the two. Or the gateway made it anew before
/// the filter ran. Or another header holds another key.
fn headers_to_remove(
    config: &Config,
    headers: &[impl Header],
    key: &[u8],
) -> Result<Vec<String>, Reason> {
    let format = &config.key_format;
    let is_imported = !(format.has_prefix(key) && key.len() == format.key_bytes());
    let holds_key = |value: &[u8]| {
        if is_imported {
            holds(value, key)
        } else {
            format.parts_like_keys(value).any(|part| part == key)
        }
    };
    let mut remove: Vec<String> = Vec::new();
    for header in headers {
        let (name, value) = (header.name(), header.value());
        let replaced = name.eq_ignore_ascii_case(AUTHORIZATION);
        let ours = is_read(config, name);
        if replaced || !is_looked_at(name) {
            continue;
        }
        let mut parts = name.as_bytes().windows(key.len());
        if parts.any(|part| part.eq_ignore_ascii_case(key)) {
            return Err(key_elsewhere(name));
        }
        if !(ours || holds_key(value)) {
            if hides_key(config, name, value) {
                return Err(Reason::TwoCredentials);
            }
            continue;
        }
        if is_made_by_gateways(name) {
            let reason = Reason::KeyBeyondReach(loggable(name));
            return Err(reason);
        }
        let same = headers
            .iter()
            .filter(|other| other.name().eq_ignore_ascii_case(name));
        if same.count() > 1 {
            let reason = Reason::HeaderTwice(loggable(name));
            return Err(reason);
        }
        remove.push(name.to_owned());
    }
    Ok(remove)
}

#[cfg(test)]
mod tests;
