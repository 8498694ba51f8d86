//! `apikeys signing-key`: two keys at once, and the sign-ins that must be seen before one
//! goes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{Realm, Run, random_name};

const GATEWAY: &str = "api-key-gateway";
const MANAGER: &str = "api-key-manager";
const PROVIDER: &str = "identity-provider/instances/api-keys";

/// A prepared realm with a key of alice's: a grant needs her link.
fn realm() -> Realm {
    let realm = Realm::prepared();
    realm.key_of("alice");
    realm
}

fn step(realm: &Realm, name: &str, file: &str, extra: &[&str]) -> Run {
    let file = realm.file(file);
    let fixed = ["--signing-key-file", &file];
    realm.run(&format!("signing-key {name}"), &[&fixed, extra].concat())
}

#[track_caller]
fn done(realm: &Realm, name: &str, file: &str, extra: &[&str]) -> Value {
    let extra = [extra, &["--output", "json"]].concat();
    step(realm, name, file, &extra).succeeded().json()
}

/// Runs an action while the realm's helpers sign with the key of this file.
fn signing_with<T>(realm: &Realm, file: &str, act: impl FnOnce(&Realm) -> T) -> T {
    let key = realm.file("key.pem");
    let [kept, taken] = [&key, &realm.file(file)].map(|file| fs::read(file).unwrap());
    fs::write(&key, taken).unwrap();
    let result = act(realm);
    fs::write(&key, kept).unwrap();
    result
}

fn kid(realm: &Realm, file: &str) -> String {
    signing_with(realm, file, |realm| realm.signing_key().kid().to_owned())
}

/// A client signs in as the filter does, with an id that ends with the signing key's short
/// id.
#[track_caller]
fn sign_in(realm: &Realm, client_id: &str, file: &str) {
    let (status, answer) = signing_with(realm, file, |realm| {
        let signer = realm.signing_key().short_kid().to_owned();
        let jti = format!("check.{}.{signer}", random_name());
        let grant = [("grant_type", "client_credentials")];
        realm.token((client_id, &jti), &grant)
    });
    assert_eq!(status, 200, "{answer}");
}

/// Whether Keycloak takes both assertions under the key of this file.
fn is_accepted(realm: &Realm, file: &str) -> bool {
    let alice = realm.user("alice")["id"].as_str().unwrap().to_owned();
    signing_with(realm, file, |realm| realm.grant(&alice)).is_ok()
}

