//! Each step of a change, answered or not: the calls, the result, the state left behind.

use super::*;

#[test]
fn the_first_key_links_and_the_last_ones_end_unlinks() {
    let mut keycloak = realm(&[]);
    let ran = undisturbed(&mut keycloak, change(create(A)));
    assert_eq!(
        ran.calls,
        [
            "POST api-keys-lock",
            "GET links",
            "GET user",
            "GET holders",
            "POST api-keys",
            "PUT user",
            "GET user",
            "DELETE api-keys-lock"
        ]
    );
    let changed = ran.made();
    assert_eq!(changed.edited.added.as_deref(), Some(A));
    assert_eq!(
        (changed.username.as_str(), changed.keys.len()),
        ("alice", 1)
    );
    assert!(changed.warnings.is_empty());
    let link = (OWNER.to_owned(), "alice".to_owned());
    assert_eq!(keycloak.links.get(PROVIDER), Some(&link));
    let before = keycloak.user.clone();
    undisturbed(&mut keycloak, change(rotate(A, B, 0))).made();
    let ran = undisturbed(&mut keycloak, change(revoke(B)));
    assert_eq!(
        ran.calls,
        [
            "POST api-keys-lock",
            "GET links",
            "GET user",
            "PUT user",
            "GET user",
            "DELETE api-keys",
            "DELETE api-keys-lock"
        ]
    );
    assert_eq!(ran.made().edited.ended, [B]);
    assert!(!keycloak.is_linked());
    holds_no_lock(&keycloak);
    // All else is as it was.
    let mut others = before;
    others["attributes"] = Keycloak::new().user["attributes"].clone();
    assert_eq!(keycloak.user, others);
}

#[test]
fn a_change_that_is_none_writes_nothing() {
    let mut keycloak = realm(&[A]);
    let ran = undisturbed(&mut keycloak, change(revoke(B)));
    assert!(!ran.calls.contains(&"PUT user".to_owned()));
    assert_eq!(ran.made().edited, Edited::default());
    // The next change ends one that was cut off before it unlinked.
    let mut keycloak = realm(&[A]);
    keycloak.user = Keycloak::new().user;
    undisturbed(&mut keycloak, change(revoke(A))).made();
    assert!(!keycloak.is_linked());
}

/// The owner of a key, with so many bytes in another attribute.
fn large(bytes: usize) -> Keycloak {
    let mut keycloak = realm(&[A]);
    keycloak.user["attributes"]["picture"] = json!(["x".repeat(bytes)]);
    keycloak
}

#[test]
fn an_owner_that_no_gateway_could_read_is_given_no_key_and_can_be_rid_of_some() {
    for edit in [create(B), rotate(A, B, 0)] {
        undisturbed(&mut large(100_000), change(edit.clone())).made();
        let mut keycloak = large(130_000);
        let ran = undisturbed(&mut keycloak, change(edit.clone()));
        let refused = ChangeError::Refused(EditRefused::OwnerTooLarge);
        assert_eq!(ran.failed(), refused);
        assert_eq!(ids(&keycloak), [A]);
        holds_no_lock(&keycloak);
        // The management API cannot even read it.
        let ran = with_fate(&mut keycloak, change(edit), "GET user", Fate::TooLarge);
        assert_eq!(ran.failed(), refused);
    }
    let mut keycloak = large(130_000);
    undisturbed(&mut keycloak, change(revoke(A))).made();
    assert!(ids(&keycloak).is_empty());
}

