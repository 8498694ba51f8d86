//! The audit log: the result of a request with a key, as one line of JSON.
//!
//! A line is one flat object. Its texts hold no line break, no brace and only printable ASCII,
//! each cut to a length. So a client can neither end the line nor begin another, and a line stays
//! far below the 2 KB at which nginx cuts. `docs/audit.schema.json` describes it.

use std::fmt::Write;

use serde_json::Value;

use crate::api_key::terms::Terms;
use crate::clock::UnixMillis;
use crate::exchange::Source;
use crate::usage::Used;

/// A token with more bytes is reported: many services take no more than 8 KiB for a request's
/// whole head.
pub const LARGE_TOKEN_BYTES: usize = 7 * 1024;
/// The longest text of a line.
const TEXT_MAX: usize = 128;
/// The longest reason, which is a sentence.
const REASON_MAX: usize = 300;

/// The longest id that a request may bring.
pub const REQUEST_ID_MAX: usize = 128;

/// Whether a text can be the id of a request: one word.
#[must_use]
pub fn is_request_id(id: &[u8]) -> bool {
    let of_a_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(of_a_word)
}

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    outcome: &'static str,
    now: UnixMillis,
    /// The members after the fixed ones, in their order.
    members: Vec<(&'static str, String)>,
    /// Bytes of a token that is too large for many services.
    token_bytes: Option<usize>,
    duration_ms: u64,
    keycloak_ms: u64,
}

/// The facts about a request, for any outcome.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// The public id of the key.
    pub key_id: Option<&'a str>,
    /// Keycloak's id of the key's owner.
    pub owner: Option<&'a str>,
    /// The terms of the key: the line has its name and its team's words.
    pub terms: Option<&'a Terms>,
    /// The realm.
    pub realm: &'a str,
    /// The gateway's name of the route.
    pub route: Option<&'a str>,
    /// The address that it came from, as the host has it.
    pub source_address: Option<&'a str>,
    /// The request's id; a dash if it has none.
    pub request_id: &'a str,
    /// The id of its trace.
    pub trace_id: Option<&'a str>,
    /// The time since its head came.
    pub duration_ms: u64,
    /// The part of that time in which it waited for Keycloak.
    pub keycloak_ms: u64,
}

impl Line {
    /// The request went on with a token of this size.
    #[must_use]
    pub fn exchanged(
        request: Request<'_>,
        source: Source,
        token_bytes: usize,
        now: UnixMillis,
    ) -> Self {
        let members = vec![("source", name(source).to_owned())];
        Self {
            token_bytes: Some(token_bytes).filter(|bytes| *bytes > LARGE_TOKEN_BYTES),
            ..Self::new(request, "exchanged", members, now)
        }
    }

    /// The request was refused, with the code that its client is told.
    #[must_use]
    pub fn refused(
        request: Request<'_>,
        code: &'static str,
        reason: &str,
        now: UnixMillis,
    ) -> Self {
        let members = vec![
            ("code", code.to_owned()),
            ("reason", safe(reason, REASON_MAX)),
        ];
        Self::new(request, "refused", members, now)
    }

    /// The request went on as it was, with a key that Keycloak does not know.
    #[must_use]
    pub fn passed(request: Request<'_>, reason: &str, now: UnixMillis) -> Self {
        let members = vec![("reason", safe(reason, REASON_MAX))];
        Self::new(request, "passed", members, now)
    }

