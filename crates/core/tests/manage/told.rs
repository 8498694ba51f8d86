//! An answer of the API as a client sees it.

use apikeys_core::manage::Answer;
use serde_json::Value;

use super::request::Request;

/// The id by which the shell knows a request.
pub const REQUEST_ID: &str = "0123456789abcdef0123456789abcdef";

pub struct Told {
    pub request: Request,
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub text: Option<String>,
    /// Why, for the log alone.
    pub reason: Option<String>,
}

impl Told {
    pub fn new(request: &Request, answer: &Answer, reason: Option<&String>) -> Self {
        Self {
            request: request.clone(),
            status: answer.status,
            headers: answer.headers.clone(),
            text: answer.body(REQUEST_ID).map(|body| body.to_string()),
            reason: reason.cloned(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| *known == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert_eq!(found.count(), 0, "{name} twice");
        value
    }

    /// The body; `null` for none.
    pub fn body(&self) -> Value {
        let text = self.text.as_deref().unwrap_or("null");
        serde_json::from_str(text).unwrap()
    }

    /// The body of an answer with this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.why());
        self.body()
    }

    /// A refusal, with its detail.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> String {
        let body = self.expect(status);
        assert_eq!(body["code"], code, "{}", self.why());
        body["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// A new key: its id and its text.
    #[track_caller]
    pub fn made(&self) -> (String, String) {
        let body = self.expect(201);
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        (text("key_id"), text("api_key"))
    }

    /// The ids in a list.
    #[track_caller]
    pub fn ids(&self) -> Vec<String> {
        let body = self.expect(200);
        let keys = body["keys"].as_array().unwrap().iter();
        keys.map(|key| key["key_id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The answer in short, without the data that only its client may see.
    fn why(&self) -> String {
        let code = self.body()["code"].as_str().unwrap_or("-").to_owned();
        let (method, path) = (&self.request.method, &self.request.path);
        format!("{method} {path}: {} {code} {:?}", self.status, self.reason)
    }
}
