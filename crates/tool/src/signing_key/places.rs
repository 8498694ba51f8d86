//! The objects of a realm that hold the public half of a signing key: the identity provider,
//! the gateway's client, and the management client if it signs in with the same key.
//!
//! Each holds a JWKS (RFC 7517) with keys told apart by their `kid`. A write changes only
//! that part of an object.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::args::Names;
use crate::keycloak_admin::{KeycloakAdmin, segment};
use crate::setup::PROVIDER_ID;
use crate::setup::amend::set;
use crate::setup::state::{find_client, id, text};
use crate::setup::trust::{kid_of, same_key};

const PROVIDER_KEYS: &[&str] = &["config", "publicKeySignatureVerifier"];
const CLIENT_KEYS: &[&str] = &["attributes", "jwks.string"];

/// An object of the realm that trusts signing keys.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    /// The object's name, as `client "api-key-gateway"`.
    pub(crate) object: String,
    /// Its path below the realm's.
    path: String,
    keys_path: &'static [&'static str],
    representation: Value,
    pub(crate) keys: Vec<Value>,
}

/// All objects in the rotation of one key.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) all: Vec<Place>,
    /// The clients among them, by client id.
    pub(crate) clients: Vec<String>,
}

impl Places {
    /// Reads the objects that trust the gateway's key, or the management client alone.
    pub(crate) fn read(admin: &KeycloakAdmin, names: &Names, management: bool) -> Result<Self> {
        let gateway = Place::client(admin, &names.client_id)?
            .with_context(|| missing(&format!("client {:?}", names.client_id), "--client-id"))?;
        let manager = Place::client(admin, &names.management_client_id);
        if management {
            let object = format!("client {:?}", names.management_client_id);
            let manager = manager?.with_context(|| missing(&object, "--management-client-id"))?;
            ensure!(
                !manager.shares_a_key_with(&gateway),
                "{object} signs in with the gateway's key, which is rotated for both at once: \
                 leave --management out"
            );
            return Ok(Self {
                all: vec![manager],
                clients: vec![names.management_client_id.clone()],
            });
        }
        let mut all = vec![Place::provider(admin, &names.identity_provider)?];
        let mut clients = vec![names.client_id.clone()];
        // A management client that signs in by other means has no key to share.
        let manager = manager.ok().flatten();
        let shared = manager.filter(|manager| manager.shares_a_key_with(&gateway));
        all.push(gateway);
        if let Some(manager) = shared {
            all.push(manager);
            clients.push(names.management_client_id.clone());
        }
        Ok(Self { all, clients })
    }

    /// The names of all trusted keys, except this one.
    pub(crate) fn others(&self, ours: &Value) -> Vec<String> {
        let others = self.all.iter().flat_map(|place| place.others(ours));
        let mut kids: Vec<String> = others.map(kid_of).collect();
        kids.sort();
        kids.dedup();
        kids
    }

    /// The objects and the keys that each trusts, for programs.
    pub(crate) fn document(&self) -> Value {
        let place = |place: &Place| {
            let kids: Vec<String> = place.keys.iter().map(kid_of).collect();
            json!({ "object": place.object, "kids": kids })
        };
        self.all.iter().map(place).collect()
    }
}

impl Place {
    fn provider(admin: &KeycloakAdmin, alias: &str) -> Result<Self> {
        let object = format!("identity provider {alias:?}");
        let path = format!("identity-provider/instances/{}", segment(alias));
        let provider = admin
            .find(&path)?
            .filter(|provider| text(provider, "providerId") == PROVIDER_ID)
            .with_context(|| missing(&object, "--identity-provider"))?;
        let by_url = provider.pointer("/config/useJwksUrl") == Some(&json!("true"));
        Self::new(object, path, PROVIDER_KEYS, provider, by_url)
    }

