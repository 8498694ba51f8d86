//! Owners that the realm's user profile refuses to write: their `phone` was set before the
//! profile declared a pattern for it.

use std::fs;

use serde_json::{Value, json};

use crate::import::INDEX_KEY;
use crate::world::Realm;

const MESSAGE: &str = "Bitte eine gültige Nummer {0}";

/// Gives a user a phone number, which may break the pattern.
fn with_phone(realm: &Realm, username: &str, phone: &str) {
    realm.edit(&realm.user_path(username), |user| {
        user["attributes"]["phone"] = json!([phone]);
    });
}

/// Declares the pattern, or takes it back.
fn declare(realm: &Realm, declared: bool) {
    realm.edit("users/profile", |profile| {
        let attributes = profile["attributes"].as_array_mut().unwrap();
        attributes.retain(|attribute| attribute["name"] != "phone");
        if declared {
            attributes.push(json!({
                "name": "phone",
                "validations": {"pattern": {"pattern": "^[0-9]+$", "error-message": MESSAGE}},
                "permissions": {"view": ["admin", "user"], "edit": ["admin", "user"]},
            }));
        }
    });
}

fn links(realm: &Realm, username: &str) -> Value {
    realm.get(&format!("{}/federated-identity", realm.user_path(username)))
}

/// Keycloak's words, as they reach an operator.
fn words() -> String {
    format!("Keycloak answered 400 (phone: {MESSAGE})")
}

#[test]
fn a_key_that_cannot_be_ended_says_why_and_all_keys_of_its_owner_can() {
    let realm = Realm::prepared();
    with_phone(&realm, "alice", "abc");
    let ids = [realm.key_of("alice"), realm.key_of("alice")];
    declare(&realm, true);
    let id = realm.user("alice")["id"].as_str().unwrap().to_owned();
    let run = realm.run("revoke", &[&ids[0]]);
    for told in [
        words(),
        format!("key {} of \"alice\" goes on", ids[0]),
        format!("apikeys revoke --all --owner {id}"),
    ] {
        assert!(run.stderr.contains(&told), "no {told:?} in: {}", run.stderr);
    }
    run.refused_with("until the user is corrected");
    realm.grant(&id).expect("the key goes on");
    assert_eq!(
        links(&realm, "alice").as_array().unwrap().len(),
        1,
        "no lock"
    );
    // Removing the link revokes the keys.
    let run = realm.run("revoke", &["--all", "--owner", &id]).succeeded();
    assert!(
        run.stdout.starts_with("revoked: all keys of \"alice\""),
        "{}",
        run.stdout
    );
    assert!(
        ids.iter().all(|id| run.stdout.contains(id)),
        "{}",
        run.stdout
    );
    assert!(run.stderr.contains(&words()), "{}", run.stderr);
    assert!(run.stderr.contains("work again"), "{}", run.stderr);
    assert_eq!(links(&realm, "alice"), json!([]));
    let refused = realm.grant(&id).unwrap_err();
    assert_eq!(refused["error_description"], "User not found");
    let told = realm.json("revoke", &["--all", "--owner", "alice"]);
    assert!(
        told["records_kept"].as_str().unwrap().contains(&words()),
        "{told}"
    );
    assert_eq!(told["revoked"].as_array().unwrap().len(), 2);
    // After the user is corrected the records go as well, and the phone stays.
    declare(&realm, false);
    with_phone(&realm, "alice", "123");
    declare(&realm, true);
    let told = realm.json("revoke", &["--all", "--owner", "alice"]);
    assert_eq!(told["records_kept"], Value::Null);
    assert_eq!(told["owner"]["username"], "alice");
    assert_eq!(realm.user("alice")["attributes"], json!({"phone": ["123"]}));
    let run = realm
        .run("revoke", &["--all", "--owner", "alice"])
        .succeeded();
    assert!(run.stderr.contains("holds no keys"), "{}", run.stderr);
}

