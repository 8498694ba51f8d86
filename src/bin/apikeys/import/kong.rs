//! Keys from Kong's declarative configuration: `keyauth_credentials`, on their own with
//! the consumer that they belong to, or within it.

use anyhow::{Result, anyhow};
use apikey_jwt_exchange::clock::UnixMillis;
use serde::Deserialize;

use super::entry::{Entry, Refused, Secret};
use crate::args::OwnerField;

#[derive(Deserialize)]
struct Export {
    #[serde(default)]
    consumers: Vec<Consumer>,
    #[serde(default)]
    keyauth_credentials: Vec<Credential>,
}

#[derive(Deserialize)]
struct Consumer {
    id: Option<String>,
    username: Option<String>,
    custom_id: Option<String>,
    #[serde(default)]
    keyauth_credentials: Vec<Credential>,
}

#[derive(Deserialize)]
struct Credential {
    key: Option<Secret>,
    consumer: Option<Reference>,
    /// Seconds from `created_at` on.
    ttl: Option<u64>,
    created_at: Option<u64>,
}

/// How a credential names its consumer: by id or username.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reference {
    Name(String),
    Object {
        id: Option<String>,
        username: Option<String>,
    },
}

/// Reads the key-auth credentials of an export, in YAML or JSON, which is YAML too.
pub(crate) fn read(text: &str, field: OwnerField) -> Result<Vec<Result<Entry, Refused>>> {
    let export: Export = serde_norway::from_str(text).map_err(|error| {
        // Its own words may show a key.
        let place = error.location();
        let place = place.map(|at| format!("line {}, column {}: ", at.line(), at.column()));
        anyhow!(
            "{}it is not Kong's declarative configuration, with consumers and keyauth_credentials",
            place.unwrap_or_default()
        )
    })?;
    let mut entries = Vec::new();
    for (consumer, at) in export.consumers.iter().zip(0..) {
        for (credential, nth) in consumer.keyauth_credentials.iter().zip(0..) {
            let place = format!("consumers[{at}].keyauth_credentials[{nth}]");
            entries.push(entry(place, consumer, credential, field));
        }
    }
    for (credential, nth) in export.keyauth_credentials.iter().zip(0..) {
        let place = format!("keyauth_credentials[{nth}]");
        entries.push(match export.consumer_of(credential) {
            Some(consumer) => entry(place, &consumer, credential, field),
            None => Err(Refused::new(&place, None, "it names no consumer")),
        });
    }
    Ok(entries)
}

impl Export {
    /// The consumer that a credential names; one that is not in the export is known by
    /// the name alone.
    fn consumer_of(&self, credential: &Credential) -> Option<Consumer> {
        let (id, name) = match credential.consumer.as_ref()? {
            Reference::Name(name) => (Some(name), Some(name)),
            Reference::Object { id, username } => (id.as_ref(), username.as_ref()),
        };
        let is_meant = |consumer: &&Consumer| {
            (id.is_some() && consumer.id.as_ref() == id)
                || (name.is_some() && consumer.username.as_ref() == name)
        };
        let found = self.consumers.iter().find(is_meant);
        Some(Consumer {
            id: None,
            username: match found {
                Some(consumer) => consumer.username.clone(),
                None => name.cloned(),
            },
            custom_id: found.and_then(|consumer| consumer.custom_id.clone()),
            keyauth_credentials: Vec::new(),
        })
    }
}

fn entry(
    place: String,
    consumer: &Consumer,
    credential: &Credential,
    field: OwnerField,
) -> Result<Entry, Refused> {
    let (owner, name) = match field {
        OwnerField::Username => (&consumer.username, "username"),
        OwnerField::CustomId => (&consumer.custom_id, "custom_id"),
    };
    let Some(owner) = owner.as_deref().filter(|owner| !owner.is_empty()) else {
        let known = consumer.username.as_deref();
        let reason = format!("its consumer has no {name} in the file");
        return Err(Refused::new(&place, known, reason));
    };
    let expires_at = match (credential.ttl.filter(|ttl| *ttl > 0), credential.created_at) {
        (None, _) => None,
        (Some(ttl), Some(created_at)) => {
            Some(UnixMillis::from_seconds(created_at.saturating_add(ttl)).to_rfc3339())
        }
        (Some(_), None) => {
            let reason = "it has a ttl and no created_at: when it ends cannot be told";
            return Err(Refused::new(&place, Some(owner), reason));
        }
    };
    Ok(Entry {
        owner: owner.to_owned(),
        key: credential.key.clone().unwrap_or_else(|| Secret::new("")),
        name: None,
        expires_at,
        scopes: None,
        place,
    })
}