    fn client(admin: &KeycloakAdmin, client_id: &str) -> Result<Option<Self>> {
        let Some(client) = find_client(admin, client_id)? else {
            return Ok(None);
        };
        let object = format!("client {client_id:?}");
        let path = format!("clients/{}", id(&client)?);
        let by_string = client.pointer("/attributes/use.jwks.string") == Some(&json!("true"));
        Self::new(object, path, CLIENT_KEYS, client, !by_string).map(Some)
    }

    fn new(
        object: String,
        path: String,
        keys_path: &'static [&'static str],
        representation: Value,
        elsewhere: bool,
    ) -> Result<Self> {
        let stored = crate::setup::amend::lookup(&representation, keys_path);
        let stored = stored.and_then(Value::as_str).unwrap_or_default();
        let jwks: Option<Value> = serde_json::from_str(stored).ok();
        let keys = jwks.as_ref().and_then(|jwks| jwks.get("keys")?.as_array());
        let Some(keys) = keys.filter(|keys| !keys.is_empty() && !elsewhere) else {
            bail!(
                "{object} holds no set of public keys (JWKS), which alone can hold two: run \
                 apikeys setup with --replace-signing-key and the key that gateways have now"
            );
        };
        Ok(Self {
            keys: keys.clone(),
            object,
            path,
            keys_path,
            representation,
        })
    }

    pub(crate) fn trusts(&self, ours: &Value) -> bool {
        self.keys.iter().any(|key| same_key(key, ours))
    }

    pub(crate) fn others<'a>(&'a self, ours: &'a Value) -> impl Iterator<Item = &'a Value> {
        self.keys.iter().filter(|key| !same_key(key, ours))
    }

    fn shares_a_key_with(&self, other: &Self) -> bool {
        self.keys.iter().any(|key| other.trusts(key))
    }

    /// The same object, with these keys.
    pub(crate) fn with(&self, keys: Vec<Value>) -> Self {
        let mut changed = self.clone();
        let jwks = json!({ "keys": keys }).to_string();
        set(&mut changed.representation, self.keys_path, &json!(jwks));
        changed.keys = keys;
        changed
    }

    pub(crate) fn write(&self, admin: &KeycloakAdmin) -> Result<()> {
        admin
            .put(&self.path, &self.representation)
            .with_context(|| {
                format!(
                    "{} could not be changed; repeat the command, it goes on from here",
                    self.object
                )
            })
    }
}

fn missing(object: &str, option: &str) -> String {
    format!("the realm has no {object} for API keys: run apikeys setup, or give {option}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kid: &str) -> Value {
        json!({"kid": kid, "kty": "EC", "crv": "P-256", "x": kid, "y": kid})
    }

    fn place(stored: &str) -> Result<Place> {
        let client = json!({"clientId": "c", "attributes": {"a": "b", "jwks.string": stored}});
        Place::new("c".into(), "p".into(), CLIENT_KEYS, client, false)
    }

    #[test]
    fn all_but_the_keys_is_written_as_it_was_read() {
        let before = place(&json!({"keys": [key("old")]}).to_string()).unwrap();
        let after = before.with(vec![key("old"), key("new")]);
        assert!(after.trusts(&key("new")) && !before.trusts(&key("new")));
        assert_eq!(after.others(&key("new")).count(), 1);
        let mut back = after.representation.clone();
        assert_ne!(back, before.representation);
        let stored = before.representation.pointer("/attributes/jwks.string");
        set(&mut back, CLIENT_KEYS, stored.unwrap());
        assert_eq!(back, before.representation);
    }

    #[test]
    fn what_cannot_hold_two_keys_is_refused_with_what_to_do() {
        for stored in ["", "MFkwEwYHKoZIzj0CAQ", "{}", r#"{"keys":[]}"#] {
            let refused = place(stored).unwrap_err().to_string();
            assert!(refused.contains("--replace-signing-key"), "{refused}");
        }
    }

    #[test]
    fn a_key_is_ours_by_its_point_and_not_by_its_name_alone() {
        let stored = json!({"keys": [{"kid": "k", "crv": "P-256", "x": "1", "y": "2"}]});
        let place = place(&stored.to_string()).unwrap();
        assert!(!place.trusts(&key("k")));
    }
}
