//! Keycloak's admin REST interface, as an administrator or another tool uses it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::secrets;

/// An administrator of the realm.
pub struct Admin {
    url: String,
    realm: String,
    user: String,
    password: String,
    agent: ureq::Agent,
    token: Mutex<Option<(Instant, String)>>,
    created_users: Mutex<Vec<String>>,
}

/// Keycloak's answer.
pub struct Answer {
    pub status: u16,
    pub body: Value,
    /// The id of the created resource, at the end of the Location header.
    pub created_id: Option<String>,
}

impl Admin {
    pub fn new(url: &str, realm: &str, user: &str, password: &str) -> Self {
        secrets::register(password);
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        Self {
            url: url.trim_end_matches('/').to_owned(),
            realm: realm.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            agent,
            token: Mutex::new(None),
            created_users: Mutex::new(Vec::new()),
        }
    }

    /// Keycloak's base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The issuer of the realm's tokens.
    pub fn issuer(&self) -> String {
        format!("{}/realms/{}", self.url, self.realm)
    }

    /// Whether the realm answers.
    pub fn is_up(&self) -> Result<(), String> {
        match self.agent.get(&self.issuer()).call() {
            Ok(answer) if answer.status() == 200 => Ok(()),
            Ok(answer) => Err(format!("status {}", answer.status())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Makes a realm; returns this administrator for it.
    #[track_caller]
    pub fn new_realm(&self, realm: &Value) -> Self {
        let made = self.send("POST", &format!("{}/admin/realms", self.url), Some(realm));
        assert_eq!(made.status, 201, "{}", made.body);
        let name = realm["realm"].as_str().expect("a name");
        Self::new(&self.url, name, &self.user, &self.password)
    }

    /// Deletes the realm.
    pub fn delete_realm(&self) {
        let url = format!("{}/admin/realms/{}", self.url, self.realm);
        self.send("DELETE", &url, None);
    }

    /// The variables by which the tool finds this realm and its administrator.
    pub fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("KEYCLOAK_URL", self.url.clone()),
            ("KEYCLOAK_REALM", self.realm.clone()),
            ("KEYCLOAK_ADMIN_USER", self.user.clone()),
            ("KEYCLOAK_ADMIN_PASSWORD", self.password.clone()),
        ]
    }

    /// Calls the admin interface below the realm; returns its answer.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let url = format!("{}/admin/realms/{}/{path}", self.url, self.realm);
        self.send(method, &url, body)
    }

    fn send(&self, method: &str, url: &str, body: Option<&Value>) -> Answer {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", format!("Bearer {}", self.admin_token()));
        let response = match body {
            None => self.agent.run(request.body(()).unwrap()),
            Some(body) => {
                let request = request.header("content-type", "application/json");
                self.agent.run(request.body(body.to_string()).unwrap())
            }
        };
        let mut response = response.unwrap_or_else(|error| panic!("{method} {url}: {error}"));
        let created_id = response.headers().get("location").and_then(|location| {
            location
                .to_str()
                .ok()?
                .rsplit('/')
                .next()
                .map(str::to_owned)
        });
        let text = response.body_mut().read_to_string().unwrap_or_default();
        Answer {
            status: response.status().as_u16(),
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            created_id,
        }
    }

