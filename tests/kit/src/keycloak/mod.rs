//! A made-up Keycloak of one realm: it answers calls as the real one was measured to.
//!
//! It has users with their attributes and links, the search without case, tokens and
//! assertions that are taken once, the roles of both clients, both logs, the realm's
//! keys. It verifies no signature; the end-to-end suite has the real one do that. Its
//! clock is the caller's.

#![allow(
    dead_code,
    unused_imports,
    reason = "each suite that takes this module uses a part of it"
)]

use std::collections::{BTreeMap, HashSet};

mod asked;
mod events;
mod groups;
mod signing;
mod users;

use apikeys_core::api_key::hash::{hash_bcrypt, hash_sha256};
use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::Call;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use groups::Groups;

pub use asked::asked;
pub use events::{AdminEvent, EventFate, GrantEvent, Operation};
pub use signing::RealmKey;
pub use users::{PROVIDER, User};

/// The issuer of the realm that [`FakeKeycloak::new`] makes.
pub const ISSUER: &str = "https://login.example.com/realms/demo";

/// The signature of every token: a search for tokens in a log looks for this.
pub const SIGNATURE: &str = "c2lnbmF0dXJlLW9mLWEtdG9rZW4tb2YtdGhlLW1vZGVs";

/// The salt of every bcrypt hash: a search for hashes looks for its encoded form.
pub const SALT: [u8; 16] = [9; 16];

/// The gateway's account, by its name in tokens.
pub const SERVICE_ACCOUNT: &str = "gateway";

pub fn bcrypt_of(key: &str) -> String {
    hash_bcrypt(key.as_bytes(), 5, SALT).unwrap()
}

pub fn sha256_of(key: &str) -> String {
    hash_sha256(key.as_bytes())
}

/// An answer: status and body.
pub type Reply = (u16, Vec<u8>);

/// The gateway's client, and the one that manages keys.
pub const GATEWAY_CLIENT: &str = "api-key-gateway";
pub const MANAGER_CLIENT: &str = "api-key-manager";

/// The account that the management API acts as, by its name in tokens.
const MANAGER_ACCOUNT: &str = "manager";

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

#[derive(Default)]
pub struct FakeKeycloak {
    pub realm: String,
    pub users: Vec<User>,
    /// The roles of the gateway's account.
    pub management_roles: Vec<&'static str>,
    /// The roles of the account that manages keys.
    pub manager_roles: Vec<&'static str>,
    /// Its clients give lightweight tokens, which list no roles.
    pub lightweight: bool,
    pub token_life_seconds: u64,
    /// A token ends no later than its assertion: the provider's
    /// `jwtAuthorizationGrantLimitAccessTokenExp`.
    pub limits_tokens: bool,
    /// Service tokens that are no longer taken.
    pub revoked_tokens: HashSet<String>,
    /// No service token is taken, not even one that was just given.
    pub takes_no_token: bool,
    pub calls: Calls,
    /// How often a management request made each kind of call.
    pub asked: BTreeMap<&'static str, u32>,
    pub granted_scopes: Vec<String>,
    /// Assertions that came a second time.
    pub reuses: u32,
    pub events: Vec<AdminEvent>,
    /// The realm keeps no admin events.
    pub events_off: bool,
    /// The issuer that the realm names, if it is not [`FakeKeycloak::issuer`].
    pub names_issuer: Option<&'static str>,
    /// The writers of attributes: the profile's `unmanagedAttributePolicy`.
    pub attribute_policy: Option<&'static str>,
    /// The number of requests for admin events.
    pub polls: u32,
    /// The realm keeps user events.
    pub keeps_grants: bool,
    pub grants: Vec<GrantEvent>,
    /// The scopes that the gateway's client can have.
    pub scopes: Vec<&'static str>,
    /// The realm's identity providers.
    pub providers: Vec<String>,
    /// The realm's groups: claims to break a lock.
    pub groups: Groups,
    /// The keys that the realm shows.
    pub keys: Vec<RealmKey>,
    seen_jti: HashSet<String>,
    service_tokens: BTreeMap<String, Given>,
    issued: u64,
}

/// A token that was given to one of our accounts.
struct Given {
    exp: u64,
    client: &'static str,
}

