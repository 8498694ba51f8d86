//! The headers that tell a service which key a request came with, and whose it is.
//!
//! A client could send them itself. So they are taken out of each request that comes in, whether the
//! filter sets them or not.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::credentials::Header;
use crate::config::IDENTITY;
use crate::keycloak::loggable;
use crate::rejection::Reason;

/// The key's public id, Keycloak's id of its owner, and its name as percent-encoded UTF-8.
pub const NAMES: [&str; 3] = IDENTITY;

/// All but the unreserved characters (RFC 3986, 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The headers for the service; no name, no header for it.
#[must_use]
pub fn headers<'a>(
    key_id: &'a str,
    owner_id: &'a str,
    name: Option<&'a str>,
) -> Vec<(&'static str, Cow<'a, str>)> {
    let [id_header, owner_header, name_header] = NAMES;
    let mut headers = vec![(id_header, key_id.into()), (owner_header, owner_id.into())];
    headers.extend(name.map(|name| (name_header, utf8_percent_encode(name, ENCODED).into())));
    headers
}

/// Whether a header has one of these names. A service may read an underscore as a dash (CGI,
/// RFC 3875, 4.1.18).
#[must_use]
pub fn is_identity(name: &str) -> bool {
    let same = |ours: &str| {
        let pairs = ours.bytes().zip(name.bytes());
        ours.len() == name.len()
            && pairs.into_iter().all(|(ours, theirs)| {
                ours == theirs.to_ascii_lowercase() || (ours == b'-' && theirs == b'_')
            })
    };
    // Few headers are as long.
    matches!(name.len(), 12 | 14 | 15) && NAMES.into_iter().any(same)
}

/// The names under which a request claims an identity: they must be taken out of it.
///
/// # Errors
/// One of them came twice: Kong would take out only one of the two.
pub fn claims(headers: &[impl Header]) -> Result<Vec<&str>, Reason> {
    let mut claims: Vec<&str> = Vec::new();
    for name in headers.iter().map(Header::name) {
        if !is_identity(name) {
            continue;
        }
        if claims.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Err(Reason::HeaderTwice(loggable(name)));
        }
        claims.push(name);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_found_however_it_is_written_and_no_other_header_is() {
        for name in NAMES {
            assert!(is_identity(name), "{name}");
        }
        for name in ["X-API-Key-ID", "x_api_key_owner", "X-Api_KEY-name"] {
            assert!(is_identity(name), "{name}");
        }
        for name in [
            "x-api-key",
            "x-api-key-ids",
            "x-api-key-i",
            "x-apikey-name1",
            ":authority",
        ] {
            assert!(!is_identity(name), "{name}");
        }
    }

    #[test]
    fn a_claim_that_comes_twice_is_refused() {
        let header = |name: &str| (name.to_owned(), b"1".to_vec());
        let once = [header("x-api-key-id"), header("a"), header("X_API_KEY_ID")];
        assert_eq!(claims(&once), Ok(vec!["x-api-key-id", "X_API_KEY_ID"]));
        let twice = [header("x-api-key-id"), header("X-API-Key-Id")];
        let reason = Reason::HeaderTwice("X-API-Key-Id".into());
        assert_eq!(claims(&twice), Err(reason));
    }

    #[test]
    fn a_name_is_encoded_so_that_it_is_one_header_value() {
        let headers = headers("abc123def456", "user-1", Some("Bäckerei, 24/7 \u{1f956}"));
        let values: Vec<_> = headers.iter().map(|(_, value)| &**value).collect();
        let name = "B%C3%A4ckerei%2C%2024%2F7%20%F0%9F%A5%96";
        assert_eq!(values, ["abc123def456", "user-1", name]);
        assert_eq!(super::headers("a", "b", None).len(), 2);
    }
}
