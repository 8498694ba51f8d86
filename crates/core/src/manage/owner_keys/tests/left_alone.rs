//! The part of an owner that an edit leaves alone, for any attributes: every attribute except
//! those of its own keys, and every value of these except theirs.

use std::collections::BTreeSet;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

/// Ids that begin like others, ids that differ in case, ids of imported keys and of other
/// tools.
const IDS: [&str; 9] = [
    A,
    "aaaa0000000",
    "aaaa000000011",
    "AAAA00000001",
    "aaaa00000001aaaa00000001",
    "abc123",
    "a_name",
    "",
    B,
];

/// Attributes of others, some with names that look like ours.
const FOREIGN: [&str; 8] = [
    "phone",
    "apikeys",
    "apiKeys2",
    "apiKey",
    "apiKey_",
    "apiKey_aaaa00000001",
    "apiKey_aaaa00000001_nameOf",
    "apiKeyIndexes",
];

fn foreign() -> impl Strategy<Value = Attributes> {
    btree_map(
        select(&FOREIGN[..]).prop_map(str::to_owned),
        vec("[ -~]{0,12}", 0..3),
        0..6,
    )
}

/// A key with some of its parts, as tools and administrators may leave it.
fn parts(id: &'static str) -> impl Strategy<Value = Attributes> {
    let date = prop_oneof![
        Just("2020-01-01T00:00:00Z".to_owned()),
        Just("2027-01-15T09:00:00Z".to_owned()),
        Just("2029-01-01T00:00:00Z".to_owned()),
        "[a-z]{0,4}",
    ];
    let fields = subsequence(Field::ALL.to_vec(), 0..=6);
    (0..3_usize, 0..3_usize, fields, vec(date, 6)).prop_map(move |(keys, index, fields, values)| {
        let mut attributes = Attributes::new();
        let value = key_value(id, &hash_sha256(b"x"));
        put(&mut attributes, KEYS_ATTRIBUTE, vec![value; keys]);
        put(
            &mut attributes,
            INDEX_ATTRIBUTE,
            vec![index_value(id); index],
        );
        for (field, value) in fields.into_iter().zip(values) {
            put(&mut attributes, &field.attribute(id), vec![value]);
        }
        attributes
    })
}

fn put(attributes: &mut Attributes, name: &str, values: Vec<String>) {
    if !values.is_empty() {
        attributes.insert(name.to_owned(), values);
    }
}

/// Any owner: foreign attributes, and the parts of some keys.
fn any_owner() -> impl Strategy<Value = Attributes> {
    let keys = subsequence(IDS.to_vec(), 0..=5)
        .prop_flat_map(|ids| ids.into_iter().map(parts).collect::<Vec<_>>());
    let junk = vec("[a-z:]{0,9}", 0..2);
    (foreign(), keys, junk).prop_map(|(mut attributes, keys, junk)| {
        for (name, values) in keys.into_iter().flatten() {
            attributes.entry(name).or_default().extend(values);
        }
        if !junk.is_empty() {
            let keys = attributes.entry(KEYS_ATTRIBUTE.to_owned()).or_default();
            keys.extend(junk);
        }
        attributes
    })
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let grace = select(vec![0, 1, 1000, 7 * DAY_MS]);
    (
        0..7_usize,
        select(&IDS[..]),
        select(vec![C, D, A]),
        grace,
        0..8_usize,
    )
        .prop_map(|(kind, id, new, grace, max)| match kind {
            0 => create(new, max),
            1 => import(new, max),
            2 => rotate(id, new, grace, max),
            3 => revoke(id),
            6 => update(id, &settings::all()),
            4 => Edit::RevokeAll,
            _ => Edit::Reindex,
        })
}

/// The ids that an edit names, with those that it may sweep.
fn own_ids(edit: &Edit, before: &Attributes) -> BTreeSet<String> {
    let mut ids: BTreeSet<String> = match edit {
        Edit::Create { key, .. } | Edit::Import { key, .. } => [key.id.clone()].into(),
        Edit::Rotate {
            id, replacement, ..
        } => [id.clone(), replacement.id.clone()].into(),
        Edit::Update { id, .. } | Edit::Revoke { id } => return [id.clone()].into(),
        Edit::RevokeAll => return key_ids(before).map(str::to_owned).collect(),
        Edit::Reindex => return BTreeSet::new(),
    };
    ids.extend(IDS.iter().map(|&id| id.to_owned()).filter(|id| {
        before.contains_key(&format!("apiKey_{id}_replacedBy"))
            && ["graceUntil", "expiresAt"].iter().any(|field| {
                let ends = before.get(&format!("apiKey_{id}_{field}"));
                ends.is_some_and(|at| *at == ["2020-01-01T00:00:00Z"])
            })
    }));
    ids
}

