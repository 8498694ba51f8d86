//! A new key: generates it, hashes it, and shows it once.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, ensure};
use apikeys_core::api_key::format::{ApiKey, KeyFormat};
use apikeys_core::api_key::hash::{hash_bcrypt, hash_sha256};
use apikeys_core::keycloak::owner::User;
use apikeys_core::manage::owner_keys::{Edit, KeySummary};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::args::{HashAlgorithm, HashArgs, MakingArgs, Names, OutputFormat};
use crate::change::Unfindable;
use crate::keycloak_admin::KeycloakAdmin;
use crate::summary::{or_unknown, settings, time_or_unknown};
use crate::{change, output, owner, system};

/// A new key that nobody knows yet, and the hash to store.
pub(crate) struct Generated {
    pub(crate) key: ApiKey,
    pub(crate) hash_text: String,
}

/// The form of keys with this prefix.
pub(crate) fn format(prefix: &str) -> Result<KeyFormat> {
    KeyFormat::new(prefix).map_err(|error| anyhow!("--key-prefix {error}"))
}

/// Generates a key from the system's random source.
pub(crate) fn generate(format: &KeyFormat, hash: &HashArgs) -> Result<Generated> {
    let mut outcome = Ok(());
    let key = format.generate(|bytes| {
        if outcome.is_ok() {
            outcome = system::fill_random(bytes);
        }
    });
    outcome?;
    let hash_text = hash_text(key.expose().as_bytes(), hash)?;
    Ok(Generated { key, hash_text })
}

/// Hashes a key for storage.
pub(crate) fn hash_text(key: &[u8], args: &HashArgs) -> Result<String> {
    match args.hash_algorithm {
        HashAlgorithm::Sha256 => Ok(hash_sha256(key)),
        HashAlgorithm::Bcrypt => {
            let mut salt = [0_u8; 16];
            system::fill_random(&mut salt)?;
            let cost = u32::try_from(args.bcrypt_cost).context("--bcrypt-cost is too high")?;
            hash_bcrypt(key, cost, salt).map_err(|error| anyhow!("--bcrypt-cost: {error}"))
        }
    }
}

/// Records the key with its owner by this change, and shows it. `replaces` is the id of the
/// old key.
pub(crate) fn record_and_tell(
    admin: &KeycloakAdmin,
    names: &Names,
    owner: &User,
    key: &ApiKey,
    (edit, replaces): (Edit, Option<&str>),
    making: &MakingArgs,
) -> Result<()> {
    let destination = Destination::open(making.output_file.as_deref())?;
    let changed = match change::make(admin, names, owner.id(), edit) {
        Ok(changed) => changed,
        Err(error) => {
            destination.discard();
            let is_undone = error.is::<Unfindable>();
            let error = error.context(format!("key {} of {:?}", key.id(), owner.username()));
            return Err(match replaces {
                Some(id) if is_undone => error.context(format!(
                    "key {id} was rotated, and no gateway finds it either: apikeys show {id}"
                )),
                Some(id) => error.context(format!("key {id} is as it was")),
                None => error,
            });
        }
    };
    for warning in &changed.warnings {
        output::warning(warning);
    }
    let made = changed.keys.iter().find(|held| held.id == key.id());
    let made = made.context("the key was recorded, and is not among the owner's")?;
    let replaced = replaces.map(|id| Replaced {
        id,
        goes_on: changed.keys.iter().find(|held| held.id == id),
    });
    let written = destination.write(&shown(making.output, key, made, owner, replaced));
    written.map_err(|error| {
        let id = key.id().to_owned();
        let undone = change::make(admin, names, owner.id(), Edit::Revoke { id });
        error.context(untold(key.id(), owner, replaced, undone.err().as_ref()))
    })
}

