//! The configuration of a filter: the fields that all shells share, and the sources of signing keys.

use std::path::PathBuf;
use std::sync::Arc;

use apikeys_core::config::{Config, SigningKeySource};
use apikeys_core::signing_key::SigningKey;
use apikeys_native::Keys;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A configuration, read and checked.
pub(crate) struct Configuration {
    pub(crate) config: Arc<Config>,
    /// SHA-256 of its fields: configurations with the same fields share their state.
    pub(crate) digest: [u8; 32],
    gateway: KeySource,
    management: Option<KeySource>,
}

/// The source of a signing key.
enum KeySource {
    /// The configuration itself.
    Inline(Arc<SigningKey>),
    /// An environment variable of Envoy.
    Environment(String),
    /// A file.
    File(PathBuf),
    /// A generic secret of Envoy.
    Secret(Secret),
}

/// A generic secret of Envoy.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Secret {
    pub(crate) name: String,
    /// An `envoy.config.core.v3.ConfigSource` as JSON; empty for a secret of the bootstrap
    /// configuration.
    pub(crate) source: String,
}

/// Gives the text of a secret, once Envoy has delivered it.
pub(crate) type Secrets<'a> = &'a dyn Fn(&Secret) -> Option<Zeroizing<String>>;

impl Configuration {
    /// Reads a configuration.
    ///
    /// # Errors
    /// The fault, with its field. It repeats no value.
    pub(crate) fn read(text: &[u8]) -> Result<Self, String> {
        let fields: Value = serde_json::from_slice(text).map_err(|fault| {
            format!(
                "filter_config is no JSON object (column {})",
                fault.column()
            )
        })?;
        // Sorted by name: Envoy writes the fields of a Struct in another order each time.
        let digest = Sha256::digest(fields.to_string()).into();
        let Value::Object(mut fields) = fields else {
            return Err("filter_config is no JSON object".to_owned());
        };
        let gateway = take_source(&mut fields, "signing_key")?;
        let management = take_source(&mut fields, "management_signing_key")?;
        // The core asks for a source of its own.
        let placeholder = || Value::from("env.UNUSED");
        if gateway.is_some() {
            fields.insert("signing_key_property".to_owned(), placeholder());
        }
        if management.is_some() {
            fields.insert("management_signing_key_property".to_owned(), placeholder());
        }
        fields
            .entry("yield_upstream")
            .or_insert_with(|| Value::from("unused"));
        let config = Config::from_json(Value::Object(fields).to_string().as_bytes())
            .map_err(|fault| fault.to_string())?;
        let gateway = match gateway {
            Some(source) => source,
            None => KeySource::of(&config.signing_key, "signing_key_property")?,
        };
        let own = config
            .management
            .as_ref()
            .and_then(|own| own.signing_key.as_ref());
        let management = match (management, own) {
            (None, Some(own)) => Some(KeySource::of(own, "management_signing_key_property")?),
            (source, _) => source,
        };
        Ok(Self {
            config: Arc::new(config),
            digest,
            gateway,
            management,
        })
    }

    /// The secrets that it needs.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let sources = [Some(&self.gateway), self.management.as_ref()];
        sources
            .into_iter()
            .flatten()
            .filter_map(|source| match source {
                KeySource::Secret(secret) => Some(secret),
                _ => None,
            })
    }

    /// Reads the gateway's key and the management API's key; none as long as Envoy has not delivered
    /// a secret.
    ///
    /// # Errors
    /// A key cannot be read. The fault repeats no part of it.
    pub(crate) fn read_keys(&self, secrets: Secrets<'_>) -> Result<Option<Keys>, String> {
        let Some(gateway) = self.gateway.read("signing_key", secrets)? else {
            return Ok(None);
        };
        let management = match &self.management {
            None => Arc::clone(&gateway),
            Some(source) => match source.read("management_signing_key", secrets)? {
                None => return Ok(None),
                Some(key) => key,
            },
        };
        Ok(Some(Keys {
            gateway,
            management,
        }))
    }
}

/// Takes the module's own fields of a key out of a configuration.
fn take_source(fields: &mut Map<String, Value>, key: &str) -> Result<Option<KeySource>, String> {
    let mut take = |suffix: &str| {
        let field = format!("{key}{suffix}");
        fields.remove(&field).map(|value| (field, value))
    };
    let (file, secret, source) = (take("_file"), take("_secret"), take("_secret_source"));
    let text = |(field, value): (String, Value)| match value {
        Value::String(text) if !text.is_empty() => Ok(text),
        _ => Err(format!("{field}: must be a text that is not empty")),
    };
    let found = match (file, secret, source) {
        (None, None, None) => return Ok(None),
        (Some(file), None, None) => KeySource::File(PathBuf::from(text(file)?)),
        (None, Some(secret), source) => KeySource::Secret(Secret {
            name: text(secret)?,
            source: source.map_or_else(String::new, |(_, source)| source.to_string()),
        }),
        (None, None, Some(_)) => {
            return Err(format!("{key}_secret_source: needs {key}_secret beside it"));
        }
        (Some(_), ..) => return Err(format!("give {key}_file or {key}_secret, not both")),
    };
    for other in [key.to_owned(), format!("{key}_property")] {
        if fields.contains_key(&other) {
            return Err(format!(
                "{other}: the key has another source already; give one"
            ));
        }
    }
    Ok(Some(found))
}

impl KeySource {
    /// The source that the core has read.
    fn of(source: &SigningKeySource, field: &str) -> Result<Self, String> {
        match source {
            SigningKeySource::Inline(key) => Ok(Self::Inline(Arc::new(SigningKey::clone(key)))),
            SigningKeySource::Property(path) => match path.as_slice() {
                [first, name] if first == "env" => Ok(Self::Environment(name.clone())),
                _ => Err(format!(
                    "{field}: here it can only be env.NAME, an environment variable of Envoy; or give \
                     signing_key_file or signing_key_secret"
                )),
            },
        }
    }

    fn read(&self, field: &str, secrets: Secrets<'_>) -> Result<Option<Arc<SigningKey>>, String> {
        let (named, text) = match self {
            Self::Inline(key) => return Ok(Some(Arc::clone(key))),
            Self::Environment(name) => {
                let text = std::env::var(name).ok().filter(|text| !text.is_empty());
                let text = text.ok_or_else(|| {
                    format!("{field}: Envoy has no environment variable {name}, or it is empty")
                })?;
                (format!("{field}_property env.{name}"), Zeroizing::new(text))
            }
            Self::File(path) => {
                let named = format!("{field}_file {}", path.display());
                let text = std::fs::read_to_string(path);
                (
                    named.clone(),
                    Zeroizing::new(text.map_err(|fault| format!("{named}: {fault}"))?),
                )
            }
            Self::Secret(secret) => match secrets(secret) {
                None => return Ok(None),
                Some(text) => (format!("{field}_secret {}", secret.name), text),
            },
        };
        let key = SigningKey::parse(&text).map_err(|fault| format!("{named}: {fault}"))?;
        Ok(Some(Arc::new(key)))
    }
}
