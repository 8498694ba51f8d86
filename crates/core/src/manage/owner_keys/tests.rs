//! Tests of the edits, each at its making; `rotation` holds the rotations, `settings` the changes
//! of settings, and `left_alone` the attributes that no edit touches.

mod left_alone;
mod rotation;
mod settings;

use super::keys::key_id;
use super::*;
use crate::api_key::hash::{UnusableHash, hash_sha256};
use crate::api_key::record::{
    Attributes, Field, INDEX_ATTRIBUTE, KEYS_ATTRIBUTE, KeyRecord, RecordError, index_value,
    key_value,
};
use crate::clock::UnixMillis;

const NOW: UnixMillis = UnixMillis::from_seconds(1_800_000_000);
const DAY_MS: u64 = 86_400_000;
const A: &str = "aaaa00000001";
const B: &str = "bbbb00000002";
const C: &str = "cccc00000003";
const D: &str = "dddd00000004";

fn key(id: &str) -> NewKey {
    NewKey {
        id: id.to_owned(),
        hash_text: hash_sha256(id.as_bytes()),
        name: format!("name of {id}"),
        created: NOW,
        expires_at: NOW.plus_ms(30 * DAY_MS),
        scopes: None,
        settings: Vec::new(),
    }
}

fn create(id: &str, keys_max: usize) -> Edit {
    let key = key(id);
    Edit::Create { key, keys_max }
}

fn import(id: &str, keys_max: usize) -> Edit {
    let key = key(id);
    Edit::Import { key, keys_max }
}

fn rotate(id: &str, by: &str, grace_ms: u64, keys_max: usize) -> Edit {
    Edit::Rotate {
        id: id.to_owned(),
        replacement: Replacement {
            id: by.to_owned(),
            hash_text: hash_sha256(by.as_bytes()),
            created: NOW,
            expires_at: None,
        },
        grace_ms,
        keys_max,
    }
}

fn update(id: &str, settings: &[Setting]) -> Edit {
    Edit::Update {
        id: id.to_owned(),
        settings: settings.to_vec(),
    }
}

fn revoke(id: &str) -> Edit {
    Edit::Revoke { id: id.to_owned() }
}

fn added(id: &str) -> Edited {
    Edited {
        added: Some(id.to_owned()),
        ..Edited::default()
    }
}

/// The attributes of an owner of these keys.
fn owner(ids: &[&str]) -> Attributes {
    let mut attributes = Attributes::new();
    for id in ids {
        made(&mut attributes, &create(id, 100));
    }
    attributes
}

#[track_caller]
fn made(attributes: &mut Attributes, edit: &Edit) -> Edited {
    edit.apply(attributes, NOW).unwrap()
}

/// The edit is refused, now, for this reason.
#[track_caller]
fn refused(attributes: &Attributes, edit: &Edit, why: EditRefused) {
    assert_eq!(edit.apply(&mut attributes.clone(), NOW), Err(why));
}

fn state(attributes: &Attributes, id: &str, now: UnixMillis) -> Option<KeyState> {
    find(attributes, id, now).map(|key| key.state)
}

fn set(attributes: &mut Attributes, field: Field, id: &str, value: &str) {
    attributes.insert(field.attribute(id), vec![value.to_owned()]);
}

fn too_many(held: usize, max: usize) -> EditRefused {
    EditRefused::TooMany { held, max }
}

#[test]
fn a_new_key_is_stored_as_the_gateway_reads_it() {
    let mut attributes = Attributes::new();
    let mut key = key(A);
    key.scopes = Some("orders:read profile".to_owned());
    let edit = Edit::Create {
        key: key.clone(),
        keys_max: 1,
    };
    assert_eq!(made(&mut attributes, &edit), added(A));
    let expected: Attributes = [
        ("apiKeys".to_owned(), format!("key:{A}:{}", key.hash_text)),
        ("apiKeyIndex".to_owned(), format!("{A}{}", ".".repeat(276))),
        (format!("apiKey_{A}_name"), format!("name of {A}")),
        (
            format!("apiKey_{A}_created"),
            "2027-01-15T08:00:00Z".to_owned(),
        ),
        (
            format!("apiKey_{A}_expiresAt"),
            "2027-02-14T08:00:00Z".to_owned(),
        ),
        (
            format!("apiKey_{A}_scopes"),
            "orders:read profile".to_owned(),
        ),
    ]
    .map(|(name, value)| (name, vec![value]))
    .into();
    assert_eq!(attributes, expected);
    let record = KeyRecord::find(&attributes, A).unwrap();
    assert_eq!(record.hash_text, key.hash_text);
    let summary = find(&attributes, A, NOW).unwrap();
    assert_eq!((summary.name, summary.scopes), (key.name, key.scopes));
    assert_eq!(
        (summary.created, summary.expires_at, summary.state),
        (Some(NOW), Some(key.expires_at), KeyState::Active)
    );
}