fn trusted(realm: &Realm, object: &str) -> Vec<String> {
    let stored = match object {
        "provider" => realm.get(PROVIDER)["config"]["publicKeySignatureVerifier"].clone(),
        client => realm.client(client)["attributes"]["jwks.string"].clone(),
    };
    let jwks: Value = serde_json::from_str(stored.as_str().unwrap()).unwrap();
    let keys = jwks["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn both_keys_work_until_the_old_one_is_retired_and_each_step_can_be_repeated() {
    let realm = realm();
    let made = done(&realm, "new", "next.pem", &[]);
    let (old, new) = (kid(&realm, "key.pem"), kid(&realm, "next.pem"));
    assert_eq!((&made["made"], &made["kid"]), (&json!(true), &json!(new)));
    assert_eq!(made["changed"].as_array().unwrap().len(), 3, "{made:#}");
    let mode = fs::metadata(realm.file("next.pem")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    for object in ["provider", GATEWAY, MANAGER] {
        assert_eq!(trusted(&realm, object), [old.clone(), new.clone()]);
    }
    assert!(is_accepted(&realm, "key.pem") && is_accepted(&realm, "next.pem"));
    let again = done(&realm, "new", "next.pem", &[]);
    assert_eq!(
        (&again["made"], &again["changed"]),
        (&json!(false), &json!([]))
    );
    // Another setup of the realm meanwhile, with either key, ends no rotation.
    realm.setup(&[]).succeeded();
    signing_with(&realm, "next.pem", |realm| realm.setup(&[]).succeeded());
    assert_eq!(trusted(&realm, GATEWAY), [old.clone(), new.clone()]);

    sign_in(&realm, GATEWAY, "key.pem");
    sign_in(&realm, GATEWAY, "next.pem");
    for _ in 0..2 {
        let seen = done(&realm, "activate", "next.pem", &[]);
        assert_eq!(seen["verified"].as_array().unwrap().len(), 2, "{seen:#}");
        let signed_in = seen["signed_in"].as_array().unwrap();
        let mut keys: Vec<(bool, bool)> = signed_in
            .iter()
            .map(|key| {
                let begins = key["kid_begins"].as_str().unwrap();
                (new.starts_with(begins), key["is_given_key"] == true)
            })
            .collect();
        keys.sort_unstable();
        assert_eq!(keys, [(false, false), (true, true)], "{seen:#}");
    }

    let refused = step(&realm, "retire", "next.pem", &[]);
    assert!(refused.stderr.contains(&old[..8]), "{}", refused.stderr);
    refused.refused_with("is in use");
    assert_eq!(trusted(&realm, "provider"), [old.clone(), new.clone()]);
    let begun = Instant::now();
    let retired = loop {
        let extra = ["--unused-for", "2s", "--output", "json"];
        let run = step(&realm, "retire", "next.pem", &extra);
        if run.status == 0 {
            break run.json();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", run.stderr);
    };
    assert_eq!(retired["retired"], json!([old]));
    for object in ["provider", GATEWAY, MANAGER] {
        let kept = std::slice::from_ref(&new);
        assert_eq!(trusted(&realm, object), kept, "{object}");
    }
    assert!(!is_accepted(&realm, "key.pem") && is_accepted(&realm, "next.pem"));
    let again = done(&realm, "retire", "next.pem", &[]);
    assert_eq!(again["retired"], json!([]));
    step(&realm, "retire", "key.pem", &[]).refused_with("does not trust key");
    signing_with(&realm, "next.pem", |realm| {
        let doctor = realm.run("doctor", &["--signing-key-file", &realm.file("key.pem")]);
        assert_eq!(doctor.status, 0, "{}", doctor.stdout);
    });
}

#[test]
fn a_key_that_no_gateway_was_seen_to_have_retires_none() {
    let realm = realm();
    step(&realm, "activate", "next.pem", &[]).refused_with("signing-key new");
    step(&realm, "retire", "next.pem", &[]).refused_with("signing-key new");
    step(&realm, "new", "next.pem", &[]).succeeded();
    step(&realm, "retire", "next.pem", &[]).refused_with("no gateway has signed in");
    // An id without the signing key's short id may be an older filter's, with either key.
    sign_in(&realm, GATEWAY, "next.pem");
    realm.service_token();
    step(&realm, "retire", "next.pem", &[]).refused_with("older filter");
    assert_eq!(trusted(&realm, GATEWAY).len(), 2);
    // The rotation is called off: the gateways' key is kept.
    let extra = ["--unused-for", "0"];
    step(&realm, "retire", "key.pem", &extra).refused_with("no gateway has signed in");
    sign_in(&realm, GATEWAY, "key.pem");
    let begun = Instant::now();
    while step(&realm, "retire", "key.pem", &["--unused-for", "1s"]).status != 0 {
        sign_in(&realm, GATEWAY, "key.pem");
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    assert!(is_accepted(&realm, "key.pem") && !is_accepted(&realm, "next.pem"));
}

#[test]
fn a_step_that_was_interrupted_halfway_goes_on_where_it_ended() {
    let realm = realm();
    let path = realm.client_path(GATEWAY);
    let before = realm.client(GATEWAY)["attributes"]["jwks.string"].clone();
    step(&realm, "new", "next.pem", &[]).succeeded();
    // The interrupted state: the key is made, and one object of three does not trust it.
    realm.edit(&path, |client| {
        client["attributes"]["jwks.string"] = before;
    });
    step(&realm, "activate", "next.pem", &[]).refused_with("does not trust key");
    step(&realm, "retire", "next.pem", &["--now"]).refused_with("does not trust key");
    let goes_on = done(&realm, "new", "next.pem", &[]);
    assert_eq!(goes_on["changed"], json!(["client \"api-key-gateway\""]));
    assert!(is_accepted(&realm, "key.pem") && is_accepted(&realm, "next.pem"));
    // Another interrupted state: one of three does not trust the old key any more.
    realm.edit(&path, |client| {
        let jwks = client["attributes"]["jwks.string"].as_str().unwrap();
        let mut jwks: Value = serde_json::from_str(jwks).unwrap();
        jwks["keys"].as_array_mut().unwrap().remove(0);
        client["attributes"]["jwks.string"] = json!(jwks.to_string());
    });
    step(&realm, "retire", "next.pem", &["--now"]).succeeded();
    for object in ["provider", GATEWAY, MANAGER] {
        assert_eq!(trusted(&realm, object), [kid(&realm, "next.pem")]);
    }
}

#[test]
fn a_second_rotation_before_the_first_is_over_is_refused() {
    let realm = realm();
    step(&realm, "new", "key.pem", &[]).refused_with("the one that the realm trusts now");
    step(&realm, "new", "next.pem", &[]).succeeded();
    step(&realm, "new", "third.pem", &[]).refused_with("a rotation is under way");
    assert!(!realm.folder.join("third.pem").exists());
    assert_eq!(trusted(&realm, GATEWAY).len(), 2);
}

#[test]
fn where_no_events_tell_who_signs_a_key_is_retired_on_the_operators_word_alone() {
    let realm = realm();
    step(&realm, "new", "next.pem", &[]).succeeded();
    realm.edit("events/config", |events| {
        events["eventsEnabled"] = json!(false);
    });
    let seen = done(&realm, "activate", "next.pem", &[]);
    assert_eq!(seen["signed_in"], Value::Null);
    step(&realm, "retire", "next.pem", &[]).refused_with("the realm keeps no events");
    step(&realm, "retire", "next.pem", &["--now"]).succeeded();
    assert!(is_accepted(&realm, "next.pem") && !is_accepted(&realm, "key.pem"));
}

#[test]
fn a_management_key_of_its_own_is_rotated_by_itself() {
    let realm = Realm::new();
    let own = realm.file("manager.pem");
    realm
        .setup(&["--management-signing-key-file", &own])
        .succeeded();
    realm.key_of("alice");
    let gateways = done(&realm, "new", "next.pem", &[]);
    assert_eq!(
        gateways["changed"].as_array().unwrap().len(),
        2,
        "{gateways:#}"
    );
    let managers = done(&realm, "new", "managers-next.pem", &["--management"]);
    assert_eq!(managers["changed"], json!(["client \"api-key-manager\""]));
    sign_in(&realm, MANAGER, "managers-next.pem");
    let seen = done(&realm, "activate", "managers-next.pem", &["--management"]);
    assert_eq!(seen["field"], "management_signing_key");
    assert_eq!(seen["signed_in"].as_array().unwrap().len(), 1, "{seen:#}");
    step(&realm, "retire", "managers-next.pem", &["--management"]).succeeded();
    assert_eq!(trusted(&realm, MANAGER), [kid(&realm, "managers-next.pem")]);
    assert_eq!(trusted(&realm, GATEWAY).len(), 2);
    // If the two share a key, it is not rotated for one of them alone.
    let shared = Realm::prepared();
    step(&shared, "new", "next.pem", &["--management"]).refused_with("leave --management out");
}
