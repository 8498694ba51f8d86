//! The changes that an owner's keys can undergo.

use super::keys::{KeyState, find, key_id, key_ids, list};
use super::setting::{INHERITED, Setting};
use crate::api_key::format::is_id;
use crate::api_key::record::{
    Attributes, Field, INDEX_ATTRIBUTE, KEYS_ATTRIBUTE, RecordError, index_value, key_value,
};
use crate::clock::UnixMillis;
use crate::keycloak::owner::OWNER_BYTES_MAX;

/// The most records of one owner for each key that counts: a key in its grace is one beside its
/// replacement.
const RECORDS_PER_KEY: usize = 2;

/// A key to store.
#[derive(Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Its id.
    pub id: String,
    /// Its hash, as it is stored.
    pub hash_text: String,
    /// Its name for people.
    pub name: String,
    /// When it is made.
    pub created: UnixMillis,
    /// Its end.
    pub expires_at: UnixMillis,
    /// Its scopes; none means the gateway's own.
    pub scopes: Option<String>,
    /// Its other settings.
    pub settings: Vec<Setting>,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The key that replaces another: name, scopes and settings are the other's.
#[derive(Clone, PartialEq, Eq)]
pub struct Replacement {
    /// Its id.
    pub id: String,
    /// Its hash, as it is stored.
    pub hash_text: String,
    /// When it is made.
    pub created: UnixMillis,
    /// Its end; none means the other's.
    pub expires_at: Option<UnixMillis>,
}

impl std::fmt::Debug for Replacement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replacement")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A change of an owner's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Adds a key, if fewer than `keys_max` count.
    Create {
        /// The key.
        key: NewKey,
        /// Keys that the owner may hold.
        keys_max: usize,
    },
    /// Adds a key that may be there already, from an earlier run of the same import.
    Import {
        /// The key.
        key: NewKey,
        /// Keys that the owner may hold.
        keys_max: usize,
    },
    /// Replaces a key by a new one; the old one works until its grace ends.
    Rotate {
        /// The key to replace.
        id: String,
        /// The new one.
        replacement: Replacement,
        /// Milliseconds that the old key goes on for; 0 ends it at once.
        grace_ms: u64,
        /// Keys that the owner may hold.
        keys_max: usize,
    },
    /// Changes settings of a key.
    Update {
        /// The key.
        id: String,
        /// The settings, each with its new value.
        settings: Vec<Setting>,
    },
    /// Takes a key away; does nothing if the key is not there.
    Revoke {
        /// The key.
        id: String,
    },
    /// Takes all keys away.
    RevokeAll,
    /// Makes the index name exactly the keys that are there.
    Reindex,
}

impl Edit {
    /// Whether the change needs an owner that can use keys.
    #[must_use]
    pub const fn gives_a_key(&self) -> bool {
        matches!(
            self,
            Self::Create { .. } | Self::Import { .. } | Self::Rotate { .. }
        )
    }

    /// Whether the change needs an owner that is linked to the gateway's identity provider.
    #[must_use]
    pub const fn needs_the_link(&self) -> bool {
        self.gives_a_key() || matches!(self, Self::Reindex)
    }

    /// The keys that the change names; none if it is about all keys.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::Create { key, .. } | Self::Import { key, .. } => (Some(&key.id), None),
            Self::Rotate {
                id, replacement, ..
            } => (Some(id), Some(&replacement.id)),
            Self::Update { id, .. } | Self::Revoke { id } => (Some(id), None),
            Self::RevokeAll | Self::Reindex => (None, None),
        };
        first.into_iter().chain(second).map(String::as_str)
    }

    /// Changes an owner's attributes.
    ///
    /// # Errors [`EditRefused`]; the caller must then throw the attributes away.
    pub fn apply(
        &self,
        attributes: &mut Attributes,
        now: UnixMillis,
    ) -> Result<Edited, EditRefused> {
        match self {
            Self::Import { key, .. } if key_ids(attributes).any(|id| id == key.id) => {
                Ok(Edited::default())
            }
            Self::Create { key, keys_max } | Self::Import { key, keys_max } => {
                check_end(key, now)?;
                sweep(attributes, now);
                check_room(attributes, *keys_max)?;
                check_free(attributes, &key.id)?;
                add(attributes, key);
                Ok(Edited::of(&key.id))
            }
            Self::Rotate {
                id,
                replacement,
                grace_ms,
                keys_max,
            } => rotate(attributes, id, replacement, *grace_ms, *keys_max, now),
            Self::Update { id, settings } => {
                if !key_ids(attributes).any(|held| held == id) {
                    return Err(EditRefused::NoSuchKey);
                }
                let mut changed = settings.clone();
                changed.retain(|setting| setting.store(attributes, id));
                Ok(Edited {
                    changed: changed.iter().map(Setting::member).collect(),
                    ..Edited::default()
                })
            }
            Self::Revoke { id } => {
                let held = key_ids(attributes).any(|held| held == id);
                remove(attributes, id);
                Ok(Edited {
                    ended: held.then(|| id.clone()).into_iter().collect(),
                    ..Edited::default()
                })
            }
            Self::RevokeAll => {
                let mut ids: Vec<String> = key_ids(attributes).map(str::to_owned).collect();
                ids.sort_unstable();
                ids.dedup();
                for id in &ids {
                    remove(attributes, id);
                }
                // Values that belong to no key go as well.
                attributes.remove(KEYS_ATTRIBUTE);
                attributes.remove(INDEX_ATTRIBUTE);
                Ok(Edited {
                    ended: ids,
                    ..Edited::default()
                })
            }
            Self::Reindex => {
                let mut ids: Vec<&str> = key_ids(attributes).filter(|id| is_id(id)).collect();
                ids.sort_unstable();
                ids.dedup();
                let index: Vec<String> = ids.into_iter().map(index_value).collect();
                put(attributes, INDEX_ATTRIBUTE, index);
                Ok(Edited::default())
            }
        }
    }
}

