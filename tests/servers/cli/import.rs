//! `apikeys import`: from each kind of file, as a dry run, cut off and run again.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use apikeys_core::api_key::format::KeyFormat;
use serde_json::{Value, json};

use crate::create::verified;
use crate::world::{Realm, Run};

/// base64 of 32 bytes, each 7.
pub(crate) const INDEX_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const ALICES: &str = "alices-key-in-the-old-system";
const BOBS: &str = "bobs-key-in-the-old-system";

fn format() -> KeyFormat {
    KeyFormat::new("sk_live_").unwrap().with_index_key(&[7; 32])
}

fn id_of(key: &str) -> String {
    format().parse(key.as_bytes()).unwrap().id().to_owned()
}

/// Writes a file for the test, and the index key beside it.
fn place(realm: &Realm, name: &str, text: &str) -> String {
    realm.private_file("index-key.txt", INDEX_KEY);
    let file = realm.file(name);
    fs::write(&file, text).unwrap();
    file
}

fn import(realm: &Realm, kind: &str, file: &str, extra: &[&str]) -> Run {
    let index = realm.file("index-key.txt");
    let fixed = ["--format", kind, file, "--index-key-file", &index];
    let quick = ["--hash-algorithm", "sha256"];
    let run = realm.run("import", &[&fixed, quick.as_slice(), extra].concat());
    for key in [ALICES, BOBS, "old-key-of-another", INDEX_KEY] {
        assert!(!format!("{}{}", run.stdout, run.stderr).contains(key));
    }
    run
}

#[test]
fn a_dry_run_writes_nothing_and_a_second_run_finds_all_there() {
    let realm = Realm::prepared();
    let before = realm.user("alice");
    let account = "service-account-billing-service";
    let text = format!(
        "owner,key,name,expires_at,scopes\nalice,{ALICES},Old,2100-01-01T00:00:00Z,email\n\
         {account},{BOBS},,,\n"
    );
    let file = place(&realm, "keys.csv", &text);
    let dry = import(&realm, "csv", &file, &[]).succeeded();
    assert!(
        dry.stdout.contains("dry run: 2 would be imported"),
        "{}",
        dry.stdout
    );
    assert_eq!(realm.user("alice"), before);
    let applied = import(&realm, "csv", &file, &["--apply", "--output", "json"]);
    let report = applied.succeeded().json();
    assert_eq!(report["applied"], true);
    assert_eq!(
        report["imported"][0],
        json!({"place": "line 2", "owner": "alice", "key_id": id_of(ALICES)})
    );
    let listed = realm.json("list", &["--owner", "alice"]);
    assert_eq!(listed["keys"][0]["name"], "Old");
    assert_eq!(listed["keys"][0]["scopes"], json!(["email"]));
    for key in [ALICES, BOBS] {
        let shown = realm.json("show", &[&id_of(key)]);
        let made = json!({"api_key": key, "key_id": id_of(key), "expires_at": shown["expires_at"]});
        let owner = verified(&realm, &format(), &made);
        let claims = realm.grant(owner["id"].as_str().unwrap()).unwrap();
        assert_eq!(claims["sub"], owner["id"]);
    }
    let between = realm.user("alice");
    for (extra, words) in [
        (["--apply"].as_slice(), "0 imported, 2 were there already"),
        (&[], "0 would be imported, 2 are there already"),
    ] {
        let again = import(&realm, "csv", &file, extra).succeeded();
        assert!(again.stdout.contains(words), "{}", again.stdout);
    }
    assert_eq!(realm.user("alice"), between);
}

#[test]
fn kongs_keys_come_by_the_consumers_custom_id_and_a_map() {
    let realm = Realm::prepared();
    let text = format!(
        "_format_version: \"3.0\"\nconsumers:\n- username: mobile\n  custom_id: alice\n  \
         keyauth_credentials:\n  - key: {ALICES}\n- username: nightly\n  custom_id: night\n\
         keyauth_credentials:\n- consumer: nightly\n  key: {BOBS}\n"
    );
    let file = place(&realm, "kong.yaml", &text);
    let by_custom_id = ["--owner-field", "custom_id"];
    let run = import(&realm, "kong", &file, &by_custom_id);
    assert_eq!(run.status, 1);
    assert!(
        run.stdout.contains("keyauth_credentials[0]  night"),
        "{}",
        run.stdout
    );
    let map = place(&realm, "map.csv", "from,to\nnight,bob\n");
    let extra = ["--owner-field", "custom_id", "--map", &map, "--apply"];
    import(&realm, "kong", &file, &extra).succeeded();
    for (key, owner) in [(ALICES, "alice"), (BOBS, "bob")] {
        assert_eq!(
            realm.json("show", &[&id_of(key)])["owner"]["username"],
            owner
        );
    }
}

