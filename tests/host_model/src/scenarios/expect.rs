//! Expectations of scenarios about outcomes.

use serde_json::Value;

use crate::abi::value_of;
use crate::gateway::Outcome;
use crate::keycloak_adapter::claims;

impl Outcome {
    /// The subject of the forwarded token.
    #[track_caller]
    pub fn subject(&self) -> String {
        match self {
            Self::Forwarded(headers) => {
                let bearer = value_of(headers, "authorization").expect("a token");
                let bearer = std::str::from_utf8(bearer).unwrap();
                let claims = claims(bearer.strip_prefix("Bearer ").unwrap());
                claims["sub"].as_str().unwrap().to_owned()
            }
            other => panic!("not forwarded: {other:?}"),
        }
    }

    /// The body of an answer of the management API with this status; `null` for none.
    #[track_caller]
    pub fn told(&self, status: u32) -> Value {
        match self {
            Self::Answered(answer) => {
                let body: Value = match answer.body.as_slice() {
                    [] => Value::Null,
                    text => serde_json::from_slice(text).unwrap(),
                };
                assert_eq!(answer.status, status, "{}", body["code"]);
                let stored = value_of(&answer.headers, "cache-control");
                assert_eq!(stored, Some(&b"no-store"[..]));
                body
            }
            other => panic!("no answer: {other:?}"),
        }
    }

    /// The JSON body of the filter's answer.
    #[track_caller]
    pub fn body(&self) -> Value {
        match self {
            Self::Answered(answer) => serde_json::from_slice(&answer.body).unwrap(),
            other => panic!("not answered: {other:?}"),
        }
    }

    /// Status and code of the filter's answer.
    #[track_caller]
    pub fn refusal(&self) -> (u32, String) {
        match self {
            Self::Answered(answer) => {
                let body = self.body();
                assert_eq!(body["status"], answer.status);
                (answer.status, body["code"].as_str().unwrap().to_owned())
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    #[track_caller]
    pub fn expect_refusal(&self, status: u32, code: &str) {
        assert_eq!(self.refusal(), (status, code.to_owned()));
    }

    #[track_caller]
    pub fn expect_invalid(&self) {
        self.expect_refusal(401, "invalid_api_key");
    }

    #[track_caller]
    pub fn expect_unavailable(&self) {
        self.expect_refusal(503, "identity_provider_unavailable");
    }

    pub fn is_crash(&self) -> bool {
        matches!(self, Self::Crashed(_))
    }
}
