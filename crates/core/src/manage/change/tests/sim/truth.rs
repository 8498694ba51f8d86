//! The promises that must always hold, and the few that an administrator may break.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Tally;
use super::writer::{End, Fate, Read};
use crate::api_key::record::{Attributes, Field, KEYS_ATTRIBUTE};
use crate::clock::UnixMillis;
use crate::manage::change::tests::keycloak::Keycloak;
use crate::manage::owner_keys::{Edit, KeyState, key_ids, list, same_key};

/// The keys that an owner may hold.
pub(super) const KEYS_MAX: usize = 4;

/// The state of the owner that is known for certain.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Writes of writers that took effect.
    pub(super) writes: u64,
    /// Writes of the administrator.
    pub(super) administered: u64,
    /// The owner without its keys, after the latest allowed write.
    others: Value,
    /// Keys that a caller was told were made.
    told_made: BTreeSet<String>,
    /// Keys that a caller was told were revoked.
    told_gone: BTreeSet<String>,
    /// Keys that a change or the administrator took away.
    gone: BTreeSet<String>,
}

/// The ids of an owner's keys.
pub(super) fn ids(attributes: &Attributes) -> BTreeSet<String> {
    key_ids(attributes).map(str::to_owned).collect()
}

/// All of a user but its keys.
fn others(user: &Value) -> Value {
    let mut user = user.clone();
    if let Some(attributes) = user["attributes"].as_object_mut() {
        attributes.retain(|name, _| {
            name != "apiKeys" && name != "apiKeyIndex" && !name.starts_with("apiKey_")
        });
    }
    user
}

/// Keys that count, and all of them.
fn counted(attributes: &Attributes) -> (usize, usize) {
    let all = attributes.get(KEYS_ATTRIBUTE).map_or(0, Vec::len);
    let replaced = key_ids(attributes)
        .filter(|id| attributes.contains_key(&Field::ReplacedBy.attribute(id)))
        .count();
    (all - replaced, all)
}

impl Truth {
    pub(super) fn new(keycloak: &Keycloak) -> Self {
        Self {
            others: others(&keycloak.user),
            ..Self::default()
        }
    }

    /// The owner as a read sees it now.
    pub(super) fn read(&self, keycloak: &Keycloak) -> Read {
        Read {
            ids: ids(&keycloak.owner().attributes),
            writes: self.writes,
            administered: self.administered,
        }
    }

    /// A writer's write took effect. `basis` is the owner as the writer had read it before.
    pub(super) fn written(
        &mut self,
        fate: &mut Fate,
        basis: &Read,
        before: &Keycloak,
        after: &Keycloak,
        now: UnixMillis,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let own_earlier = fate.writes;
        fate.writes += 1;
        self.writes += 1;
        if fate.end == Some(End::NotMade) {
            return Err(format!("{:?} was told as not made, and is", fate.edit));
        }
        if basis.writes + 1 != self.writes {
            return Err(format!(
                "two writers at once: {} wrote {:?} on what was read {} writes ago",
                fate.holder,
                fate.edit,
                self.writes - 1 - basis.writes
            ));
        }
        if own_earlier > 0 && basis.administered == self.administered && own_earlier > 2 {
            return Err("written again and again".to_owned());
        }
        let (was, is) = (before.owner().attributes, after.owner().attributes);
        let (old, new) = (ids(&was), ids(&is));
        let gone: Vec<String> = old.difference(&new).cloned().collect();
        if basis.administered == self.administered {
            self.only_its_own(fate, (&was, &is), &gone, now)?;
            if others(&after.user) != self.others {
                return Err("a writer changed what is none of its own".to_owned());
            }
            let ((held_before, _), (held, all)) = (counted(&was), counted(&is));
            if held > KEYS_MAX.max(held_before) || all > 2 * KEYS_MAX.max(held_before) {
                return Err(format!(
                    "the limit is exceeded: {held} of {KEYS_MAX}, {all} in all"
                ));
            }
        } else if others(&after.user) != self.others {
            // The administrator's write between a writer's reading and its write.
            *tally.entry("collided").or_default() += 1;
            self.others = others(&after.user);
        }
        self.gone.extend(gone);
        if self.administered == 0 && !new.is_empty() && !after.is_linked() {
            return Err("an owner has keys and no link".to_owned());
        }
        self.nothing_returns(&new, basis.administered < self.administered)
    }

