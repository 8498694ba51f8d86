//! `apikeys create`: the key it makes, and the cases in which it makes none.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use apikeys_core::api_key::format::KeyFormat;
use apikeys_core::api_key::hash::Verification;
use apikeys_core::api_key::record::KeyRecord;
use apikeys_core::clock::UnixMillis;
use serde_json::{Value, json};

use crate::world::{Realm, Run, in_order, now_seconds};

fn own_format() -> KeyFormat {
    KeyFormat::new("sk_live_").unwrap()
}

/// Finds a key by its index, reads it and verifies it, as the gateway does.
pub(crate) fn verified(realm: &Realm, format: &KeyFormat, made: &Value) -> Value {
    let text = made["api_key"].as_str().unwrap();
    let key = format.parse(text.as_bytes()).unwrap();
    assert_eq!(made["key_id"], key.id());
    let found = realm.look_up(key.id());
    assert_eq!(found.len(), 1, "{found:?}");
    let attributes: BTreeMap<String, Vec<String>> =
        serde_json::from_value(found[0]["attributes"].clone()).unwrap();
    let record = KeyRecord::find(&attributes, key.id()).unwrap();
    let right = match record.hash.verify(text.as_bytes()) {
        Verification::Decided(right) => right,
        Verification::Computing(mut job) => job.run(u32::MAX).unwrap(),
    };
    assert!(right, "the stored hash is the key's");
    assert_eq!(
        record.ends_at.to_rfc3339(),
        made["expires_at"].as_str().unwrap()
    );
    found[0].clone()
}

#[test]
fn a_users_key_is_found_verified_and_exchanged_by_the_gateway() {
    let realm = Realm::prepared();
    let before = realm.user("alice");
    let made = realm
        .run(
            "create",
            &["--owner", "alice", "--name", "Laptop", "--output", "json"],
        )
        .succeeded()
        .json();
    assert_eq!(made["name"], "Laptop");
    assert_eq!(
        made["owner"],
        json!({"id": before["id"], "username": "alice"})
    );
    let found = verified(&realm, &own_format(), &made);
    assert_eq!(found["id"], before["id"]);
    let claims = realm.grant(before["id"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&claims["sub"], &claims["preferred_username"]),
        (&before["id"], &json!("alice"))
    );
}

#[test]
fn a_service_accounts_key_is_found_verified_and_exchanged_by_the_gateway() {
    let realm = Realm::prepared();
    let made = realm
        .create(&[
            "--service-account",
            "billing-service",
            "--scopes",
            "email profile",
        ])
        .succeeded()
        .json();
    assert_eq!(made["owner"]["username"], "service-account-billing-service");
    let found = verified(&realm, &own_format(), &made);
    assert_eq!(found["username"], "service-account-billing-service");
    let scopes = format!("apiKey_{}_scopes", made["key_id"].as_str().unwrap());
    assert_eq!(found["attributes"][&scopes], json!(["email profile"]));
    let claims = realm.grant(made["owner"]["id"].as_str().unwrap()).unwrap();
    assert_eq!(claims["sub"], made["owner"]["id"]);
}

#[test]
fn nothing_else_of_the_owner_changes_and_earlier_keys_stay() {
    let realm = Realm::prepared();
    let path = realm.user_path("alice");
    realm.edit(&path, |user| {
        user["attributes"] = json!({"team": ["red"], "tags": ["a", "b"]})
    });
    let before = realm.get(&path);
    let first = realm.create(&["--owner", "alice"]).succeeded().json();
    let second = realm
        .create(&["--owner", "alice@example.com"])
        .succeeded()
        .json();
    let id = before["id"].as_str().unwrap();
    let third = realm.create(&["--owner", id]).succeeded().json();
    for made in [&first, &second, &third] {
        verified(&realm, &own_format(), made);
    }
    let mut after = realm.get(&path);
    let attributes = after["attributes"].as_object_mut().unwrap();
    assert_eq!(attributes["apiKeys"].as_array().unwrap().len(), 3);
    assert_eq!(attributes["apiKeyIndex"].as_array().unwrap().len(), 3);
    attributes.retain(|name, _| !name.starts_with("apiKey"));
    assert_eq!(after["federatedIdentities"].as_array().unwrap().len(), 1);
    after["federatedIdentities"] = json!([]);
    assert_eq!(in_order(after), in_order(before));
}

