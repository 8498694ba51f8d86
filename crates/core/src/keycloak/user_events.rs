//! Keycloak's own log of exchanges: which key was used, and when.
//!
//! Each grant is an event of the realm (`JWT_AUTHORIZATION_GRANT`). Its details hold the `jti`
//! of the client's assertion, and ours begins with the key's id: a record of use without a
//! write. Keycloak deletes old events (`eventsExpiration`), and so may an administrator. So a key
//! without an event is known to be unused only since the oldest grant that is left.

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

/// The last use of a key, as far as events tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LastUse {
    /// The instant of its latest exchange.
    Used(UnixMillis),
    /// No exchange since this instant. If that is when the key was made, it was never used.
    UnusedSince(UnixMillis),
    /// The events do not tell.
    #[default]
    Unknown,
}

/// Reads the last uses of an owner's keys, call by call. Call [`next_call`](Self::next_call)
/// and give its answer to [`read`](Self::read), until there is none; then
/// [`of_key`](Self::of_key) tells. Needs the role `view-events` of client `realm-management`.
#[derive(Debug)]
pub struct LastUses {
    events_path: String,
    owner_id: String,
    pages_max: usize,
    /// The owner's keys, each with its latest exchange once that is found.
    keys: BTreeMap<String, Option<UnixMillis>>,
    next: Option<Question>,
    /// All exchanges of the owner since then were read.
    known_since: Option<UnixMillis>,
}

#[derive(Debug, Clone, Copy)]
enum Question {
    /// Does the realm keep events of exchanges?
    Kept,
    /// The owner's exchanges, the latest first.
    Page(usize),
    /// The realm's oldest exchange: events reach back to it.
    Oldest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventsConfig {
    events_enabled: bool,
    /// No list, or an empty one, means Keycloak's default types, which include exchanges.
    #[serde(default)]
    enabled_event_types: Vec<String>,
}

#[derive(Deserialize)]
struct Event {
    /// Milliseconds of the Unix epoch.
    time: u64,
    #[serde(default)]
    details: BTreeMap<String, String>,
}

impl LastUses {
    /// For these keys of an owner. Reads `pages_max` pages of [`EVENTS_PER_PAGE`] events at most.
    pub fn new(
        events_path: &str,
        owner_id: &str,
        key_ids: impl Iterator<Item = String>,
        pages_max: usize,
    ) -> Self {
        let keys: BTreeMap<_, _> = key_ids.map(|id| (id, None)).collect();
        Self {
            events_path: events_path.to_owned(),
            owner_id: owner_id.to_owned(),
            pages_max,
            next: (!keys.is_empty()).then_some(Question::Kept),
            keys,
            known_since: None,
        }
    }

    /// The next call to Keycloak; none once the reading is over.
    #[must_use]
    pub fn next_call(&self, bearer: &str) -> Option<Call> {
        let events = &self.events_path;
        let path = match self.next? {
            Question::Kept => format!("{events}/config"),
            Question::Page(page) => format!(
                "{events}?type={EXCHANGE_EVENT}&user={}&max={EVENTS_PER_PAGE}&first={}",
                utf8_percent_encode(&self.owner_id, UNRESERVED),
                page * EVENTS_PER_PAGE
            ),
            Question::Oldest => format!("{events}?type={EXCHANGE_EVENT}&max=1&direction=asc"),
        };
        Some(Call::get(Endpoint::Events, path, bearer))
    }

    /// Reads the answer to the latest call. Any other status than 200 ends the reading.
    pub fn read(&mut self, status: u16, body: &[u8]) {
        let asked = self.next.take().filter(|_| status == 200);
        self.next = asked.and_then(|asked| match asked {
            Question::Kept => keeps_exchanges(body).then_some(Question::Page(0)),
            Question::Page(page) => self.read_page(page, &read_events(body)?),
            Question::Oldest => {
                self.known_since = read_events(body)?
                    .first()
                    .map(|event| UnixMillis(event.time));
                None
            }
        });
    }

