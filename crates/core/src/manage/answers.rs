//! The answers of the management API, as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

use super::change::ChangeError;
use super::owner_keys::KeySummary;
use super::problem::{self, Problem};
use crate::keycloak::user_events::{LastUse, LastUses};
use crate::usage::Used;

/// The API's description (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("openapi.json");

/// An answer to a client.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
    content: Content,
}

enum Content {
    Nothing,
    Text(Zeroizing<String>),
    Problem(Problem),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The body may hold a key.
        f.debug_struct("Answer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Answer {
    fn new(status: u16, content: Content) -> Self {
        Self {
            status,
            headers: vec![("cache-control", "no-store".to_owned())],
            content,
        }
    }

    fn json(status: u16, body: &Value) -> Self {
        let text = Zeroizing::new(body.to_string());
        let mut answer = Self::new(status, Content::Text(text));
        answer
            .headers
            .push(("content-type", "application/json".to_owned()));
        answer
    }

    /// An answer without a body.
    pub(super) fn no_content() -> Self {
        Self::new(204, Content::Nothing)
    }

    /// The API's description.
    pub(super) fn openapi() -> Self {
        let mut answer = Self::new(200, Content::Text(Zeroizing::new(OPENAPI.to_owned())));
        answer
            .headers
            .push(("content-type", "application/json".to_owned()));
        answer
    }

    /// A browser may call from its origin by these methods (Fetch Standard, CORS protocol).
    pub(super) fn preflight(methods: &str) -> Self {
        let mut answer = Self::no_content();
        for (name, value) in [
            ("access-control-allow-methods", methods),
            (
                "access-control-allow-headers",
                // A request's trace goes on to Keycloak.
                "authorization, content-type, traceparent, tracestate",
            ),
            ("access-control-max-age", "600"),
        ] {
            answer.headers.push((name, value.to_owned()));
        }
        answer
    }

    /// A refusal.
    pub(super) fn refusal(problem: Problem, realm: &str) -> Self {
        let headers = problem.headers(realm);
        let mut answer = Self::new(problem.code.status(), Content::Problem(problem));
        answer.headers.extend(headers);
        answer
    }

    /// A new key: the one answer that holds one.
    pub(super) fn made(key: &KeySummary, api_key: &str, replaces: Option<&KeySummary>) -> Self {
        let mut body = key.view(LastUse::Unknown);
        let told = Value::String(api_key.to_owned());
        if let Some(members) = body.as_object_mut() {
            members.insert("api_key".to_owned(), told);
            if let Some(old) = replaces {
                members.insert("replaces".to_owned(), old.view(LastUse::Unknown));
            }
        }
        let answer = Self::json(201, &body);
        if let Some(Value::String(told)) = body.get_mut("api_key") {
            told.zeroize();
        }
        answer
    }

    /// No key of the owner works any more. Names the reason if their records are still there.
    pub(super) fn all_ended(records_kept: Option<&ChangeError>) -> Self {
        Self::json(
            200,
            &match records_kept {
                None => json!({ "records_kept": false }),
                Some(why) => json!({
                    "records_kept": true,
                    "detail": format!(
                        "{} Repeat this once an administrator has corrected the user. If the \
                         owner is linked again before, these keys work again.",
                        problem::of_the_record(why)
                    ),
                }),
            },
        )
    }

    /// One key.
    pub(super) fn key(key: &KeySummary, uses: &LastUses) -> Self {
        Self::json(200, &key.view(uses.of_key(&key.id, key.created)))
    }

    /// A page of keys.
    pub(super) fn keys(keys: &[KeySummary], uses: &LastUses, next: Option<&str>) -> Self {
        let view = |key: &KeySummary| key.view(uses.of_key(&key.id, key.created));
        let keys: Vec<Value> = keys.iter().map(view).collect();
        let mut body = json!({ "keys": keys });
        if let (Some(members), Some(next)) = (body.as_object_mut(), next) {
            members.insert("next".to_owned(), json!(next));
        }
        Self::json(200, &body)
    }

    /// The requests of this node with a key.
    pub(super) fn usage(used: &Used) -> Self {
        let [forwarded, refused] = used.counts.halves();
        let [forwarded, refused] = [
            forwarded.collect::<BTreeMap<_, _>>(),
            refused.collect::<BTreeMap<_, _>>(),
        ];
        Self::json(
            200,
            &json!({
                "key_id": used.key_id,
                "scope": "node",
                "from": used.from.to_rfc3339(),
                "to": used.to.to_rfc3339(),
                "forwarded": forwarded,
                "refused": refused,
            }),
        )
    }

    /// A token for a key.
    pub(super) fn token(body: &Value) -> Self {
        Self::json(200, body)
    }

    /// Lets a browser of this origin read the answer.
    pub(super) fn allow_origin(&mut self, origin: &str) {
        self.headers
            .push(("access-control-allow-origin", origin.to_owned()));
        self.headers
            .push(("access-control-expose-headers", "retry-after".to_owned()));
        self.headers.push(("vary", "origin".to_owned()));
    }

    /// The body, with this id for the request if one is given; none if the answer has no body.
    #[must_use]
    pub fn body(&self, request_id: &str) -> Option<Zeroizing<String>> {
        match &self.content {
            Content::Nothing => None,
            Content::Text(text) => Some(text.clone()),
            Content::Problem(problem) => Some(Zeroizing::new(problem.body(request_id))),
        }
    }

    /// The refusal's code, if it is one.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        match &self.content {
            Content::Problem(problem) => Some(problem.code.word()),
            _ => None,
        }
    }
}