#[test]
fn the_sixth_key_is_refused_and_expired_ones_count() {
    let realm = Realm::prepared();
    let soon = UnixMillis::from_seconds(now_seconds() + 3).to_rfc3339();
    realm
        .create(&["--owner", "bob", "--expires-at", &soon])
        .succeeded();
    for _ in 0..4 {
        realm.create(&["--owner", "bob"]).succeeded();
    }
    std::thread::sleep(Duration::from_secs(3));
    let before = realm.user("bob");
    realm
        .create(&["--owner", "bob"])
        .refused_with("holds 5 keys, expired ones included");
    assert_eq!(realm.user("bob"), before);
    realm
        .create(&["--owner", "bob", "--max-keys-per-user", "6"])
        .succeeded();
    realm
        .create(&["--owner", "alice", "--max-keys-per-user", "1"])
        .succeeded();
    realm
        .create(&["--owner", "alice", "--max-keys-per-user", "1"])
        .refused_with("may hold 1");
}

#[test]
fn a_realm_that_is_not_prepared_gets_no_key() {
    let realm = Realm::new();
    realm
        .create(&["--owner", "alice"])
        .refused_with("run apikeys setup");
    realm.setup(&[]).succeeded();
    realm.edit("users/profile", |profile| {
        profile["unmanagedAttributePolicy"] = json!("ENABLED");
    });
    realm.create(&["--owner", "alice"]).refused_with("ENABLED");
    assert_eq!(realm.user("alice").get("attributes"), None);
}

#[test]
fn an_owner_that_is_not_exactly_one_is_refused_with_what_to_do() {
    let realm = Realm::prepared();
    realm
        .create(&["--owner", "nobody"])
        .refused_with("--service-account CLIENT_ID");
    realm
        .create(&["--owner", "ali"])
        .refused_with("has no user \"ali\"");
    realm
        .create(&["--service-account", "nothing"])
        .refused_with("has no client");
    realm
        .create(&["--service-account", "account"])
        .refused_with("has no service account");
    realm
        .create(&["--service-account", "api-key-gateway"])
        .refused_with("the gateway's own");
    realm
        .create(&["--owner", "service-account-api-key-gateway"])
        .refused_with("the gateway's own");
    realm
        .create(&["--owner", "00000000-0000-0000-0000-000000000000"])
        .refused_with("has no user");
    realm.edit("", |settings| {
        settings["duplicateEmailsAllowed"] = json!(true);
        settings["loginWithEmailAllowed"] = json!(false);
    });
    let path = realm.user_path("bob");
    realm.edit(&path, |user| user["email"] = json!("alice@example.com"));
    let run = realm.create(&["--owner", "alice@example.com"]);
    for username in ["alice", "bob"] {
        let id = realm.user(username)["id"].as_str().unwrap().to_owned();
        assert!(
            run.stderr.contains(&format!("--owner {id}")),
            "{}",
            run.stderr
        );
    }
    run.refused_with("give the one that is meant");
}

#[test]
fn bad_scopes_names_and_ends_are_refused_before_anything_is_written() {
    let realm = Realm::prepared();
    let before = realm.user("alice");
    for (extra, words) in [
        (["--scopes", "orders:read"], "has no scope orders:read"),
        (["--scopes", "a  b"], "--scopes"),
        (["--expires-at", "2020-01-01T00:00:00Z"], "in the past"),
        (["--expires-at", "soon"], "RFC 3339"),
        (["--key-prefix", "sk live"], "--key-prefix"),
    ] {
        realm
            .create(&[&["--owner", "alice"], extra.as_slice()].concat())
            .refused_with(words);
    }
    assert_eq!(realm.user("alice"), before);
}

#[test]
fn links_that_would_mix_two_owners_up_are_refused() {
    let realm = Realm::prepared();
    let (alice, bob) = (realm.user_path("alice"), realm.user_path("bob"));
    let alice_id = alice.trim_start_matches("users/");
    let link = json!({"identityProvider": "api-keys", "userId": alice_id, "userName": "x"});
    let path = format!("{bob}/federated-identity/api-keys");
    realm.admin("POST", &path, Some(&link));
    realm
        .create(&["--owner", "bob"])
        .refused_with("under another id");
    realm
        .create(&["--owner", "alice"])
        .refused_with("keys of the one");
    for user in ["alice", "bob"] {
        assert_eq!(
            realm.user(user).get("attributes"),
            None,
            "no key was recorded for {user}"
        );
    }
    realm.admin("DELETE", &path, None);
    realm.create(&["--owner", "alice"]).succeeded();
    realm.create(&["--owner", "bob"]).succeeded();
}

#[test]
fn a_disabled_owners_key_is_made_with_a_warning_and_not_exchanged() {
    let realm = Realm::prepared();
    let path = realm.user_path("alice");
    realm.edit(&path, |user| user["enabled"] = json!(false));
    let run = realm.create(&["--owner", "alice"]).succeeded();
    assert!(run.stderr.contains("is disabled"), "{}", run.stderr);
    let refusal = realm.grant(path.trim_start_matches("users/")).unwrap_err();
    assert_eq!(refusal["error_description"], "User is not enabled");
}

