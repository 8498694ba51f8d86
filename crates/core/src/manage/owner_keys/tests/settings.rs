//! Tests of settings: stored, changed, taken away, inherited.

use super::*;
use crate::api_key::terms::{AllowedAddresses, RateLimit};

/// Every setting, with a value each but the labels.
pub(super) fn all() -> [Setting; 6] {
    [
        Setting::Name("new".to_owned()),
        Setting::RateLimit(RateLimit::parse("100/60")),
        Setting::AllowedAddresses(AllowedAddresses::parse("10.1.1.1/8 ::1")),
        Setting::Disabled(true),
        Setting::Environment(Some("live".to_owned())),
        Setting::Labels(None),
    ]
}

/// A key A with labels.
fn labelled() -> Attributes {
    let mut attributes = owner(&[A, B]);
    set(&mut attributes, Field::Labels, A, "team=pay");
    attributes
}

#[test]
fn settings_are_stored_as_the_gateway_reads_them() {
    let mut attributes = labelled();
    let edited = made(&mut attributes, &update(A, &all()));
    let members = [
        "name",
        "rate_limit",
        "allowed_addresses",
        "disabled",
        "environment",
        "labels",
    ];
    assert_eq!(edited.changed, members);
    assert_eq!((edited.added, edited.ended), (None, vec![]));
    let mut expected = owner(&[A, B]);
    for (field, value) in [
        (Field::Name, "new"),
        (Field::RateLimit, "100/60"),
        (Field::AllowedAddresses, "10.0.0.0/8 ::1/128"),
        (Field::Disabled, "true"),
        (Field::Environment, "live"),
    ] {
        set(&mut expected, field, A, value);
    }
    assert_eq!(attributes, expected);
    let record = KeyRecord::find(&attributes, A).unwrap();
    assert!(record.disabled && record.terms.rate_limit.is_some());
    let view = find(&attributes, A, NOW).unwrap().view(None);
    for (member, value) in [
        ("state", serde_json::json!("disabled")),
        ("disabled", serde_json::json!(true)),
        ("rate_limit", serde_json::json!("100/60")),
        (
            "allowed_addresses",
            serde_json::json!(["10.0.0.0/8", "::1/128"]),
        ),
        ("environment", serde_json::json!("live")),
    ] {
        assert_eq!(view[member], value, "{member}");
    }
    assert_eq!(view.get("labels"), None);
    // A new key may have them from the start.
    let mut key = key(C);
    key.settings = all()[1..].to_vec();
    made(&mut attributes, &Edit::Create { key, keys_max: 9 });
    assert_eq!(
        KeyRecord::find(&attributes, C).unwrap().terms.rate_limit,
        RateLimit::parse("100/60")
    );
}

#[test]
fn settings_that_are_taken_away_leave_nothing() {
    let mut attributes = owner(&[A]);
    let before = attributes.clone();
    made(&mut attributes, &update(A, &all()[1..]));
    let none = [
        Setting::RateLimit(None),
        Setting::AllowedAddresses(None),
        Setting::Disabled(false),
        Setting::Environment(None),
        Setting::Labels(None),
    ];
    let edited = made(&mut attributes, &update(A, &none));
    let members = none.each_ref().map(|setting| setting.member());
    assert_eq!(edited.changed, members[..4]);
    assert_eq!(attributes, before);
    // What is there already, or is not, changes nothing.
    assert_eq!(made(&mut attributes, &update(A, &none)), Edited::default());
}

#[test]
fn a_key_that_is_not_there_has_no_settings() {
    for id in [B, "", "aaaa0000000"] {
        refused(&owner(&[A]), &update(id, &all()), EditRefused::NoSuchKey);
    }
}

#[test]
fn a_setting_that_makes_a_key_unusable_can_be_mended() {
    let mut attributes = owner(&[A]);
    set(&mut attributes, Field::RateLimit, A, "many");
    let unusable = KeyState::Unusable(RecordError::RateLimit);
    assert_eq!(state(&attributes, A, NOW), Some(unusable));
    assert_eq!(find(&attributes, A, NOW).unwrap().rate_limit, None);
    made(&mut attributes, &update(A, &all()[1..2]));
    assert_eq!(state(&attributes, A, NOW), Some(KeyState::Active));
}

#[test]
fn a_disabled_key_is_told_apart_until_it_ends() {
    let mut attributes = owner(&[A]);
    made(&mut attributes, &update(A, &[Setting::Disabled(true)]));
    let ends = find(&attributes, A, NOW).unwrap().expires_at.unwrap();
    assert_eq!(state(&attributes, A, NOW), Some(KeyState::Disabled));
    assert_eq!(state(&attributes, A, ends), Some(KeyState::Expired));
    // One in its grace as well.
    let mut attributes = owner(&[A]);
    made(&mut attributes, &rotate(A, B, 3_600_000, 9));
    made(&mut attributes, &update(A, &[Setting::Disabled(true)]));
    assert_eq!(state(&attributes, A, NOW), Some(KeyState::Disabled));
    assert_eq!(state(&attributes, B, NOW), Some(KeyState::Active));
}

#[test]
fn a_rotation_gives_the_new_key_the_old_ones_settings() {
    for grace_ms in [0, 3_600_000] {
        let mut attributes = labelled();
        let given: Vec<Setting> = all()
            .into_iter()
            .filter(|setting| !matches!(setting, Setting::Disabled(_) | Setting::Labels(_)))
            .collect();
        made(&mut attributes, &update(A, &given));
        let old = KeyRecord::find(&attributes, A).unwrap().terms;
        assert!(old.labels.is_some() && old.allowed_addresses.is_some());
        made(&mut attributes, &rotate(A, C, grace_ms, 9));
        let new = KeyRecord::find(&attributes, C).unwrap();
        assert_eq!(new.terms, old);
        assert!(!new.disabled);
    }
}

#[test]
fn a_revoked_key_takes_its_settings_with_it() {
    let mut attributes = labelled();
    made(&mut attributes, &update(A, &all()));
    made(&mut attributes, &revoke(A));
    assert!(same_keys(&attributes, &owner(&[B])));
}
