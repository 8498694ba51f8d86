//! `apikeys import`: brings keys of an older system to Keycloak.
//!
//! Reads the file ([`table`], [`kong`]), refuses keys that need no call for it ([`check`]),
//! then goes owner by owner: passes over keys that are in Keycloak already, refuses keys of
//! another owner, and writes the rest, one key at a time under the owner's lock. So an
//! interrupted run can be repeated. Without `--apply` it does the same up to the writing, on
//! a copy of the owner's attributes.

mod check;
mod entry;
mod kong;
mod reference;
mod report;
mod table;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use apikeys_core::api_key::record::Attributes;
use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::owner::User;
use apikeys_core::manage::change::ChangeError;
use apikeys_core::manage::owner_keys::{self, Edit, NewKey};
use zeroize::Zeroizing;

use crate::admin_error::AdminError;
use crate::args::{ImportArgs, ImportFormat, OwnerArgs};
use crate::change::Unfindable;
use crate::create::DAY_MS;
use crate::keycloak_admin::KeycloakAdmin;
use crate::realm_checks::{check_realm, scopes_of_client};
use crate::{change, key_source, new_key, output, owner, progress, system};
use check::{Import, Rules};
use entry::{Entry, Refused};
use report::{Done, Report};

/// The largest file accepted: 256 MiB.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

pub(crate) fn run(args: &ImportArgs) -> Result<ExitCode> {
    let Some(index_key) = key_source::read_index_key(&args.index_key)? else {
        bail!(
            "give --index-key-file (or API_KEY_INDEX_KEY): ids of imported keys are derived by it, \
             and it must be the index_key of the gateway's configuration; to make one: openssl \
             rand -base64 32"
        );
    };
    let format = new_key::format(&args.key_prefix)?.with_index_key(&index_key);
    let now = system::now()?;
    let entries = read(args, now)?;
    let owners = match &args.map {
        Some(path) => table::read_map(&read_file(path)?)?,
        None => BTreeMap::new(),
    };
    let admin = args.connection.sign_in()?;
    check_realm(&admin, &args.names.identity_provider)?;
    let asks_for_scopes = entries.iter().flatten().any(|entry| entry.scopes.is_some());
    let rules = Rules {
        format,
        scopes: match asks_for_scopes {
            true => scopes_of_client(&admin, &args.names.client_id)?,
            false => Vec::new(),
        },
        name: args.name.clone(),
        expires_at: now.plus_ms(u64::from(args.expires_days) * DAY_MS),
        now,
        owners,
    };
    let (imports, refused) = rules.apply(entries);
    let mut importer = Importer {
        args,
        admin: &admin,
        report: Report {
            applied: args.apply,
            refused,
            ..Report::default()
        },
    };
    let outcome = importer.import_all(imports);
    let report = importer.report;
    output::result(&match args.output.is_json() {
        true => format!("{:#}", report.document()),
        false => report.text(),
    })?;
    outcome.context(
        "the import was cut off: what was imported stays; run it again, and it is passed over",
    )?;
    Ok(match report.refused.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn read(args: &ImportArgs, now: UnixMillis) -> Result<Vec<Result<Entry, Refused>>> {
    let reading = kong::Reading {
        field: args.owner_field,
        dumped_at: dumped_at(args.dumped_at.as_deref(), now)?,
    };
    let text = read_file(&args.file)?;
    let text = text.trim_start_matches('\u{feff}');
    let entries = match args.format {
        ImportFormat::Csv => table::read_csv(text),
        ImportFormat::Json => table::read_json(text),
        ImportFormat::Kong => kong::read(text, reading),
    };
    let entries = entries.with_context(|| args.file.display().to_string())?;
    ensure!(!entries.is_empty(), "{} holds no keys", args.file.display());
    Ok(entries)
}

fn dumped_at(text: Option<&str>, now: UnixMillis) -> Result<Option<UnixMillis>> {
    let Some(text) = text else {
        return Ok(None);
    };
    let at = UnixMillis::parse_rfc3339(text).map_err(|error| anyhow!("--dumped-at is {error}"))?;
    ensure!(
        at <= now,
        "--dumped-at is in the future: it is when Kong wrote FILE"
    );
    Ok(Some(at))
}

fn read_file(path: &Path) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let read = match path.as_os_str() == "-" {
        true => io::stdin().take(FILE_BYTES_MAX).read_to_string(&mut text),
        false => std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text)),
    };
    let bytes = read.with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        u64::try_from(bytes).is_ok_and(|bytes| bytes < FILE_BYTES_MAX),
        "{} is longer than 256 MiB",
        path.display()
    );
    Ok(text)
}

struct Importer<'a> {
    args: &'a ImportArgs,
    admin: &'a KeycloakAdmin,
    report: Report,
}

