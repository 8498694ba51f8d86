//! The truth of a run, apart from any gateway's belief: the holders of each key over time, and
//! the owner of each token.

use std::collections::BTreeMap;

use apikeys_core::api_key::record::{Field, index_value};
use apikeys_core::api_key::terms;
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

/// The terms of a key, as the record has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    pub rate_limit: Option<String>,
    pub networks: Option<String>,
}

impl Terms {
    /// The terms that a gateway says it served a key by.
    pub fn said(terms: &terms::Terms) -> Self {
        Self {
            rate_limit: terms.rate_limit.map(|limit| limit.to_string()),
            networks: terms.allowed_addresses.as_ref().map(ToString::to_string),
        }
    }
}

/// A time in which an owner's record of a key had the same terms.
#[derive(Debug, Clone)]
struct Record {
    terms: Terms,
    /// None while it lasts.
    until: Option<u64>,
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
    /// An owner's records of a key, good or not, by realm, key and owner.
    records: BTreeMap<(usize, String, String), Vec<Record>>,
    /// The one user who has the index of a key, and since when; by realm and key.
    indexed: BTreeMap<(usize, String), (Option<String>, u64)>,
    /// The instants at which a node was told that an owner is revoked, by node, realm and
    /// owner.
    told: BTreeMap<(usize, usize, String), Vec<u64>>,
}

impl Truth {
    /// Looks at a realm anew: to be called after each change in it.
    pub fn look(&mut self, realm: usize, keycloak: &FakeKeycloak, now: u64) {
        self.look_at_records(realm, keycloak, now);
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
            let user = indexed(key, keycloak);
            let id = user.map(|user| user.id.clone());
            let sole = self.indexed.entry((realm, key.text.clone())).or_default();
            if sole.0 != id {
                *sole = (id, now);
            }
            // The one owner that the key stands for right now, if all is well with both.
            let owner = user.filter(|user| is_good(key, user, now));
            let owner = owner.map(|user| user.id.clone());
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

    fn look_at_records(&mut self, realm: usize, keycloak: &FakeKeycloak, now: u64) {
        for (key, user) in keys::ALL
            .iter()
            .flat_map(|key| keycloak.users.iter().map(move |user| (key, user)))
        {
            let Some(terms) = terms_of(key, user) else {
                continue;
            };
            let of_owner = (realm, key.text.clone(), user.id.clone());
            let records = self.records.entry(of_owner).or_default();
            if !matches!(records.last(), Some(last) if last.until.is_none()) {
                records.push(Record { terms, until: None });
            }
        }
        for ((at, text, owner), records) in &mut self.records {
            let key = keys::ALL.iter().find(|key| key.text == *text);
            let user = keycloak.users.iter().find(|user| user.id == *owner);
            let terms = key.zip(user).and_then(|(key, user)| terms_of(key, user));
            let Some(last) = records.last_mut().filter(|last| last.until.is_none()) else {
                continue;
            };
            if *at != realm || terms.as_ref() == Some(&last.terms) {
                continue;
            }
            last.until = Some(now);
            records.extend(terms.map(|terms| Record { terms, until: None }));
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

    /// The latest instant at which this owner's record of the key had these terms: now, if it
    /// has them; none if never.
    pub fn last_terms(
        &self,
        realm: usize,
        key: &str,
        owner: &str,
        terms: &Terms,
        now: u64,
    ) -> Option<u64> {
        let of_owner = (realm, key.to_owned(), owner.to_owned());
        let records = self.records.get(&of_owner)?;
        let had = records.iter().rev().find(|record| record.terms == *terms)?;
        Some(had.until.unwrap_or(now))
    }

    /// Since when the same user alone has had the index of a key. A refusal of the key since then
    /// names its owner.
    pub fn indexed_since(&self, realm: usize, key: &str) -> u64 {
        let indexed = self.indexed.get(&(realm, key.to_owned()));
        indexed.map_or(0, |(_, since)| *since)
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

/// The one user who has the index of a key.
fn indexed<'a>(key: &Key, keycloak: &'a FakeKeycloak) -> Option<&'a User> {
    let index = index_value(&key.id);
    let mut found = keycloak.users.iter().filter(|user| {
        let mut indexed = values(user, "apiKeyIndex").iter();
        indexed.any(|value| value.eq_ignore_ascii_case(&index))
    });
    found.next().filter(|_| found.next().is_none())
}

fn values<'a>(user: &'a User, name: &str) -> &'a [String] {
    user.attributes.get(name).map_or(&[], Vec::as_slice)
}

fn field<'a>(key: &Key, user: &'a User, field: Field) -> &'a [String] {
    values(user, &field.attribute(&key.id))
}

/// The terms of this user's record of a key, if there is one.
fn terms_of(key: &Key, user: &User) -> Option<Terms> {
    let mark = format!("key:{}:", key.id);
    let mut records = values(user, "apiKeys").iter();
    records.find(|value| value.starts_with(&mark))?;
    let one = |of| field(key, user, of).first().cloned();
    Some(Terms {
        rate_limit: one(Field::RateLimit),
        networks: one(Field::AllowedAddresses),
    })
}

/// Whether this user's record lets the key through.
fn is_good(key: &Key, user: &User, now: u64) -> bool {
    let mark = format!("key:{}:", key.id);
    let records = values(user, "apiKeys");
    let mut hashes = records.iter().filter_map(|value| value.strip_prefix(&mark));
    let (Some(hash), None) = (hashes.next(), hashes.next()) else {
        return false;
    };
    let in_grace = field(key, user, Field::GraceUntil)
        .iter()
        .all(|until| UnixMillis::parse_rfc3339(until).is_ok_and(|until| now < until.0));
    let has_end = field(key, user, Field::ExpiresAt).len() == 1;
    let is_on = field(key, user, Field::Disabled).is_empty();
    let is_its_own = key.hashes.iter().any(|own| own == hash);
    is_its_own && has_end && in_grace && is_on && user.enabled && user.is_linked()
}
