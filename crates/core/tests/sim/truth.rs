//! The truth of a run, apart from any gateway's belief: the holders of each key over time, and
//! the owner of each token.

use std::collections::BTreeMap;

use apikeys_core::api_key::record::{Field, index_value};
use apikeys_core::clock::UnixMillis;

use super::keycloak::{FakeKeycloak, User};
use super::keys::{self, Key};

/// A time in which a key was good for an owner.
#[derive(Debug, Clone)]
pub struct Hold {
    pub owner: String,
    pub from: u64,
    /// None while it lasts.
    pub until: Option<u64>,
}

/// A token that Keycloak gave to an owner.
#[derive(Debug, Clone)]
pub struct Issued {
    pub realm: usize,
    pub subject: String,
    /// Its end, in milliseconds by Keycloak's clock, which is right.
    pub exp: u64,
    /// Seconds of its life.
    pub life: u64,
}

#[derive(Default)]
pub struct Truth {
    /// By realm and by the text of the key.
    holds: BTreeMap<(usize, String), Vec<Hold>>,
    pub tokens: BTreeMap<String, Issued>,
    /// The latest instant at which Keycloak said, and could know, that nobody owns the key of
    /// this id.
    pub nobody: BTreeMap<(usize, String), u64>,
    /// The `expiresAt` that a record had first; it is never changed in a run.
    pub ends: BTreeMap<(usize, String), u64>,
    /// Until when an owner's own record let a key through, with or without other holders; none
    /// while it does.
    own: BTreeMap<(usize, String, String), Option<u64>>,
    /// The instants at which a node was told that an owner is revoked, by node, realm and
    /// owner.
    told: BTreeMap<(usize, usize, String), Vec<u64>>,
}

impl Truth {
    /// Looks at a realm anew: to be called after each change in it.
    pub fn look(&mut self, realm: usize, keycloak: &FakeKeycloak, now: u64) {
        for (key, user) in keys::ALL
            .iter()
            .flat_map(|key| keycloak.users.iter().map(move |user| (key, user)))
        {
            if is_good(key, user, now) {
                let own = (realm, key.text.clone(), user.id.clone());
                self.own.insert(own, None);
            }
        }
        for ((at, text, owner), until) in &mut self.own {
            let key = keys::ALL.iter().find(|key| key.text == *text);
            let user = keycloak.users.iter().find(|user| user.id == *owner);
            let good = key
                .zip(user)
                .is_some_and(|(key, user)| is_good(key, user, now));
            if *at == realm && until.is_none() && !good {
                *until = Some(now);
            }
        }
        for key in keys::ALL.iter() {
            let owner = owner_of(key, keycloak, now);
            let holds = self.holds.entry((realm, key.text.clone())).or_default();
            if let Some(last) = holds.last_mut()
                && last.until.is_none()
            {
                if owner.as_deref() == Some(&last.owner) {
                    continue;
                }
                last.until = Some(now);
            }
            if let Some(owner) = owner {
                let until = None;
                holds.push(Hold {
                    owner,
                    from: now,
                    until,
                });
            }
        }
    }

    /// Notes that a node was told that an owner is revoked.
    pub fn tell(&mut self, node: usize, realm: usize, owner: &str, now: u64) {
        let told = self.told.entry((node, realm, owner.to_owned()));
        told.or_default().push(now);
    }

    /// The first time since then at which a node was told.
    pub fn told_since(&self, node: usize, realm: usize, owner: &str, since: u64) -> Option<u64> {
        let told = self.told.get(&(node, realm, owner.to_owned()))?;
        told.iter().copied().find(|at| *at >= since)
    }

    /// Whether a node was told of any owner of a realm since then.
    pub fn told_any_since(&self, node: usize, realm: usize, since: u64) -> bool {
        self.told.iter().any(|((at, of, _), told)| {
            (*at, *of) == (node, realm) && told.iter().any(|told| *told >= since)
        })
    }

    fn holds(&self, realm: usize, key: &str) -> &[Hold] {
        let holds = self.holds.get(&(realm, key.to_owned()));
        holds.map_or(&[], Vec::as_slice)
    }

    /// The latest instant at which the key was good for this owner: now, if it is; none if
    /// never.
    pub fn last_good(&self, realm: usize, key: &str, owner: &str, now: u64) -> Option<u64> {
        let holds = self.holds(realm, key).iter().rev();
        let mut of_owner = holds.filter(|hold| hold.owner == owner);
        of_owner.next().map(|hold| hold.until.unwrap_or(now))
    }

    /// The latest instant at which this owner's own record let the key through: now, if it
    /// does.
    pub fn last_own(&self, realm: usize, key: &str, owner: &str, now: u64) -> Option<u64> {
        let own = (realm, key.to_owned(), owner.to_owned());
        self.own.get(&own).map(|until| until.unwrap_or(now))
    }

    /// Whether it was ever good for this owner.
    pub fn was_ever(&self, realm: usize, key: &str, owner: &str) -> bool {
        self.holds(realm, key)
            .iter()
            .any(|hold| hold.owner == owner)
    }

    /// The hold that is not over: the key has been good for its owner without a break since
    /// then.
    pub fn good_since(&self, realm: usize, key: &str) -> Option<&Hold> {
        let last = self.holds(realm, key).last();
        last.filter(|hold| hold.until.is_none())
    }
}

/// The one owner that a key stands for right now, if all is well with both.
fn owner_of(key: &Key, keycloak: &FakeKeycloak, now: u64) -> Option<String> {
    let index = index_value(&key.id);
    let values = |user: &User, name: &str| user.attributes.get(name).cloned().unwrap_or_default();
    let mut found = keycloak.users.iter().filter(|user| {
        let indexed = values(user, "apiKeyIndex");
        indexed
            .iter()
            .any(|value| value.eq_ignore_ascii_case(&index))
    });
    let (user, None) = (found.next()?, found.next()) else {
        return None;
    };
    is_good(key, user, now).then(|| user.id.clone())
}

/// Whether this user's record lets the key through.
fn is_good(key: &Key, user: &User, now: u64) -> bool {
    let values = |user: &User, name: &str| user.attributes.get(name).cloned().unwrap_or_default();
    let mark = format!("key:{}:", key.id);
    let records = values(user, "apiKeys");
    let mut hashes = records.iter().filter_map(|value| value.strip_prefix(&mark));
    let (Some(hash), None) = (hashes.next(), hashes.next()) else {
        return false;
    };
    let grace = values(user, &Field::GraceUntil.attribute(&key.id));
    let in_grace = grace
        .iter()
        .all(|until| UnixMillis::parse_rfc3339(until).is_ok_and(|until| now < until.0));
    let has_end = values(user, &Field::ExpiresAt.attribute(&key.id)).len() == 1;
    let is_its_own = key.hashes.iter().any(|own| own == hash);
    is_its_own && has_end && in_grace && user.enabled && user.is_linked()
}
