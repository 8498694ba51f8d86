//! The records of owners: index, link, hash and dates of each key, and keys of several owners.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use anyhow::Result;
use apikeys_core::api_key::format::is_id;
use apikeys_core::api_key::record::{KEYS_ATTRIBUTE, RecordError};
use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::owner::{Link, OWNER_BYTES_MAX, User};
use apikeys_core::manage::owner_keys::{self, KeyState};

use super::finding::Finding;
use super::tokens::{OWNERS_MAX, Sample};
use crate::args::DoctorArgs;
use crate::create::DAY_MS;
use crate::expiring::ending;
use crate::keycloak_admin::KeycloakAdmin;
use crate::owner::{as_argument, how_to_end};
use crate::reindex::has_stale_index;
use crate::{change, links, users};

/// The counts of a look at the records, and the findings.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) users: u64,
    pub(crate) owners: u64,
    pub(crate) keys: u64,
    /// Owners whose tokens `doctor` looks at.
    pub(crate) samples: Vec<Sample>,
    pub(crate) findings: Vec<Finding>,
}

/// Checks the records of all users, or of the first `--sample` users.
pub(crate) fn look(args: &DoctorArgs, admin: &KeycloakAdmin, now: UnixMillis) -> Result<Records> {
    let names = &args.names;
    let rules = Rules {
        now,
        soon: now.plus_ms(u64::from(args.days) * DAY_MS),
        provider: &names.identity_provider,
        gateway_accounts: change::gateway_accounts(names),
    };
    let linked = users::linked(admin, rules.provider)?;
    let mut records = Records::default();
    let mut holders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    users::each(admin, |user, _| {
        records.users += 1;
        let ids: BTreeSet<&str> = owner_keys::key_ids(&user.attributes).collect();
        if !user.attributes.is_empty() || linked.contains(user.id()) {
            let links = match ids.is_empty() && !linked.contains(user.id()) {
                true => Vec::new(),
                false => links::of(admin, user.id())?,
            };
            records.findings.extend(rules.check(&user, &links));
            records.findings.extend(unfindable(admin, &user)?);
        }
        if records.samples.len() < OWNERS_MAX {
            let keys = owner_keys::list(&user.attributes, now);
            records.samples.extend(Sample::of(&user, &keys));
        }
        records.owners += u64::from(!ids.is_empty());
        records.keys += ids.len() as u64;
        for id in ids {
            let of_id = holders.entry(id.to_owned()).or_default();
            of_id.insert(user.username().to_owned());
        }
        Ok(
            match args
                .sample
                .is_some_and(|max| records.users >= u64::from(max))
            {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            },
        )
    })?;
    records.findings.extend(collisions(holders));
    Ok(records)
}

/// Checks that Keycloak's search finds an owner by one of its keys. Only for ids that begin
/// with `f:`, the users of a storage without import: a search for every owner would take too
/// long.
fn unfindable(admin: &KeycloakAdmin, owner: &User) -> Result<Option<Finding>> {
    let Some(key) = owner_keys::key_ids(&owner.attributes).find(|id| is_id(id)) else {
        return Ok(None);
    };
    if !owner.id().starts_with("f:") || change::is_found(admin, owner.id(), key)? {
        return Ok(None);
    }
    Ok(Some(Finding::error(
        &format!("owner {:?}", owner.username()),
        "Keycloak's search does not find it by its key, so no gateway does",
        "import the users of its user storage, or hold the keys by another user",
    )))
}

/// The rules for an owner's records.
struct Rules<'a> {
    now: UnixMillis,
    /// Keys that end before this instant are reported.
    soon: UnixMillis,
    provider: &'a str,
    gateway_accounts: Vec<String>,
}