#[test]
fn every_key_that_is_refused_is_told_with_its_place_and_the_others_are_imported() {
    let realm = Realm::prepared();
    let taken = "old-key-of-another-owner";
    let first = place(
        &realm,
        "first.json",
        &json!([{"owner": "bob", "key": taken}]).to_string(),
    );
    import(&realm, "json", &first, &["--apply"]).succeeded();
    let items = json!([
        {"owner": "nobody", "key": "old-key-of-another-1"},
        {"owner": "service-account-api-key-manager", "key": "old-key-of-another-2"},
        {"owner": "alice", "key": taken},
        {"owner": "alice", "key": ALICES},
        {"owner": "alice", "key": "short"},
        {"owner": "alice", "key": "old-key-of-another-3", "scopes": "nothing"},
        {"owner": "alice", "key": BOBS},
    ]);
    let file = place(&realm, "keys.json", &items.to_string());
    let limit = ["--max-keys-per-user", "1", "--output", "json"];
    for (extra, applied) in [([].as_slice(), false), (&["--apply"], true)] {
        let run = import(&realm, "json", &file, &[&limit, extra].concat());
        assert_eq!(run.status, 1, "{}", run.stderr);
        let report = run.json();
        assert_eq!(report["applied"], applied);
        assert_eq!(report["imported"][0]["place"], "entry 4");
        assert_eq!(report["imported"].as_array().unwrap().len(), 1);
        let refused = report["refused"].as_array().unwrap();
        let told = |place: &str| {
            let refusal = refused.iter().find(|refusal| refusal["place"] == place);
            refusal.unwrap()["reason"].as_str().unwrap()
        };
        for (place, words) in [
            ("entry 1", "has no user"),
            ("entry 2", "the gateway's own"),
            ("entry 3", "\"bob\" holds this key already"),
            ("entry 5", "16 to 72"),
            ("entry 6", "no scope nothing"),
            ("entry 7", "may hold 1"),
        ] {
            assert!(told(place).contains(words), "{}", told(place));
        }
        assert_eq!(refused.len(), 6);
    }
    assert_eq!(realm.look_up(&id_of(taken)).len(), 1, "still one owner's");
}

#[test]
fn an_import_that_was_killed_is_run_again() {
    let realm = Realm::prepared();
    let keys: Vec<String> = (0..6)
        .map(|n| format!("old-key-of-another-number-{n}"))
        .collect();
    let rows: Vec<String> = keys.iter().map(|key| format!("alice,{key}")).collect();
    let file = place(
        &realm,
        "keys.csv",
        &format!("owner,key\n{}\n", rows.join("\n")),
    );
    let index = realm.file("index-key.txt");
    let slow = [
        "--format",
        "csv",
        &file,
        "--apply",
        "--index-key-file",
        &index,
    ];
    // Each hash takes a while, between the locks.
    let cost = ["--bcrypt-cost", "13", "--max-keys-per-user", "6"];
    let mut child = realm
        .command("import", &[slow.as_slice(), &cost].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let path = realm.user_path("alice");
    let held = |user: &Value| user["attributes"]["apiKeys"].as_array().map_or(0, Vec::len);
    let begun = Instant::now();
    loop {
        let user = realm.get(&path);
        let links = user["federatedIdentities"].as_array().map_or(0, Vec::len);
        if held(&user) >= 2 && links == 1 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{user}");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = held(&realm.get(&path));
    assert!((2..6).contains(&left), "{left}");
    let extra = ["--apply", "--max-keys-per-user", "6", "--output", "json"];
    let report = import(&realm, "csv", &file, &extra).succeeded().json();
    assert_eq!(report["present"].as_array().unwrap().len(), left);
    assert_eq!(report["imported"].as_array().unwrap().len(), 6 - left);
    assert_eq!(held(&realm.get(&path)), 6);
    for key in &keys {
        assert_eq!(realm.look_up(&id_of(key)).len(), 1);
    }
}

#[test]
fn without_an_index_key_or_a_file_that_can_be_read_nothing_is_begun() {
    let realm = Realm::prepared();
    let file = place(&realm, "keys.csv", &format!("owner,key\nalice,{ALICES}\n"));
    realm
        .run("import", &["--format", "csv", &file])
        .refused_with("--index-key-file");
    import(&realm, "csv", "/no/such/file", &[]).refused_with("/no/such/file");
    import(&realm, "json", &file, &[]).refused_with("not a list of objects");
    import(&realm, "kong", &file, &[]).refused_with("Kong's declarative configuration");
    let empty = place(&realm, "empty.csv", "owner,key\n");
    import(&realm, "csv", &empty, &[]).refused_with("holds no keys");
    realm.edit("users/profile", |profile| {
        profile["unmanagedAttributePolicy"] = json!("ENABLED");
    });
    import(&realm, "csv", &file, &["--apply"]).refused_with("ENABLED");
}
