//! A realm for one test, and the tool run against it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use apikeys_core::signing_key::SigningKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: these tests need a running Keycloak, given by KEYCLOAK_URL, \
             KEYCLOAK_ADMIN_USER and KEYCLOAK_ADMIN_PASSWORD"
        )
    })
}

pub(crate) fn keycloak_url() -> String {
    variable("KEYCLOAK_URL").trim_end_matches('/').to_owned()
}

pub(crate) fn admin_password() -> String {
    variable("KEYCLOAK_ADMIN_PASSWORD")
}

pub(crate) fn now_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

pub(crate) fn random_name() -> String {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn query(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The same document with its lists of texts sorted: Keycloak gives them in any
/// order.
pub(crate) fn in_order(mut document: Value) -> Value {
    match &mut document {
        Value::Array(items) => {
            for item in items.iter_mut() {
                *item = in_order(item.take());
            }
            items.sort_by_key(|item| item.as_str().map(str::to_owned));
        }
        Value::Object(members) => {
            for member in members.values_mut() {
                *member = in_order(member.take());
            }
        }
        _ => {}
    }
    document
}

/// Makes one HTTP call; returns the status and the JSON of the answer (null if there is
/// none).
pub(crate) fn http(
    method: &str,
    url: &str,
    token: Option<&str>,
    body: Option<(&str, String)>,
) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into();
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = match body {
        None => agent.run(request.body(()).unwrap()),
        Some((kind, text)) => agent.run(request.header("content-type", kind).body(text).unwrap()),
    };
    let mut response = response.unwrap_or_else(|error| panic!("{method} {url}: {error}"));
    let text = response.body_mut().read_to_string().unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    (response.status().as_u16(), body)
}

fn form(pairs: &[(&str, &str)]) -> (&'static str, String) {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", query(value)))
        .collect();
    ("application/x-www-form-urlencoded", pairs.join("&"))
}

/// The result of a run of the tool.
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(
            self.status, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    /// Failed, with these words on standard error and nothing on standard output.
    #[track_caller]
    pub(crate) fn refused_with(self, words: &str) {
        assert_eq!(
            self.status, 1,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        assert!(
            self.stderr.contains(words),
            "no {words:?} in: {}",
            self.stderr
        );
        assert_eq!(self.stdout, "");
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// A realm with the users alice and bob and the client billing-service, and a
/// folder for files; both are gone when it is dropped.
pub(crate) struct Realm {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

impl Realm {
    pub(crate) fn new() -> Self {
        let name = format!("cli-{}", random_name());
        let folder = std::env::temp_dir().join(format!("apikeys-{name}"));
        fs::create_dir(&folder).unwrap();
        let realm = Self { name, folder };
        let user = |name: &str, first: &str| {
            json!({"username": name, "email": format!("{name}@example.com"), "enabled": true,
                   "firstName": first, "lastName": "Example", "emailVerified": true})
        };
        // Keys on a curve: RSA keys take longer to make than the rest of the realm.
        let keys = [
            ("ecdsa-generated", json!({"priority": ["100"]})),
            (
                "hmac-generated",
                json!({"priority": ["100"], "algorithm": ["HS512"]}),
            ),
            ("aes-generated", json!({"priority": ["100"]})),
        ]
        .map(|(kind, config)| json!({"name": kind, "providerId": kind, "config": config}));
        let representation = json!({
            "realm": realm.name, "enabled": true,
            "defaultSignatureAlgorithm": "ES256",
            "components": {"org.keycloak.keys.KeyProvider": keys},
            "users": [user("alice", "Alice"), user("bob", "Bob")],
            "clients": [{"clientId": "billing-service", "serviceAccountsEnabled": true,
                         "standardFlowEnabled": false, "publicClient": false}],
        });
        let url = format!("{}/admin/realms", keycloak_url());
        let body = ("application/json", representation.to_string());
        let (status, answer) = http("POST", &url, Some(&admin_token()), Some(body));
        assert_eq!(status, 201, "{answer}");
        realm
    }

    /// A realm that `apikeys setup` has prepared.
    pub(crate) fn prepared() -> Self {
        let realm = Self::new();
        realm.setup(&[]).succeeded();
        realm
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// A file that only its owner can read.
    pub(crate) fn private_file(&self, name: &str, text: &str) -> String {
        let file = self.file(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/realms/{}", keycloak_url(), self.name)
    }

    /// The tool with all options but those of the command; a command may be of two words.
    pub(crate) fn command(&self, command: &str, extra: &[&str]) -> Command {
        let mut process = Command::new(crate::tool::path());
        process
            .args(command.split(' '))
            .args(["--keycloak-url", &keycloak_url(), "--realm", &self.name])
            .args(["--admin-user", &variable("KEYCLOAK_ADMIN_USER")])
            .args(extra)
            .env("KEYCLOAK_ADMIN_PASSWORD", admin_password())
            .stdin(Stdio::null());
        process
    }

    pub(crate) fn run(&self, command: &str, extra: &[&str]) -> Run {
        Run::of(self.command(command, extra).output().unwrap())
    }

    /// The JSON output of the tool.
    #[track_caller]
    pub(crate) fn json(&self, command: &str, extra: &[&str]) -> Value {
        let run = self.run(command, &[extra, &["--output", "json"]].concat());
        run.succeeded().json()
    }

    /// Makes a key for this owner, and returns its id.
    #[track_caller]
    pub(crate) fn key_of(&self, owner: &str) -> String {
        let made = self.create(&["--owner", owner]).succeeded().json();
        made["key_id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn setup(&self, extra: &[&str]) -> Run {
        let file = self.file("key.pem");
        self.run(
            "setup",
            &[&["--signing-key-file", file.as_str()], extra].concat(),
        )
    }

    /// Makes a key with a fast hash.
    pub(crate) fn create(&self, extra: &[&str]) -> Run {
        let fixed = [
            "--name",
            "test",
            "--hash-algorithm",
            "sha256",
            "--output",
            "json",
        ];
        self.run("create", &[&fixed, extra].concat())
    }

    /// Calls the admin interface below the realm; fails on a refusal.
    #[track_caller]
    pub(crate) fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let url = format!("{}/admin/realms/{}/{path}", keycloak_url(), self.name);
        let url = url.trim_end_matches('/');
        let body = body.map(|body| ("application/json", body.to_string()));
        let (status, answer) = http(method, url, Some(&admin_token()), body);
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        answer
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.admin("GET", path, None)
    }

    /// Reads an object, changes it and writes it back.
    pub(crate) fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(path);
        change(&mut object);
        self.admin("PUT", path, Some(&object));
    }

    pub(crate) fn user(&self, username: &str) -> Value {
        let found = self.get(&format!("users?exact=true&username={username}"));
        self.get(&format!("users/{}", found[0]["id"].as_str().unwrap()))
    }

    pub(crate) fn user_path(&self, username: &str) -> String {
        format!("users/{}", self.user(username)["id"].as_str().unwrap())
    }

    pub(crate) fn client(&self, client_id: &str) -> Value {
        self.get(&format!("clients?clientId={client_id}"))[0].clone()
    }

    pub(crate) fn client_path(&self, client_id: &str) -> String {
        format!("clients/{}", self.client(client_id)["id"].as_str().unwrap())
    }

    /// All that setup may touch, and the settings beside it that must stay as they are.
    pub(crate) fn snapshot(&self) -> Value {
        let held = |client: &Value| {
            let id = client["id"].as_str()?;
            let account = self.get(&format!("clients/{id}/service-account-user"));
            let account = account["id"].as_str().unwrap().to_owned();
            let roles: Vec<Value> = self.get(&format!("users/{account}/role-mappings"))
                ["clientMappings"]["realm-management"]["mappings"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|role| role["name"].clone())
                .collect();
            Some(roles)
        };
        let (client, manager) = (
            self.client("api-key-gateway"),
            self.client("api-key-manager"),
        );
        in_order(json!({
            "realm": self.get(""),
            "profile": self.get("users/profile"),
            "events": self.get("events/config"),
            "providers": self.get("identity-provider/instances"),
            "roles": held(&client),
            "manager_roles": held(&manager),
            "client": client,
            "manager": manager,
            "alice": self.user("alice"),
        }))
    }

    pub(crate) fn signing_key(&self) -> SigningKey {
        SigningKey::parse(&fs::read_to_string(self.file("key.pem")).unwrap()).unwrap()
    }

    /// A service token, obtained as the gateway obtains it.
    pub(crate) fn service_token(&self) -> String {
        self.client_token("api-key-gateway")
    }

    /// A service token of a client that signs in with the signing key.
    pub(crate) fn client_token(&self, client_id: &str) -> String {
        let (status, answer) = self.token(
            (client_id, &random_name()),
            &[("grant_type", "client_credentials")],
        );
        assert_eq!(status, 200, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// The claims of a token for this owner, or Keycloak's refusal.
    pub(crate) fn grant(&self, owner_id: &str) -> Result<Value, Value> {
        self.grant_by("api-key-gateway", owner_id)
    }

    /// The same, for another client.
    pub(crate) fn grant_by(&self, client_id: &str, owner_id: &str) -> Result<Value, Value> {
        self.grant_with(client_id, owner_id, &random_name())
    }

    /// The same, with an id of the client's assertion.
    pub(crate) fn grant_with(
        &self,
        client_id: &str,
        owner_id: &str,
        jti: &str,
    ) -> Result<Value, Value> {
        let grant = self.assertion("https://api-key-gateway.invalid", owner_id);
        let (status, answer) = self.token(
            (client_id, jti),
            &[
                ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                ("assertion", &grant),
            ],
        );
        if status != 200 {
            return Err(answer);
        }
        let token = answer["access_token"].as_str().unwrap();
        let claims = URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1).unwrap())
            .unwrap();
        Ok(serde_json::from_slice(&claims).unwrap())
    }

    pub(crate) fn token(
        &self,
        (client_id, jti): (&str, &str),
        pairs: &[(&str, &str)],
    ) -> (u16, Value) {
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let assertion = self.assertion_with(client_id, client_id, jti);
        let fixed = [
            ("client_id", client_id),
            ("client_assertion_type", kind),
            ("client_assertion", &assertion),
        ];
        let url = format!("{}/protocol/openid-connect/token", self.url());
        http("POST", &url, None, Some(form(&[&fixed, pairs].concat())))
    }

    fn assertion(&self, issuer: &str, subject: &str) -> String {
        self.assertion_with(issuer, subject, &random_name())
    }

    fn assertion_with(&self, issuer: &str, subject: &str, jti: &str) -> String {
        let claims = json!({
            "iss": issuer, "sub": subject, "aud": self.url(), "jti": jti,
            "iat": now_seconds() - 30, "exp": now_seconds() + 60,
        });
        self.signing_key().sign(&claims).unwrap()
    }

    /// The users that the gateway finds for a key's id.
    pub(crate) fn look_up(&self, id: &str) -> Vec<Value> {
        let index = apikeys_core::api_key::record::index_value(id);
        let url = format!(
            "{}/admin/realms/{}/users?q={}&max=2&briefRepresentation=false",
            keycloak_url(),
            self.name,
            query(&format!("apiKeyIndex:{index}"))
        );
        let (status, answer) = http("GET", &url, Some(&self.service_token()), None);
        assert_eq!(status, 200, "{answer}");
        answer.as_array().unwrap().clone()
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        let url = format!("{}/admin/realms/{}", keycloak_url(), self.name);
        http("DELETE", &url, Some(&admin_token()), None);
    }
}

/// The administrator's token, one for all tests: it lives for a minute, and a sign-in
/// costs Keycloak more than most requests that use it.
fn admin_token() -> String {
    static TOKEN: Mutex<Option<(Instant, String)>> = Mutex::new(None);
    let mut token = TOKEN.lock().unwrap_or_else(PoisonError::into_inner);
    match &*token {
        Some((since, token)) if since.elapsed() < Duration::from_secs(30) => token.clone(),
        _ => {
            let new = sign_in();
            *token = Some((Instant::now(), new.clone()));
            new
        }
    }
}

fn sign_in() -> String {
    let url = format!(
        "{}/realms/master/protocol/openid-connect/token",
        keycloak_url()
    );
    let (status, answer) = http(
        "POST",
        &url,
        None,
        Some(form(&[
            ("grant_type", "password"),
            ("client_id", "admin-cli"),
            ("username", &variable("KEYCLOAK_ADMIN_USER")),
            ("password", &admin_password()),
        ])),
    );
    assert_eq!(
        status, 200,
        "cannot sign in to Keycloak as the administrator: {answer}"
    );
    answer["access_token"].as_str().unwrap().to_owned()
}