#[test]
fn all_keys_of_an_owner_with_more_than_its_profile_allows_end() {
    let realm = Realm::prepared();
    let id = realm.key_of("bob");
    let path = realm.user_path("bob");
    // Keycloak limits an undeclared attribute to 2048 characters when it is written.
    let declared = json!({
        "name": "picture", "validations": {"length": {"max": 200_000}},
        "permissions": {"view": ["admin"], "edit": ["admin"]},
    });
    realm.edit("users/profile", |profile| {
        profile["attributes"].as_array_mut().unwrap().push(declared);
    });
    realm.edit(&path, |user| {
        user["attributes"]["picture"] = json!(["x".repeat(150_000)]);
    });
    realm.edit("users/profile", |profile| {
        let attributes = profile["attributes"].as_array_mut().unwrap();
        attributes.retain(|attribute| attribute["name"] != "picture");
    });
    realm
        .run("revoke", &[&id])
        .refused_with("Keycloak answered 400 (picture: error-invalid-length)");
    realm
        .run("revoke", &["--all", "--owner", "bob"])
        .succeeded();
    assert_eq!(links(&realm, "bob"), json!([]));
    let owner = path.strip_prefix("users/").unwrap();
    realm.grant(owner).unwrap_err();
}

#[test]
fn a_first_key_that_is_refused_leaves_nothing_behind() {
    let realm = Realm::prepared();
    with_phone(&realm, "alice", "abc");
    declare(&realm, true);
    let before = realm.user("alice");
    realm.create(&["--owner", "alice"]).refused_with(&words());
    assert_eq!(links(&realm, "alice"), json!([]));
    assert_eq!(realm.user("alice"), before);
}

#[test]
fn an_import_goes_on_past_an_owner_that_is_refused_at_each_run() {
    let realm = Realm::prepared();
    with_phone(&realm, "alice", "abc");
    declare(&realm, true);
    realm.private_file("index-key.txt", INDEX_KEY);
    let file = realm.file("keys.csv");
    fs::write(
        &file,
        "owner,key\nalice,alices-key-of-the-old-system\nbob,bobs-key-of-the-old-system\n\
         alice,alices-second-key-of-the-old-system\n",
    )
    .unwrap();
    let index = realm.file("index-key.txt");
    let fixed = [
        "--format",
        "csv",
        &file,
        "--index-key-file",
        &index,
        "--apply",
    ];
    for ended in [
        "1 imported, 0 were there already, 2 refused",
        "0 imported, 1 were there already, 2 refused",
    ] {
        let run = realm.run(
            "import",
            &[&fixed, ["--hash-algorithm", "sha256"].as_slice()].concat(),
        );
        assert_eq!(run.status, 1, "{}", run.stderr);
        assert!(run.stdout.trim_end().ends_with(ended), "{}", run.stdout);
        assert_eq!(run.stdout.matches(&words()).count(), 2, "{}", run.stdout);
        assert!(run.stdout.contains("line 2") && run.stdout.contains("line 4"));
        assert_eq!(links(&realm, "alice"), json!([]));
        assert_eq!(links(&realm, "bob").as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_reindex_of_all_goes_on_past_an_owner_that_is_refused() {
    let realm = Realm::prepared();
    for username in ["alice", "bob"] {
        with_phone(
            &realm,
            username,
            if username == "alice" { "abc" } else { "123" },
        );
        realm.key_of(username);
        realm.edit(&realm.user_path(username), |user| {
            user["attributes"]
                .as_object_mut()
                .unwrap()
                .remove("apiKeyIndex");
        });
    }
    declare(&realm, true);
    let run = realm.run("reindex", &["--all"]);
    assert_eq!(run.status, 1, "{}", run.stderr);
    assert!(run.stdout.contains(&words()), "{}", run.stdout);
    assert!(run.stdout.contains("bob: indexed"), "{}", run.stdout);
}

#[test]
fn all_keys_end_where_that_is_said_and_whose_alone() {
    let realm = Realm::prepared();
    let id = realm.key_of("alice");
    for extra in [
        &["--all"][..],
        &["--all", "--owner", "alice", &id],
        &["--owner", "alice"],
    ] {
        assert_eq!(realm.run("revoke", extra).status, 2, "{extra:?}");
    }
    assert_eq!(realm.look_up(&id).len(), 1);
}
