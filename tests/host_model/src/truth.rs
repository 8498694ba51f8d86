//! The owner of each key, for the checks to compare with. It comes from the scenario
//! itself and from no code under test.

use std::collections::{BTreeSet, HashMap};

use apikeys_core::clock::UnixMillis;
use serde_json::Value;

use super::keycloak_adapter::User;

#[derive(Default)]
pub struct Truth {
    /// By realm and key id: the owner, and the end of the key.
    owners: HashMap<(String, String), (String, UnixMillis)>,
    /// The realm of each route.
    realms: Vec<String>,
    /// The stored hashes of keys, each a secret.
    pub hashes: BTreeSet<String>,
}

impl Truth {
    pub fn learn(&mut self, realm: &str, users: &[User]) {
        for user in users {
            for stored in user.attributes.get("apiKeys").into_iter().flatten() {
                let (id, hash) = stored
                    .strip_prefix("key:")
                    .unwrap()
                    .split_once(':')
                    .unwrap();
                let ends_at = &user.attributes[&format!("apiKey_{id}_expiresAt")][0];
                let ends_at = UnixMillis::parse_rfc3339(ends_at).unwrap();
                let owner = (user.id.clone(), ends_at);
                self.owners.insert((realm.to_owned(), id.to_owned()), owner);
                self.hashes.insert(hash.to_owned());
            }
        }
    }

    pub fn add_route(&mut self, configuration: &Value) {
        let realm = configuration["realm"].as_str().unwrap_or_default();
        self.realms.push(realm.to_owned());
    }

    /// The owner of a key on a route, and the end of the key.
    pub fn owner(&self, route: usize, key_id: &str) -> Option<&(String, UnixMillis)> {
        let realm = self.realms[route].clone();
        self.owners.get(&(realm, key_id.to_owned()))
    }

    pub fn issuer(&self, route: usize) -> String {
        format!("https://login.example.com/realms/{}", self.realms[route])
    }
}