#[test]
fn an_owner_holds_no_more_keys_than_it_may() {
    let mut attributes = owner(&[A, B]);
    refused(&attributes, &create(C, 2), too_many(2, 2));
    refused(&attributes, &import(C, 2), too_many(2, 2));
    refused(&attributes, &create(C, 0), too_many(2, 0));
    // An expired key counts, and so does a key that another tool left.
    set(&mut attributes, Field::ExpiresAt, A, "2020-01-01T00:00:00Z");
    refused(&attributes, &create(C, 2), too_many(2, 2));
    attributes
        .get_mut(KEYS_ATTRIBUTE)
        .unwrap()
        .push("nonsense".to_owned());
    refused(&attributes, &create(C, 3), too_many(3, 3));
    assert_eq!(made(&mut attributes, &create(C, 4)), added(C));
}

#[test]
fn an_id_that_is_there_in_whatever_part_is_taken() {
    refused(&owner(&[A]), &create(A, 9), EditRefused::IdTaken);
    refused(&owner(&[A, B]), &rotate(A, B, 0, 9), EditRefused::IdTaken);
    refused(&owner(&[A]), &rotate(A, A, 0, 9), EditRefused::IdTaken);
    for field in Field::ALL {
        let mut attributes = Attributes::new();
        set(&mut attributes, field, A, "left behind");
        refused(&attributes, &create(A, 9), EditRefused::IdTaken);
        refused(&attributes, &import(A, 9), EditRefused::IdTaken);
    }
}

#[test]
fn a_key_whose_end_has_come_is_not_made() {
    for end in [NOW, NOW.minus_ms(1)] {
        let mut key = key(A);
        key.expires_at = end;
        let (keys_max, why) = (9, EditRefused::EndsBeforeItBegins);
        let import = Edit::Import {
            key: key.clone(),
            keys_max,
        };
        refused(&Attributes::new(), &import, why);
        refused(&Attributes::new(), &Edit::Create { key, keys_max }, why);
        let mut edit = rotate(A, B, 0, 9);
        if let Edit::Rotate { replacement, .. } = &mut edit {
            replacement.expires_at = Some(end);
        }
        refused(&owner(&[A]), &edit, why);
    }
}

#[test]
fn an_import_that_is_made_twice_is_made_once() {
    let mut attributes = owner(&[B]);
    assert_eq!(made(&mut attributes, &import(A, 2)), added(A));
    let once = attributes.clone();
    // There is no room for it any more, but it needs none.
    assert_eq!(made(&mut attributes, &import(A, 1)), Edited::default());
    assert_eq!(attributes, once);
}

#[test]
fn an_import_is_not_indexed_twice() {
    let mut attributes = Attributes::new();
    attributes.insert(INDEX_ATTRIBUTE.to_owned(), vec![index_value(A)]);
    made(&mut attributes, &import(A, 9));
    assert_eq!(attributes[INDEX_ATTRIBUTE], [index_value(A)]);
}

/// Owners with a key A and an unusable record of it.
fn broken() -> Vec<(Attributes, RecordError)> {
    let with = |change: &dyn Fn(&mut Attributes)| {
        let mut attributes = owner(&[A]);
        change(&mut attributes);
        attributes
    };
    let value = |at: &str, value: String| {
        with(&|attributes| {
            attributes.insert(at.to_owned(), vec![value.clone()]);
        })
    };
    vec![
        (
            with(&|attributes| drop(attributes.remove(INDEX_ATTRIBUTE))),
            RecordError::NotIndexed,
        ),
        (
            with(&|attributes| drop(attributes.remove(&Field::ExpiresAt.attribute(A)))),
            RecordError::NoExpiry,
        ),
        (
            value(&Field::ExpiresAt.attribute(A), "soon".to_owned()),
            RecordError::Date,
        ),
        (
            value(KEYS_ATTRIBUTE, key_value(A, "$1$md5")),
            UnusableHash::Scheme.into(),
        ),
        (
            with(&|attributes| {
                let value = attributes[KEYS_ATTRIBUTE][0].clone();
                attributes.get_mut(KEYS_ATTRIBUTE).unwrap().push(value);
            }),
            RecordError::Twice,
        ),
    ]
}