#[test]
fn a_setting_is_changed_for_any_owner_and_links_nobody() {
    let ready = || {
        let mut keycloak = realm(&[A]);
        undisturbed(&mut keycloak, change(label(A, "old"))).made();
        keycloak
    };
    let labels = |changed: &Changed| changed.keys[0].labels.clone();
    let mut keycloak = ready();
    let ran = undisturbed(&mut keycloak, change(label(A, "new")));
    assert_eq!(
        ran.calls,
        [
            "POST api-keys-lock",
            "GET links",
            "GET user",
            "PUT user",
            "GET user",
            "DELETE api-keys-lock"
        ]
    );
    let changed = ran.made();
    assert_eq!(changed.edited.changed, ["labels"]);
    assert_eq!(labels(&changed).as_deref(), Some("new"));
    // The same once more is no change.
    let ran = undisturbed(&mut keycloak, change(label(A, "new")));
    assert!(!ran.calls.contains(&"PUT user".to_owned()));
    assert_eq!(ran.made().edited, Edited::default());
    let ran = undisturbed(&mut keycloak, change(label(B, "new")));
    let refused = ChangeError::Refused(EditRefused::NoSuchKey);
    assert_eq!(ran.failed(), refused);
    holds_no_lock(&keycloak);
    // An owner that was unlinked, to end its keys, stays so.
    let mut keycloak = ready();
    keycloak.links.clear();
    keycloak.user["enabled"] = json!(false);
    let changed = undisturbed(&mut keycloak, change(label(A, "new"))).made();
    assert_eq!(labels(&changed).as_deref(), Some("new"));
    assert!(!keycloak.is_linked());
}

#[test]
fn a_setting_that_makes_the_owner_too_large_is_refused_and_one_that_does_not_is_not() {
    // The bytes at which it is just not too large.
    let mut bytes = 130_000;
    while large(bytes).owner().is_too_large() {
        bytes -= 100;
    }
    let mut keycloak = large(bytes);
    let ran = undisturbed(&mut keycloak, change(label(A, &"l".repeat(255))));
    let refused = ChangeError::Refused(EditRefused::OwnerTooLarge);
    assert_eq!(ran.failed(), refused);
    // One that is too large already can be changed: its key may be switched off.
    let mut keycloak = large(130_000);
    let edit = Edit::Update {
        id: A.to_owned(),
        settings: vec![Setting::Disabled(true)],
    };
    undisturbed(&mut keycloak, change(edit)).made();
}

#[test]
fn who_may_hold_no_key_is_given_none_and_can_be_rid_of_some() {
    let with = |name: &str, value: serde_json::Value| {
        let mut keycloak = realm(&[A]);
        keycloak.user[name] = value;
        keycloak
    };
    let gateway = || with("username", json!("service-account-api-key-gateway"));
    let disabled = || with("enabled", json!(false));
    for edit in [create(B), rotate(A, B, 0)] {
        for (mut keycloak, why) in [
            (gateway(), EditRefused::GatewayAccount),
            (disabled(), EditRefused::OwnerDisabled),
        ] {
            let ran = undisturbed(&mut keycloak, change(edit.clone()));
            assert_eq!(ran.failed(), ChangeError::Refused(why));
            assert_eq!(ids(&keycloak), [A]);
            holds_no_lock(&keycloak);
        }
    }
    for mut keycloak in [gateway(), disabled()] {
        undisturbed(&mut keycloak, change(Edit::Reindex)).made();
        undisturbed(&mut keycloak, change(revoke(A))).made();
        assert!(ids(&keycloak).is_empty());
    }
    let mut keycloak = disabled();
    let by_operator = Change {
        disabled_owners: true,
        ..change(create(B))
    };
    let changed = undisturbed(&mut keycloak, by_operator).made();
    assert!(changed.warnings[0].contains("disabled"));
    let mut keycloak = with("requiredActions", json!(["VERIFY_EMAIL", "CONFIGURE_TOTP"]));
    let changed = undisturbed(&mut keycloak, change(create(B))).made();
    assert!(changed.warnings[0].contains("VERIFY_EMAIL, CONFIGURE_TOTP"));
}

#[test]
fn an_owner_whose_link_was_taken_away_is_linked_again_by_an_operator_alone() {
    let unlinked = || {
        let mut keycloak = realm(&[A]);
        keycloak.links.clear();
        keycloak
    };
    for edit in [create(B), rotate(A, B, 0), Edit::Reindex] {
        let mut keycloak = unlinked();
        let ran = undisturbed(&mut keycloak, change(edit.clone()));
        assert_eq!(ran.failed(), ChangeError::Refused(EditRefused::Unlinked));
        assert!(!keycloak.is_linked());
        holds_no_lock(&keycloak);
        let by_operator = Change {
            relink: true,
            ..change(edit)
        };
        undisturbed(&mut keycloak, by_operator).made();
        assert!(keycloak.is_linked());
    }
    let mut keycloak = unlinked();
    undisturbed(&mut keycloak, change(revoke(A))).made();
    assert!(!keycloak.is_linked() && ids(&keycloak).is_empty());
}