/// The attributes without those of these ids.
fn without(attributes: &Attributes, ids: &BTreeSet<String>) -> Attributes {
    let mut rest = attributes.clone();
    for id in ids {
        for field in [
            "name",
            "created",
            "expiresAt",
            "scopes",
            "graceUntil",
            "replacedBy",
            "rateLimit",
            "allowedAddresses",
            "disabled",
            "environment",
            "labels",
        ] {
            rest.remove(&format!("apiKey_{id}_{field}"));
        }
        let (key, index) = (format!("key:{id}:"), format!("{id:.<288}"));
        if let Some(values) = rest.get_mut(KEYS_ATTRIBUTE) {
            values.retain(|value| !value.starts_with(&key));
        }
        if let Some(values) = rest.get_mut(INDEX_ATTRIBUTE) {
            values.retain(|value| *value != index);
        }
    }
    for name in [KEYS_ATTRIBUTE, INDEX_ATTRIBUTE] {
        if rest.get(name).is_some_and(Vec::is_empty) {
            rest.remove(name);
        }
    }
    rest
}

proptest! {
    #[test]
    fn an_edit_touches_no_other_key_and_nothing_foreign(
        before in any_owner(),
        edit in any_edit(),
    ) {
        let mut after = before.clone();
        if let Ok(edited) = edit.apply(&mut after, NOW) {
            let own = own_ids(&edit, &before);
            let (mut was, mut is) = (without(&before, &own), without(&after, &own));
            if edit == Edit::Reindex {
                was.remove(INDEX_ATTRIBUTE);
                is.remove(INDEX_ATTRIBUTE);
            }
            if edit == Edit::RevokeAll {
                for name in [KEYS_ATTRIBUTE, INDEX_ATTRIBUTE] {
                    was.remove(name);
                    prop_assert_eq!(is.get(name), None);
                }
            }
            prop_assert_eq!(was, is);
            for id in edited.added.iter().chain(&edited.ended) {
                prop_assert!(own.contains(id));
            }
        }
    }

    #[test]
    fn an_edit_is_made_as_it_says(before in any_owner(), edit in any_edit()) {
        let mut after = before.clone();
        let Ok(edited) = edit.apply(&mut after, NOW) else { return Ok(()) };
        if let Some(id) = &edited.added {
            // Unless one of that id was swept.
            let was = find(&before, id, NOW);
            prop_assert!(was.is_none_or(|key| key.replaced_by.is_some()));
            prop_assert_eq!(state(&after, id, NOW), Some(KeyState::Active));
        }
        for id in &edited.ended {
            prop_assert!(find(&before, id, NOW).is_some());
            prop_assert_eq!(find(&after, id, NOW), None);
        }
        if let Edit::Update { id, .. } = &edit {
            let key = find(&after, id, NOW).expect("an update of a key that is there");
            prop_assert!(key.disabled && key.labels.is_none());
            let ids = |attributes: &Attributes| key_ids(attributes).map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(ids(&before), ids(&after));
        }
        if let Edit::Revoke { id } = &edit {
            prop_assert_eq!(without(&after, &[id.clone()].into()), after.clone());
        }
        // These change nothing when they are made again.
        if !matches!(edit, Edit::Create { .. } | Edit::Rotate { .. }) {
            let once = after.clone();
            prop_assert_eq!(edit.apply(&mut after, NOW), Ok(Edited::default()));
            prop_assert_eq!(after, once);
        }
    }

    #[test]
    fn no_edit_takes_an_owner_past_the_limit(before in any_owner(), edit in any_edit()) {
        let (Edit::Create { keys_max, .. }
        | Edit::Import { keys_max, .. }
        | Edit::Rotate { keys_max, .. }) = edit else { return Ok(()) };
        let mut after = before.clone();
        if edit.apply(&mut after, NOW).is_ok() {
            // Counted apart from the code: keys without an heir count.
            let count = |attributes: &Attributes| {
                let values = attributes.get(KEYS_ATTRIBUTE).map_or(0, Vec::len);
                let replaced = key_ids(attributes)
                    .filter(|id| attributes.contains_key(&format!("apiKey_{id}_replacedBy")))
                    .count();
                (values - replaced, values)
            };
            let ((held_before, all_before), (held, all)) = (count(&before), count(&after));
            prop_assert!(held <= keys_max.max(held_before), "{held} of {keys_max}");
            prop_assert!(all <= (2 * keys_max).max(all_before), "{all} of {keys_max}");
        }
    }

    #[test]
    fn keys_are_the_same_in_whatever_order_they_are_stored(
        owner in any_owner(),
        other in foreign(),
        name in select(vec![KEYS_ATTRIBUTE, INDEX_ATTRIBUTE]),
    ) {
        let mut again = owner.clone();
        for values in again.values_mut() {
            values.reverse();
        }
        again.extend(other.into_iter().filter(|(name, _)| !name.starts_with("apiKey_")));
        again.insert("apiKey_gone_name".to_owned(), vec![]);
        prop_assert!(same_keys(&owner, &again));
        again.entry(name.to_owned()).or_default().push("more".to_owned());
        prop_assert!(!same_keys(&owner, &again));
    }
}