#[test]
fn a_revoked_key_leaves_nothing_and_is_revoked_again_to_no_effect() {
    let mut attributes = owner(&[A, B]);
    made(&mut attributes, &rotate(A, C, 1000, 9));
    set(&mut attributes, Field::Scopes, A, "orders:read");
    let edited = made(&mut attributes, &revoke(A));
    assert_eq!(edited.ended, [A]);
    let mut expected = owner(&[B, C]);
    set(&mut expected, Field::Name, C, &format!("name of {A}"));
    assert!(same_keys(&attributes, &expected));
    let once = attributes.clone();
    assert_eq!(made(&mut attributes, &revoke(A)), Edited::default());
    assert_eq!(attributes, once);
    made(&mut attributes, &revoke(B));
    made(&mut attributes, &revoke(C));
    assert_eq!(attributes, Attributes::new());
}

#[test]
fn a_key_that_is_broken_is_revoked_whole() {
    for (mut attributes, why) in broken() {
        assert_eq!(made(&mut attributes, &revoke(A)).ended, [A], "{why}");
        assert_eq!(attributes, Attributes::new(), "{why}");
    }
}

#[test]
fn reindexing_names_the_keys_that_are_there_each_once() {
    let (odd, imported) = ("abc123", "abcdefghijklmnopqrstuvwx");
    let mut attributes = owner(&[B, A, imported]);
    let hash = hash_sha256(b"other");
    for value in [
        key_value(A, &hash),
        key_value(odd, &hash),
        key_value("ABCDEF123456", &hash),
        "nonsense".to_owned(),
    ] {
        attributes.get_mut(KEYS_ATTRIBUTE).unwrap().push(value);
    }
    let index = vec![index_value(D), "short".to_owned(), index_value(A)];
    attributes.insert(INDEX_ATTRIBUTE.to_owned(), index);
    let before = attributes.clone();
    assert_eq!(made(&mut attributes, &Edit::Reindex), Edited::default());
    // No key's text leads to an id of another shape, so no key is found by it.
    assert_eq!(
        attributes[INDEX_ATTRIBUTE],
        [A, imported, B].map(index_value)
    );
    attributes.insert(INDEX_ATTRIBUTE.to_owned(), before[INDEX_ATTRIBUTE].clone());
    assert_eq!(attributes, before);
    // Nothing is left of an index without keys.
    attributes.remove(KEYS_ATTRIBUTE);
    made(&mut attributes, &Edit::Reindex);
    assert!(!attributes.contains_key(INDEX_ATTRIBUTE));
}

#[test]
fn keys_are_listed_the_newest_first_and_each_once() {
    let mut attributes = owner(&[A, B, C, D]);
    for (id, created) in [(A, "2026-01-01T00:00:00Z"), (B, "2026-03-01T00:00:00Z")] {
        set(&mut attributes, Field::Created, id, created);
    }
    attributes.remove(&Field::Created.attribute(C));
    set(&mut attributes, Field::Created, D, "2026-01-01T00:00:00Z");
    let keys = attributes.get_mut(KEYS_ATTRIBUTE).unwrap();
    keys.push(keys[0].clone());
    let listed = list(&attributes, NOW);
    let ids: Vec<&str> = listed.iter().map(|key| key.id.as_str()).collect();
    assert_eq!(ids, [B, A, D, C]);
    assert_eq!(listed[1].state, KeyState::Unusable(RecordError::Twice));
    assert_eq!(find(&attributes, "aaaa0000000", NOW), None);
}

#[test]
fn a_key_ends_at_the_earlier_of_its_end_and_its_grace() {
    let mut key = find(&owner(&[A]), A, NOW).unwrap();
    let at = |ms| Some(NOW.plus_ms(ms));
    for (end, grace, ends) in [
        (at(5), None, at(5)),
        (at(5), at(3), at(3)),
        (at(3), at(5), at(3)),
        (None, at(5), at(5)),
        (None, None, None),
    ] {
        (key.expires_at, key.grace_until) = (end, grace);
        assert_eq!(key.ends_at(), ends);
    }
}

#[test]
fn each_state_has_its_word() {
    let words = [
        KeyState::Active,
        KeyState::Expired,
        KeyState::Disabled,
        KeyState::Rotating,
        KeyState::Unusable(RecordError::Date),
    ];
    assert_eq!(
        words.map(KeyState::word),
        ["active", "expired", "disabled", "rotating", "unusable"]
    );
}

#[test]
fn a_refusal_to_the_one_who_may_hold_no_more_says_how_many_that_is() {
    let told = too_many(5, 4).to_string();
    assert!(told.contains("holds 5 keys") && told.contains("may hold 4"));
}

#[test]
fn debug_output_of_a_key_to_be_stored_holds_no_hash() {
    let edits = [create(A, 1), import(A, 1), rotate(A, B, 0, 1)];
    for edit in edits {
        assert!(!format!("{edit:?}").contains("sha256"), "{edit:?}");
    }
}