impl Importer<'_> {
    fn import_all(&mut self, imports: Vec<Import>) -> Result<()> {
        let what = match self.args.apply {
            true => "importing",
            false => "looking",
        };
        let bar = progress::bar(what, imports.len());
        for keys in by_owner(imports) {
            let Some(name) = keys.first().map(|import| import.owner.clone()) else {
                continue;
            };
            let owner = match self.find(&name) {
                Ok(owner) => owner,
                Err(error) if ends_all(&error) => return Err(error),
                Err(error) => {
                    bar.inc(keys.len() as u64);
                    for import in &keys {
                        self.refuse(import, error.to_string());
                    }
                    continue;
                }
            };
            let mut attributes = owner.attributes.clone();
            for import in keys {
                self.import(&owner, &mut attributes, import)?;
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn find(&self, name: &str) -> Result<User> {
        let meant = OwnerArgs {
            owner: Some(name.to_owned()),
            service_account: None,
        };
        let owner = owner::find(self.admin, &meant)?;
        ensure!(
            !change::gateway_accounts(&self.args.names).contains(&owner.username().to_owned()),
            "it is an account of the gateway's own, which may hold no key"
        );
        if !owner.is_enabled() {
            output::warning(&format!(
                "{:?} is disabled: its keys are refused until it is enabled",
                owner.username()
            ));
        }
        Ok(owner)
    }

    /// Imports one key, or reports that it is in Keycloak already or is refused. An error ends
    /// the whole import.
    fn import(&mut self, owner: &User, attributes: &mut Attributes, import: Import) -> Result<()> {
        if owner_keys::key_ids(attributes).any(|id| id == import.id) {
            self.report.present.push(done(owner, &import));
            return Ok(());
        }
        let holders = match owner::indexed(self.admin, &import.id) {
            Ok(holders) => holders,
            Err(error) if ends_all(&error) => return Err(error),
            Err(error) => {
                self.refuse(&import, error.to_string());
                return Ok(());
            }
        };
        if let Some(other) = holders.iter().find(|other| other.id() != owner.id()) {
            let reason = format!(
                "{:?} holds this key already ({}): a key has one owner",
                other.username(),
                import.id
            );
            self.refuse(&import, reason);
            return Ok(());
        }
        let edit = self.edit(&import)?;
        if !self.args.apply {
            match edit.apply(attributes, system::now()?) {
                Ok(_) => self.report.imported.push(done(owner, &import)),
                Err(refusal) => self.refuse(&import, refusal.to_string()),
            }
            return Ok(());
        }
        match change::make(self.admin, &self.args.names, owner.id(), edit) {
            Ok(changed) if changed.edited.added.is_some() => {
                self.report.imported.push(done(owner, &import));
            }
            Ok(_) => self.report.present.push(done(owner, &import)),
            Err(error) if error.is::<Unfindable>() => self.refuse(&import, error.to_string()),
            Err(error) => match error.downcast_ref::<ChangeError>() {
                Some(refusal) if change::concerns_one_owner(refusal) => {
                    self.refuse(&import, refusal.to_string());
                }
                _ => return Err(error),
            },
        }
        Ok(())
    }

    fn edit(&self, import: &Import) -> Result<Edit> {
        // A dry run writes no hash, so it makes none.
        let hash_text = match self.args.apply {
            true => new_key::hash_text(import.key.as_bytes(), &self.args.hash)?,
            false => String::new(),
        };
        Ok(Edit::Import {
            key: NewKey {
                id: import.id.clone(),
                hash_text,
                name: import.name.clone(),
                created: system::now()?,
                expires_at: import.expires_at,
                scopes: import.scopes.clone(),
                settings: Vec::new(),
            },
            keys_max: self.args.limit.keys_max(),
        })
    }

    fn refuse(&mut self, import: &Import, reason: String) {
        let refusal = Refused::new(&import.place, Some(&import.owner), reason);
        self.report.refused.push(refusal);
    }
}

/// Whether the next keys would fail in the same way.
fn ends_all(error: &Error) -> bool {
    let of_keycloak = error.downcast_ref::<AdminError>();
    of_keycloak.is_some_and(|error| !error.concerns_one_request())
}

fn done(owner: &User, import: &Import) -> Done {
    Done {
        place: import.place.clone(),
        owner: owner.username().to_owned(),
        id: import.id.clone(),
    }
}

/// Groups the keys by owner, in the order in which owners appear.
fn by_owner(imports: Vec<Import>) -> Vec<Vec<Import>> {
    let mut groups: Vec<Vec<Import>> = Vec::new();
    let mut places = BTreeMap::new();
    for import in imports {
        let at = *places
            .entry(import.owner.to_lowercase())
            .or_insert(groups.len());
        match groups.get_mut(at) {
            Some(group) => group.push(import),
            None => groups.push(vec![import]),
        }
    }
    groups
}

#[cfg(test)]
mod tests;