#[test]
fn links_that_could_give_one_users_tokens_to_another_are_refused() {
    let foreign = || {
        let mut keycloak = realm(&[A]);
        let link = ("another".to_owned(), "alice".to_owned());
        keycloak.links.insert(PROVIDER.to_owned(), link);
        keycloak
    };
    for edit in [create(B), rotate(A, B, 0), Edit::Reindex] {
        let ran = undisturbed(&mut foreign(), change(edit));
        assert_eq!(ran.failed(), ChangeError::ForeignLink(PROVIDER.to_owned()));
    }
    // A revocation removes the key, and leaves a foreign link alone.
    let mut keycloak = foreign();
    undisturbed(&mut keycloak, change(revoke(A))).made();
    assert!(keycloak.is_linked() && ids(&keycloak).is_empty());
    let mut keycloak = realm(&[]);
    keycloak.impostors.push("mallory".to_owned());
    let ran = undisturbed(&mut keycloak, change(create(A)));
    assert_eq!(
        ran.failed(),
        ChangeError::IdLinkedElsewhere(PROVIDER.to_owned())
    );
    assert!(!keycloak.is_linked() && ids(&keycloak).is_empty());
    holds_no_lock(&keycloak);
}

#[test]
fn without_the_locks_provider_nothing_is_changed() {
    let mut keycloak = realm(&[]);
    keycloak.providers.remove(LOCK_PROVIDER);
    let ran = undisturbed(&mut keycloak, change(create(A)));
    assert_eq!(ran.failed(), ChangeError::NoLockProvider);
    assert!(ids(&keycloak).is_empty());
}

#[test]
fn a_refusal_of_keycloaks_is_told_as_what_it_is() {
    let cases = [
        (401, ChangeError::Unauthorized),
        (403, ChangeError::Forbidden),
        (404, ChangeError::NoSuchOwner),
    ];
    for kind in [
        "POST api-keys-lock",
        "GET links",
        "GET user",
        "GET holders",
        "POST api-keys",
        "PUT user",
    ] {
        for (status, error) in &cases {
            let mut keycloak = realm(&[]);
            let ran = with_fate(
                &mut keycloak,
                change(create(A)),
                kind,
                Fate::Refused(*status),
            );
            assert_eq!(ran.failed(), *error, "{kind} {status}");
            assert!(ids(&keycloak).is_empty());
            holds_no_lock(&keycloak);
        }
    }
}

#[test]
fn an_owner_with_more_than_can_be_read_is_not_changed() {
    for kind in ["GET links", "GET user", "GET holders"] {
        let mut keycloak = realm(&[]);
        let ran = with_fate(&mut keycloak, change(create(A)), kind, Fate::TooLarge);
        let error = ran.failed().to_string();
        assert!(error.contains("large"), "{kind}: {error}");
        assert!(ids(&keycloak).is_empty());
        holds_no_lock(&keycloak);
    }
}

#[test]
fn a_write_that_took_effect_is_made_whatever_was_answered() {
    for fate in [Fate::Unheard, Fate::DoneAs(500), Fate::DoneAs(503)] {
        let mut keycloak = realm(&[A]);
        let ran = with_fate(&mut keycloak, change(create(B)), "PUT user", fate);
        assert_eq!(ran.made().edited.added.as_deref(), Some(B), "{fate:?}");
        holds_no_lock(&keycloak);
    }
}

#[test]
fn a_write_of_unknown_fate_is_told_as_unknown_and_keeps_the_lock() {
    for fate in [Fate::Dropped, Fate::Refused(500), Fate::Refused(503)] {
        let mut keycloak = realm(&[A]);
        let ran = with_fate(&mut keycloak, change(create(B)), "PUT user", fate);
        let error = ran.failed();
        assert!(
            matches!(error, ChangeError::Unknown(_)),
            "{fate:?}: {error}"
        );
        assert!(keycloak.links.contains_key(LOCK_PROVIDER), "{fate:?}");
    }
}