impl Rules<'_> {
    fn check(&self, owner: &User, links: &[Link]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let name = owner.username();
        let subject = format!("owner {name:?}");
        let meant = as_argument(owner);
        let keys = owner_keys::list(&owner.attributes, self.now);
        for key in &keys {
            let subject = format!("key {} of {name:?}", key.id);
            if !is_id(&key.id) {
                findings.push(Finding::error(
                    &subject,
                    "its id cannot be in a key, so no gateway finds it",
                    &format!("make another key, and {}", how_to_end(&key.id, owner)),
                ));
            } else if let KeyState::Unusable(error) = key.state {
                let advice = match error {
                    RecordError::NotIndexed => format!("apikeys reindex --owner {meant}"),
                    _ => format!(
                        "mend the record, or: apikeys revoke {} --owner {meant}",
                        key.id
                    ),
                };
                findings.push(Finding::error(&subject, error.to_string(), &advice));
            }
        }
        for key in ending(owner, self.now, self.soon) {
            let end = key
                .ends_at()
                .map(UnixMillis::to_rfc3339)
                .unwrap_or_default();
            findings.push(Finding::warning(
                &format!("key {} of {name:?}", key.id),
                format!("it ends at {end}, and nothing replaces it"),
                &format!("apikeys rotate {} --expires-days 365", key.id),
            ));
        }
        let values = owner.attributes.get(KEYS_ATTRIBUTE).map_or(0, Vec::len);
        let ids = owner_keys::key_ids(&owner.attributes).count();
        if ids < values {
            findings.push(Finding::warning(
                &subject,
                format!("{} values of apiKeys are no key:<id>:<hash>", values - ids),
                "take them out; they count as keys",
            ));
        }
        if has_stale_index(owner) {
            findings.push(Finding::warning(
                &subject,
                "apiKeyIndex names keys that are not there",
                &format!("apikeys reindex --owner {meant}"),
            ));
        }
        findings.extend(self.check_link(owner, links, !keys.is_empty()));
        if keys.is_empty() {
            return findings;
        }
        if self.gateway_accounts.iter().any(|own| own == name) {
            findings.push(Finding::error(
                &subject,
                "it is an account of the gateway's own, and holds keys: whoever has one can do \
                 what the gateway can",
                "revoke them",
            ));
        }
        if owner.is_too_large() {
            findings.push(Finding::error(
                &subject,
                format!(
                    "it takes {} KiB, and a gateway reads {} KiB of an owner: its keys are answered \
                     503",
                    owner.bytes() / 1024,
                    OWNER_BYTES_MAX / 1024
                ),
                "have less in its attributes, or hold the keys by another user",
            ));
        }
        let actions: Vec<&str> = owner.required_actions().collect();
        if !actions.is_empty() {
            findings.push(Finding::warning(
                &subject,
                format!(
                    "Keycloak waits for {}: its keys are refused",
                    actions.join(", ")
                ),
                "let it be done, or remove it",
            ));
        }
        findings
    }

    fn check_link(&self, owner: &User, links: &[Link], holds_keys: bool) -> Option<Finding> {
        let name = owner.username();
        let subject = format!("owner {name:?}");
        let link = links.iter().find(|link| link.provider == self.provider);
        match link {
            Some(link) if link.id != owner.id() => Some(Finding::error(
                &subject,
                format!(
                    "it is linked to {:?} under another user's id",
                    self.provider
                ),
                "delete that link (admin console, user, Identity provider links), and find out who \
                 made it: keys of the one could become tokens of the other",
            )),
            Some(_) if !holds_keys => Some(Finding::warning(
                &subject,
                format!("it is linked to {:?}, and holds no keys", self.provider),
                "delete that link: the gateway could get tokens for it",
            )),
            None if holds_keys => Some(Finding::error(
                &subject,
                format!(
                    "it is not linked to {:?}, so all its keys are refused",
                    self.provider
                ),
                &format!(
                    "apikeys reindex --owner {}; or, where it was unlinked on purpose, revoke its \
                     keys",
                    as_argument(owner)
                ),
            )),
            _ => None,
        }
    }
}

/// Keys that several owners hold.
fn collisions(holders: BTreeMap<String, BTreeSet<String>>) -> Vec<Finding> {
    let several = holders.into_iter().filter(|(_, owners)| owners.len() > 1);
    several
        .map(|(id, owners)| {
            let owners: Vec<String> = owners.iter().map(|owner| format!("{owner:?}")).collect();
            Finding::error(
                &format!("key {id}"),
                format!("{} hold it, so no gateway takes it", owners.join(" and ")),
                &format!("apikeys revoke {id} --owner, of those that it is not of"),
            )
        })
        .collect()
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
