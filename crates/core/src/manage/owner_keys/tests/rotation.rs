//! Tests of rotations.

use super::*;

#[test]
fn a_rotated_key_goes_on_for_its_grace_beside_its_heir() {
    let mut attributes = owner(&[A]);
    set(&mut attributes, Field::Scopes, A, "orders:read");
    let edited = made(&mut attributes, &rotate(A, B, 3_600_000, 1));
    assert_eq!(edited, added(B));
    let (old, new) = (
        find(&attributes, A, NOW).unwrap(),
        find(&attributes, B, NOW).unwrap(),
    );
    assert_eq!(
        (old.state, new.state),
        (KeyState::Rotating, KeyState::Active)
    );
    assert_eq!(old.replaced_by.as_deref(), Some(B));
    assert_eq!(
        (new.name, new.scopes, new.expires_at),
        (old.name, old.scopes, old.expires_at)
    );
    assert_eq!(new.created, Some(NOW));
    let ends = old.grace_until.unwrap();
    assert_eq!(ends, NOW.plus_ms(3_600_000));
    assert_eq!(KeyRecord::find(&attributes, A).unwrap().ends_at, ends);
    assert_eq!(state(&attributes, A, ends), Some(KeyState::Expired));
    assert_eq!(
        state(&attributes, A, ends.minus_ms(1)),
        Some(KeyState::Rotating)
    );
}

#[test]
fn a_grace_is_never_shorter_than_asked_for_nor_longer_than_the_keys_own_life() {
    let grace = |now: u64, grace_ms| {
        let mut attributes = owner(&[A]);
        let now = NOW.plus_ms(now);
        rotate(A, B, grace_ms, 9)
            .apply(&mut attributes, now)
            .unwrap();
        let until = find(&attributes, A, now).unwrap().grace_until.unwrap();
        until.since_ms(now)
    };
    for (now, ms) in [(0, 1), (1, 1), (999, 1), (0, 1000), (500, 1000), (999, 999)] {
        let granted = grace(now, ms);
        assert!((ms..ms + 1000).contains(&granted), "{now} {ms}: {granted}");
    }
    assert_eq!(grace(0, 31 * DAY_MS), 30 * DAY_MS);
    assert_eq!(grace(0, u64::MAX), 30 * DAY_MS);
}

#[test]
fn a_rotation_without_grace_ends_the_key_at_once() {
    let mut attributes = owner(&[A]);
    let edited = made(&mut attributes, &rotate(A, B, 0, 1));
    assert_eq!(edited.added.as_deref(), Some(B));
    assert_eq!(edited.ended, [A]);
    let mut only_b = owner(&[B]);
    set(&mut only_b, Field::Name, B, &format!("name of {A}"));
    assert_eq!(attributes, only_b);
}

#[test]
fn a_rotation_can_give_another_end() {
    for days in [1, 60] {
        let mut attributes = owner(&[A]);
        let mut edit = rotate(A, B, 0, 9);
        if let Edit::Rotate { replacement, .. } = &mut edit {
            replacement.expires_at = Some(NOW.plus_ms(days * DAY_MS));
        }
        made(&mut attributes, &edit);
        let end = find(&attributes, B, NOW).unwrap().expires_at;
        assert_eq!(end, Some(NOW.plus_ms(days * DAY_MS)));
    }
}

#[test]
fn a_key_without_a_name_is_rotated_to_one_without() {
    let mut attributes = owner(&[A]);
    attributes.remove(&Field::Name.attribute(A));
    made(&mut attributes, &rotate(A, B, 1000, 9));
    // Keycloak keeps no empty text: such an attribute would not be found again.
    assert!(attributes.values().flatten().all(|value| !value.is_empty()));
    assert_eq!(find(&attributes, B, NOW).unwrap().name, "");
}

