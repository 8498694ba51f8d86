//! A Keycloak for the machine: answers calls as the real one was measured to.

use std::collections::{BTreeMap, HashSet};

use apikey_jwt_exchange::api_key::hash::{hash_bcrypt, hash_sha256};
use apikey_jwt_exchange::api_key::record::{Field, index_value, key_value};
use apikey_jwt_exchange::clock::UnixMillis;
use apikey_jwt_exchange::keycloak::Call;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub const ISSUER: &str = "https://login.example.com/realms/demo";

/// A user with its keys.
#[derive(Clone)]
pub struct User {
    pub id: String,
    pub enabled: bool,
    pub linked: bool,
    pub attributes: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            enabled: true,
            linked: true,
            attributes: BTreeMap::new(),
        }
    }

    /// Adds a key; `hash` is what `apiKeys` holds of it.
    pub fn with_key(mut self, id: &str, hash: &str, ends_at: UnixMillis) -> Self {
        self.attributes
            .entry("apiKeys".into())
            .or_default()
            .push(key_value(id, hash));
        self.attributes
            .entry("apiKeyIndex".into())
            .or_default()
            .push(index_value(id));
        self.attributes
            .insert(Field::ExpiresAt.attribute(id), vec![ends_at.to_rfc3339()]);
        self
    }

    pub fn with_scopes(mut self, id: &str, scopes: &str) -> Self {
        self.attributes
            .insert(Field::Scopes.attribute(id), vec![scopes.into()]);
        self
    }
}

pub fn bcrypt_of(key: &str) -> String {
    hash_bcrypt(key.as_bytes(), 5, [9; 16]).unwrap()
}

pub fn sha256_of(key: &str) -> String {
    hash_sha256(key.as_bytes())
}

/// An answer: status and body.
pub type Reply = (u16, Vec<u8>);

#[derive(Default)]
pub struct FakeKeycloak {
    pub users: Vec<User>,
    pub management_roles: Vec<&'static str>,
    pub token_life_seconds: u64,
    /// Service tokens that are no longer taken.
    pub revoked_tokens: HashSet<String>,
    pub calls: Calls,
    seen_jti: HashSet<String>,
    pub granted_scopes: Vec<String>,
    issued: u64,
}

/// How often each endpoint was called.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    pub service_token: u32,
    pub lookup: u32,
    pub grant: u32,
}

impl FakeKeycloak {
    pub fn new(users: Vec<User>) -> Self {
        Self {
            users,
            management_roles: vec!["view-users", "query-users"],
            token_life_seconds: 300,
            ..Self::default()
        }
    }

    pub fn answer(&mut self, call: &Call, now: UnixMillis) -> Reply {
        if call.method == "GET" {
            self.calls.lookup += 1;
            return self.search(call);
        }
        assert_eq!(call.path, "/realms/demo/protocol/openid-connect/token");
        let form = form(call);
        let client = claims(&form["client_assertion"]);
        assert_eq!(
            (&client["iss"], &client["sub"]),
            (&json!("api-key-gateway"), &client["iss"])
        );
        if let Some(refusal) = self.take_once(&client, now) {
            return refusal;
        }
        match form["grant_type"].as_str() {
            "client_credentials" => {
                self.calls.service_token += 1;
                let roles = self.management_roles.clone();
                let extra = json!({ "realm-management": { "roles": roles } });
                self.token("gateway", self.token_life_seconds, &extra, now)
            }
            "urn:ietf:params:oauth:grant-type:jwt-bearer" => {
                self.calls.grant += 1;
                self.granted_scopes
                    .push(form.get("scope").cloned().unwrap_or_default());
                self.grant(&claims(&form["assertion"]), now)
            }
            other => panic!("grant_type {other}"),
        }
    }

    /// Takes each assertion once and checks its times as Keycloak does.
    fn take_once(&mut self, claims: &Value, now: UnixMillis) -> Option<Reply> {
        assert_eq!(claims["aud"], ISSUER);
        let jti = claims["jti"].as_str().unwrap().to_owned();
        if !self.seen_jti.insert(jti) {
            return Some(refused("Token reuse detected"));
        }
        if claims["iat"].as_u64().unwrap() > now.as_seconds() {
            return Some(refused("Token was issued in the future"));
        }
        (claims["exp"].as_u64().unwrap() <= now.as_seconds())
            .then(|| refused("Token is not active"))
    }

    fn grant(&mut self, assertion: &Value, now: UnixMillis) -> Reply {
        assert_eq!(assertion["iss"], "https://api-key-gateway.invalid");
        if let Some(refusal) = self.take_once(assertion, now) {
            return refusal;
        }
        let subject = assertion["sub"].as_str().unwrap();
        match self.users.iter().find(|user| user.id == subject) {
            Some(user) if user.linked && !user.enabled => refused("User is not enabled"),
            Some(user) if user.linked => {
                let left = assertion["exp"].as_u64().unwrap() - now.as_seconds();
                let life = left.min(self.token_life_seconds);
                self.token(subject, life, &Value::Null, now)
            }
            _ => refused("User not found"),
        }
    }

    fn search(&self, call: &Call) -> Reply {
        let token = call.bearer.as_deref().unwrap();
        if self.revoked_tokens.contains(token) {
            return (401, br#"{"error":"HTTP 401 Unauthorized"}"#.to_vec());
        }
        let query = call.path.split_once("q=apiKeyIndex%3A").unwrap().1;
        let found: Vec<Value> = self
            .users
            .iter()
            .filter(|user| {
                let index = user.attributes.get("apiKeyIndex").into_iter().flatten();
                index.into_iter().any(|value| value.eq_ignore_ascii_case(query))
            })
            .take(2)
            .map(|user| {
                json!({ "id": user.id, "enabled": user.enabled, "attributes": user.attributes })
            })
            .collect();
        (200, Value::from(found).to_string().into_bytes())
    }

    fn token(&mut self, subject: &str, life: u64, access: &Value, now: UnixMillis) -> Reply {
        self.issued += 1;
        let exp = now.as_seconds() + life;
        let jwt = jwt(&json!({
            "iss": ISSUER, "sub": subject, "exp": exp, "jti": self.issued,
            "resource_access": access,
        }));
        (200, token_answer(&jwt, life))
    }
}

pub fn refused(description: &str) -> Reply {
    let body = json!({ "error": "invalid_grant", "error_description": description });
    (400, body.to_string().into_bytes())
}

pub fn token_answer(jwt: &str, expires_in: u64) -> Vec<u8> {
    json!({ "access_token": jwt, "expires_in": expires_in, "token_type": "Bearer" })
        .to_string()
        .into_bytes()
}

pub fn jwt(claims: &Value) -> String {
    format!(
        "eyJhbGciOiJSUzI1NiJ9.{}.c2ln",
        URL_SAFE_NO_PAD.encode(claims.to_string())
    )
}

pub fn claims(jwt: &str) -> Value {
    let payload = URL_SAFE_NO_PAD
        .decode(jwt.split('.').nth(1).unwrap())
        .unwrap();
    serde_json::from_slice(&payload).unwrap()
}

fn form(call: &Call) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8()
            .unwrap()
            .into_owned()
    };
    let pairs = call.form.as_deref().unwrap().split('&');
    pairs
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(n, v)| (n.into(), decode(v)))
        .collect()
}