/// The error for a key that could not be shown, and was taken away again or could not be.
fn untold(
    id: &str,
    owner: &User,
    replaced: Option<Replaced<'_>>,
    still_there: Option<&Error>,
) -> String {
    let name = owner.username();
    let end = match still_there {
        None => format!("key {id} of {name:?} could not be told, and was revoked at once"),
        Some(error) => format!(
            "key {id} of {name:?} could not be told, and could not be revoked ({error:#}): revoke \
             it by apikeys revoke {id} --owner {}",
            owner.id()
        ),
    };
    match replaced {
        None => end,
        Some(old) => format!("{end}; key {}", old.end()),
    }
}

/// The old key, which a new one replaces.
#[derive(Clone, Copy)]
struct Replaced<'a> {
    id: &'a str,
    /// Its present state; `None` if it ended with the change.
    goes_on: Option<&'a KeySummary>,
}

impl Replaced<'_> {
    /// Says when the old key ends.
    fn end(self) -> String {
        match self.goes_on {
            Some(key) => format!(
                "{}, which goes on until {}",
                self.id,
                time_or_unknown(key.ends_at())
            ),
            None => format!("{}, which has ended", self.id),
        }
    }
}

/// The output for a new key: the result, with the key in it, and the notes.
struct Shown {
    result: Zeroizing<String>,
    notes: String,
}

fn shown(
    format: OutputFormat,
    key: &ApiKey,
    made: &KeySummary,
    owner: &User,
    replaced: Option<Replaced<'_>>,
) -> Shown {
    match format {
        OutputFormat::Json => {
            let mut document = made.view(None);
            if let Value::Object(members) = &mut document {
                members.insert("api_key".to_owned(), json!(key.expose()));
                members.insert("owner".to_owned(), owner::shown(owner));
                if let Some(old) = replaced.and_then(|old| old.goes_on) {
                    members.insert("replaces".to_owned(), old.view(None));
                }
            }
            Shown {
                result: Zeroizing::new(format!("{document:#}")),
                notes: String::new(),
            }
        }
        OutputFormat::Text => {
            let owner = format!("{} ({})", owner.username(), owner.id());
            let created = time_or_unknown(made.created);
            let expires_at = time_or_unknown(made.expires_at);
            let scopes = or_unknown(made.scopes.as_deref(), "the gateway's own");
            let settings = settings(made);
            let replaces = replaced.map(Replaced::end);
            let mut rows = vec![
                ("key id", key.id()),
                ("name", &made.name),
                ("owner", &owner),
                ("created", &created),
                ("expires at", &expires_at),
                ("scopes", &scopes),
            ];
            rows.extend(
                settings
                    .iter()
                    .map(|(label, value)| (*label, value.as_str())),
            );
            if let Some(replaces) = &replaces {
                rows.push(("replaces", replaces));
            }
            rows.push(("", "The key is shown this once: keep it."));
            Shown {
                result: Zeroizing::new(key.expose().to_owned()),
                notes: output::table(&rows),
            }
        }
    }
}

/// The place for the key. Makes the file before the key is recorded, so that no key is made
/// that cannot be shown.
pub(crate) struct Destination<'a>(Option<(&'a Path, File)>);

impl<'a> Destination<'a> {
    pub(crate) fn open(path: Option<&'a Path>) -> Result<Self> {
        ensure!(
            path.is_some() || !system::is_null_device(io::stdout().as_fd())?,
            "standard output is closed or /dev/null: the key would be lost. Nothing was made; \
             give --output-file FILE"
        );
        let file = path.map(|path| system::create_private(path).map(|file| (path, file)));
        file.transpose().map(Self)
    }

    fn write(self, shown: &Shown) -> Result<()> {
        if !shown.notes.is_empty() {
            output::note(&shown.notes);
        }
        match self.0 {
            None => output::result(&shown.result).context("standard output is closed"),
            Some((path, file)) => {
                let text = Zeroizing::new(format!("{}\n", *shown.result));
                system::write_private(file, path, &text)?;
                output::note(&format!("written to {}", path.display()));
                Ok(())
            }
        }
    }

    /// Removes the empty file.
    pub(crate) fn discard(self) {
        if let Some((path, _)) = self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
#[path = "new_key_tests.rs"]
mod tests;