#[test]
fn what_cannot_be_rotated_is_refused() {
    let active = owner(&[A]);
    refused(&active, &rotate(B, C, 0, 9), EditRefused::NoSuchKey);
    let mut rotating = active.clone();
    made(&mut rotating, &rotate(A, B, 1000, 9));
    refused(&rotating, &rotate(A, C, 0, 9), EditRefused::AlreadyRotating);
    // Its heir can be, and once the grace is over it is gone.
    assert_eq!(
        made(&mut rotating.clone(), &rotate(B, C, 0, 9)),
        Edited {
            added: Some(C.to_owned()),
            ended: vec![B.to_owned()],
            ..Edited::default()
        }
    );
    let later = NOW.plus_ms(1000);
    assert_eq!(
        rotate(A, C, 0, 9).apply(&mut rotating.clone(), later),
        Err(EditRefused::AlreadyRotating)
    );
    let mut graced = active.clone();
    set(&mut graced, Field::GraceUntil, A, "2027-01-16T00:00:00Z");
    refused(&graced, &rotate(A, B, 0, 9), EditRefused::AlreadyRotating);
    let mut expired = active.clone();
    set(&mut expired, Field::ExpiresAt, A, &NOW.to_rfc3339());
    refused(&expired, &rotate(A, B, 0, 9), EditRefused::Expired);
    let mut off = active.clone();
    made(&mut off, &update(A, &[Setting::Disabled(true)]));
    refused(&off, &rotate(A, B, 0, 9), EditRefused::Disabled);
    made(&mut rotating, &update(A, &[Setting::Disabled(true)]));
    refused(&rotating, &rotate(A, C, 0, 9), EditRefused::AlreadyRotating);
    for (attributes, why) in broken() {
        refused(&attributes, &rotate(A, B, 0, 9), EditRefused::Unusable(why));
    }
}

#[test]
fn rotating_takes_no_room_but_that_of_the_keys_in_their_grace() {
    // As many keys as the limit, and more, after the limit was lowered.
    let full = owner(&[A, B]);
    for keys_max in [1, 2] {
        made(&mut full.clone(), &rotate(A, C, 0, keys_max));
    }
    let mut attributes = full;
    made(&mut attributes, &rotate(A, C, 1000, 2));
    refused(&attributes, &create(D, 2), too_many(2, 2));
    made(&mut attributes, &rotate(B, D, 1000, 2));
    // Four records of two keys: a third in its grace would be one too many.
    refused(&attributes, &rotate(C, "e", 1000, 2), too_many(2, 2));
    made(&mut attributes, &rotate(C, "e", 0, 2));
    assert_eq!(list(&attributes, NOW).len(), 4);
    // A key that has lost its heir does not make room without end either.
    made(&mut attributes, &revoke("e"));
    made(&mut attributes, &create("f", 2));
    made(&mut attributes, &revoke("f"));
    made(&mut attributes, &revoke(D));
    made(&mut attributes, &create("g", 2));
    made(&mut attributes, &create("h", 2));
    refused(&attributes, &create("i", 2), too_many(2, 2));
}

#[test]
fn replaced_keys_whose_grace_is_over_are_swept() {
    let mut attributes = owner(&[A, B, C]);
    made(&mut attributes, &rotate(A, D, 1000, 9));
    // The grace of a key that no gateway could use ends as well.
    let keys = attributes.get_mut(KEYS_ATTRIBUTE).unwrap();
    keys.retain(|value| key_id(value) != Some(A));
    keys.push(key_value(A, "$1$md5"));
    set(&mut attributes, Field::ExpiresAt, B, "2020-01-01T00:00:00Z");
    for edit in [create("e", 9), import("e", 9), rotate(D, "e", 0, 9)] {
        let after = |now: UnixMillis| {
            let mut attributes = attributes.clone();
            edit.apply(&mut attributes, now).unwrap();
            key_ids(&attributes).map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(after(NOW.plus_ms(999)).contains(&A.to_owned()));
        // An expired key stays for its owner to see.
        let swept = after(NOW.plus_ms(1000));
        assert!(!swept.contains(&A.to_owned()), "{swept:?}");
        assert!(swept.contains(&B.to_owned()), "{swept:?}");
    }
}