#[test]
fn text_output_is_the_key_alone_and_a_file_is_its_owners_alone() {
    let realm = Realm::prepared();
    let run = realm
        .run("create", &["--owner", "alice", "--name", "n"])
        .succeeded();
    let key = run.stdout.strip_suffix('\n').unwrap();
    assert!(own_format().parse(key.as_bytes()).is_ok());
    assert!(run.stderr.contains("key id") && !run.stderr.contains(key));
    let file = realm.file("out");
    let extra = ["--owner", "alice", "--name", "n", "--output-file", &file];
    let run = realm.run("create", &extra).succeeded();
    assert_eq!(run.stdout, "");
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.starts_with("sk_live_") && !run.stderr.contains(written.trim()));
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let before = realm.user("alice");
    realm
        .run("create", &extra)
        .refused_with("is not overwritten");
    assert_eq!(realm.user("alice"), before);
    let unused = realm.file("unused");
    realm
        .create(&[
            "--owner",
            "alice",
            "--max-keys-per-user",
            "2",
            "--output-file",
            &unused,
        ])
        .refused_with("may hold 2");
    assert!(!std::path::Path::new(&unused).exists());
}

/// The messages of a run that cannot print its key.
fn untold(realm: &Realm, command: &str, extra: &[&str], stdout: Stdio) -> String {
    let mut process = realm.command(command, &[extra, &["--hash-algorithm", "sha256"]].concat());
    let run = Run::of(process.stdout(stdout).output().unwrap());
    assert_eq!(run.status, 1, "{}", run.stderr);
    run.stderr
}

fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_key_that_nobody_could_be_told_is_not_made_or_is_taken_away_again() {
    let realm = Realm::prepared();
    let create = ["--owner", "alice", "--name", "Lost"];
    let before = realm.user("alice");
    let told = untold(&realm, "create", &create, Stdio::null());
    assert!(told.contains("Nothing was made"), "{told}");
    assert_eq!(realm.user("alice"), before);
    let told = untold(&realm, "create", &create, closed_pipe());
    assert!(told.contains("was revoked at once"), "{told}");
    let ids = |realm: &Realm| realm.user("alice")["attributes"]["apiKeys"].clone();
    assert_eq!(ids(&realm), Value::Null);
    // The old key of a failed rotation goes on, and the message says so.
    let id = realm.key_of("alice");
    let told = untold(&realm, "rotate", &[&id], Stdio::null());
    assert!(told.contains("Nothing was made"), "{told}");
    let told = untold(&realm, "rotate", &[&id], closed_pipe());
    assert!(
        told.contains("was revoked at once") && told.contains(&format!("key {id}, which goes on")),
        "{told}"
    );
    let left = ids(&realm);
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    assert!(left[0].as_str().unwrap().contains(&id), "{left}");
}

#[test]
fn an_output_that_the_shell_closed_makes_no_key() {
    let realm = Realm::prepared();
    let before = realm.user("alice");
    let create = realm.command("create", &["--owner", "alice", "--name", "Lost"]);
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", r#"exec "$0" "$@" >&-"#])
        .arg(create.get_program())
        .args(create.get_args());
    for (name, value) in create.get_envs() {
        shell.env(name, value.unwrap());
    }
    Run::of(shell.output().unwrap()).refused_with("standard output is closed");
    assert_eq!(realm.user("alice"), before);
}

#[test]
fn a_user_whose_name_has_the_form_of_an_id_can_be_named() {
    let realm = Realm::prepared();
    let name = "174aa39f-d2c5-4654-8727-b5119384708d";
    let user = json!({"username": name, "enabled": true, "email": "u@example.com",
                "firstName": "U", "lastName": "Example"});
    realm.admin("POST", "users", Some(&user));
    let made = realm.create(&["--owner", name]).succeeded().json();
    assert_eq!(made["owner"]["username"], name);
    // Now the name is another user's id as well.
    let alices = realm.user("alice")["id"].as_str().unwrap().to_owned();
    let user = json!({"username": alices, "enabled": true, "email": "v@example.com",
                "firstName": "V", "lastName": "Example"});
    realm.admin("POST", "users", Some(&user));
    realm
        .create(&["--owner", &alices])
        .refused_with("2 users of realm");
    let made = realm.create(&["--owner", "alice"]).succeeded().json();
    assert_eq!(made["owner"]["id"], alices);
}