    /// A write adds its own key alone, takes away its own keys and those that are over, and
    /// changes no other.
    fn only_its_own(
        &self,
        fate: &Fate,
        (was, is): (&Attributes, &Attributes),
        gone: &[String],
        now: UnixMillis,
    ) -> Result<(), String> {
        let (added, ended): (Option<&str>, Option<&str>) = match &fate.edit {
            Edit::Create { key, .. } | Edit::Import { key, .. } => (Some(&key.id), None),
            Edit::Rotate {
                id,
                replacement,
                grace_ms,
                ..
            } => (
                Some(&replacement.id),
                (*grace_ms == 0).then_some(id.as_str()),
            ),
            Edit::Revoke { id } => (None, Some(id)),
            Edit::Update { .. } | Edit::RevokeAll | Edit::Reindex => (None, None),
        };
        // By the fastest clock.
        let over: BTreeSet<String> = list(was, now)
            .into_iter()
            .filter(|key| key.replaced_by.is_some() && key.state == KeyState::Expired)
            .map(|key| key.id)
            .collect();
        let (old, new) = (ids(was), ids(is));
        for id in new.intersection(&old) {
            if fate.edit.ids().all(|own| own != id) && !same_key(was, is, id) {
                return Err(format!("changed: {id}, by {:?}", fate.edit));
            }
        }
        for id in new.difference(&old) {
            if added != Some(id) {
                return Err(format!("resurrected: {id}, by {:?}", fate.edit));
            }
        }
        for id in gone {
            if ended != Some(id) && !over.contains(id) {
                return Err(format!("lost: {id}, by {:?}", fate.edit));
            }
        }
        Ok(())
    }

    fn nothing_returns(&mut self, new: &BTreeSet<String>, by_hand: bool) -> Result<(), String> {
        if by_hand {
            self.told_gone.retain(|id| !new.contains(id));
        }
        match self.told_gone.intersection(new).next() {
            Some(id) => Err(format!("{id} was told as revoked, and is back")),
            None => Ok(()),
        }
    }

    /// The link to the gateway's provider is taken away.
    pub(super) fn unlinked(&self, basis: &Read, keycloak: &Keycloak) -> Result<(), String> {
        let keys = ids(&keycloak.owner().attributes);
        if !keys.is_empty() && basis.administered == self.administered {
            return Err(format!("unlinked with keys: {keys:?}"));
        }
        Ok(())
    }

    /// The administrator wrote the whole owner, as it was some time before.
    pub(super) fn administered(&mut self, before: &Keycloak, after: &Keycloak, tally: &mut Tally) {
        self.administered += 1;
        let old = ids(&before.owner().attributes);
        let new = ids(&after.owner().attributes);
        if old != new {
            *tally.entry("rolled back").or_default() += 1;
        }
        self.gone.extend(old.difference(&new).cloned());
        self.told_gone.retain(|id| !new.contains(id));
        self.others = others(&after.user);
    }

    /// A writer was told how its change ended.
    pub(super) fn told(
        &mut self,
        fate: &Fate,
        keys: Option<Vec<String>>,
        keycloak: &Keycloak,
    ) -> Result<(), String> {
        let now = ids(&keycloak.owner().attributes);
        match fate.end {
            Some(End::Made) => {}
            Some(End::NotMade) if fate.writes > 0 => {
                return Err(format!("{:?} was made, and told as not made", fate.edit));
            }
            _ => return Ok(()),
        }
        let seen = &fate.last_read.as_ref().expect("it has read").ids;
        let told: BTreeSet<String> = keys.into_iter().flatten().collect();
        if told != *seen {
            return Err(format!("{seen:?} were there, and told were {told:?}"));
        }
        let (added, ended) = match &fate.edit {
            Edit::Create { key, .. } | Edit::Import { key, .. } => (Some(&key.id), None),
            Edit::Rotate {
                id,
                replacement,
                grace_ms,
                ..
            } => (Some(&replacement.id), (*grace_ms == 0).then_some(id)),
            Edit::Revoke { id } => (None, Some(id)),
            Edit::Update { .. } | Edit::RevokeAll | Edit::Reindex => (None, None),
        };
        if let Some(id) = added {
            if !seen.contains(id) || !(now.contains(id) || self.gone.contains(id)) {
                return Err(format!("{id} was told as made, and is not there"));
            }
            self.told_made.insert(id.clone());
        }
        if let Some(id) = ended {
            let back = now.contains(id)
                && fate
                    .last_read
                    .as_ref()
                    .is_some_and(|read| read.administered == self.administered);
            if seen.contains(id) || back {
                return Err(format!("{id} was told as ended, and is there"));
            }
            if !now.contains(id) {
                self.told_gone.insert(id.clone());
            }
        }
        Ok(())
    }

    /// Nothing is under way any more.
    pub(super) fn at_the_end(&self, keycloak: &Keycloak) -> Result<(), String> {
        let keys = ids(&keycloak.owner().attributes);
        if let Some(id) = self
            .told_made
            .iter()
            .find(|id| !keys.contains(*id) && !self.gone.contains(*id))
        {
            return Err(format!("lost: {id}"));
        }
        if let Some(id) = self.told_gone.intersection(&keys).next() {
            return Err(format!("resurrected: {id}"));
        }
        if others(&keycloak.user) != self.others {
            return Err(format!("the owner is not as it was: {}", keycloak.user));
        }
        if keycloak.is_linked() == keys.is_empty() {
            return Err(format!(
                "{} keys, linked: {}",
                keys.len(),
                keycloak.is_linked()
            ));
        }
        Ok(())
    }
}
