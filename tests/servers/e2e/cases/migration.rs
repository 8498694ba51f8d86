//! The walk-throughs of `docs/migrate/`, followed like a reader: each in a realm of its own,
//! against gateways with the configurations of the page.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::configuration::foreign_pem;
use crate::echo::{self, Headers};
use crate::gateway::{Gateway, Spec};
use crate::keycloak::Admin;
use crate::log::Log;
use crate::owner::{Key, Record, attributes, rfc3339, unique_name};
use crate::page::{self, Step};
use crate::secrets;
use crate::wait::now_seconds;
use crate::walk::{self, Shell};
use crate::world::{Case, Host, Need, World};

/// The name of this file on the pages.
const SIGNING_KEY: &str = "signing-key.pem";

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("migration::from_keys_that_a_service_checks", from_own_keys),
        Case::new("migration::from_kongs_key_auth", from_key_auth).not_on(
            &Host::SERVED,
            "needs a gateway that checks keys itself; the suite starts one only on Kong and on Envoy \
             with the filter",
        ),
        Case::new("migration::from_records_of_another_tool", from_seed_format),
        Case::new("migration::and_back", back),
    ]
    .into_iter()
    .map(|case| case.needs(Need::OwnGateway))
    .collect()
}

fn from_own_keys(world: &World) {
    let walk = Walk::new(world);
    walk.old_key("alice.key", "alice");
    walk.old_key("bob.key", "bob");
    walk.go(
        include_str!("../../../../docs/migrate/from-own-keys.md"),
        2,
        &off(),
        false,
    );
}

fn from_key_auth(world: &World) {
    let walk = Walk::new(world);
    walk.old_key("mobile.key", "mobile-app");
    walk.old_key("nightly.key", "nightly");
    walk.go(
        include_str!("../../../../docs/migrate/from-kong-key-auth.md"),
        3,
        &off(),
        true,
    );
}

fn from_seed_format(world: &World) {
    let walk = Walk::new(world);
    let key = Key::random();
    walk.file("carol.key", &key.text);
    let record = Record::bcrypt(&key, "2b", 10);
    walk.unfound("carol", &record.expiring_at(now_seconds() + 90 * 86_400));
    // The seed's own example of an id.
    let mut odd = Record::bcrypt(&Key::random(), "2b", 4);
    odd.id = "abc123".to_owned();
    walk.unfound("dave", &odd);
    walk.go(
        include_str!("../../../../docs/migrate/from-seed-format.md"),
        1,
        &off(),
        false,
    );
}

fn back(world: &World) {
    let walk = Walk::new(world);
    walk.old_key("alice.key", "alice");
    let mut shell = walk.shell();
    for command in [
        "apikeys setup --signing-key-file signing-key.pem",
        "(umask 077 && openssl rand -base64 32 >index-key.txt)",
        "printf 'owner,key\\nalice,%s\\n' \"$(cat alice.key)\" >keys.csv",
        "apikeys import --format csv --index-key-file index-key.txt keys.csv --apply",
        "apikeys create --owner alice --name New --output-file new.key",
    ] {
        shell.run(&Step {
            command: command.to_owned(),
            expected: None,
        });
    }
    walk.go(
        include_str!("../../../../docs/migrate/back.md"),
        1,
        &json!({}),
        false,
    );
}

/// The filter switched off.
fn off() -> Value {
    json!({"enabled": false})
}

/// A walk: a realm, a folder, and a service that is about to take tokens.
struct Walk<'a> {
    world: &'a World,
    realm: Admin,
    folder: PathBuf,
    /// The keys of the old system, each with its owner.
    old_keys: Arc<Mutex<BTreeMap<String, String>>>,
    service: SocketAddr,
}

impl<'a> Walk<'a> {
    fn new(world: &'a World) -> Self {
        let name = unique_name("walk");
        let user = |name: &str| {
            json!({"username": name, "email": format!("{name}@example.com"), "enabled": true,
                   "firstName": name, "lastName": "Example", "emailVerified": true})
        };
        let users = ["alice", "bob", "carol", "dave", "nightly"].map(user);
        let realm = world.keycloak.new_realm(&json!({
            "realm": name, "enabled": true, "users": users,
            "clients": [{"clientId": "billing-service", "serviceAccountsEnabled": true,
                         "standardFlowEnabled": false, "publicClient": false}],
        }));
        let folder = world.folder().join(&name);
        fs::create_dir_all(&folder).expect("a folder");
        new_private_file(&folder.join(SIGNING_KEY), &foreign_pem());
        let old_keys = Arc::new(Mutex::new(BTreeMap::new()));
        let known = Arc::clone(&old_keys);
        let service = echo::serve(move |_, headers| caller(headers, &known.lock().unwrap()));
        Self {
            world,
            realm,
            folder,
            old_keys,
            service,
        }
    }