    /// The same; fails on a refusal.
    #[track_caller]
    pub fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.call(method, path, body);
        assert!(
            (200..300).contains(&answer.status),
            "{method} {path}: {} {}",
            answer.status,
            answer.body
        );
        answer
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.must("GET", path, None).body
    }

    /// Makes a user that can log in, with these attributes; returns the id.
    #[track_caller]
    pub fn create_user(&self, username: &str, attributes: &Value) -> String {
        let user = json!({
            "username": username, "email": format!("{username}@example.com"), "enabled": true,
            "emailVerified": true, "firstName": "Test", "lastName": "Owner",
            "attributes": attributes,
        });
        let answer = self.must("POST", "users", Some(&user));
        let id = answer.created_id.expect("the id of the new user");
        self.created_users.lock().unwrap().push(id.clone());
        id
    }

    /// Reads a user whole, changes it and writes it back whole.
    #[track_caller]
    pub fn edit_user(&self, id: &str, change: impl FnOnce(&mut Value)) {
        let path = format!("users/{id}");
        let mut user = self.get(&path);
        change(&mut user);
        self.must("PUT", &path, Some(&user));
    }

    /// Removes the users of [`Self::create_user`] that no trial deleted.
    pub fn delete_created_users(&self) {
        for id in self.created_users.lock().unwrap().drain(..) {
            self.call("DELETE", &format!("users/{id}"), None);
        }
    }

    /// The id of a client in Keycloak's own sense.
    #[track_caller]
    pub fn client_id(&self, name: &str) -> String {
        let found = self.get(&format!("clients?clientId={name}"));
        let id = found[0]["id"].as_str();
        id.unwrap_or_else(|| panic!("no client {name}")).to_owned()
    }

    /// The id of a client's service-account user.
    #[track_caller]
    pub fn service_account_id(&self, client: &str) -> String {
        let client = self.client_id(client);
        let user = self.get(&format!("clients/{client}/service-account-user"));
        user["id"].as_str().expect("a service account").to_owned()
    }

    /// A user's ordinary access token, by password at a public client.
    #[track_caller]
    pub fn password_token(&self, client: &str, user: &str, password: &str) -> String {
        let url = format!("{}/protocol/openid-connect/token", self.issuer());
        self.token_at(&url, client, user, password)
    }

    /// A service account's access token, by the client's secret.
    #[track_caller]
    pub fn client_token(&self, client: &str, secret: &str) -> String {
        let url = format!("{}/protocol/openid-connect/token", self.issuer());
        self.token_by(
            &url,
            &[
                ("grant_type", "client_credentials"),
                ("client_id", client),
                ("client_secret", secret),
            ],
        )
    }

    /// An access token of another realm's.
    /// The token that a client gets for another (RFC 8693).
    #[track_caller]
    pub fn exchanged_token(&self, client: &str, secret: &str, token: &str) -> String {
        const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
        let url = format!("{}/protocol/openid-connect/token", self.issuer());
        self.token_by(
            &url,
            &[
                (
                    "grant_type",
                    "urn:ietf:params:oauth:grant-type:token-exchange",
                ),
                ("client_id", client),
                ("client_secret", secret),
                ("subject_token", token),
                ("subject_token_type", ACCESS_TOKEN),
                ("requested_token_type", ACCESS_TOKEN),
            ],
        )
    }

    pub fn master_token(&self) -> String {
        self.admin_token()
    }

    fn admin_token(&self) -> String {
        let mut kept = self.token.lock().unwrap();
        if let Some((since, token)) = kept.as_ref()
            && since.elapsed() < Duration::from_secs(30)
        {
            return token.clone();
        }
        let url = format!("{}/realms/master/protocol/openid-connect/token", self.url);
        let token = self.token_at(&url, "admin-cli", &self.user, &self.password);
        *kept = Some((Instant::now(), token.clone()));
        token
    }

    #[track_caller]
    fn token_at(&self, url: &str, client: &str, user: &str, password: &str) -> String {
        self.token_by(
            url,
            &[
                ("grant_type", "password"),
                ("client_id", client),
                ("username", user),
                ("password", password),
            ],
        )
    }

    #[track_caller]
    fn token_by(&self, url: &str, form: &[(&str, &str)]) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pairs: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", encode(value)))
            .collect();
        let response = self
            .agent
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .send(pairs.join("&"));
        let mut response =
            response.unwrap_or_else(|error| panic!("signing in at Keycloak: {error}"));
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let token = answer["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("Keycloak gives no token: {}", answer["error_description"]));
        secrets::register(token);
        token.to_owned()
    }
}
