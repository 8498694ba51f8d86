//! Writers of keys: by a gateway's management API, by the tool, by the core's machine.

use std::thread;
use std::time::Duration;

use apikeys_core::api_key::hash::hash_sha256;
use apikeys_core::clock::UnixMillis;
use apikeys_core::machine::{Effect, Event};
use apikeys_core::manage::change::{Change, ChangeError, ChangeOutput, Changed, OwnerChange};
use apikeys_core::manage::owner_keys::{Edit, EditRefused, NewKey, Replacement};
use serde_json::{Value, json};

use crate::expect::REALM;
use crate::owner::Key;
use crate::portal::Caller;
use crate::tool;
use crate::wait::now_ms;
use crate::world::World;

/// The answer to a write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told<T> {
    Made(T),
    /// The owner may hold no more keys, or there is no such key: nothing has changed.
    Refused,
    /// Others held the lock: nothing has changed.
    Busy,
}

/// Changes the keys of one owner.
pub(crate) trait Writer: Send {
    /// The writer's kind.
    fn kind(&self) -> &'static str;
    /// Makes a key; returns its id.
    fn create(&mut self) -> Told<String>;
    /// Replaces a key, which ends at once; returns the new key's id.
    fn rotate(&mut self, id: &str) -> Told<String>;
    fn revoke(&mut self, id: &str) -> Told<()>;
}

/// The owner, signed in, at a gateway.
pub(crate) struct ByGateway {
    pub(crate) kind: &'static str,
    pub(crate) caller: Caller,
}

impl ByGateway {
    fn told<T>(answer: &crate::client::Response, made: impl FnOnce(&Value) -> T) -> Told<T> {
        let body = answer.json();
        match (answer.status, body["code"].as_str()) {
            (200..=299, _) => Told::Made(made(&body)),
            (_, Some("key_limit_reached" | "key_not_found")) => Told::Refused,
            (_, Some("busy")) => Told::Busy,
            _ => panic!("a gateway answered {}", answer.describe()),
        }
    }
}

impl Writer for ByGateway {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn create(&mut self) -> Told<String> {
        let answer = self.caller.post("", &json!({"name": "Raced"}));
        Self::told(&answer, |body| text(body, "key_id"))
    }

    fn rotate(&mut self, id: &str) -> Told<String> {
        let body = json!({"grace_seconds": 0});
        let answer = self.caller.post(&format!("/{id}/rotate"), &body);
        Self::told(&answer, |body| text(body, "key_id"))
    }

    fn revoke(&mut self, id: &str) -> Told<()> {
        Self::told(&self.caller.delete(&format!("/{id}")), |_| ())
    }
}

/// An operator with the tool, a process for each change.
pub(crate) struct ByTool {
    pub(crate) world: &'static World,
    pub(crate) owner_id: String,
}

impl ByTool {
    fn run(&self, arguments: &[&str]) -> Told<Value> {
        let fixed = ["--owner", &self.owner_id, "--output", "json"];
        match tool::run(self.world, &[arguments, &fixed].concat()) {
            Ok((0, document)) => Told::Made(document),
            Err(said) if said.contains("may hold") || said.contains("no such key") => Told::Refused,
            Err(said) if said.contains("being changed by others") => Told::Busy,
            other => panic!("the tool says {other:?}"),
        }
    }
}

impl Writer for ByTool {
    fn kind(&self) -> &'static str {
        "tool"
    }

    fn create(&mut self) -> Told<String> {
        let hash = ["--hash-algorithm", "sha256"];
        let told = self.run(&[&["create", "--name", "Raced"], &hash[..]].concat());
        told.map(|document| text(&document, "key_id"))
    }

    fn rotate(&mut self, id: &str) -> Told<String> {
        let told = self.run(&["rotate", id, "--grace", "0", "--hash-algorithm", "sha256"]);
        told.map(|document| text(&document, "key_id"))
    }

    fn revoke(&mut self, id: &str) -> Told<()> {
        self.run(&["revoke", id]).map(drop)
    }
}

