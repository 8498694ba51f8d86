//! `apikeys list`, `show`, `rotate` and `revoke`.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use test_kit::checksum::summed;

use crate::world::{Realm, Run, now_seconds};

fn ids(listed: &Value) -> Vec<&str> {
    let keys = listed["keys"].as_array().unwrap();
    keys.iter()
        .map(|key| key["key_id"].as_str().unwrap())
        .collect()
}

#[test]
fn an_owners_keys_are_listed_with_their_state_and_never_a_hash() {
    let realm = Realm::prepared();
    let empty = realm.run("list", &["--owner", "alice"]).succeeded();
    assert_eq!(empty.stdout, "");
    assert!(empty.stderr.contains("holds no keys"), "{}", empty.stderr);
    let first = realm.key_of("alice");
    let scoped = ["--owner", "alice", "--scopes", "email"];
    let second = realm.create(&scoped).succeeded().json();
    let second = second["key_id"].as_str().unwrap();
    let path = realm.user_path("alice");
    realm.edit(&path, |user| {
        user["attributes"][format!("apiKey_{first}_created")] = json!(["2020-01-01T00:00:00Z"]);
        user["attributes"][format!("apiKey_{first}_expiresAt")] = json!(["2021-01-01T00:00:00Z"]);
    });
    let listed = realm.json("list", &["--owner", "alice"]);
    assert_eq!(listed["owner"]["username"], "alice");
    assert_eq!(ids(&listed), [second, first.as_str()], "the newest first");
    assert_eq!(listed["keys"][0]["state"], "active");
    assert_eq!(listed["keys"][0]["scopes"], json!(["email"]));
    assert_eq!(listed["keys"][1]["state"], "expired");
    let table = realm.run("list", &["--owner", "alice"]).succeeded().stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("KEY ID        NAME"), "{table}");
    assert!(lines[1].starts_with(second) && lines[1].contains("active"));
    assert!(lines[2].starts_with(&first) && lines[2].contains("2021-01-01T00:00:00Z"));
    assert!(!table.contains("$sha256$"));
}

#[test]
fn a_key_is_shown_by_its_id_alone_with_its_owner_and_its_last_use() {
    let realm = Realm::prepared();
    let account = ["--service-account", "billing-service"];
    let made = realm.create(&account).succeeded().json();
    let id = made["key_id"].as_str().unwrap();
    let shown = realm.json("show", &[id]);
    assert_eq!(shown["owner"], made["owner"]);
    assert_eq!(shown["expires_at"], made["expires_at"]);
    assert_eq!(shown.get("last_used"), None);
    let owner = made["owner"]["id"].as_str().unwrap();
    let before = now_seconds();
    realm
        .grant_with("api-key-gateway", owner, &format!("{id}.one"))
        .unwrap();
    let used = realm.json("show", &[id])["last_used"].clone();
    let used = apikeys_core::clock::UnixMillis::parse_rfc3339(used.as_str().unwrap()).unwrap();
    assert!((before - 5..=now_seconds() + 5).contains(&used.as_seconds()));
    let text = realm.run("show", &[id]).succeeded().stdout;
    assert!(text.contains("service-account-billing-service") && text.contains("active"));
    let other = realm.key_of("alice");
    let text = realm.run("show", &[&other]).succeeded().stdout;
    assert!(text.contains("last used  never"), "{text}");
    realm.edit("events/config", |events| {
        events["eventsEnabled"] = json!(false);
    });
    let shown = realm.json("show", &[id]);
    assert!(shown.get("last_used").is_none() && shown.get("unused_since").is_none());
    let text = realm.run("show", &[&other]).succeeded().stdout;
    assert!(text.contains("last used  not known"), "{text}");
    realm
        .run("show", &["zzzzzzzzzzzz"])
        .refused_with("no owner is indexed under zzzzzzzzzzzz");
    realm
        .run("show", &["--owner", "bob", id])
        .refused_with("\"bob\" holds no key");
}

#[test]
fn a_key_given_for_an_id_is_refused_and_not_repeated() {
    let realm = Realm::prepared();
    let made = realm.create(&["--owner", "alice"]).succeeded().json();
    let key = made["api_key"].as_str().unwrap();
    for command in ["show", "rotate", "disable", "revoke"] {
        let run = realm.run(command, &[key]);
        assert_eq!(run.status, 2);
        assert!(run.stderr.contains("revoke it"), "{}", run.stderr);
        assert!(!run.stderr.contains(key) && run.stdout.is_empty());
    }
    assert_eq!(
        realm.json("list", &["--owner", "alice"])["keys"][0]["state"],
        "active"
    );
}

