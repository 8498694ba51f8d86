//! Users of the made-up Keycloak, and the effects of the admin REST interface on one.
//!
//! A `PUT` replaces all that it does not name. A link is made by an atomic test-and-set,
//! is hidden while its provider is unknown, and is not changed by a `PUT`. All this was
//! measured on the real one.

use std::collections::BTreeMap;

use apikeys_core::api_key::record::{Field, index_value, key_value};
use apikeys_core::clock::UnixMillis;
use serde_json::{Map, Value, json};

use super::Reply;

/// The provider that owners of keys are linked to.
pub const PROVIDER: &str = "api-keys";

/// A user with its keys.
#[derive(Clone)]
pub struct User {
    pub id: String,
    pub enabled: bool,
    /// The user is in a user storage without import: a read by id finds it, a search
    /// does not.
    pub unsearchable: bool,
    pub attributes: BTreeMap<String, Vec<String>>,
    /// By the alias of the provider: the id and the name there.
    pub links: BTreeMap<String, (String, String)>,
    /// All else that Keycloak keeps of a user.
    pub profile: Map<String, Value>,
    /// The realm's user profile refuses to write it, in these words.
    pub refused: Option<&'static str>,
}

impl User {
    pub fn new(id: &str) -> Self {
        let mut user = Self {
            id: id.into(),
            enabled: true,
            unsearchable: false,
            attributes: BTreeMap::new(),
            links: BTreeMap::new(),
            profile: Map::new(),
            refused: None,
        };
        user.profile.insert("username".into(), json!(id));
        user.link();
        user
    }

    /// Adds a key; `hash` is its stored form in `apiKeys`.
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

    pub fn with_scopes(self, id: &str, scopes: &str) -> Self {
        self.with_field(Field::Scopes, id, scopes)
    }

    pub fn with_field(mut self, field: Field, id: &str, value: &str) -> Self {
        self.attributes
            .insert(field.attribute(id), vec![value.into()]);
        self
    }

    /// Adds a person's attributes, which changes of keys must leave alone.
    pub fn with_profile(mut self, members: &Value) -> Self {
        for (name, value) in members.as_object().into_iter().flatten() {
            self.profile.insert(name.clone(), value.clone());
        }
        self
    }

    /// Takes a key away, with all of its attributes.
    pub fn remove_key(&mut self, id: &str) {
        let mark = format!("key:{id}:");
        for values in self.attributes.values_mut() {
            values.retain(|value| !value.starts_with(&mark) && *value != index_value(id));
        }
        for field in Field::ALL {
            self.attributes.remove(&field.attribute(id));
        }
    }

    /// The ids of its keys.
    pub fn key_ids(&self) -> Vec<String> {
        let values = self.attributes.get("apiKeys").into_iter().flatten();
        let ids = values.map(|value| value.split(':').nth(1).unwrap().to_owned());
        ids.collect()
    }

    pub fn link(&mut self) {
        let names = (self.id.clone(), self.username());
        self.links.insert(PROVIDER.into(), names);
    }

    pub fn unlink(&mut self) {
        self.links.remove(PROVIDER);
    }

    pub fn is_linked(&self) -> bool {
        self.links
            .get(PROVIDER)
            .is_some_and(|(id, _)| *id == self.id)
    }

    pub fn username(&self) -> String {
        let name = self.profile.get("username").and_then(Value::as_str);
        name.unwrap_or_default().to_owned()
    }

    /// As the admin REST interface shows it.
    pub fn representation(&self) -> Value {
        let mut shown = self.profile.clone();
        shown.insert("id".into(), json!(self.id));
        shown.insert("enabled".into(), json!(self.enabled));
        if !self.attributes.is_empty() {
            shown.insert("attributes".into(), json!(self.attributes));
        }
        shown.into()
    }

    /// Replaces the user, including all members that the `PUT` does not name.
    pub(super) fn put(&mut self, representation: &Value) -> Reply {
        if let Some(words) = self.refused {
            return (400, words.into());
        }
        let Some(members) = representation.as_object() else {
            return super::error(400, "unable to read the contents");
        };
        let mut profile = members.clone();
        let attributes = profile.remove("attributes").unwrap_or(Value::Null);
        let attributes: Option<BTreeMap<String, Vec<String>>> =
            serde_json::from_value(attributes).unwrap_or_default();
        self.attributes = attributes.unwrap_or_default();
        self.attributes.retain(|_, values| !values.is_empty());
        if let Some(enabled) = profile.remove("enabled").and_then(|it| it.as_bool()) {
            self.enabled = enabled;
        }
        for name in ["id", "federatedIdentities"] {
            profile.remove(name);
        }
        if !profile.contains_key("username") {
            profile.insert("username".into(), json!(self.username()));
        }
        self.profile = profile;
        (204, Vec::new())
    }

    /// The answer to a request for the user's links: all of them, or one of a provider.
    pub(super) fn links(
        &mut self,
        method: &str,
        provider: Option<&str>,
        body: &Value,
        known: &[String],
    ) -> Reply {
        match (method, provider) {
            ("GET", None) => {
                let shown = self.links.iter().filter(|(name, _)| known.contains(name));
                let shown: Vec<Value> = shown
                    .map(|(provider, (id, name))| {
                        json!({ "identityProvider": provider, "userId": id, "userName": name })
                    })
                    .collect();
                (200, Value::from(shown).to_string().into_bytes())
            }
            ("POST", Some(provider)) if self.links.contains_key(provider) => {
                let said = json!({ "errorMessage": "User is already linked with provider" });
                (409, said.to_string().into_bytes())
            }
            ("POST", Some(provider)) => {
                let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
                let names = (text("userId"), text("userName"));
                self.links.insert(provider.to_owned(), names);
                (204, Vec::new())
            }
            ("DELETE", Some(provider)) => match self.links.remove(provider) {
                Some(_) => (204, Vec::new()),
                None => super::error(404, "Link not found"),
            },
            (method, _) => panic!("links: {method}"),
        }
    }
}