impl<T> Told<T> {
    fn map<U>(self, to: impl FnOnce(T) -> U) -> Told<U> {
        match self {
            Self::Made(value) => Told::Made(to(value)),
            Self::Refused => Told::Refused,
            Self::Busy => Told::Busy,
        }
    }
}

/// The core's machine, driven by the simplest of clients.
pub(crate) struct ByMachine {
    pub(crate) world: &'static World,
    pub(crate) owner_id: String,
}

impl ByMachine {
    fn make(&self, edit: Edit) -> Told<()> {
        let realm = REALM.get().expect("a realm");
        let change = Change {
            users_path: format!("/admin/realms/{realm}/users"),
            identity_provider: "api-keys".to_owned(),
            owner_id: self.owner_id.clone(),
            edit,
            gateway_accounts: Vec::new(),
            disabled_owners: false,
            relink: false,
            holder: Key::random().id + "machine",
            wait_ms_max: 10_000,
            callout_timeout_ms: 2_000,
        };
        match self.drive(change) {
            Ok(_) => Told::Made(()),
            Err(ChangeError::Refused(EditRefused::TooMany { .. } | EditRefused::NoSuchKey)) => {
                Told::Refused
            }
            Err(ChangeError::Busy) => Told::Busy,
            Err(error) => panic!("the machine says {error}"),
        }
    }

    fn drive(&self, change: Change) -> Result<Changed, ChangeError> {
        let base = format!("/admin/realms/{}/", REALM.get().expect("a realm"));
        let now = || UnixMillis(now_ms());
        let mut machine = OwnerChange::new(change, now());
        let mut output = machine.begin("", now());
        loop {
            output = match output {
                ChangeOutput::Await(Effect::Call { call, .. }) => {
                    let path = call.path.strip_prefix(&base).expect("a path of the realm");
                    let body = call.json.as_deref().map(|text| {
                        serde_json::from_str::<Value>(text).expect("what is sent is JSON")
                    });
                    // With a token of its own, not the machine's.
                    let answer = self.world.keycloak.call(call.method, path, body.as_ref());
                    let (status, body) = (answer.status, answer.body.to_string());
                    let body = Some(body.as_bytes());
                    machine.handle_event(Event::Answer { status, body }, "", now())
                }
                ChangeOutput::Await(Effect::Yield { wait_ms, .. }) => {
                    let ms = wait_ms.unwrap();
                    thread::sleep(Duration::from_millis(ms));
                    machine.handle_event(Event::TURN, "", now())
                }
                ChangeOutput::Await(Effect::Compute { .. }) => {
                    unreachable!("a change computes nothing")
                }
                ChangeOutput::Done(result) => return *result,
            };
        }
    }
}

impl Writer for ByMachine {
    fn kind(&self) -> &'static str {
        "machine"
    }

    fn create(&mut self) -> Told<String> {
        let key = Key::random();
        let created = UnixMillis(now_ms());
        let new = NewKey {
            id: key.id.clone(),
            hash_text: hash_sha256(key.text.as_bytes()),
            name: "Raced".to_owned(),
            created,
            expires_at: created.plus_ms(86_400_000),
            scopes: None,
            settings: Vec::new(),
        };
        let keys_max = crate::race::KEYS_MAX;
        self.make(Edit::Create { key: new, keys_max })
            .map(|()| key.id)
    }

    fn rotate(&mut self, id: &str) -> Told<String> {
        let key = Key::random();
        let replacement = Replacement {
            id: key.id.clone(),
            hash_text: hash_sha256(key.text.as_bytes()),
            created: UnixMillis(now_ms()),
            expires_at: None,
        };
        self.make(Edit::Rotate {
            id: id.to_owned(),
            replacement,
            grace_ms: 0,
            keys_max: crate::race::KEYS_MAX,
        })
        .map(|()| key.id)
    }

    fn revoke(&mut self, id: &str) -> Told<()> {
        self.make(Edit::Revoke { id: id.to_owned() })
    }
}

fn text(body: &Value, name: &str) -> String {
    body[name].as_str().expect(name).to_owned()
}
