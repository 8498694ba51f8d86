//! Looks at the owner all along, and compares it with the answers to the writes.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::keycloak::Admin;
use crate::ledger::Ledger;

/// The judge.
pub(crate) struct Judge<'a> {
    keycloak: &'a Admin,
    ledger: &'a Ledger,
    path: String,
    /// The owner without its keys: nothing may change it.
    others: Value,
    keys_max: usize,
    pub(crate) looks: u64,
    /// The most keys that were ever seen.
    pub(crate) most: usize,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(
        keycloak: &'a Admin,
        ledger: &'a Ledger,
        owner_id: &str,
        keys_max: usize,
    ) -> Self {
        let path = format!("users/{owner_id}");
        Self {
            others: others(&keycloak.get(&path)),
            keycloak,
            ledger,
            path,
            keys_max,
            looks: 0,
            most: 0,
        }
    }

    /// Looks once.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        let before = self.ledger.read();
        let first = self.keycloak.get(&self.path);
        let links = self
            .keycloak
            .get(&format!("{}/federated-identity", self.path));
        let second = self.keycloak.get(&self.path);
        let after = self.ledger.read();
        self.looks += 1;
        let mut stayed = None::<BTreeSet<String>>;
        for user in [&first, &second] {
            let ids = ids(user)?;
            self.most = self.most.max(ids.len());
            if ids.len() > self.keys_max {
                return Err(format!("{} keys, of {}", ids.len(), self.keys_max));
            }
            let lost: Vec<&String> = before
                .made
                .iter()
                .filter(|id| !after.ending.contains(*id) && !ids.contains(*id))
                .collect();
            if !lost.is_empty() {
                return Err(format!("lost: {lost:?}"));
            }
            if let Some(id) = before.gone.intersection(&ids).next() {
                return Err(format!("resurrected: {id}"));
            }
            let now = others(user);
            if now != self.others {
                return Err(format!("the owner was {}, and is {now}", self.others));
            }
            stayed = Some(match stayed {
                None => ids,
                Some(earlier) => earlier.intersection(&ids).cloned().collect(),
            });
        }
        let linked = links.as_array().is_some_and(|links| {
            links
                .iter()
                .any(|link| link["identityProvider"] == "api-keys")
        });
        if stayed.is_some_and(|stayed| !stayed.is_empty()) && !linked {
            return Err("an owner of keys has no link".to_owned());
        }
        Ok(())
    }

    /// Once nobody writes any more, the keys are those of the answers, and no others.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.look()?;
        let told = self.ledger.read();
        let user = self.keycloak.get(&self.path);
        let found = ids(&user)?;
        let expected: BTreeSet<String> = told.made.difference(&told.gone).cloned().collect();
        if found != expected {
            return Err(format!("there are {found:?}, and told were {expected:?}"));
        }
        let attributes = user["attributes"].as_object().cloned().unwrap_or_default();
        let of_gone = attributes.keys().find(|name| {
            let id = name
                .strip_prefix("apiKey_")
                .and_then(|rest| rest.split('_').next());
            id.is_some_and(|id| !found.contains(id))
        });
        match of_gone {
            Some(name) => Err(format!("{name} is left of a key")),
            None => Ok(()),
        }
    }
}

/// The ids of the keys; each has one record and is indexed once.
fn ids(user: &Value) -> Result<BTreeSet<String>, String> {
    let values = |name: &str| -> Vec<String> {
        let values = user["attributes"][name].as_array().into_iter().flatten();
        values
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect()
    };
    let keys = values("apiKeys");
    let ids: BTreeSet<String> = keys
        .iter()
        .filter_map(|value| value.split(':').nth(1).map(str::to_owned))
        .collect();
    let indexed = values("apiKeyIndex");
    let index: BTreeSet<String> = indexed
        .iter()
        .map(|value| value.trim_end_matches('.').to_owned())
        .collect();
    if keys.len() != ids.len() || indexed.len() != ids.len() || index != ids {
        return Err(format!("keys {ids:?} and index {index:?}"));
    }
    Ok(ids)
}

/// All of a user except its keys and the time of its last change.
fn others(user: &Value) -> Value {
    let mut user = user.clone();
    if let Some(attributes) = user["attributes"].as_object_mut() {
        attributes.retain(|name, _| !name.starts_with("apiKey"));
    }
    if let Some(members) = user.as_object_mut() {
        members.remove("federatedIdentities");
        members.retain(|_, value| !value.as_object().is_some_and(serde_json::Map::is_empty));
        members.retain(|name, _| name != "lastModifiedTimestamp");
    }
    user
}
