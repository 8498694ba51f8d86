//! Keys from Kong's declarative configuration: `keyauth_credentials`, at the top with the
//! name of their consumer, or inside a consumer.

use anyhow::{Result, anyhow};
use apikeys_core::clock::UnixMillis;
use serde::Deserialize;
use serde_norway::Value;

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
    ttl: Option<Value>,
}

/// The longest time that a Kong credential can have left, in seconds (`DAO_MAX_TTL` of Kong
/// 3.9.1). A larger number is an instant.
const TTL_SECONDS_MAX: u64 = 100_000_000;

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

/// How to read a Kong file.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) field: OwnerField,
    /// The instant at which the file was written, if known: a ttl counts from it.
    pub(crate) dumped_at: Option<UnixMillis>,
}

/// Reads the key-auth credentials of an export, in YAML or JSON, which is YAML too.
pub(crate) fn read(text: &str, reading: Reading) -> Result<Vec<Result<Entry, Refused>>> {
    let export = parse(text).map_err(|error| {
        // The reader's message may show a key. After the merge below it has no place.
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
            entries.push(entry(place, consumer, credential, reading));
        }
    }
    for (credential, nth) in export.keyauth_credentials.iter().zip(0..) {
        let place = format!("keyauth_credentials[{nth}]");
        entries.push(match export.consumer_of(credential) {
            Some(consumer) => entry(place, &consumer, credential, reading),
            None => Err(Refused::new(&place, None, "it names no consumer")),
        });
    }
    Ok(entries)
}

fn parse(text: &str) -> Result<Export, serde_norway::Error> {
    if !text.contains("<<") {
        return serde_norway::from_str(text);
    }
    // Applies merge keys, which the reader of a structure ignores.
    let mut value: Value = serde_norway::from_str(text)?;
    value.apply_merge()?;
    serde_norway::from_value(value)
}

impl Export {
    /// The consumer of a credential; for a consumer that is not in the export, its name alone.
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
    reading: Reading,
) -> Result<Entry, Refused> {
    let (owner, name) = match reading.field {
        OwnerField::Username => (&consumer.username, "username"),
        OwnerField::CustomId => (&consumer.custom_id, "custom_id"),
    };
    let Some(owner) = owner.as_deref().filter(|owner| !owner.is_empty()) else {
        let known = consumer.username.as_deref();
        let reason = format!("its consumer has no {name} in the file");
        return Err(Refused::new(&place, known, reason));
    };
    let expires_at = ends_at(credential, reading.dumped_at)
        .map_err(|reason| Refused::new(&place, Some(owner), reason))?;
    Ok(Entry {
        owner: owner.to_owned(),
        key: credential.key.clone().unwrap_or_else(|| Secret::new("")),
        name: None,
        expires_at: expires_at.map(UnixMillis::to_rfc3339),
        scopes: None,
        place,
    })
}

/// When a credential ends. The Admin API and deck write its ttl as the seconds left at that
/// time. `kong config db_export` writes the instant, in seconds of the epoch, and a Kong
/// without a database reads that.
fn ends_at(
    credential: &Credential,
    dumped_at: Option<UnixMillis>,
) -> Result<Option<UnixMillis>, &'static str> {
    let Some(ttl) = &credential.ttl else {
        return Ok(None);
    };
    let seconds = ttl.as_f64().filter(|seconds| *seconds >= 0.0);
    match (seconds.map(|seconds| seconds as u64), dumped_at) {
        (None, _) => Err("its ttl is no number of seconds"),
        // Kong writes 0 for no end.
        (Some(0), _) => Ok(None),
        (Some(instant), _) if instant > TTL_SECONDS_MAX => {
            Ok(Some(UnixMillis::from_seconds(instant)))
        }
        (Some(left), Some(dumped_at)) => Ok(Some(UnixMillis::from_seconds(
            dumped_at.as_seconds().saturating_add(left),
        ))),
        (Some(_), None) => Err(
            "its ttl is the seconds that were left when the file was written: give that time by \
             --dumped-at",
        ),
    }
}
