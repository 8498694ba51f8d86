//! Owners with unreadable records, and owners that Keycloak refuses to write: nothing half-made
//! stays, and all keys of such an owner can be ended.

use super::*;

/// The user profile's answer (26.7.5).
const PROFILE: Fate = Fate::RefusedWith(
    400,
    r#"{"errors":[{"field":"phone","errorMessage":"error-pattern-no-match","params":["phone","SECRET"]},
        {"field":"dept","errorMessage":"error-user-attribute-required","params":["dept"]}]}"#,
);
/// Two users of one address (26.7.5).
const ADDRESS: Fate = Fate::RefusedWith(
    409,
    r#"{"errorMessage":"User exists with same username or email"}"#,
);

/// Each write of the user meets this fate; all other calls are answered.
fn with_writes(keycloak: &mut Keycloak, change: Change, fate: Fate) -> Ran {
    run(keycloak, change, |call, _, _| match call {
        "PUT user" => fate,
        _ => Fate::Answered,
    })
}

fn count(ran: &Ran, kind: &str) -> usize {
    ran.calls.iter().filter(|call| *call == kind).count()
}

#[test]
fn a_write_that_keycloak_refuses_for_good_is_told_in_its_words_and_not_tried_again() {
    for (fate, words) in [
        (
            PROFILE,
            "Keycloak answered 400 (phone: error-pattern-no-match; dept: \
             error-user-attribute-required)",
        ),
        (
            ADDRESS,
            "Keycloak answered 409 (User exists with same username or email)",
        ),
        (Fate::Refused(413), "Keycloak answered 413 (no explanation"),
    ] {
        for edit in [create(B), rotate(A, B, 0), label(A, "l"), revoke(A)] {
            let mut keycloak = realm(&[A]);
            let ran = with_writes(&mut keycloak, change(edit), fate);
            assert_eq!(count(&ran, "PUT user"), 1);
            let error = ran.failed();
            assert!(
                matches!(error, ChangeError::RefusedByKeycloak { .. }),
                "{error:?}"
            );
            let told = error.to_string();
            assert!(told.contains(words), "{told}");
            assert!(told.contains("the write") && told.contains("until the user is corrected"));
            assert!(!told.contains("SECRET") && !error.loggable().contains("SECRET"));
            assert_eq!(ids(&keycloak), [A]);
            assert!(keycloak.is_linked(), "it was there before");
            holds_no_lock(&keycloak);
        }
    }
}

#[test]
fn what_may_pass_is_no_refusal_for_good() {
    for status in [408, 429, 500, 503] {
        let mut keycloak = realm(&[A]);
        let ran = with_writes(&mut keycloak, change(revoke(A)), Fate::Refused(status));
        let error = ran.failed();
        assert!(
            matches!(
                error,
                ChangeError::Keycloak { .. } | ChangeError::Unknown(_)
            ),
            "{status}: {error:?}"
        );
    }
}

#[test]
fn any_step_that_is_refused_for_good_says_so() {
    for kind in [
        "POST api-keys-lock",
        "GET links",
        "GET user",
        "GET holders",
        "POST api-keys",
    ] {
        let mut keycloak = realm(&[]);
        let ran = with_fate(&mut keycloak, change(create(A)), kind, Fate::Refused(400));
        let error = ran.failed();
        assert!(
            matches!(error, ChangeError::RefusedByKeycloak { .. }),
            "{kind}: {error:?}"
        );
        assert!(ids(&keycloak).is_empty() && !keycloak.is_linked());
        holds_no_lock(&keycloak);
    }
}

#[test]
fn a_link_that_was_made_for_a_refused_key_is_taken_away_under_the_lock() {
    for fate in [PROFILE, ADDRESS, Fate::Refused(403), Fate::Refused(429)] {
        let mut keycloak = realm(&[]);
        let ran = with_writes(&mut keycloak, change(create(A)), fate);
        let end = &ran.calls[ran.calls.len() - 3..];
        assert_eq!(
            end,
            ["PUT user", "DELETE api-keys", "DELETE api-keys-lock"],
            "{fate:?}"
        );
        ran.failed();
        assert!(!keycloak.is_linked(), "{fate:?}");
        holds_no_lock(&keycloak);
    }
    // An owner that an administrator had unlinked is left so.
    let mut keycloak = realm(&[A]);
    keycloak.links.clear();
    let by_operator = Change {
        relink: true,
        ..change(create(B))
    };
    with_writes(&mut keycloak, by_operator, PROFILE).failed();
    assert!(!keycloak.is_linked());
    holds_no_lock(&keycloak);
}

#[test]
fn a_link_that_may_have_a_key_by_now_stays() {
    for fate in [Fate::Dropped, Fate::Unheard, Fate::DoneAs(500)] {
        let mut keycloak = realm(&[]);
        let _ = with_writes(&mut keycloak, change(create(A)), fate).result;
        assert!(keycloak.is_linked(), "{fate:?}");
    }
}

#[test]
fn a_link_whose_end_is_of_unknown_fate_keeps_the_lock() {
    for fate in [Fate::Dropped, Fate::Refused(500)] {
        let mut keycloak = realm(&[]);
        let ran = run(&mut keycloak, change(create(A)), |call, _, _| match call {
            "PUT user" => PROFILE,
            "DELETE api-keys" => fate,
            _ => Fate::Answered,
        });
        assert!(matches!(
            ran.failed(),
            ChangeError::RefusedByKeycloak { .. }
        ));
        assert!(keycloak.links.contains_key(LOCK_PROVIDER), "{fate:?}");
    }
}