/// The result of a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edited {
    /// The key that was added.
    pub added: Option<String>,
    /// The keys that work no more.
    pub ended: Vec<String>,
    /// The settings that have another value now, by their names in the management API.
    pub changed: Vec<&'static str>,
}

impl Edited {
    fn of(added: &str) -> Self {
        Self {
            added: Some(added.to_owned()),
            ..Self::default()
        }
    }
}

/// Reasons a change is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EditRefused {
    /// The owner holds as many keys as it may.
    #[error(
        "the owner holds {held} keys, expired ones included and replaced ones in their grace \
         beside them, and may hold {max}: take one away, or raise max_keys_per_user"
    )]
    TooMany {
        /// Keys that count.
        held: usize,
        /// Keys that it may hold.
        max: usize,
    },
    /// There is no such key.
    #[error("the owner holds no such key")]
    NoSuchKey,
    /// The key has a replacement already.
    #[error("the key is rotating already: rotate the key that replaces it")]
    AlreadyRotating,
    /// The key is switched off.
    #[error("the key is disabled: enable it before it is rotated, or make a new one")]
    Disabled,
    /// The key's end has come.
    #[error("the key has expired: make a new one")]
    Expired,
    /// The key's record cannot be used.
    #[error("the key's record cannot be used ({0}): make a new key, and revoke this one")]
    Unusable(RecordError),
    /// The new end has come already.
    #[error("the new key would have ended already")]
    EndsBeforeItBegins,
    /// The id is that of a key that is there.
    #[error("the id is taken")]
    IdTaken,
    /// The owner is disabled.
    #[error("the owner is disabled")]
    OwnerDisabled,
    /// The owner holds keys, and the link that makes them work is gone.
    #[error(
        "the owner holds keys and is linked to the gateway no more: an administrator has ended \
         them all; revoke them, or have the owner linked again (apikeys reindex)"
    )]
    Unlinked,
    /// The owner is larger than a gateway reads.
    #[error(
        "the owner's record is larger than what a gateway reads of it ({} KiB), so none of its \
         keys would work: have less in the user's attributes",
        OWNER_BYTES_MAX / 1024
    )]
    OwnerTooLarge,
    /// Keycloak's search does not find the owner, so no gateway finds a key of it.
    #[error(
        "Keycloak's search does not find the owner by the key, so no gateway does: the owner \
         is in a user storage that is searched without being imported; import its users, or hold \
         the keys by another user"
    )]
    OwnerNotFound,
    /// The owner is an account of the gateway's own.
    #[error("an account of the gateway's own may hold no key")]
    GatewayAccount,
}

fn rotate(
    attributes: &mut Attributes,
    id: &str,
    replacement: &Replacement,
    grace_ms: u64,
    keys_max: usize,
    now: UnixMillis,
) -> Result<Edited, EditRefused> {
    let old = find(attributes, id, now).ok_or(EditRefused::NoSuchKey)?;
    match old.state {
        KeyState::Active => {}
        KeyState::Rotating => return Err(EditRefused::AlreadyRotating),
        KeyState::Expired | KeyState::Disabled if old.replaced_by.is_some() => {
            return Err(EditRefused::AlreadyRotating);
        }
        // Its replacement would work.
        KeyState::Disabled => return Err(EditRefused::Disabled),
        KeyState::Expired => return Err(EditRefused::Expired),
        KeyState::Unusable(error) => return Err(EditRefused::Unusable(error)),
    }
    // An active key has an end: KeyRecord gives no other.
    let old_end = old.expires_at.ok_or(EditRefused::Expired)?;
    let key = NewKey {
        id: replacement.id.clone(),
        hash_text: replacement.hash_text.clone(),
        name: old.name,
        created: replacement.created,
        expires_at: replacement.expires_at.unwrap_or(old_end),
        scopes: old.scopes,
        settings: Vec::new(),
    };
    let inherited = INHERITED.map(|field| attributes.get(&field.attribute(id)).cloned());
    check_end(&key, now)?;
    sweep(attributes, now);
    check_free(attributes, &key.id)?;
    let mut edited = Edited::of(&key.id);
    // The new key counts in the old one's place, so the limit does not matter here.
    if grace_ms == 0 {
        remove(attributes, id);
        edited.ended.push(id.to_owned());
    } else {
        check_records(attributes, keys_max)?;
        // Stored in whole seconds, rounded up, so that a grace of one second lasts that long.
        let grace_until = now.plus_ms(grace_ms.saturating_add(999)).min(old_end);
        put_one(attributes, Field::GraceUntil, id, &grace_until.to_rfc3339());
        put_one(attributes, Field::ReplacedBy, id, &key.id);
    }
    add(attributes, &key);
    for (field, values) in INHERITED.into_iter().zip(inherited) {
        put(
            attributes,
            &field.attribute(&key.id),
            values.unwrap_or_default(),
        );
    }
    Ok(edited)
}

