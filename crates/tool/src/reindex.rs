//! `apikeys reindex`: makes another tool's keys findable.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use apikeys_core::api_key::format::is_id;
use apikeys_core::api_key::record::{INDEX_ATTRIBUTE, index_value};
use apikeys_core::keycloak::owner::User;
use apikeys_core::manage::change::ChangeError;
use apikeys_core::manage::owner_keys::{self, Edit, EditRefused, KeyState};
use serde_json::{Value, json};

use crate::admin_error::one_line;
use crate::args::ReindexArgs;
use crate::keycloak_admin::KeycloakAdmin;
use crate::realm_checks::check_realm;
use crate::{change, links, output, owner, system, users};

pub(crate) fn run(args: &ReindexArgs) -> Result<ExitCode> {
    let admin = args.connection.sign_in()?;
    check_realm(&admin, &args.names.identity_provider)?;
    let mut reindexer = Reindexer {
        args,
        admin: &admin,
        linked: None,
        told: Vec::new(),
    };
    if args.all {
        // Reads linked owners page by page; the links of each owner would take a call each.
        reindexer.linked = Some(users::linked(&admin, &args.names.identity_provider)?);
        users::each(&admin, |user, bar| {
            if let Some(told) = reindexer.look(&user)? {
                if !args.output.is_json() {
                    bar.suspend(|| output::result(&told.text()))?;
                }
                reindexer.told.push(told);
            }
            Ok(ControlFlow::Continue(()))
        })?;
    } else {
        let user = owner::find(&admin, &args.owner)?;
        let told = reindexer.look(&user)?;
        match &told {
            None => output::note(&format!(
                "{:?} is as it should be: nothing to change",
                user.username()
            )),
            Some(told) if !args.output.is_json() => output::result(&told.text())?,
            Some(_) => {}
        }
        reindexer.told.extend(told);
    }
    let told = &reindexer.told;
    if args.output.is_json() {
        let owners: Vec<Value> = told.iter().map(Told::document).collect();
        let document = json!({ "dry_run": args.dry_run, "owners": owners });
        output::result(&format!("{document:#}"))?;
    } else if args.all {
        let changed = told.iter().filter(|told| told.changes()).count();
        let will = if args.dry_run { "would be" } else { "were" };
        output::note(&format!("{changed} owners {will} changed"));
    }
    Ok(match told.iter().all(|told| told.problems.is_empty()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

struct Reindexer<'a> {
    args: &'a ReindexArgs,
    admin: &'a KeycloakAdmin,
    /// The linked owners, when the run looks at all owners.
    linked: Option<BTreeSet<String>>,
    told: Vec<Told>,
}

/// The findings for one owner, and the changes made.
#[derive(Debug, Default)]
struct Told {
    owner: String,
    indexed: Vec<String>,
    linked: bool,
    problems: Vec<String>,
}

impl Told {
    fn changes(&self) -> bool {
        !self.indexed.is_empty() || self.linked
    }

    fn text(&self) -> String {
        let mut done = Vec::new();
        if !self.indexed.is_empty() {
            done.push(format!("indexed {}", self.indexed.join(", ")));
        }
        if self.linked {
            done.push("linked".to_owned());
        }
        done.extend(
            self.problems
                .iter()
                .map(|problem| format!("PROBLEM: {problem}")),
        );
        format!("{}: {}", one_line(&self.owner), done.join("; "))
    }

    fn document(&self) -> Value {
        json!({
            "owner": self.owner, "indexed": self.indexed, "linked": self.linked,
            "problems": self.problems,
        })
    }
}

impl Reindexer<'_> {
    /// Looks at one owner, and changes it if needed; `None` if there is nothing to report.
    fn look(&self, user: &User) -> Result<Option<Told>> {
        if owner_keys::key_ids(&user.attributes).next().is_none() {
            return Ok(None);
        }
        let mut told = Told {
            owner: user.username().to_owned(),
            problems: beyond_help(user)?,
            ..Told::default()
        };
        let missing = missing_from_index(user);
        let unlinked = !self.is_linked(user)?;
        let collisions = self.collisions(user, &missing)?;
        let collides = !collisions.is_empty();
        told.problems.extend(collisions);
        let on_purpose = unlinked && missing.is_empty() && self.args.all && !self.args.relink;
        if on_purpose {
            told.problems.push(
                "its index is whole and its link is gone, so all its keys are refused; was it \
                 unlinked on purpose? If not, give --relink"
                    .to_owned(),
            );
        }
        let stale = has_stale_index(user);
        let is_whole = !(unlinked || stale || !missing.is_empty());
        // With --all only for owners that change: it is a search for each.
        if is_whole && !self.args.all {
            told.problems.extend(self.unfindable(user)?);
        }
        if collides || on_purpose || is_whole {
            return Ok((!told.problems.is_empty()).then_some(told));
        }
        if !self.args.dry_run
            && let Err(problem) = self.change(user)?
        {
            told.problems.push(problem);
            return Ok(Some(told));
        }
        if !self.args.dry_run {
            told.problems.extend(self.unfindable(user)?);
        }
        told.linked = unlinked;
        told.indexed = missing;
        Ok(Some(told))
    }

    /// Reports an owner that Keycloak's search does not find. No index helps there.
    fn unfindable(&self, user: &User) -> Result<Option<String>> {
        let mut ids = owner_keys::key_ids(&user.attributes);
        Ok(match ids.find(|id| is_id(id)) {
            Some(id) if !change::is_found(self.admin, user.id(), id)? => {
                Some(EditRefused::OwnerNotFound.to_string())
            }
            _ => None,
        })
    }

    fn is_linked(&self, user: &User) -> Result<bool> {
        if let Some(linked) = &self.linked {
            return Ok(linked.contains(user.id()));
        }
        let provider = &self.args.names.identity_provider;
        let links = links::of(self.admin, user.id())?;
        Ok(links.iter().any(|link| link.provider == *provider))
    }

    /// Keys that the index has under another owner.
    fn collisions(&self, user: &User, ids: &[String]) -> Result<Vec<String>> {
        let mut collisions = Vec::new();
        for id in ids {
            let holders = owner::indexed(self.admin, id)?;
            if let Some(other) = holders.iter().find(|other| other.id() != user.id()) {
                collisions.push(format!(
                    "key {id} is indexed at {:?} already, and no gateway takes a key of two \
                     owners: nothing is changed; take it away from the one that it is not of",
                    other.username()
                ));
            }
        }
        Ok(collisions)
    }

    fn change(&self, user: &User) -> Result<Result<(), String>> {
        match change::make(self.admin, &self.args.names, user.id(), Edit::Reindex) {
            Ok(_) => Ok(Ok(())),
            Err(error) => match error.downcast_ref::<ChangeError>() {
                Some(refusal) if change::concerns_one_owner(refusal) => {
                    Ok(Err(refusal.to_string()))
                }
                _ => Err(error).with_context(|| format!("owner {:?}", user.username())),
            },
        }
    }
}

/// Ids of the owner's keys that can be in a key and are missing from the index.
fn missing_from_index(user: &User) -> Vec<String> {
    let indexed: BTreeSet<&String> = index(user).collect();
    let mut ids: Vec<String> = owner_keys::key_ids(&user.attributes)
        .filter(|id| is_id(id) && !indexed.contains(&index_value(id)))
        .map(str::to_owned)
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Whether the index names a key that the owner does not hold.
pub(crate) fn has_stale_index(user: &User) -> bool {
    let held: BTreeSet<String> = owner_keys::key_ids(&user.attributes)
        .map(index_value)
        .collect();
    index(user).any(|value| !held.contains(value))
}

fn index(user: &User) -> impl Iterator<Item = &String> {
    user.attributes.get(INDEX_ATTRIBUTE).into_iter().flatten()
}

/// Reports records that are refused even with an index.
fn beyond_help(user: &User) -> Result<Vec<String>> {
    let mut indexed = user.attributes.clone();
    if Edit::Reindex.apply(&mut indexed, system::now()?).is_err() {
        bail!("the index of {:?} cannot be made", user.username());
    }
    let keys = owner_keys::list(&indexed, system::now()?);
    Ok(keys
        .iter()
        .filter_map(|key| match key.state {
            _ if !is_id(&key.id) => Some(format!(
                "the id {:?} cannot be in a key: no gateway finds it; make another key, and {}",
                one_line(&key.id),
                owner::how_to_end(&key.id, user)
            )),
            KeyState::Unusable(error) => Some(format!("key {}: {error}", one_line(&key.id))),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use apikeys_core::api_key::record::KEYS_ATTRIBUTE;

    const HASH: &str = "$sha256$zo75w-Di9hNE34M0jJKx5QRdG50_DeOqx1uA1mXI3Fk";

    fn owner(ids: &[&str], index: &[&str]) -> User {
        let keys: Vec<String> = ids.iter().map(|id| format!("key:{id}:{HASH}")).collect();
        let index: Vec<String> = index.iter().map(|id| index_value(id)).collect();
        let mut attributes = json!({ KEYS_ATTRIBUTE: keys, INDEX_ATTRIBUTE: index });
        for id in ids {
            attributes[format!("apiKey_{id}_expiresAt")] = json!(["2100-01-01T00:00:00Z"]);
        }
        User::from_value(json!({"id": "1", "username": "a", "attributes": attributes})).unwrap()
    }

    #[test]
    fn what_the_index_lacks_and_what_it_has_too_much_is_seen() {
        let one = "abc123def456";
        let two = "zzz123def456";
        assert_eq!(missing_from_index(&owner(&[one, two], &[two])), [one]);
        assert!(!has_stale_index(&owner(&[one, two], &[two])));
        assert!(has_stale_index(&owner(&[one], &[one, two])));
        assert!(missing_from_index(&owner(&[one], &[one])).is_empty());
    }

    #[test]
    fn what_no_index_helps_is_told() {
        assert!(
            beyond_help(&owner(&["abc123def456"], &[]))
                .unwrap()
                .is_empty()
        );
        let odd = owner(&["Prod-Key"], &[]);
        assert!(missing_from_index(&odd).is_empty());
        assert!(beyond_help(&odd).unwrap()[0].contains("cannot be in a key"));
        let mut endless = owner(&["abc123def456"], &[]);
        endless.attributes.remove("apiKey_abc123def456_expiresAt");
        assert!(beyond_help(&endless).unwrap()[0].contains("no expiresAt"));
    }
}
