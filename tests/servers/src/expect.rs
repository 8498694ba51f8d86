//! Expected answers: the demo service's, or a problem of the gateway's.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::client::Response;
use crate::secrets;

/// The realm of the challenges; set once, when the world is made.
pub static REALM: OnceLock<String> = OnceLock::new();

/// The service's view of a request.
pub struct Orders {
    pub subject: String,
    pub username: String,
    pub headers: serde_json::Map<String, Value>,
    /// The token's claims.
    pub claims: Value,
    /// The token.
    pub token: String,
}

impl Orders {
    /// Whether this header did not reach the service.
    pub fn lacks(&self, name: &str) -> bool {
        is_gone(&self.headers.get(name).cloned().unwrap_or_default())
    }
}

/// Whether a header was removed. Kong still sends a header that a filter removes, so the
/// filter empties it there, and the service must treat an empty header as none.
pub fn is_gone(header: &Value) -> bool {
    header.as_str().is_none_or(str::is_empty)
}

impl Response {
    /// The service answered: its validator accepted the token.
    #[track_caller]
    pub fn orders(&self) -> Orders {
        assert_eq!(self.status, 200, "{}", self.describe());
        let body = self.json();
        let headers = body["headers"].as_object().expect("the headers").clone();
        let authorization = headers["authorization"].as_str().expect("a header");
        let token = authorization
            .strip_prefix("Bearer ")
            .expect("a Bearer token")
            .to_owned();
        secrets::register(&token);
        Orders {
            subject: body["subject"].as_str().expect("a subject").to_owned(),
            username: body["username"].as_str().expect("a username").to_owned(),
            claims: claims(&token),
            headers,
            token,
        }
    }

    /// The gateway refused, in the documented form; returns the request id.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        let seen = self.describe();
        assert_eq!(self.status, status, "{seen}");
        let body = self.json();
        assert_eq!(body["code"], code, "{seen}");
        assert_eq!(body["status"], status, "{seen}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{seen}"
        );
        for name in ["type", "title", "request_id"] {
            let text = body[name].as_str();
            assert!(
                text.is_some_and(|text| !text.is_empty()),
                "no {name}: {seen}"
            );
        }
        let realm = REALM.get().expect("the realm");
        let challenge =
            (status == 401).then(|| format!("ApiKey realm=\"{realm}\", Bearer realm=\"{realm}\""));
        assert_eq!(
            self.header("www-authenticate"),
            challenge.as_deref(),
            "{seen}"
        );
        let may_retry = self
            .header("retry-after")
            .is_some_and(|seconds| seconds.parse::<u32>().is_ok_and(|seconds| seconds > 0));
        assert_eq!(may_retry, matches!(status, 429 | 503), "{seen}");
        body["request_id"].as_str().expect("an id").to_owned()
    }

    /// The one answer for all bad keys.
    #[track_caller]
    pub fn invalid_api_key(&self) -> String {
        self.problem(401, "invalid_api_key")
    }

    /// Keycloak could not be asked.
    #[track_caller]
    pub fn unavailable(&self) -> String {
        self.problem(503, "identity_provider_unavailable")
    }

    /// Refused as a client's error, by the filter or by the host before it; 501 is for a
    /// transfer coding that the host does not know (RFC 9112, 6.1).
    #[track_caller]
    pub fn refused_cleanly(&self) {
        let is_clients = matches!(self.status, 400..=499 | 501);
        assert!(is_clients, "{}", self.describe());
        if self.header("content-type") == Some("application/problem+json") {
            let code = self.json()["code"].as_str().unwrap_or_default().to_owned();
            self.problem(self.status, &code);
        }
    }
}

/// The claims of a JWT, unverified.
#[track_caller]
pub fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a JWT");
    let payload = URL_SAFE_NO_PAD.decode(payload).expect("a JWT");
    serde_json::from_slice(&payload).expect("a JWT")
}
