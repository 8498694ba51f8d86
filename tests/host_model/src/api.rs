//! Requests to the management API, on a gateway with a route of its own for it.

use serde_json::{Value, json};

use super::abi::{Pairs, pairs};
use super::gateway::{Body, Gateway, Outcome, configuration};
use super::keycloak_adapter::{RealmKey, User};
use super::node::Profile;

pub const AUDIENCE: &str = "key-api";
pub const KEYS: &str = "/api/v1/api-keys";

/// The route of the API; the first route is the exchange's.
pub const API: usize = 1;

/// A worker of a gateway that exchanges on its first route and manages on its second.
pub fn gateway(profile: Profile, users: Vec<User>, changes: &Value) -> Gateway {
    let mut gateway = Gateway::new(profile, users);
    gateway.keycloaks.borrow_mut().realm("demo").keys = vec![RealmKey::Es256, RealmKey::Rs256];
    gateway.add_route(&management(profile, changes));
    gateway
}

pub fn management(profile: Profile, changes: &Value) -> Value {
    let mut fields = json!({ "mode": "manage", "audience": AUDIENCE, "bcrypt_cost": 5 });
    for (field, value) in changes.as_object().into_iter().flatten() {
        fields[field] = value.clone();
    }
    configuration(profile, &fields)
}

/// A request to the API.
#[derive(Clone)]
pub struct Call {
    pub headers: Pairs,
    pub body: Option<Body>,
}

impl Call {
    pub fn new(method: &str, path: &str) -> Self {
        let path = format!("{KEYS}{path}");
        Self {
            headers: pairs(&[(":method", method), (":path", &path)]),
            body: None,
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.extend(pairs(&[(name, value)]));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name.as_bytes());
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn json(mut self, body: &Value) -> Self {
        let text = body.to_string();
        self.body = Some(Body::whole(text.as_bytes()));
        self.header("content-type", "application/json")
            .header("content-length", &text.len().to_string())
    }

    /// The same, with its body in pieces of so many bytes.
    pub fn chunked(mut self, bytes: usize) -> Self {
        let body = self.body.as_mut().unwrap();
        let whole = body.chunks.concat();
        body.chunks = whole.chunks(bytes).map(<[u8]>::to_vec).collect();
        self
    }

    /// The same, with its body changed by this function.
    pub fn with_body(mut self, change: impl FnOnce(&mut Body)) -> Self {
        change(self.body.as_mut().unwrap());
        self
    }
}

impl Gateway {
    /// An access token of a user, really signed; a secret from now on.
    pub fn token(&self, user: &str, key: RealmKey) -> String {
        let now = self.now().as_seconds();
        let token = key.sign(&json!({
            "iss": super::keycloak_adapter::ISSUER, "sub": user, "aud": AUDIENCE,
            "typ": "Bearer", "azp": "console", "jti": "onrtac:1", "iat": now, "exp": now + 3_600,
        }));
        let tokens = &mut self.keycloaks.borrow_mut().traffic.caller_tokens;
        tokens.push(token.clone());
        token
    }

    /// Sends a request to the API, and runs it to its first pause.
    pub fn send_call(&mut self, worker: usize, call: &Call) -> usize {
        self.send_with(worker, API, &call.headers, call.body.as_ref())
    }

    /// The same, to the request's end.
    pub fn call(&mut self, call: &Call) -> Outcome {
        let index = self.send_call(0, call);
        self.finish(index)
    }

    /// Makes a key for a user; returns its id and its text.
    pub fn make(&mut self, user: &str) -> (String, String) {
        let token = self.token(user, RealmKey::Es256);
        let call = Call::new("POST", "").bearer(&token);
        let told = self.call(&call.json(&json!({ "name": "n" }))).told(201);
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        (text("key_id"), text("api_key"))
    }
}
