//! Keycloak's own log of exchanges: which key was used, and when.
//!
//! Each grant is an event of the realm (`JWT_AUTHORIZATION_GRANT`). Its details hold the `jti`
//! of the client's assertion, and ours begins with the key's id: a record of use without a
//! write. Where the realm keeps no events there is no such record.

use std::collections::BTreeMap;

use percent_encoding::utf8_percent_encode;
use serde::Deserialize;

use super::{Call, Endpoint, UNRESERVED};
use crate::clock::UnixMillis;
use crate::signing_key::SHORT_KID_BYTES;

/// Events that one answer holds; each takes about 600 bytes of the
/// [`ANSWER_BYTES_MAX`](super::ANSWER_BYTES_MAX).
pub const EVENTS_PER_PAGE: usize = 100;

const EXCHANGE_EVENT: &str = "JWT_AUTHORIZATION_GRANT";

/// The call for a page of an owner's exchanges, the latest first. Needs the role
/// `view-events` of client `realm-management`.
#[must_use]
pub fn exchanges_call(events_path: &str, owner_id: &str, page: usize, bearer: &str) -> Call {
    let path = format!(
        "{events_path}?type={EXCHANGE_EVENT}&user={}&max={EVENTS_PER_PAGE}&first={}",
        utf8_percent_encode(owner_id, UNRESERVED),
        page * EVENTS_PER_PAGE
    );
    Call::get(Endpoint::Events, path, bearer)
}

/// An exchange that Keycloak has an event of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeSeen {
    /// The id of the key.
    pub key_id: String,
    /// The instant.
    pub at: UnixMillis,
}

#[derive(Deserialize)]
struct Event {
    time: u64,
    #[serde(default)]
    details: BTreeMap<String, String>,
}

/// Reads the answer to [`exchanges_call`]: the exchanges, and the number of events on the page.
/// None without the role, without events, or for any other answer.
#[must_use]
pub fn read_exchanges(status: u16, body: &[u8]) -> Option<(Vec<ExchangeSeen>, usize)> {
    if status != 200 {
        return None;
    }
    let events: Vec<Event> = serde_json::from_slice(body).ok()?;
    let seen = events.iter().filter_map(|event| {
        let jti = event.details.get("client_assertion_id")?;
        let (key_id, _) = jti.split_once('.')?;
        Some(ExchangeSeen {
            key_id: key_id.to_owned(),
            at: UnixMillis(event.time),
        })
    });
    Some((seen.collect(), events.len()))
}

/// The signing key of an assertion, by its `jti`: the first bytes of the key's `kid`
/// ([`SigningKey::short_kid`](crate::signing_key::SigningKey::short_kid)). None for a `jti` of
/// another program, or of an older filter.
#[must_use]
pub fn signer_of(jti: &str) -> Option<&str> {
    let mut parts = jti.split('.');
    let (_, _, signer) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && signer.len() == SHORT_KID_BYTES).then_some(signer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn asks_for_one_owners_exchanges_page_by_page() {
        let call = exchanges_call("/admin/realms/demo/events", "f:1:bob", 2, "T");
        assert_eq!(
            call.path,
            "/admin/realms/demo/events?type=JWT_AUTHORIZATION_GRANT&user=f%3A1%3Abob&max=100\
             &first=200"
        );
    }

    #[test]
    fn reads_which_key_was_used_and_when_and_passes_over_what_is_no_use_of_a_key() {
        let events = json!([
            {"time": 2000, "details": {"client_assertion_id": "abc123def456.x"}},
            {"time": 1500, "details": {"client_assertion_id": "no-dot"}},
            {"time": 1000, "details": {}},
            {"time": 500},
        ]);
        let (seen, events) = read_exchanges(200, events.to_string().as_bytes()).unwrap();
        assert_eq!(events, 4);
        assert_eq!(
            seen,
            [ExchangeSeen {
                key_id: "abc123def456".into(),
                at: UnixMillis(2000)
            }]
        );
    }

    #[test]
    fn an_assertions_id_tells_who_signed_it_if_the_filter_made_it() {
        assert_eq!(signer_of("poll.x-_.DXEzWNr5"), Some("DXEzWNr5"));
        for other in [
            "",
            "poll",
            "poll.x",
            "poll.x.DXEzWNr",
            "a.b.c.DXEzWNr5",
            "a.b.",
        ] {
            assert_eq!(signer_of(other), None, "{other}");
        }
    }

    #[test]
    fn an_answer_that_tells_nothing_is_none() {
        for (status, body) in [(403, "[]"), (200, "{}"), (200, ""), (500, "[]")] {
            assert_eq!(read_exchanges(status, body.as_bytes()), None);
        }
    }
}