#[test]
fn an_owner_that_is_linked_again_is_told_so() {
    let mut keycloak = realm(&[A]);
    keycloak.links.clear();
    let by_operator = Change {
        relink: true,
        ..change(create(B))
    };
    let changed = undisturbed(&mut keycloak, by_operator).made();
    assert_eq!(
        changed.warnings,
        ["the owner was linked again: its earlier keys work again"]
    );
    let mut keycloak = realm(&[]);
    let changed = undisturbed(&mut keycloak, change(create(B))).made();
    assert!(changed.warnings.is_empty());
}

// --- all keys ---

#[test]
fn all_keys_end_with_the_link_and_then_their_records_go() {
    let mut keycloak = realm(&[A, B]);
    let others = Keycloak::new().user;
    let ran = undisturbed(&mut keycloak, change(Edit::RevokeAll));
    assert_eq!(
        ran.calls,
        [
            "POST api-keys-lock",
            "GET links",
            "DELETE api-keys",
            "GET links",
            "GET user",
            "PUT user",
            "GET user",
            "DELETE api-keys-lock"
        ]
    );
    let changed = ran.made();
    assert_eq!(changed.edited.ended, [A, B]);
    assert_eq!(changed.records_kept, None);
    assert!(!keycloak.is_linked());
    assert_eq!(keycloak.user, others);
    holds_no_lock(&keycloak);
    // Again: there is nothing to end.
    let ran = undisturbed(&mut keycloak, change(Edit::RevokeAll));
    assert_eq!(count(&ran, "PUT user"), 0);
    assert_eq!(ran.made().edited, Edited::default());
}

#[test]
fn all_keys_of_an_owner_that_cannot_be_read_or_written_end_all_the_same() {
    for (kind, fate) in [
        ("PUT user", PROFILE),
        ("PUT user", ADDRESS),
        ("PUT user", Fate::Refused(403)),
        ("PUT user", Fate::Dropped),
        ("PUT user", Fate::Refused(500)),
        ("GET user", Fate::TooLarge),
        ("GET user", Fate::Dropped),
        ("GET user", Fate::Refused(500)),
    ] {
        let mut keycloak = realm(&[A, B]);
        let ran = with_fate(&mut keycloak, change(Edit::RevokeAll), kind, fate);
        let changed = ran.made();
        assert!(changed.records_kept.is_some(), "{kind} {fate:?}");
        assert!(!keycloak.is_linked(), "{kind} {fate:?}");
        assert_eq!(ids(&keycloak), [A, B]);
        if !(kind == "PUT user" && matches!(fate, Fate::Dropped | Fate::Refused(500))) {
            holds_no_lock(&keycloak);
        }
        // An owner without a link as well, as after the same command before.
        let mut keycloak = realm(&[A]);
        keycloak.links.clear();
        let ran = with_fate(&mut keycloak, change(Edit::RevokeAll), kind, fate);
        assert!(ran.made().records_kept.is_some(), "{kind} {fate:?}");
    }
}

#[test]
fn keys_whose_link_could_not_be_taken_away_are_not_told_as_ended() {
    for (fate, gives_back) in [
        (Fate::Dropped, false),
        (Fate::Refused(500), false),
        // A wrong answer.
        (Fate::Refused(204), true),
        (Fate::Refused(400), true),
        (Fate::Refused(403), true),
    ] {
        let mut keycloak = realm(&[A]);
        let kind = "DELETE api-keys";
        let ran = with_fate(&mut keycloak, change(Edit::RevokeAll), kind, fate);
        ran.failed();
        assert_eq!(ids(&keycloak), [A], "{fate:?}");
        let is_locked = keycloak.links.contains_key(LOCK_PROVIDER);
        assert_eq!(is_locked, !gives_back, "{fate:?}");
    }
    // After a wrong answer, or none, the keys have ended all the same.
    for fate in [Fate::Unheard, Fate::DoneAs(503), Fate::DoneAs(404)] {
        let mut keycloak = realm(&[A]);
        let kind = "DELETE api-keys";
        let ran = with_fate(&mut keycloak, change(Edit::RevokeAll), kind, fate);
        assert_eq!(ran.made().edited.ended, [A], "{fate:?}");
        holds_no_lock(&keycloak);
    }
    // A deleted user has no keys, and the answer is that there is no such user.
    let mut keycloak = realm(&[A]);
    let ran = with_fate(
        &mut keycloak,
        change(Edit::RevokeAll),
        "GET user",
        Fate::Refused(404),
    );
    assert_eq!(ran.failed(), ChangeError::NoSuchOwner);
}

#[test]
fn one_key_of_an_owner_that_is_too_large_to_read_is_refused_as_such() {
    let mut keycloak = realm(&[A]);
    let ran = with_fate(&mut keycloak, change(revoke(A)), "GET user", Fate::TooLarge);
    assert_eq!(ran.failed(), ChangeError::OwnerUnreadable);
    holds_no_lock(&keycloak);
}