    fn file(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), format!("{text}\n")).expect("a file");
    }

    /// A key of the old system, in a file.
    fn old_key(&self, file: &str, owner: &str) {
        let key = format!("old-{}", unique_name(owner));
        secrets::register(&key);
        self.file(file, &key);
        self.old_keys.lock().unwrap().insert(key, owner.to_owned());
    }

    /// A record as written by a tool that knows neither index nor link.
    fn unfound(&self, owner: &str, record: &Record) {
        // Otherwise Keycloak drops attributes that no profile declares.
        let mut profile = self.realm.get("users/profile");
        profile["unmanagedAttributePolicy"] = json!("ADMIN_EDIT");
        self.realm.must("PUT", "users/profile", Some(&profile));
        let found = self
            .realm
            .get(&format!("users?exact=true&username={owner}"));
        let id = found[0]["id"].as_str().expect("the owner");
        let mut attributes = attributes(std::slice::from_ref(record));
        let members = attributes.as_object_mut().expect("attributes");
        members.remove("apiKeyIndex").expect("an index");
        self.realm
            .edit_user(id, |user| user["attributes"] = attributes);
    }

    fn shell(&self) -> Shell {
        Shell::start(&self.folder, &self.realm.variables())
    }

    /// Goes through a page with so many configurations, from a gateway with the first one
    /// on.
    fn go(self, text: &str, configurations: usize, first: &Value, key_auth: bool) {
        let mut shell = self.shell();
        let mut shown = 0;
        let mut gateway = self.gateway(first, key_auth);
        announce(&mut shell, &gateway);
        for step in &page::steps(text) {
            let Some(file) = walk::file_of(step) else {
                shell.run(step);
                continue;
            };
            shown += 1;
            let document: Value = serde_norway::from_str(file).expect("YAML");
            let found = filter_of(&document).unwrap_or(&document);
            let key_auth = document.pointer("/services/0/routes/0/plugins/0/name");
            let key_auth = key_auth.is_some_and(|name| name == "key-auth");
            // The old gateway ends first: it holds the ports and the log.
            drop(gateway);
            gateway = self.gateway(found, key_auth);
            announce(&mut shell, &gateway);
        }
        assert_eq!(shown, configurations, "the page's configurations are found");
        drop(gateway);
        drop(shell);
        // They hold keys.
        fs::remove_dir_all(&self.folder).expect("the folder goes");
        self.realm.delete_realm();
    }

    /// A gateway with the page's configuration, except the addresses of Keycloak and of the
    /// gateway's own helpers.
    fn gateway(&self, page: &Value, key_auth: bool) -> Gateway<'a> {
        let [_, (_, realm), ..] = self.realm.variables();
        // The page leaves it at its default of 5.
        let pem = fs::read_to_string(self.folder.join(SIGNING_KEY)).expect("the key");
        let mut spec = Spec::default()
            .serving(self.service)
            .signing_key(&pem)
            .field("realm", realm)
            .field("revocation_poll_seconds", 1);
        let index_key = fs::read_to_string(self.folder.join("index-key.txt"));
        for (name, value) in page.as_object().expect("a configuration") {
            spec = match name.as_str() {
                "keycloak_url"
                | "realm"
                | "keycloak_upstream"
                | "yield_upstream"
                | "signing_key_property" => spec,
                "index_key" => {
                    let key = index_key.as_ref().expect("index-key.txt").trim();
                    secrets::register(key);
                    spec.field(name, key)
                }
                // The page's time is far ahead, or past.
                "fallback_until" => spec.field(name, rfc3339(now_seconds() + 3600)),
                _ => spec.field(name, value.clone()),
            };
        }
        if page.get("index_key").is_none()
            && let Ok(key) = index_key
        {
            secrets::register(key.trim());
            spec = spec.field("index_key", key.trim());
        }
        if key_auth {
            spec = spec.key_auth(self.old_keys.lock().unwrap().clone());
        }
        self.world.start_gateway(&spec)
    }
}

fn new_private_file(path: &Path, text: &str) {
    let mut file = OpenOptions::new();
    let file = file.write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.expect("a file");
}

fn announce(shell: &mut Shell, gateway: &Gateway<'_>) {
    shell.set("GATEWAY_URL", &gateway.url());
    if let Log::File(path) = &gateway.log {
        shell.set("GATEWAY_LOG", &path.display().to_string());
    }
}

/// The configuration of our filter in a declarative configuration of Kong's.
fn filter_of(document: &Value) -> Option<&Value> {
    let route = document.pointer("/services/0/routes/0")?;
    let filter = route.pointer("/filter_chains/0/filters/0")?;
    assert_eq!(filter["name"], "apikey_jwt_exchange");
    Some(&filter["config"])
}

/// The service's view of a caller, and its source: a token before all else, then the
/// gateway's header of the consumer, then a key that the service itself knows.
fn caller(headers: &Headers, old_keys: &BTreeMap<String, String>) -> (&'static str, Value) {
    let header = |name: &str| headers.get(name).and_then(Value::as_str);
    let told = |caller: &str, by: &str| ("200 OK", json!({"caller": caller, "by": by}));
    let token = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if let Some(payload) = token.and_then(|token| token.split('.').nth(1)) {
        let claims = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
        let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
        return told(
            claims["preferred_username"].as_str().unwrap_or("?"),
            "token",
        );
    }
    if let Some(consumer) = header("x-consumer-username") {
        return told(consumer, "consumer");
    }
    match header("x-api-key").and_then(|key| old_keys.get(key)) {
        Some(owner) => told(owner, "key"),
        None => (
            "401 Unauthorized",
            json!({"error": "neither a key nor a token"}),
        ),
    }
}
