//! A request to the management API, as a client sends it.

use serde_json::Value;

/// Below this lies the API.
pub const KEYS: &str = "/api/v1/api-keys";

#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Option<Vec<u8>>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.into(),
            path: path.into(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn list(token: &str) -> Self {
        Self::new("GET", KEYS).bearer(token)
    }

    pub fn show(token: &str, id: &str) -> Self {
        Self::new("GET", &format!("{KEYS}/{id}")).bearer(token)
    }

    pub fn create(token: &str, body: &Value) -> Self {
        Self::new("POST", KEYS).bearer(token).json(body)
    }

    pub fn rotate(token: &str, id: &str, body: &Value) -> Self {
        let path = format!("{KEYS}/{id}/rotate");
        Self::new("POST", &path).bearer(token).json(body)
    }

    pub fn update(token: &str, id: &str, body: &Value) -> Self {
        let path = format!("{KEYS}/{id}");
        Self::new("PATCH", &path).bearer(token).json(body)
    }

    pub fn revoke(token: &str, id: &str) -> Self {
        Self::new("DELETE", &format!("{KEYS}/{id}")).bearer(token)
    }

    pub fn revoke_all(token: &str) -> Self {
        Self::new("DELETE", &format!("{KEYS}?all=true")).bearer(token)
    }

    pub fn validate(key: &str) -> Self {
        let body = serde_json::json!({ "api_key": key });
        Self::new("POST", &format!("{KEYS}/validate")).json(&body)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.as_bytes().to_vec()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn json(self, body: &Value) -> Self {
        self.with_body("application/json", body.to_string().as_bytes())
    }

    /// The same with another body.
    pub fn with_json(self, body: &Value) -> Self {
        self.without("content-type")
            .without("content-length")
            .json(body)
    }

    pub fn with_body(self, kind: &str, body: &[u8]) -> Self {
        let length = body.len().to_string();
        let mut request = self
            .header("content-type", kind)
            .header("content-length", &length);
        request.body = Some(body.to_vec());
        request
    }

    /// Takes a header away.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(found, _)| found != name);
        self
    }

    /// Takes a header's place.
    pub fn replace(self, name: &str, value: &str) -> Self {
        self.without(name).header(name, value)
    }

    /// Acts for another.
    pub fn for_user(mut self, id: &str) -> Self {
        let mark = if self.path.contains('?') { '&' } else { '?' };
        self.path.push_str(&format!("{mark}user_id={id}"));
        self
    }
}