#[test]
fn what_was_written_and_cannot_be_read_again_is_unknown() {
    for status in [401, 403, 500] {
        let mut keycloak = realm(&[A]);
        let mut reads = 0;
        let ran = run(&mut keycloak, change(create(B)), |call, _, _| {
            reads += u32::from(call == "GET user");
            match (call, reads) {
                ("GET user", 2) => Fate::Refused(status),
                _ => Fate::Answered,
            }
        });
        let error = ran.failed();
        assert!(
            matches!(error, ChangeError::Unknown(_)),
            "{status}: {error}"
        );
        // The write has arrived: nobody need wait.
        holds_no_lock(&keycloak);
    }
}

#[test]
fn a_link_or_its_end_of_unknown_fate_keeps_the_lock() {
    for fate in [Fate::Dropped, Fate::Unheard, Fate::Refused(500)] {
        let mut keycloak = realm(&[]);
        let ran = with_fate(&mut keycloak, change(create(A)), "POST api-keys", fate);
        assert!(matches!(ran.failed(), ChangeError::Keycloak { .. }));
        assert!(keycloak.links.contains_key(LOCK_PROVIDER), "{fate:?}");
        assert!(ids(&keycloak).is_empty());
        let mut keycloak = realm(&[A]);
        let ran = with_fate(&mut keycloak, change(revoke(A)), "DELETE api-keys", fate);
        assert_eq!(ran.made().edited.ended, [A]);
        assert!(keycloak.links.contains_key(LOCK_PROVIDER), "{fate:?}");
    }
}

#[test]
fn a_lock_whose_answer_was_lost_is_known_again() {
    for fate in [Fate::Unheard, Fate::DoneAs(500)] {
        let mut keycloak = realm(&[A]);
        let kind = "POST api-keys-lock";
        let ran = with_fate(&mut keycloak, change(create(B)), kind, fate);
        assert_eq!(ran.calls[1..3], ["GET links", "GET user"], "{fate:?}");
        ran.made();
        holds_no_lock(&keycloak);
    }
}

#[test]
fn a_keycloak_that_gives_no_lock_is_told_and_not_others() {
    for (fate, words) in [
        (Fate::Refused(503), "the lock: Keycloak answered 503"),
        (Fate::Dropped, "the lock: no answer"),
    ] {
        let mut keycloak = realm(&[A]);
        let ran = run(&mut keycloak, change(create(B)), |call, _, _| {
            if call == "POST api-keys-lock" {
                fate
            } else {
                Fate::Answered
            }
        });
        assert_eq!(ran.failed().to_string(), words);
    }
}

#[test]
fn a_lock_that_is_held_is_waited_for_and_asked_for_ever_less() {
    let mut keycloak = realm(&[A]);
    let theirs = ("another".to_owned(), format!("another@{}", NOW.0));
    keycloak
        .links
        .insert(LOCK_PROVIDER.to_owned(), theirs.clone());
    let ran = undisturbed(&mut keycloak, change(create(B)));
    // Five seconds: twelve times a second at first.
    let asked = ran.calls.len() / 2;
    assert!((20..60).contains(&asked), "{asked}");
    assert_eq!(
        ran.failed().to_string(),
        "the owner's keys are being changed by others; try again"
    );
    assert_eq!(keycloak.links.get(LOCK_PROVIDER), Some(&theirs));
    // Given back in time it is ours.
    let ran = run(&mut keycloak, change(create(B)), |_, number, keycloak| {
        if number == 9 {
            keycloak.links.remove(LOCK_PROVIDER);
        }
        Fate::Answered
    });
    ran.made();
    holds_no_lock(&keycloak);
}

#[test]
fn each_error_says_what_to_do() {
    for (error, words) in [
        (ChangeError::Forbidden, "apikeys setup"),
        (ChangeError::NoLockProvider, "apikeys setup"),
        (ChangeError::NotAsWritten, "another program"),
        (ChangeError::Unknown("why".into()), "before you try again"),
        (ChangeError::ForeignLink("p".into()), "delete that link"),
        (
            ChangeError::IdLinkedElsewhere("p".into()),
            "Delete that link",
        ),
    ] {
        assert!(error.to_string().contains(words), "{error}");
    }
}