/// The number of an exchange's calls to each endpoint; `service_token` also counts
/// those of the management API.
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
            manager_roles: vec!["manage-users", "view-events"],
            token_life_seconds: 300,
            limits_tokens: true,
            keeps_grants: true,
            attribute_policy: Some("ADMIN_EDIT"),
            scopes: vec!["openid", "profile", "email", "orders:read", "orders:write"],
            providers: [PROVIDER, "api-keys-lock"].map(str::to_owned).to_vec(),
            keys: vec![RealmKey::Rs256],
            ..Self::default()
        }
    }

    pub fn issuer(&self) -> String {
        format!("https://login.example.com/realms/{}", self.realm)
    }

    pub fn answer(&mut self, call: &Call, now: UnixMillis) -> Reply {
        let realm = format!("/realms/{}", self.realm);
        if call.path == format!("{realm}/.well-known/openid-configuration") {
            assert_eq!((call.method, &call.bearer), ("GET", &None));
            self.count("discovery");
            let issuer = self.issuer();
            return shown(&json!({ "issuer": self.names_issuer.unwrap_or(&issuer) }));
        }
        match call
            .path
            .strip_prefix(&format!("{realm}/protocol/openid-connect"))
        {
            Some("/token") => self.token_endpoint(&form(call), now),
            Some("/certs") => {
                assert_eq!((call.method, &call.bearer), ("GET", &None));
                self.count("keys");
                (200, signing::jwks(&self.keys).to_string().into_bytes())
            }
            Some(other) => panic!("no such path: {other}"),
            None => self.admin(call, now),
        }
    }

    fn token_endpoint(&mut self, form: &BTreeMap<String, String>, now: UnixMillis) -> Reply {
        let assertion = claims(&form["client_assertion"]);
        assert_eq!(assertion["iss"], assertion["sub"]);
        let name = assertion["iss"].as_str().unwrap();
        let clients = [GATEWAY_CLIENT, MANAGER_CLIENT];
        let client = clients.into_iter().find(|client| *client == name);
        let client = client.unwrap_or_else(|| panic!("no client {name}"));
        if let Some(refusal) = self.take_once(&assertion, now) {
            return refusal;
        }
        match (form["grant_type"].as_str(), form.get("scope")) {
            ("client_credentials", Some(scope)) if client == GATEWAY_CLIENT => {
                self.count("scopes");
                if !scope.split(' ').all(|one| self.scopes.contains(&one)) {
                    return oauth_error("invalid_scope", &format!("Invalid scopes: {scope}"));
                }
                self.service_token(client, now)
            }
            ("client_credentials", None) => {
                self.calls.service_token += 1;
                self.service_token(client, now)
            }
            (JWT_BEARER, scope) if client == GATEWAY_CLIENT => {
                self.calls.grant += 1;
                self.granted_scopes.push(scope.cloned().unwrap_or_default());
                let jti = assertion["jti"].as_str().unwrap();
                self.grant(&claims(&form["assertion"]), jti, now)
            }
            other => panic!("{client}: {other:?}"),
        }
    }

    fn count(&mut self, asked: &'static str) {
        *self.asked.entry(asked).or_default() += 1;
    }

    pub fn user(&mut self, id: &str) -> &mut User {
        let found = self.users.iter_mut().find(|user| user.id == id);
        found.unwrap_or_else(|| panic!("no user {id}"))
    }

    /// Changes a user, as an administrator would; an event tells of it.
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
        self.tell_of(&format!("users/{id}"), operation, now, fate);
    }

    /// Notes an operation on the resource of this path.
    fn tell_of(&mut self, path: &str, operation: Operation, now: UnixMillis, fate: EventFate) {
        if self.events_off {
            return;
        }
        let (copies, late) = match fate {
            EventFate::Shown => (1, 0),
            EventFate::Lost => (0, 0),
            EventFate::Late(ms) => (1, ms),
            EventFate::Twice => (2, 0),
        };
        for _ in 0..copies {
            self.events.push(AdminEvent {
                id: format!("event-{}", self.events.len()),
                time: now,
                visible_at: now.plus_ms(late),
                operation,
                resource_path: path.to_owned(),
            });
        }
    }

    /// Revokes all service tokens given so far.
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

    fn service_token(&mut self, client: &'static str, now: UnixMillis) -> Reply {
        let jwt = self.give_token(client, now);
        (200, token_answer(&jwt, self.token_life_seconds))
    }

    /// Gives a token of the gateway's account without checking a request.
    pub fn give_service_token(&mut self, now: UnixMillis) -> String {
        self.give_token(GATEWAY_CLIENT, now)
    }

    fn give_token(&mut self, client: &'static str, now: UnixMillis) -> String {
        let account = match client {
            GATEWAY_CLIENT => SERVICE_ACCOUNT,
            _ => MANAGER_ACCOUNT,
        };
        let access = json!({ "realm-management": { "roles": self.roles(client) } });
        let life = self.token_life_seconds;
        let jwt = self.token(account, client, life, &access, now);
        let exp = now.as_seconds() + life;
        self.service_tokens
            .insert(jwt.clone(), Given { exp, client });
        jwt
    }

    /// Keycloak minds the roles of the moment, not those in a token.
    fn roles(&self, client: &str) -> &[&'static str] {
        match client {
            GATEWAY_CLIENT => &self.management_roles,
            _ => &self.manager_roles,
        }
    }

    fn grant(&mut self, assertion: &Value, client_jti: &str, now: UnixMillis) -> Reply {
        assert_eq!(assertion["iss"], "https://api-key-gateway.invalid");
        if let Some(refusal) = self.take_once(assertion, now) {
            return refusal;
        }
        let subject = assertion["sub"].as_str().unwrap();
        let linked = |user: &&User| {
            let link = user.links.get(PROVIDER);
            link.is_some_and(|(id, _)| id == subject)
        };
        let Some(user) = self.users.iter().find(linked) else {
            return refused("User not found");
        };
        if !user.enabled {
            return refused("User is not enabled");
        }
        if self.keeps_grants {
            self.grants.push(GrantEvent {
                time: now,
                user_id: user.id.clone(),
                client_assertion_id: Some(client_jti.to_owned()),
            });
        }
        let left = assertion["exp"].as_u64().unwrap() - now.as_seconds();
        let most = if self.limits_tokens { left } else { u64::MAX };
        let life = most.min(self.token_life_seconds);
        let id = user.id.clone();
        let jwt = self.token(&id, GATEWAY_CLIENT, life, &json!({}), now);
        (200, token_answer(&jwt, life))
    }

    /// The admin REST interface.
    fn admin(&mut self, call: &Call, now: UnixMillis) -> Reply {
        let admin = format!("/admin/realms/{}/", self.realm);
        let Some(path) = call.path.strip_prefix(&admin) else {
            panic!("no such path of the admin interface: {}", call.path)
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let is_lookup = path == "users" && query.contains("q=");
        if is_lookup {
            self.calls.lookup += 1;
        }
        let token = call.bearer.as_deref().unwrap();
        let given = self.service_tokens.get(token);
        let taken = !self.takes_no_token && !self.revoked_tokens.contains(token);
        let Some(given) = given.filter(|given| taken && now.as_seconds() < given.exp) else {
            return error(401, "HTTP 401 Unauthorized");
        };
        let client = given.client;
        let has = |keycloak: &Self, role| keycloak.roles(client).contains(&role);
        let may_see_events = has(self, "view-events");
        match path {
            "admin-events" | "events" | "events/config" if !may_see_events => {
                error(403, "HTTP 403 Forbidden")
            }
            "admin-events" => {
                self.polls += 1;
                shown(&events::admin(&self.events, query, now))
            }
            "events/config" => shown(&events::config(self.keeps_grants, !self.events_off)),
            "events" => {
                self.count("events");
                shown(&events::grants(&self.grants, query))
            }
            // With a lesser role the answer is empty, and not an error.
            "users" if is_lookup => {
                let sees = has(self, "view-users") || has(self, "manage-users");
                self.search(query, sees)
            }
            "users/profile" if has(self, "view-users") || has(self, "manage-users") => {
                self.count("profile");
                shown(&match self.attribute_policy {
                    Some(policy) => json!({ "unmanagedAttributePolicy": policy }),
                    None => json!({ "attributes": [] }),
                })
            }
            _ if !has(self, "manage-users") => error(403, "HTTP 403 Forbidden"),
            "users" => {
                self.count("holders");
                shown(&self.holders(query))
            }
            path => {
                let reply = if path.starts_with("groups") {
                    self.count("claim");
                    self.groups.answer(call, path, query)
                } else {
                    self.one_user(call, path.strip_prefix("users/").unwrap())
                };
                let operation = match call.method {
                    "POST" => Operation::Create,
                    "PUT" => Operation::Update,
                    _ => Operation::Delete,
                };
                if call.method != "GET" && reply.0 < 300 {
                    self.tell_of(path, operation, now, EventFate::Shown);
                }
                reply
            }
        }
    }

    /// Calls to one user: the user itself, or the user's links.
    fn one_user(&mut self, call: &Call, path: &str) -> Reply {
        let parts: Vec<String> = path.split('/').map(decoded).collect();
        let (what, provider) = match (call.method, parts.len()) {
            ("GET", 1) => ("user", None),
            ("PUT", 1) => ("write", None),
            ("GET", 2) => ("links", None),
            ("POST", 3) => ("link", Some(parts[2].as_str())),
            ("DELETE", 3) => ("unlink", Some(parts[2].as_str())),
            (method, _) => panic!("{method} {path}"),
        };
        assert!(
            parts.len() == 1 || parts[1] == "federated-identity",
            "{path}"
        );
        self.count(what);
        let body = call.json.as_deref().unwrap_or("null");
        let body: Value = serde_json::from_str(body).unwrap();
        let known = self.providers.clone();
        let Some(user) = self.users.iter_mut().find(|user| user.id == parts[0]) else {
            return error(404, "User not found");
        };
        match what {
            "user" => shown(&user.representation()),
            "write" => user.put(&body),
            _ => user.links(call.method, provider, &body, &known),
        }
    }

    /// The users with an id in their index.
    fn search(&self, query: &str, sees: bool) -> Reply {
        let query = query.split_once("q=apiKeyIndex%3A").unwrap().1;
        let holds = |user: &&User| {
            let index = user.attributes.get("apiKeyIndex").into_iter().flatten();
            sees && !user.unsearchable
                && index
                    .into_iter()
                    .any(|value| value.eq_ignore_ascii_case(query))
        };
        let found = self.users.iter().filter(holds).take(2);
        shown(&found.map(User::representation).collect())
    }

    /// The users with a link to a provider under an id.
    fn holders(&self, query: &str) -> Value {
        let asked: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        let holds = |user: &&User| {
            let link = user.links.get(&asked["idpAlias"]);
            link.is_some_and(|(id, _)| *id == asked["idpUserId"])
        };
        let found = self.users.iter().filter(holds);
        found.map(User::representation).collect()
    }

    fn token(
        &mut self,
        subject: &str,
        client: &str,
        life: u64,
        access: &Value,
        now: UnixMillis,
    ) -> String {
        self.issued += 1;
        let name = self.users.iter().find(|user| user.id == subject);
        let is_account = name.is_none();
        let mut claims = json!({
            "iss": self.issuer(), "sub": subject, "exp": now.as_seconds() + life,
            "iat": now.as_seconds(), "typ": "Bearer", "azp": client,
            "jti": format!("trrt{}:{}", if is_account { "cc" } else { "ag" }, self.issued),
            "resource_access": access,
        });
        if let Some(user) = name {
            claims["preferred_username"] = json!(user.username());
        }
        if self.lightweight {
            claims["jti"] = json!(format!("trltcc:{}", self.issued));
            claims["resource_access"] = Value::Null;
        }
        jwt(&claims)
    }
}

fn shown(value: &Value) -> Reply {
    (200, value.to_string().into_bytes())
}

/// An error of the admin REST interface.
fn error(status: u16, said: &str) -> Reply {
    (status, json!({ "error": said }).to_string().into_bytes())
}

/// An error of the token endpoint.
fn oauth_error(code: &str, description: &str) -> Reply {
    let body = json!({ "error": code, "error_description": description });
    (400, body.to_string().into_bytes())
}

pub fn refused(description: &str) -> Reply {
    oauth_error("invalid_grant", description)
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
    let pairs = call.form.as_deref().unwrap().split('&');
    pairs
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(n, v)| (n.into(), decoded(v)))
        .collect()
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .unwrap()
        .into_owned()
}
