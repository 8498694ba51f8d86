//! Refuses every key of a file that can be refused without a call to Keycloak.

use std::collections::BTreeMap;

use apikeys_core::api_key::format::{KeyFormat, MalformedKey};
use apikeys_core::api_key::record::is_scope;
use apikeys_core::api_key::terms::{NAME_CHARS_MAX, is_printable};
use apikeys_core::clock::UnixMillis;
use zeroize::Zeroizing;

use super::entry::{Entry, Refused, Secret};
use super::reference::is_reference;
use crate::inspect::not_a_key;

/// A key that is to be imported.
pub(crate) struct Import {
    pub(crate) place: String,
    pub(crate) owner: String,
    pub(crate) id: String,
    pub(crate) key: Zeroizing<String>,
    pub(crate) name: String,
    pub(crate) expires_at: UnixMillis,
    pub(crate) scopes: Option<String>,
}

/// The rules for the keys of a file.
pub(crate) struct Rules {
    /// Has the index key, so that it derives ids.
    pub(crate) format: KeyFormat,
    /// The scopes that the gateway's client may ask for.
    pub(crate) scopes: Vec<String>,
    /// The name of keys without one in the file.
    pub(crate) name: String,
    /// The end of keys without one in the file.
    pub(crate) expires_at: UnixMillis,
    pub(crate) now: UnixMillis,
    /// Names of owners in Keycloak, by their names in the file.
    pub(crate) owners: BTreeMap<String, String>,
}

impl Rules {
    /// Separates the keys that can be imported from the refused ones, in the order of the file.
    pub(crate) fn apply(
        &self,
        entries: Vec<Result<Entry, Refused>>,
    ) -> (Vec<Import>, Vec<Refused>) {
        let mut imports = Vec::new();
        let mut refused = Vec::new();
        for entry in entries {
            match entry.and_then(|entry| self.import(entry)) {
                Ok(import) => imports.push(import),
                Err(refusal) => refused.push(refusal),
            }
        }
        let (imports, again) = once_each(imports);
        refused.extend(again);
        (imports, refused)
    }

    fn import(&self, entry: Entry) -> Result<Import, Refused> {
        let owner = self.owners.get(&entry.owner).unwrap_or(&entry.owner);
        if self.format.has_prefix(owner.as_bytes()) {
            let reason = "what stands for its owner looks like a key";
            return Err(Refused::new(&entry.place, None, reason));
        }
        let refuse = |reason: String| Refused::new(&entry.place, Some(owner), reason);
        let (id, key) = self.key(&entry.key).map_err(refuse)?;
        let name = entry.name.as_deref().unwrap_or(&self.name).trim();
        if !is_printable(name, NAME_CHARS_MAX) {
            return Err(refuse(
                "its name is not 1 to 100 characters that can be seen".to_owned(),
            ));
        }
        let expires_at = match &entry.expires_at {
            None => self.expires_at,
            Some(text) => UnixMillis::parse_rfc3339(text).map_err(|_| {
                refuse("its expires_at is not RFC 3339, as 2027-01-28T00:00:00Z".to_owned())
            })?,
        };
        let expires_at = UnixMillis::from_seconds(expires_at.as_seconds());
        if expires_at <= self.now {
            return Err(refuse(format!("it ended at {}", expires_at.to_rfc3339())));
        }
        if let Some(scopes) = &entry.scopes {
            self.check_scopes(scopes).map_err(refuse)?;
        }
        Ok(Import {
            owner: owner.clone(),
            id,
            key,
            name: name.to_owned(),
            expires_at,
            scopes: entry.scopes,
            place: entry.place,
        })
    }

    fn key(&self, secret: &Secret) -> Result<(String, Zeroizing<String>), String> {
        let text = match secret {
            Secret::Text(text) if text.is_empty() => return Err("it has no key".to_owned()),
            Secret::Text(text) if is_reference(text) => {
                return Err(
                    "its key is a reference (to a variable, a vault, …) that nobody resolved: \
                     write the file with the key itself"
                        .to_owned(),
                );
            }
            Secret::Text(text) => text,
            Secret::NoText => {
                return Err("its key is no text: quote it in the file".to_owned());
            }
        };
        let key =
            self.format.parse(text.as_bytes()).map_err(|why| {
                match why {
            MalformedKey::Checksum => {
                "it has the shape of a key of this project, and a wrong checksum: it was mistyped"
                    .to_owned()
            }
            why => not_a_key(why).to_string(),
        }
            })?;
        Ok((key.id().to_owned(), text.clone()))
    }

    fn check_scopes(&self, scopes: &str) -> Result<(), String> {
        if !is_scope(scopes) {
            return Err("its scopes are no OAuth scopes with single spaces between".to_owned());
        }
        let mut all = scopes.split(' ');
        match all.find(|scope| !self.scopes.iter().any(|known| known == scope)) {
            None => Ok(()),
            Some(unknown) => Err(format!("the gateway's client has no scope {unknown}")),
        }
    }
}

/// A key has one owner and is imported once. If it is in the file twice for one owner, the
/// first counts; if it is there for several owners, none does.
fn once_each(imports: Vec<Import>) -> (Vec<Import>, Vec<Refused>) {
    let mut by_id: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for import in &imports {
        let owner = import.owner.to_lowercase();
        let seen = by_id.entry(import.id.clone()).or_default();
        seen.push((import.place.clone(), owner));
    }
    let mut kept = Vec::new();
    let mut refused = Vec::new();
    for import in imports {
        let seen = by_id.get(&import.id).map(Vec::as_slice).unwrap_or_default();
        let owner = import.owner.to_lowercase();
        let reason = match (seen.iter().find(|(_, other)| *other != owner), seen.first()) {
            (Some((place, other)), _) => {
                format!("the same key is {other:?}'s as well ({place}): a key has one owner")
            }
            (None, Some((first, _))) if *first != import.place => {
                format!("it is the same key as at {first}")
            }
            _ => {
                kept.push(import);
                continue;
            }
        };
        refused.push(Refused::new(&import.place, Some(&import.owner), reason));
    }
    (kept, refused)
}
