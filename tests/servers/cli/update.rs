//! Settings of a key: `apikeys create` with them, `update`, `disable` and `enable`.

use serde_json::json;

use crate::world::Realm;

#[test]
fn a_keys_settings_are_given_changed_inherited_and_taken_away() {
    let realm = Realm::prepared();
    let other = realm.key_of("alice");
    let given = [
        "--owner",
        "alice",
        "--rate-limit",
        "100/60",
        "--allow-from",
        "192.0.2.7/24",
        "--allow-from",
        "2001:db8::/32",
        "--environment",
        "live",
        "--label",
        "team=pay",
        "--label",
        "tier=1",
    ];
    let made = realm.create(&given).succeeded().json();
    let id = made["key_id"].as_str().unwrap();
    let before = realm.json("show", &[&other]);
    let attribute =
        |field: &str| realm.user("alice")["attributes"][format!("apiKey_{id}_{field}")].clone();
    assert_eq!(made["rate_limit"], "100/60");
    assert_eq!(
        made["allowed_addresses"],
        json!(["192.0.2.0/24", "2001:db8::/32"])
    );
    assert_eq!(made["environment"], "live");
    assert_eq!(made["labels"], "team=pay tier=1");
    assert_eq!(
        attribute("allowedAddresses"),
        json!(["192.0.2.0/24 2001:db8::/32"])
    );
    let changes = [
        id,
        "--name",
        "CI",
        "--rate-limit",
        "5/1",
        "--allow-from-anywhere",
        "--no-labels",
    ];
    let changed = realm.json("update", &changes);
    assert_eq!(changed["owner"]["username"], "alice");
    assert_eq!(
        (&changed["name"], &changed["rate_limit"]),
        (&json!("CI"), &json!("5/1"))
    );
    assert_eq!(changed["environment"], "live", "not named, so it stays");
    assert!(changed.get("labels").is_none() && changed.get("allowed_addresses").is_none());
    assert!(attribute("labels").is_null() && attribute("allowedAddresses").is_null());
    assert_eq!(attribute("rateLimit"), json!(["5/1"]));
    let again = realm.run("update", &changes).succeeded();
    assert!(
        again.stderr.contains("nothing to change"),
        "{}",
        again.stderr
    );
    let table = realm.run("list", &["--owner", "alice"]).succeeded().stdout;
    assert!(
        table.contains("rate limit 5/1, environment live"),
        "{table}"
    );
    let quick = ["--hash-algorithm", "sha256"];
    let rotated = realm.json("rotate", &[&[id], quick.as_slice()].concat());
    assert_eq!(
        (&rotated["rate_limit"], &rotated["environment"]),
        (&json!("5/1"), &json!("live"))
    );
    assert_eq!(realm.json("show", &[&other]), before);
    realm.run("revoke", &[id]).succeeded();
    assert!(
        !realm.user("alice")["attributes"].to_string().contains(id),
        "nothing of it is left"
    );
    realm
        .run("update", &["zzzzzzzzzzzz", "--no-labels"])
        .refused_with("no owner is indexed");
}

#[test]
fn a_key_is_disabled_and_enabled_and_one_that_is_disabled_is_not_rotated() {
    let realm = Realm::prepared();
    let id = realm.key_of("alice");
    let off = realm.run("disable", &[&id]).succeeded();
    assert!(
        off.stdout.starts_with(&format!("disabled: {id}")),
        "{}",
        off.stdout
    );
    assert_eq!(realm.json("show", &[&id])["state"], "disabled");
    realm.run("rotate", &[&id]).refused_with("is disabled");
    let on = realm.json("enable", &[&id]);
    assert_eq!(on["state"], "active");
    assert!(on.get("disabled").is_none());
}

#[test]
fn settings_that_cannot_be_read_are_told_by_doctor_and_mended() {
    let realm = Realm::prepared();
    let id = realm.key_of("alice");
    realm.edit(&realm.user_path("alice"), |user| {
        user["attributes"][format!("apiKey_{id}_rateLimit")] = json!(["many"]);
    });
    let run = realm.run("doctor", &["--output", "json"]);
    assert_eq!(run.status, 5);
    let found = run.json();
    let finding = &found["findings"][0];
    assert!(finding["subject"].as_str().unwrap().contains(&id));
    let problem = finding["problem"].as_str().unwrap();
    assert!(problem.contains("rateLimit is not"), "{problem}");
    realm.run("update", &[&id, "--no-rate-limit"]).succeeded();
    assert_eq!(realm.run("doctor", &[]).status, 0);
}