#[test]
fn a_rotated_key_goes_on_for_its_grace_beside_the_one_that_replaces_it() {
    let realm = Realm::prepared();
    let made = realm
        .create(&["--owner", "alice", "--scopes", "email"])
        .succeeded()
        .json();
    let old = made["key_id"].as_str().unwrap();
    let quick = ["--hash-algorithm", "sha256", "--grace", "1h"];
    let rotated = realm.json("rotate", &[&[old], quick.as_slice()].concat());
    let new = rotated["key_id"].as_str().unwrap();
    assert_eq!(rotated["name"], made["name"]);
    assert_eq!(rotated["expires_at"], made["expires_at"]);
    assert_eq!(rotated["replaces"]["key_id"], old);
    let listed = realm.json("list", &["--owner", "alice"]);
    let of = |id: &str| {
        let keys = listed["keys"].as_array().unwrap();
        keys.iter().find(|key| key["key_id"] == id).unwrap().clone()
    };
    assert_eq!(of(new)["scopes"], json!(["email"]));
    assert_eq!(of(new)["state"], "active");
    assert_eq!(of(old)["state"], "rotating");
    assert_eq!(of(old)["replaced_by"], new);
    // A list looks for uses as well.
    let mut listed_old = of(old);
    listed_old.as_object_mut().unwrap().remove("unused_since");
    assert_eq!(listed_old, rotated["replaces"]);
    realm.run("rotate", &[old]).refused_with("rotating already");
    // Without grace, for another year, with output for people.
    let extra = [
        new,
        "--grace",
        "0",
        "--expires-days",
        "400",
        "--hash-algorithm",
        "sha256",
    ];
    let run = realm.run("rotate", &extra).succeeded();
    assert!(
        run.stderr.contains(&format!("{new}, which has ended")),
        "{}",
        run.stderr
    );
    assert!(run.stdout.starts_with("sk_live_"));
    let third = &run.stdout["sk_live_".len()..][..12];
    assert_eq!(realm.json("show", &[third])["state"], "active");
    assert_eq!(realm.look_up(new).len(), 0);
    realm
        .run("rotate", &["zzzzzzzzzzzz"])
        .refused_with("no owner is indexed");
}

#[test]
fn a_revoked_key_is_gone_and_the_last_ones_end_unlinks() {
    let realm = Realm::prepared();
    let before = realm.user("alice");
    let (first, second) = (realm.key_of("alice"), realm.key_of("alice"));
    let path = realm.user_path("alice");
    let links = || realm.get(&format!("{path}/federated-identity"));
    let run = realm.run("revoke", &[&first]).succeeded();
    assert!(
        run.stdout.contains(&format!("revoked: {first}")),
        "{}",
        run.stdout
    );
    assert_eq!(realm.look_up(&first).len(), 0);
    assert_eq!(realm.look_up(&second).len(), 1);
    assert_eq!(links().as_array().unwrap().len(), 1);
    let revoked = realm.json("revoke", &[&second, "--owner", "alice"]);
    assert_eq!(revoked["revoked"], true);
    assert_eq!(revoked["owner"]["username"], "alice");
    assert_eq!(links(), json!([]));
    assert_eq!(realm.user("alice"), before, "as before the first key");
    // A second revocation finds no key, and succeeds.
    let again = realm.run("revoke", &[&second]).succeeded();
    assert!(
        again.stderr.contains("no owner is indexed"),
        "{}",
        again.stderr
    );
    let again = realm
        .run("revoke", &[&second, "--owner", "alice"])
        .succeeded();
    assert!(again.stderr.contains("holds no key"), "{}", again.stderr);
    assert_eq!(realm.json("revoke", &[&second])["revoked"], false);
}

