//! A Keycloak of one realm, made up: answers calls as the real one was measured to.
//!
//! Users with their attributes and links, the search without case, tokens and
//! assertions that are taken once, roles, admin events. It verifies no signature;
//! the end-to-end suite has the real one do that. Its clock is the caller's.

#![allow(
    dead_code,
    reason = "each suite that takes this module uses a part of it"
)]

use std::collections::{BTreeMap, HashSet};

use apikey_jwt_exchange::api_key::hash::{hash_bcrypt, hash_sha256};
use apikey_jwt_exchange::api_key::record::{Field, index_value, key_value};
use apikey_jwt_exchange::clock::UnixMillis;
use apikey_jwt_exchange::keycloak::Call;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The issuer of the realm that [`FakeKeycloak::new`] makes.
pub const ISSUER: &str = "https://login.example.com/realms/demo";

/// The signature of every token: whoever looks for a token in a log looks for this.
pub const SIGNATURE: &str = "c2lnbmF0dXJlLW9mLWEtdG9rZW4tb2YtdGhlLW1vZGVs";

/// The salt of every bcrypt hash: whoever looks for a hash looks for what it becomes.
pub const SALT: [u8; 16] = [9; 16];

/// What the account that the gateway acts as is called in tokens.
pub const SERVICE_ACCOUNT: &str = "gateway";

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

    /// Takes a key away, with all that is stored of it.
    pub fn remove_key(&mut self, id: &str) {
        let mark = format!("key:{id}:");
        for values in self.attributes.values_mut() {
            values.retain(|value| !value.starts_with(&mark) && *value != index_value(id));
        }
        for field in Field::ALL {
            self.attributes.remove(&field.attribute(id));
        }
    }

    /// As the admin REST interface shows it.
    pub fn representation(&self) -> Value {
        json!({ "id": self.id, "enabled": self.enabled, "attributes": self.attributes })
    }
}

pub fn bcrypt_of(key: &str) -> String {
    hash_bcrypt(key.as_bytes(), 5, SALT).unwrap()
}

pub fn sha256_of(key: &str) -> String {
    hash_sha256(key.as_bytes())
}

/// An answer: status and body.
pub type Reply = (u16, Vec<u8>);

/// What an administrator did to a user.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// A line of the realm's admin events.
#[derive(Clone)]
pub struct AdminEvent {
    /// When it was done.
    pub time: UnixMillis,
    /// From when on a search shows it: an event can come late.
    pub visible_at: UnixMillis,
    pub operation: Operation,
    /// `users/<id>` and perhaps more.
    pub resource_path: String,
}

/// What becomes of the admin event of an edit.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum EventFate {
    #[default]
    Shown,
    Lost,
    Late(u64),
    Twice,
}