/// Removes the remains of rotations: replaced keys whose grace is over.
fn sweep(attributes: &mut Attributes, now: UnixMillis) {
    let over: Vec<String> = list(attributes, now)
        .into_iter()
        .filter(|key| key.replaced_by.is_some() && key.ends_at().is_some_and(|end| end <= now))
        .map(|key| key.id)
        .collect();
    for id in over {
        remove(attributes, &id);
    }
}

/// Refuses a key that ended while its request waited for the owner's lock.
fn check_end(key: &NewKey, now: UnixMillis) -> Result<(), EditRefused> {
    if key.expires_at <= now {
        return Err(EditRefused::EndsBeforeItBegins);
    }
    Ok(())
}

/// Every record counts, expired or not: it must be looked through, and the holder of an expired
/// key may ask to prolong it. A replaced key does not count, since its replacement does.
fn check_room(attributes: &Attributes, max: usize) -> Result<(), EditRefused> {
    let held = held(attributes);
    if held >= max {
        return Err(EditRefused::TooMany { held, max });
    }
    check_records(attributes, max)
}

/// Records of keys that do not count are limited all the same.
fn check_records(attributes: &Attributes, max: usize) -> Result<(), EditRefused> {
    if records(attributes) >= max.saturating_mul(RECORDS_PER_KEY) {
        let held = held(attributes);
        return Err(EditRefused::TooMany { held, max });
    }
    Ok(())
}

fn records(attributes: &Attributes) -> usize {
    attributes.get(KEYS_ATTRIBUTE).map_or(0, Vec::len)
}

fn held(attributes: &Attributes) -> usize {
    let replaced = key_ids(attributes)
        .filter(|id| attributes.contains_key(&Field::ReplacedBy.attribute(id)))
        .count();
    records(attributes).saturating_sub(replaced)
}

fn check_free(attributes: &Attributes, id: &str) -> Result<(), EditRefused> {
    let described = Field::ALL.into_iter().map(|field| field.attribute(id));
    let taken = key_ids(attributes).any(|held| held == id)
        || described
            .into_iter()
            .any(|name| attributes.contains_key(&name));
    if taken {
        Err(EditRefused::IdTaken)
    } else {
        Ok(())
    }
}

fn add(attributes: &mut Attributes, key: &NewKey) {
    let id = &key.id;
    // The index may name the id already, if another tool removed only half of a key.
    keep(attributes, INDEX_ATTRIBUTE, |value| {
        value != index_value(id)
    });
    let mut push = |name: &str, value: String| {
        attributes.entry(name.to_owned()).or_default().push(value);
    };
    push(KEYS_ATTRIBUTE, key_value(id, &key.hash_text));
    push(INDEX_ATTRIBUTE, index_value(id));
    // Keycloak keeps no empty value, so the owner would be read back differently.
    if !key.name.is_empty() {
        put_one(attributes, Field::Name, id, &key.name);
    }
    put_one(attributes, Field::Created, id, &key.created.to_rfc3339());
    put_one(
        attributes,
        Field::ExpiresAt,
        id,
        &key.expires_at.to_rfc3339(),
    );
    if let Some(scopes) = &key.scopes {
        put_one(attributes, Field::Scopes, id, scopes);
    }
    for setting in &key.settings {
        setting.store(attributes, id);
    }
}

fn remove(attributes: &mut Attributes, id: &str) {
    keep(attributes, KEYS_ATTRIBUTE, |value| {
        key_id(value) != Some(id)
    });
    let index = index_value(id);
    keep(attributes, INDEX_ATTRIBUTE, |value| value != index);
    for field in Field::ALL {
        attributes.remove(&field.attribute(id));
    }
}

fn keep(attributes: &mut Attributes, name: &str, wanted: impl Fn(&str) -> bool) {
    let values = attributes.remove(name).unwrap_or_default();
    let values = values.into_iter().filter(|value| wanted(value)).collect();
    put(attributes, name, values);
}

/// Sets an attribute, or removes it if it has no value: Keycloak keeps no empty attribute.
fn put(attributes: &mut Attributes, name: &str, values: Vec<String>) {
    if values.is_empty() {
        attributes.remove(name);
    } else {
        attributes.insert(name.to_owned(), values);
    }
}

fn put_one(attributes: &mut Attributes, field: Field, id: &str, value: &str) {
    put(attributes, &field.attribute(id), vec![value.to_owned()]);
}