#[test]
fn a_key_in_a_file_is_ended_and_a_text_that_is_none_ends_nothing() {
    let realm = Realm::prepared();
    let made = realm
        .create(&["--owner", "alice", "--expires-days", "2"])
        .succeeded()
        .json();
    let (id, key) = (text(&made["key_id"]), text(&made["api_key"]));
    let revoke = |file: &str| realm.run("revoke", &["--key-file", file]);
    let file = realm.private_file("key.txt", &format!("{key}\n"));
    let other = summed(&format!("sk_live_{id}_{}", "x".repeat(32)));
    for (bad, words) in [
        (other.as_str(), "has another secret, and still works"),
        (&key[..58], "the text is no key"),
        (
            &summed("sk_live_zzzzzzzzzzzz_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            "no owner is indexed",
        ),
        ("an-old-key-of-the-older-system", "the text is no key"),
    ] {
        let run = revoke(&realm.private_file("bad.txt", bad));
        assert!(!run.stderr.contains(bad));
        run.refused_with(words);
    }
    assert_eq!(realm.json("show", &[&id])["state"], "active");
    let ended = revoke(&file).succeeded();
    let told = format!("revoked: {id} (\"test\") of \"alice\"");
    assert!(ended.stdout.starts_with(&told), "{}", ended.stdout);
    assert!(!(ended.stdout + &ended.stderr).contains(&key));
    assert_eq!(realm.look_up(&id).len(), 0);
    revoke(&file).refused_with("no owner is indexed");
}

#[test]
fn a_key_on_standard_input_is_ended_and_never_one_in_an_argument() {
    let realm = Realm::prepared();
    // bcrypt, by default.
    let run = realm
        .run("create", &["--owner", "bob", "--name", "n"])
        .succeeded();
    let key = run.stdout.trim();
    let output = ["--key-file", "-", "--output", "json"];
    let mut process = realm.command("revoke", &output);
    process
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = process.spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    input.write_all(key.as_bytes()).unwrap();
    drop(input);
    let run = Run::of(process.wait_with_output().unwrap()).succeeded();
    let told = run.json();
    assert_eq!(told["revoked"], true);
    assert_eq!(
        (&told["name"], &told["owner"]["username"]),
        (&json!("n"), &json!("bob"))
    );
    assert!(!run.stdout.contains(key));
    for extra in [
        [key, "--key-file", "-"].as_slice(),
        &["--key-file", "-", "--all"],
    ] {
        let run = realm.run("revoke", extra);
        assert_eq!(run.status, 2);
    }
}

#[test]
fn an_imported_key_in_a_file_is_ended_with_the_index_key() {
    let realm = Realm::prepared();
    let index_key = realm.private_file(
        "index-key.txt",
        "aW5kZXgga2V5IG9mIHRoZSBob3N0IG1vZGVsLCAzMi4=",
    );
    let imported = "an-old-key-of-the-older-system";
    let csv = realm.private_file("keys.csv", &format!("owner,key\nalice,{imported}\n"));
    let import = [
        "--format",
        "csv",
        "--index-key-file",
        &index_key,
        "--apply",
        &csv,
    ];
    realm.run("import", &import).succeeded();
    let file = realm.private_file("key.txt", imported);
    let by_file = ["--key-file", &file];
    realm
        .run("revoke", &by_file)
        .refused_with("the text is no key");
    let with_index_key = [by_file.as_slice(), &["--index-key-file", &index_key]].concat();
    assert_eq!(realm.json("revoke", &with_index_key)["revoked"], true);
    assert_eq!(realm.json("list", &["--owner", "alice"])["keys"], json!([]));
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn an_id_at_two_owners_is_changed_for_neither_until_one_is_named() {
    let realm = Realm::prepared();
    let id = realm.key_of("alice");
    let attributes = realm.user("alice")["attributes"].clone();
    realm.edit(&realm.user_path("bob"), |bob| {
        bob["attributes"] = attributes
    });
    for command in ["show", "revoke", "rotate"] {
        realm
            .run(command, &[&id])
            .refused_with("2 users are indexed");
    }
    realm.run("revoke", &[&id, "--owner", "bob"]).succeeded();
    assert_eq!(realm.json("show", &[&id])["owner"]["username"], "alice");
}

#[test]
fn a_lock_that_was_left_behind_is_taken_over() {
    let realm = Realm::prepared();
    let path = realm.user_path("alice");
    let lock = json!({"identityProvider": "api-keys-lock", "userId": "somebodylonggone",
                      "userName": "somebodylonggone@1700000000000"});
    realm.admin(
        "POST",
        &format!("{path}/federated-identity/api-keys-lock"),
        Some(&lock),
    );
    let id = realm.key_of("alice");
    assert_eq!(realm.look_up(&id).len(), 1);
    let links = realm.get(&format!("{path}/federated-identity"));
    assert_eq!(links.as_array().unwrap().len(), 1);
    assert_eq!(links[0]["identityProvider"], "api-keys");
    assert_eq!(realm.get("groups"), json!([]), "the claim is given back");
}

#[test]
fn a_realm_without_its_locks_is_told_and_nothing_is_written() {
    let realm = Realm::prepared();
    let before = realm.user("alice");
    realm.admin("DELETE", "identity-provider/instances/api-keys-lock", None);
    realm
        .create(&["--owner", "alice"])
        .refused_with("run apikeys setup");
    assert_eq!(realm.user("alice"), before);
}

#[test]
fn keys_that_are_made_and_revoked_at_once_are_neither_lost_nor_resurrected() {
    let realm = Realm::prepared();
    let path = realm.user_path("alice");
    realm.edit(&path, |user| user["attributes"] = json!({"team": ["red"]}));
    let before = realm.get(&path);
    let old = realm.key_of("alice");
    let create = [
        "--owner",
        "alice",
        "--name",
        "n",
        "--hash-algorithm",
        "sha256",
    ];
    let start = |command: &str, extra: &[&str]| {
        let mut command = realm.command(command, extra);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut runs: Vec<_> = (0..5).map(|_| start("create", &create)).collect();
    runs.push(start("revoke", &[&old]));
    let mut made = 0;
    for run in runs {
        let output = run.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => made += usize::from(output.stdout.starts_with(b"sk_live_")),
            // While the old key is still there, one run finds no room.
            _ => assert!(stderr.contains("may hold 5"), "{stderr}"),
        }
    }
    let mut after = realm.get(&path);
    let attributes = after["attributes"].as_object_mut().unwrap();
    assert_eq!(attributes["apiKeys"].as_array().unwrap().len(), made);
    assert_eq!(attributes["apiKeyIndex"].as_array().unwrap().len(), made);
    assert!((4..=5).contains(&made), "{made}");
    assert!(!attributes.contains_key(&format!("apiKey_{old}_name")));
    attributes.retain(|name, _| !name.starts_with("apiKey"));
    assert_eq!(
        after["federatedIdentities"].as_array().unwrap().len(),
        1,
        "the locks are given back"
    );
    after["federatedIdentities"] = json!([]);
    assert_eq!(after, before);
}