#[derive(Default)]
pub struct FakeKeycloak {
    pub realm: String,
    pub users: Vec<User>,
    pub management_roles: Vec<&'static str>,
    pub token_life_seconds: u64,
    /// A token ends with the assertion that it was given for at the latest: the
    /// provider's `jwtAuthorizationGrantLimitAccessTokenExp`.
    pub limits_tokens: bool,
    /// Service tokens that are no longer taken.
    pub revoked_tokens: HashSet<String>,
    pub calls: Calls,
    pub granted_scopes: Vec<String>,
    /// Assertions that came a second time.
    pub reuses: u32,
    pub events: Vec<AdminEvent>,
    seen_jti: HashSet<String>,
    service_tokens: BTreeMap<String, u64>,
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
        Self::of_realm("demo", users)
    }

    pub fn of_realm(realm: &str, users: Vec<User>) -> Self {
        Self {
            realm: realm.to_owned(),
            users,
            management_roles: vec!["view-users", "query-users"],
            token_life_seconds: 300,
            limits_tokens: true,
            ..Self::default()
        }
    }

    pub fn issuer(&self) -> String {
        format!("https://login.example.com/realms/{}", self.realm)
    }

    pub fn answer(&mut self, call: &Call, now: UnixMillis) -> Reply {
        if call.method == "GET" {
            return self.admin(call, now);
        }
        let token_path = format!("/realms/{}/protocol/openid-connect/token", self.realm);
        assert_eq!(call.path, token_path);
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
                self.service_token(now)
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

    /// Does something to a user, as an administrator would; an event tells of it.
    pub fn edit(
        &mut self,
        id: &str,
        now: UnixMillis,
        fate: EventFate,
        edit: impl FnOnce(&mut User),
    ) -> bool {
        let Some(user) = self.users.iter_mut().find(|user| user.id == id) else {
            return false;
        };
        edit(user);
        self.tell(id, Operation::Update, now, fate);
        true
    }

    pub fn delete(&mut self, id: &str, now: UnixMillis, fate: EventFate) -> Option<User> {
        let at = self.users.iter().position(|user| user.id == id)?;
        self.tell(id, Operation::Delete, now, fate);
        Some(self.users.remove(at))
    }

    pub fn create(&mut self, user: User, now: UnixMillis, fate: EventFate) {
        self.tell(&user.id, Operation::Create, now, fate);
        self.users.push(user);
    }

    fn tell(&mut self, id: &str, operation: Operation, now: UnixMillis, fate: EventFate) {
        let (copies, late) = match fate {
            EventFate::Shown => (1, 0),
            EventFate::Lost => (0, 0),
            EventFate::Late(ms) => (1, ms),
            EventFate::Twice => (2, 0),
        };
        for _ in 0..copies {
            self.events.push(AdminEvent {
                time: now,
                visible_at: now.plus_ms(late),
                operation,
                resource_path: format!("users/{id}"),
            });
        }
    }

    /// Takes none of the service tokens any more that it gave so far.
    pub fn revoke_tokens(&mut self) {
        self.service_tokens.clear();
    }

    /// Takes each assertion once and checks its times as Keycloak does.
    fn take_once(&mut self, claims: &Value, now: UnixMillis) -> Option<Reply> {
        assert_eq!(claims["aud"], self.issuer());
        let jti = claims["jti"].as_str().unwrap().to_owned();
        if !self.seen_jti.insert(jti) {
            self.reuses += 1;
            return Some(refused("Token reuse detected"));
        }
        if claims["iat"].as_u64().unwrap() > now.as_seconds() {
            return Some(refused("Token was issued in the future"));
        }
        (claims["exp"].as_u64().unwrap() <= now.as_seconds())
            .then(|| refused("Token is not active"))
    }

    fn service_token(&mut self, now: UnixMillis) -> Reply {
        let jwt = self.give_service_token(now);
        (200, token_answer(&jwt, self.token_life_seconds))
    }

    /// A token of the gateway's account, as it is given without a question.
    pub fn give_service_token(&mut self, now: UnixMillis) -> String {
        let roles = self.management_roles.clone();
        let extra = json!({ "realm-management": { "roles": roles } });
        let life = self.token_life_seconds;
        let jwt = self.token(SERVICE_ACCOUNT, life, &extra, now);
        self.service_tokens
            .insert(jwt.clone(), now.as_seconds() + life);
        jwt
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
                let most = if self.limits_tokens { left } else { u64::MAX };
                let life = most.min(self.token_life_seconds);
                let jwt = self.token(subject, life, &Value::Null, now);
                (200, token_answer(&jwt, life))
            }
            _ => refused("User not found"),
        }
    }

    /// The admin REST interface.
    fn admin(&mut self, call: &Call, now: UnixMillis) -> Reply {
        let users = format!("/admin/realms/{}/users?", self.realm);
        let events = format!("/admin/realms/{}/admin-events?", self.realm);
        let token = call.bearer.as_deref().unwrap();
        let ends_at = self.service_tokens.get(token);
        let is_taken = ends_at.is_some_and(|exp| now.as_seconds() < *exp);
        if let Some(query) = call.path.strip_prefix(&users) {
            self.calls.lookup += 1;
            if !is_taken || self.revoked_tokens.contains(token) {
                return (401, br#"{"error":"HTTP 401 Unauthorized"}"#.to_vec());
            }
            self.search(query)
        } else if let Some(query) = call.path.strip_prefix(&events) {
            if !is_taken || self.revoked_tokens.contains(token) {
                return (401, br#"{"error":"HTTP 401 Unauthorized"}"#.to_vec());
            }
            self.admin_events(query, now)
        } else {
            panic!("no such path of the admin interface: {}", call.path)
        }
    }

    fn search(&self, query: &str) -> Reply {
        let query = query.split_once("q=apiKeyIndex%3A").unwrap().1;
        // With a lesser role the answer is empty, and not an error.
        let may_view = self.management_roles.contains(&"view-users");
        let found: Vec<Value> = self
            .users
            .iter()
            .filter(|user| {
                let index = user.attributes.get("apiKeyIndex").into_iter().flatten();
                may_view
                    && index
                        .into_iter()
                        .any(|value| value.eq_ignore_ascii_case(query))
            })
            .take(2)
            .map(User::representation)
            .collect();
        (200, Value::from(found).to_string().into_bytes())
    }

    /// Events of users since `dateFrom`, the newest first.
    fn admin_events(&self, query: &str, now: UnixMillis) -> Reply {
        if !self.management_roles.contains(&"view-events") {
            return (403, br#"{"error":"HTTP 403 Forbidden"}"#.to_vec());
        }
        let from = query.split_once("dateFrom=").map_or("0", |(_, from)| from);
        let from: u64 = from.split('&').next().unwrap().parse().unwrap();
        let name = |operation| match operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        };
        let shown = self.events.iter().rev();
        let shown = shown.filter(|event| event.time.0 >= from && event.visible_at <= now);
        let shown: Vec<Value> = shown
            .map(|event| {
                json!({
                    "time": event.time.0,
                    "operationType": name(event.operation),
                    "resourceType": "USER",
                    "resourcePath": event.resource_path,
                })
            })
            .collect();
        (200, Value::from(shown).to_string().into_bytes())
    }

    fn token(&mut self, subject: &str, life: u64, access: &Value, now: UnixMillis) -> String {
        self.issued += 1;
        jwt(&json!({
            "iss": self.issuer(), "sub": subject, "exp": now.as_seconds() + life,
            "jti": self.issued, "resource_access": access,
        }))
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
        "eyJhbGciOiJSUzI1NiJ9.{}.{SIGNATURE}",
        URL_SAFE_NO_PAD.encode(claims.to_string())
    )
}

pub fn claims(jwt: &str) -> Value {
    let payload = URL_SAFE_NO_PAD
        .decode(jwt.split('.').nth(1).unwrap())
        .unwrap();
    serde_json::from_slice(&payload).unwrap()
}

pub fn form(call: &Call) -> BTreeMap<String, String> {
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
