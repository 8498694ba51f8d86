//! A Keycloak in memory, as far as a change needs one: one owner, links, groups.
//!
//! It behaves as Keycloak 26.7 was seen to: a write replaces the whole user, empty values of
//! attributes are not kept, the name of a link is kept in lower case, a second link to a
//! provider is 409 and so is a second group of one name, a missing thing is 404, and a link to
//! a provider that does not exist is accepted and never shown.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::keycloak::Call;
use crate::keycloak::owner::User;

pub(super) const USERS: &str = "/admin/realms/demo/users";
pub(super) const GROUPS: &str = "/admin/realms/demo/groups";
pub(super) const OWNER: &str = "174aa39f-d2c5-4654-8727-b5119384708d";
pub(super) const PROVIDER: &str = "api-keys";

/// An answer: status and body.
pub(super) type Answer = (u16, String);

/// A group, of which there is one of a name.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) attributes: Value,
}

/// The realm.
#[derive(Debug, Clone)]
pub(super) struct Keycloak {
    /// The owner, whole.
    pub(super) user: Value,
    /// The owner's links: id and name by provider.
    pub(super) links: BTreeMap<String, (String, String)>,
    pub(super) groups: Vec<Group>,
    pub(super) providers: BTreeSet<String>,
    /// Other users that are linked to [`PROVIDER`] under the owner's id.
    pub(super) impostors: Vec<String>,
    groups_made: u64,
    /// A new link replaces the old one: a set without a test.
    pub(super) links_are_no_lock: bool,
    /// A group's id is that of each other of its name, so that deleting one hits the next.
    pub(super) groups_have_no_id: bool,
}

impl Keycloak {
    /// An owner without keys, with attributes of its own.
    pub(super) fn new() -> Self {
        Self {
            user: json!({
                "id": OWNER, "username": "alice", "email": "alice@example.com", "enabled": true,
                "firstName": "Alice", "lastName": "Example", "emailVerified": true,
                "requiredActions": [],
                "attributes": {"phone": ["1", "2"], "apiKeysNote": ["not ours"]},
            }),
            links: BTreeMap::new(),
            groups: Vec::new(),
            providers: [
                PROVIDER,
                super::LOCK_PROVIDER,
                "google",
                "api-keys-lock-break",
            ]
            .map(str::to_owned)
            .into(),
            impostors: Vec::new(),
            groups_made: 0,
            links_are_no_lock: false,
            groups_have_no_id: false,
        }
    }

    /// The owner as the code reads it.
    pub(super) fn owner(&self) -> User {
        User::from_value(self.user.clone()).unwrap()
    }

    pub(super) fn is_linked(&self) -> bool {
        self.links.contains_key(PROVIDER)
    }

    /// Carries out a call.
    pub(super) fn answer(&mut self, call: &Call) -> Answer {
        let body = call
            .json
            .as_deref()
            .map(|text| serde_json::from_str::<Value>(text).unwrap());
        let path = call.path.as_str();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if let Some(rest) = path.strip_prefix(GROUPS) {
            return self.group(call.method, rest.trim_start_matches('/'), query, body);
        }
        let rest = path.strip_prefix(USERS).expect("a path of users");
        let parts: Vec<&str> = rest.split('/').skip(1).collect();
        match (call.method, parts.as_slice()) {
            ("GET", []) => self.holders(query),
            (_, [id, ..]) if *id != OWNER => (404, json!({"error": "User not found"}).to_string()),
            ("GET", [_]) => (200, self.user.to_string()),
            ("PUT", [_]) => {
                self.replace(body.expect("a user"));
                (204, String::new())
            }
            ("GET", [_, "federated-identity"]) => {
                let links = self.links.iter();
                let shown = links.filter(|(provider, _)| self.providers.contains(*provider));
                let shown: Vec<Value> = shown
                    .map(|(provider, (id, name))| {
                        json!({"identityProvider": provider, "userId": id, "userName": name})
                    })
                    .collect();
                (200, json!(shown).to_string())
            }
            ("POST", [_, "federated-identity", provider]) => {
                self.link(provider, &body.expect("a link"))
            }
            ("DELETE", [_, "federated-identity", provider]) => match self.links.remove(*provider) {
                Some(_) => (204, String::new()),
                None => (404, json!({"error": "Link not found"}).to_string()),
            },
            _ => panic!("Keycloak is not asked {} {}", call.method, call.path),
        }
    }

    fn replace(&mut self, mut user: Value) {
        if let Some(attributes) = user["attributes"].as_object_mut() {
            attributes.retain(|_, values| {
                let values = values.as_array_mut().unwrap();
                values.retain(|value| value != "");
                !values.is_empty()
            });
        }
        self.user = user;
    }

    fn link(&mut self, provider: &str, link: &Value) -> Answer {
        if self.links.contains_key(provider) && !self.links_are_no_lock {
            let said = json!({"errorMessage": "User is already linked with provider"});
            return (409, said.to_string());
        }
        let text = |name: &str| link[name].as_str().unwrap().to_owned();
        let name = text("userName").to_lowercase();
        self.links
            .insert(provider.to_owned(), (text("userId"), name));
        (204, String::new())
    }

    fn holders(&self, query: &str) -> Answer {
        assert_eq!(query, format!("idpAlias={PROVIDER}&idpUserId={OWNER}"));
        let own = self.links.get(PROVIDER).filter(|(id, _)| id == OWNER);
        let holders = self.impostors.iter().map(String::as_str);
        let holders = holders.chain(own.map(|_| OWNER));
        let holders: Vec<Value> = holders.map(|id| json!({"id": id})).collect();
        (200, json!(holders).to_string())
    }

    fn group(&mut self, method: &str, id: &str, query: &str, body: Option<Value>) -> Answer {
        match method {
            "POST" => {
                let body = body.expect("a group");
                let name = body["name"].as_str().unwrap().to_owned();
                if self.groups.iter().any(|group| group.name == name) {
                    return (409, json!({"errorMessage": "already exists"}).to_string());
                }
                self.groups_made += 1;
                let number = if self.groups_have_no_id {
                    0
                } else {
                    self.groups_made
                };
                self.groups.insert(
                    0,
                    Group {
                        id: format!("group-{number}"),
                        name,
                        attributes: body["attributes"].clone(),
                    },
                );
                (201, String::new())
            }
            "GET" => {
                let (search, rest) = query.split_once('&').unwrap();
                assert_eq!(rest, "exact=true&briefRepresentation=false");
                let name = search.strip_prefix("search=").unwrap();
                let name = percent_decode_str(name).decode_utf8().unwrap();
                let found = self.groups.iter().filter(|group| group.name == name);
                let found: Vec<Value> = found
                    .map(|group| {
                        json!({"id": group.id, "name": group.name,
                               "attributes": group.attributes})
                    })
                    .collect();
                (200, json!(found).to_string())
            }
            "DELETE" => {
                let before = self.groups.len();
                self.groups.retain(|group| group.id != id);
                let gone = self.groups.len() < before;
                (if gone { 204 } else { 404 }, String::new())
            }
            _ => panic!("Keycloak is not asked {method} of groups"),
        }
    }
}