    fn new(
        request: Request<'_>,
        outcome: &'static str,
        mut members: Vec<(&'static str, String)>,
        now: UnixMillis,
    ) -> Self {
        let of_terms = |word: fn(&Terms) -> &Option<String>| word(request.terms?).as_deref();
        let known = [
            ("key_id", request.key_id),
            ("key_name", of_terms(|terms| &terms.name)),
            ("environment", of_terms(|terms| &terms.environment)),
            ("labels", of_terms(|terms| &terms.labels)),
            ("owner", request.owner),
            ("realm", Some(request.realm)),
            ("route", request.route),
            ("source_address", request.source_address.map(without_port)),
            (
                "request_id",
                Some(request.request_id).filter(|id| *id != "-"),
            ),
            ("trace_id", request.trace_id),
        ];
        for (name, text) in known {
            members.extend(text.map(|text| (name, safe(text, TEXT_MAX))));
        }
        Self {
            outcome,
            now,
            members,
            token_bytes: None,
            duration_ms: request.duration_ms,
            keycloak_ms: request.keycloak_ms,
        }
    }

    /// The line, without its end. `event` is its first member: so lines are found.
    #[must_use]
    pub fn json(self) -> String {
        let Self {
            outcome,
            now,
            members,
            token_bytes,
            duration_ms,
            keycloak_ms,
        } = self;
        let time = now.to_rfc3339_ms();
        let mut json = format!(r#"{{"event":"exchange","time":"{time}","outcome":"{outcome}""#);
        for (name, text) in members {
            // serde_json's own escapes.
            let value = Value::String(text).to_string();
            for part in [",\"", name, "\":", &value] {
                json.push_str(part);
            }
        }
        if let Some(bytes) = token_bytes {
            let _ = write!(json, r#","token_bytes":{bytes}"#);
        }
        let end = format!(r#","duration_ms":{duration_ms},"keycloak_ms":{keycloak_ms}}}"#);
        json.push_str(&end);
        json
    }
}

/// A line with a worker's requests in about a minute: those with one key, or all that are not
/// counted by a key.
#[must_use]
pub fn usage(used: &Used, realm: &str) -> String {
    let (time, from) = (used.to.to_rfc3339_ms(), used.from.to_rfc3339_ms());
    let mut json = format!(r#"{{"event":"usage","time":"{time}","from":"{from}""#);
    let texts = [("realm", Some(realm)), ("key_id", used.key_id.as_deref())];
    for (name, text) in texts {
        if let Some(text) = text {
            let value = Value::String(safe(text, TEXT_MAX));
            let _ = write!(json, r#","{name}":{value}"#);
        }
    }
    for (name, count) in used.counts.iter().filter(|(_, count)| *count > 0) {
        let _ = write!(json, r#","{name}":{count}"#);
    }
    json.push('}');
    json
}

/// The name of a source in lines and metrics.
#[must_use]
pub const fn name(source: Source) -> &'static str {
    match source {
        Source::L1 => "l1",
        Source::L2 => "l2",
        Source::Refresh => "refresh",
        Source::FirstUse => "first_use",
        Source::Stale => "stale",
    }
}

/// Printable ASCII without braces, so that the object ends at its first closing brace,
/// and no longer than this.
fn safe(text: &str, most: usize) -> String {
    let safe = |c: char| match c {
        '{' => '(',
        '}' => ')',
        ' '..='~' => c,
        _ => '?',
    };
    text.chars().take(most).map(safe).collect()
}

/// An address without its port: `192.0.2.7:51234`, `[2001:db8::7]:443`.
fn without_port(address: &str) -> &str {
    if let Some((inner, _)) = address
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        return inner;
    }
    match address.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_123);

    fn request() -> Request<'static> {
        Request {
            key_id: Some("abc123def456"),
            owner: Some("d1b6ce0e-93f5-4b0c-a1f6-3d5f0c1d0e00"),
            terms: None,
            realm: "demo",
            route: Some("orders"),
            source_address: Some("192.0.2.7:51234"),
            request_id: "5f0c1d0e",
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
            duration_ms: 112,
            keycloak_ms: 31,
        }
    }

    #[test]
    fn a_line_says_all_that_is_known() {
        let line = Line::exchanged(request(), Source::FirstUse, 900, NOW).json();
        let line: Value = serde_json::from_str(&line).unwrap();
        let expected = json!({
            "event": "exchange",
            "time": "2023-11-14T22:13:20.123Z",
            "outcome": "exchanged",
            "source": "first_use",
            "key_id": "abc123def456",
            "owner": "d1b6ce0e-93f5-4b0c-a1f6-3d5f0c1d0e00",
            "realm": "demo",
            "route": "orders",
            "source_address": "192.0.2.7",
            "request_id": "5f0c1d0e",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "duration_ms": 112,
            "keycloak_ms": 31,
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_token_that_many_services_refuse_is_told_of() {
        for (bytes, told) in [(7168, Value::Null), (7169, json!(7169))] {
            let line = Line::exchanged(request(), Source::Refresh, bytes, NOW).json();
            let line: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["token_bytes"], told);
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let request = Request {
            realm: "demo",
            request_id: "-",
            ..Request::default()
        };
        let line = Line::refused(request, "missing_credentials", "no credentials", NOW).json();
        let line: Value = serde_json::from_str(&line).unwrap();
        let names: Vec<_> = line.as_object().unwrap().keys().cloned().collect();
        let expected = [
            "code",
            "duration_ms",
            "event",
            "keycloak_ms",
            "outcome",
            "realm",
            "reason",
            "time",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn nothing_ends_a_line_or_begins_another() {
        let evil = "x\"}\n{\"event\":\"exchange\"\r\u{1b}[2J\u{2028}\u{fc}\\";
        let request = Request {
            key_id: Some(evil),
            owner: Some(evil),
            realm: evil,
            route: Some(evil),
            source_address: Some(evil),
            request_id: evil,
            trace_id: Some(evil),
            ..Request::default()
        };
        let lines = [
            Line::exchanged(request, Source::L1, 900, NOW),
            Line::refused(request, "invalid_api_key", evil, NOW),
            Line::passed(request, evil, NOW),
        ];
        for line in lines {
            let text = line.json();
            assert!(
                text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{text}"
            );
            assert_eq!(
                (text.matches('{').count(), text.matches('}').count()),
                (1, 1)
            );
            let read: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(read["owner"], "x\")?(\"event\":\"exchange\"??[2J??\\");
        }
    }

    #[test]
    fn a_line_is_bounded() {
        let long = "\\".repeat(10_000);
        let terms = Terms {
            name: Some(long.clone()),
            environment: Some(long.clone()),
            labels: Some(long.clone()),
            ..Terms::default()
        };
        let request = Request {
            key_id: Some(&long),
            owner: Some(&long),
            terms: Some(&terms),
            realm: &long,
            route: Some(&long),
            source_address: Some(&long),
            request_id: &long,
            trace_id: Some(&long),
            duration_ms: u64::MAX,
            keycloak_ms: u64::MAX,
        };
        let line = Line::refused(request, "identity_provider_unavailable", &long, NOW);
        // Each of them escaped takes two.
        let most = 2 * (10 * TEXT_MAX + REASON_MAX) + 500;
        let length = line.json().len();
        assert!(length < most, "{length}");
        let plain = "x".repeat(10_000);
        let request = Request {
            key_id: Some(&plain),
            ..Request::default()
        };
        let line = Line::refused(request, "overloaded", &plain, NOW).json();
        assert!(line.len() < 1_000);
    }

    #[test]
    fn a_line_has_the_name_and_the_words_of_the_keys_team() {
        let terms = Terms {
            name: Some("Nightly report".into()),
            labels: Some("team=pay".into()),
            ..Terms::default()
        };
        let request = Request {
            terms: Some(&terms),
            ..request()
        };
        let line = Line::exchanged(request, Source::L1, 900, NOW).json();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["key_name"], "Nightly report");
        assert_eq!(line["labels"], "team=pay");
        assert_eq!(line.get("environment"), None);
    }

    #[test]
    fn an_address_has_no_port() {
        for (address, host) in [
            ("192.0.2.7:51234", "192.0.2.7"),
            ("192.0.2.7", "192.0.2.7"),
            ("[2001:db8::7]:443", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("/run/gateway.sock", "/run/gateway.sock"),
        ] {
            assert_eq!(without_port(address), host);
        }
    }
}