    fn read_page(&mut self, page: usize, events: &[Event]) -> Option<Question> {
        for event in events {
            let jti = event.details.get("client_assertion_id");
            let key_id = jti.and_then(|jti| jti.split_once('.')).map(|(id, _)| id);
            if let Some(used) = key_id.and_then(|id| self.keys.get_mut(id)) {
                *used = (*used).max(Some(UnixMillis(event.time)));
            }
        }
        if self.keys.values().all(Option::is_some) {
            return None;
        }
        if events.len() < EVENTS_PER_PAGE {
            return Some(Question::Oldest);
        }
        // If no further page is read, the last event of this one is how far the reading got.
        self.known_since = events.last().map(|event| UnixMillis(event.time));
        (page + 1 < self.pages_max).then_some(Question::Page(page + 1))
    }

    /// The last use of one of the keys, made at this instant if that is known. Exact to the
    /// second, as `created` is.
    #[must_use]
    pub fn of_key(&self, key_id: &str, created: Option<UnixMillis>) -> LastUse {
        match (self.keys.get(key_id), self.known_since) {
            (Some(Some(at)), _) => LastUse::Used(*at),
            (Some(None), Some(since)) => {
                let since = UnixMillis::from_seconds(since.as_seconds());
                LastUse::UnusedSince(created.map_or(since, |created| created.max(since)))
            }
            _ => LastUse::Unknown,
        }
    }
}

fn keeps_exchanges(config: &[u8]) -> bool {
    serde_json::from_slice(config).is_ok_and(|config: EventsConfig| {
        let types = config.enabled_event_types;
        config.events_enabled
            && (types.is_empty() || types.iter().any(|kept| kept == EXCHANGE_EVENT))
    })
}

fn read_events(body: &[u8]) -> Option<Vec<Event>> {
    serde_json::from_slice(body).ok()
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
    use serde_json::{Value, json};

    use super::*;

    const CONFIG: &str =
        r#"{"eventsEnabled":true,"enabledEventTypes":["JWT_AUTHORIZATION_GRANT"]}"#;

    fn uses(keys: &[&str], pages_max: usize) -> LastUses {
        let keys = keys.iter().map(|&id| id.to_owned());
        LastUses::new("/admin/realms/demo/events", "f:1:bob", keys, pages_max)
    }

    fn event(time: u64, jti: &str) -> Value {
        json!({"time": time, "details": {"client_assertion_id": jti}})
    }

    /// Answers each call in turn, and returns the calls.
    fn answered(uses: &mut LastUses, answers: &[Value]) -> Vec<String> {
        let mut answers = answers.iter();
        let mut paths = Vec::new();
        while let Some(call) = uses.next_call("T") {
            paths.push(call.path);
            uses.read(200, answers.next().unwrap().to_string().as_bytes());
        }
        assert_eq!(answers.next(), None);
        paths
    }

    fn config() -> Value {
        serde_json::from_str(CONFIG).unwrap()
    }

    #[test]
    fn an_owners_exchanges_are_asked_for_page_by_page_and_then_how_far_events_reach_back() {
        let mut uses = uses(&["rare", "never"], 5);
        let page: Vec<Value> = (0..100).map(|at| event(9000 - at, "often.x")).collect();
        let last = json!([event(2000, "rare.x"), event(1000, "rare.y")]);
        let paths = answered(
            &mut uses,
            &[config(), json!(page), last, json!([event(500_250, "z.z")])],
        );
        assert_eq!(
            paths,
            [
                "/admin/realms/demo/events/config",
                "/admin/realms/demo/events?type=JWT_AUTHORIZATION_GRANT&user=f%3A1%3Abob&max=100\
                 &first=0",
                "/admin/realms/demo/events?type=JWT_AUTHORIZATION_GRANT&user=f%3A1%3Abob&max=100\
                 &first=100",
                "/admin/realms/demo/events?type=JWT_AUTHORIZATION_GRANT&max=1&direction=asc",
            ]
        );
        assert_eq!(uses.of_key("rare", None), LastUse::Used(UnixMillis(2000)));
        let since = |at| LastUse::UnusedSince(UnixMillis(at));
        assert_eq!(uses.of_key("never", None), since(500_000));
        assert_eq!(
            uses.of_key("never", Some(UnixMillis(400_000))),
            since(500_000)
        );
        assert_eq!(
            uses.of_key("never", Some(UnixMillis(600_000))),
            since(600_000)
        );
        assert_eq!(uses.of_key("other", None), LastUse::Unknown);
    }

    #[test]
    fn nothing_more_is_asked_once_every_key_has_its_use() {
        let mut uses = uses(&["abc"], 5);
        let page: Vec<Value> = (0..100).map(|at| event(9000 - at, "abc.x")).collect();
        assert_eq!(answered(&mut uses, &[config(), json!(page)]).len(), 2);
        assert_eq!(uses.of_key("abc", None), LastUse::Used(UnixMillis(9000)));
        assert_eq!(answered(&mut self::uses(&[], 5), &[]).len(), 0);
    }

    #[test]
    fn a_key_that_is_on_no_page_that_was_read_is_unused_since_the_last_event_of_them() {
        let mut uses = uses(&["rare"], 2);
        let page = |from: u64| {
            json!(
                (0..100)
                    .map(|at| event(from - at, "often.x"))
                    .collect::<Vec<_>>()
            )
        };
        answered(&mut uses, &[config(), page(9_000_000), page(8_900_999)]);
        assert_eq!(
            uses.of_key("rare", None),
            LastUse::UnusedSince(UnixMillis(8_900_000))
        );
    }

    #[test]
    fn an_event_that_names_no_key_is_no_use() {
        let mut uses = uses(&["no-dot", ""], 5);
        let events = json!([event(9, "no-dot"), {"time": 8, "details": {}}, {"time": 7}]);
        answered(&mut uses, &[config(), events, json!([])]);
        assert_eq!(uses.of_key("no-dot", None), LastUse::Unknown);
    }

    #[test]
    fn a_realm_that_keeps_no_exchanges_tells_nothing_of_them() {
        for config in [
            json!({"eventsEnabled": false}),
            json!({"eventsEnabled": true, "enabledEventTypes": ["LOGIN"]}),
            json!({}),
            json!([]),
        ] {
            let mut uses = uses(&["abc"], 5);
            assert_eq!(answered(&mut uses, &[config]).len(), 1);
            assert_eq!(uses.of_key("abc", Some(UnixMillis(1))), LastUse::Unknown);
        }
        for config in [
            json!({"eventsEnabled": true}),
            json!({"eventsEnabled": true, "enabledEventTypes": []}),
        ] {
            assert!(keeps_exchanges(config.to_string().as_bytes()));
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_leaves_the_rest_unknown() {
        let page: Vec<Value> = (0..99).map(|at| event(9000 - at, "used.x")).collect();
        let page = json!(page).to_string();
        for answers in [
            &[(403, CONFIG)][..],
            &[(200, CONFIG), (403, "[]")],
            &[(200, CONFIG), (200, "{}")],
            &[(200, CONFIG), (200, &page), (500, "[]")],
            &[(200, CONFIG), (200, &page), (200, "")],
        ] {
            let mut uses = uses(&["used", "unused"], 5);
            for (status, body) in answers {
                uses.next_call("T").unwrap();
                uses.read(*status, body.as_bytes());
            }
            assert_eq!(uses.next_call("T"), None);
            assert_eq!(uses.of_key("unused", Some(UnixMillis(1))), LastUse::Unknown);
            let used = uses.of_key("used", None);
            assert_eq!(used != LastUse::Unknown, answers.len() == 3);
        }
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
}
