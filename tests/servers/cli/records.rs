//! `apikeys doctor`, `reindex` and `expiring`, which read all records.

use serde_json::{Value, json};

use crate::world::{Realm, random_name};

fn doctor(realm: &Realm, extra: &[&str]) -> (i32, Value) {
    let run = realm.run("doctor", &[&["--output", "json"], extra].concat());
    let found = run.json();
    assert!(!run.stdout.contains("$sha256$"), "{}", run.stdout);
    (run.status, found)
}

/// The advice of the finding with this subject and problem; fails if there is none.
#[track_caller]
fn advice<'a>(found: &'a Value, subject: &str, problem: &str) -> &'a str {
    let findings = found["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| {
        finding["subject"].as_str().unwrap().contains(subject)
            && finding["problem"].as_str().unwrap().contains(problem)
    });
    let finding = finding.unwrap_or_else(|| panic!("no {subject} {problem} in {found:#}"));
    finding["advice"].as_str().unwrap()
}

#[test]
fn doctor_in_a_realm_that_is_not_there_says_so() {
    let name = format!("cli-{}-nowhere", random_name());
    let folder = std::env::temp_dir().join(&name);
    let nowhere = Realm { name, folder };
    nowhere.run("doctor", &[]).refused_with("check --realm");
}

#[test]
fn a_realm_that_is_well_is_well_and_the_key_is_tried_when_it_is_given() {
    let realm = Realm::prepared();
    realm.key_of("alice");
    let account = ["--service-account", "billing-service"];
    realm.create(&account).succeeded();
    let key = realm.file("key.pem");
    for extra in [[].as_slice(), &["--signing-key-file", &key]] {
        let (status, found) = doctor(&realm, extra);
        assert_eq!(found["findings"], json!([]));
        assert_eq!(status, 0);
        assert_eq!(found["looked_at"]["owners"], 2);
        assert_eq!(found["looked_at"]["keys"], 2);
    }
    let text = realm.run("doctor", &[]).succeeded().stdout;
    assert!(text.starts_with("0 errors, 0 warnings"), "{text}");
    let (_, sampled) = doctor(&realm, &["--sample", "1"]);
    assert_eq!(sampled["looked_at"]["users"], 1);
    realm
        .run("doctor", &["--signing-key-file", "/no/such/file"])
        .refused_with("there is no file /no/such/file");
    realm
        .run("doctor", &["--admin-client-id", "nothing"])
        .refused_with("cannot sign in");
    // A key that the realm does not trust.
    let other = Realm::prepared();
    let (status, found) = doctor(&realm, &["--signing-key-file", &other.file("key.pem")]);
    assert_eq!(status, 5);
    advice(&found, "realm", "not the key of --signing-key-file");
}

#[test]
fn what_is_merely_to_be_looked_at_is_a_warning() {
    let realm = Realm::prepared();
    let soon = realm
        .create(&["--owner", "alice", "--expires-days", "7"])
        .succeeded()
        .json();
    let id = soon["key_id"].as_str().unwrap();
    realm.edit("events/config", |events| {
        events["adminEventsEnabled"] = json!(false)
    });
    let bob = realm.user_path("bob");
    let link = json!({"identityProvider": "api-keys", "userId": bob.trim_start_matches("users/"),
                      "userName": "bob"});
    let path = format!("{bob}/federated-identity/api-keys");
    realm.admin("POST", &path, Some(&link));
    let (status, found) = doctor(&realm, &[]);
    assert_eq!(
        (status, &found["errors"], &found["warnings"]),
        (4, &json!(0), &json!(3))
    );
    assert_eq!(
        advice(&found, "event settings", "adminEventsEnabled"),
        "run apikeys setup"
    );
    let rotate = advice(&found, &format!("key {id} of"), "nothing replaces it");
    assert_eq!(rotate, format!("apikeys rotate {id} --expires-days 365"));
    assert!(advice(&found, "owner \"bob\"", "holds no keys").contains("delete that link"));
    // Following the advice helps.
    let words: Vec<&str> = rotate.split(' ').skip(2).collect();
    realm.run("rotate", &words).succeeded();
    realm.admin("DELETE", &path, None);
    realm.setup(&[]).succeeded();
    assert_eq!(doctor(&realm, &[]).0, 0);
}

#[test]
fn each_fault_that_was_planted_is_found_and_the_advice_mends_it() {
    let realm = Realm::prepared();
    let [indexless, endless, unlinked] = ["alice", "bob", "billing"].map(|owner| match owner {
        "billing" => {
            let account = ["--service-account", "billing-service"];
            let made = realm.create(&account).succeeded().json();
            made["key_id"].as_str().unwrap().to_owned()
        }
        user => realm.key_of(user),
    });
    let account = realm.user_path("service-account-billing-service");
    realm.edit(&realm.user_path("alice"), |user| {
        user["attributes"]["apiKeyIndex"] = json!(["zzz123def456..."]);
    });
    realm.edit(&realm.user_path("bob"), |user| {
        user["attributes"][format!("apiKey_{endless}_expiresAt")] = json!(["soon"]);
        let keys = user["attributes"]["apiKeys"].as_array_mut().unwrap();
        keys.push(json!(format!("key:{unlinked}:$sha256$x")));
    });
    realm.admin(
        "DELETE",
        &format!("{account}/federated-identity/api-keys"),
        None,
    );
    realm.edit("users/profile", |profile| {
        profile["unmanagedAttributePolicy"] = json!("ADMIN_VIEW");
    });
    realm.admin("DELETE", "identity-provider/instances/api-keys-lock", None);
    let client = realm.client_path("api-key-manager");
    realm.edit(&client, |client| {
        client["standardFlowEnabled"] = json!(true)
    });
    let (status, found) = doctor(&realm, &[]);
    assert_eq!(status, 5);
    for (subject, problem) in [
        ("user profile", "unmanagedAttributePolicy is ADMIN_VIEW"),
        ("identity provider \"api-keys-lock\"", "it is not there"),
        ("client \"api-key-manager\"", "standardFlowEnabled is true"),
    ] {
        assert_eq!(advice(&found, subject, problem), "run apikeys setup");
    }
    let reindex = advice(
        &found,
        &format!("key {indexless} of"),
        "does not name this id",
    );
    assert_eq!(reindex, "apikeys reindex --owner alice");
    advice(&found, "owner \"alice\"", "keys that are not there");
    advice(&found, &format!("key {endless} of \"bob\""), "not RFC 3339");
    let collision = format!("key {unlinked}");
    let held = "\"bob\" and \"service-account-billing-service\"";
    assert!(advice(&found, &collision, held).contains("revoke"));
    advice(&found, "service-account-billing-service", "not linked");
    realm.setup(&[]).succeeded();
    realm.run("reindex", &["--owner", "alice"]).succeeded();
    let link = ["--service-account", "billing-service"];
    realm.run("reindex", &link).succeeded();
    for id in [&endless, &unlinked] {
        realm.run("revoke", &[id, "--owner", "bob"]).succeeded();
    }
    let (status, found) = doctor(&realm, &[]);
    assert_eq!((status, &found["findings"]), (0, &json!([])));
}

/// A key as the seed's tools write one: without index and link.
fn plant(realm: &Realm, owner: &str, id: &str) {
    realm.edit(&realm.user_path(owner), |user| {
        user["attributes"] = json!({
            "apiKeys": [format!("key:{id}:$sha256$zo75w-Di9hNE34M0jJKx5QRdG50_DeOqx1uA1mXI3Fk")],
            format!("apiKey_{id}_expiresAt"): ["2100-01-01T00:00:00Z"],
            "team": ["red"],
        });
    });
}

#[test]
fn records_of_another_tool_are_indexed_and_linked_and_the_rest_is_told() {
    let realm = Realm::prepared();
    let account = "service-account-billing-service";
    plant(&realm, "alice", "abc123def456");
    plant(&realm, "bob", "Odd-Id");
    plant(&realm, account, "zzz123def456");
    let dry = realm.run("reindex", &["--all", "--dry-run"]);
    assert_eq!(dry.status, 1, "{}", dry.stderr);
    assert!(
        dry.stdout.contains("alice: indexed abc123def456; linked"),
        "{}",
        dry.stdout
    );
    assert_eq!(realm.look_up("abc123def456").len(), 0);
    let done = realm.run("reindex", &["--all", "--output", "json"]);
    assert_eq!(done.status, 1);
    let owners = done.json()["owners"].clone();
    let of = |name: &str| {
        let owners = owners.as_array().unwrap();
        owners
            .iter()
            .find(|owner| owner["owner"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(
        of("alice"),
        json!({"owner": "alice", "indexed": ["abc123def456"], "linked": true, "problems": []})
    );
    assert_eq!(of(account)["indexed"], json!(["zzz123def456"]));
    let odd = of("bob")["problems"][0].as_str().unwrap().to_owned();
    assert!(odd.contains("\"Odd-Id\" cannot be in a key"), "{odd}");
    for (owner, id) in [("alice", "abc123def456"), (account, "zzz123def456")] {
        let found = realm.look_up(id);
        assert_eq!(found[0]["attributes"]["team"], json!(["red"]));
        let granted = realm.grant(found[0]["id"].as_str().unwrap()).unwrap();
        assert_eq!(granted["preferred_username"], owner);
    }
    let again = realm.run("reindex", &["--owner", "alice"]).succeeded();
    assert!(again.stderr.contains("as it should be"), "{}", again.stderr);
}

#[test]
fn reindex_all_links_nobody_who_was_unlinked_on_purpose_and_indexes_no_key_twice() {
    let realm = Realm::prepared();
    let id = realm.key_of("alice");
    let path = realm.user_path("alice");
    let link = format!("{path}/federated-identity/api-keys");
    realm.admin("DELETE", &link, None);
    plant(&realm, "bob", &id);
    let run = realm.run("reindex", &["--all"]);
    assert_eq!(run.status, 1);
    assert!(run.stdout.contains("give --relink"), "{}", run.stdout);
    assert!(
        run.stdout.contains("is indexed at \"alice\" already"),
        "{}",
        run.stdout
    );
    assert_eq!(realm.get(&format!("{path}/federated-identity")), json!([]));
    assert_eq!(realm.look_up(&id).len(), 1);
    realm.edit(&realm.user_path("bob"), |bob| bob["attributes"] = json!({}));
    realm.run("reindex", &["--all", "--relink"]).succeeded();
    realm.grant(path.trim_start_matches("users/")).unwrap();
    let wrong = realm.run("reindex", &["--owner", "alice", "--all"]);
    assert_eq!(wrong.status, 2, "{}", wrong.stderr);
    assert_eq!(realm.run("reindex", &[]).status, 2);
}

#[test]
fn keys_that_end_soon_are_told_the_soonest_first() {
    let realm = Realm::prepared();
    let none = realm.run("expiring", &["--exit-code"]).succeeded();
    assert!(
        none.stderr.contains("no key ends within 30 days"),
        "{}",
        none.stderr
    );
    let make = |owner: [&str; 2], days: &str| {
        let extra = [&owner, ["--expires-days", days].as_slice()].concat();
        let made = realm.create(&extra).succeeded().json();
        made["key_id"].as_str().unwrap().to_owned()
    };
    let later = make(["--owner", "alice"], "20");
    let sooner = make(["--service-account", "billing-service"], "10");
    let replaced = make(["--owner", "alice"], "5");
    make(["--owner", "alice"], "60");
    let quick = ["--hash-algorithm", "sha256", "--expires-days", "90"];
    realm
        .run("rotate", &[&[replaced.as_str()], quick.as_slice()].concat())
        .succeeded();
    let run = realm.run("expiring", &["--exit-code"]);
    assert_eq!(run.status, 4);
    let lines: Vec<&str> = run.stdout.lines().skip(1).collect();
    assert_eq!(lines.len(), 2, "{}", run.stdout);
    assert!(
        lines[0].contains(&sooner) && lines[1].contains(&later),
        "{}",
        run.stdout
    );
    let document = realm.json("expiring", &["--days", "15"]);
    assert_eq!(document["keys"].as_array().unwrap().len(), 1);
    assert_eq!(
        document["keys"][0]["owner"]["username"],
        "service-account-billing-service"
    );
}

/// The seed's own example of an id, which no key can have.
#[test]
fn a_record_whose_id_no_key_can_have_is_shown_and_revoked_with_its_owner() {
    let realm = Realm::prepared();
    let kept = realm.key_of("alice");
    realm.edit(&realm.user_path("alice"), |user| {
        let keys = user["attributes"]["apiKeys"].as_array_mut().unwrap();
        keys.push(json!("key:abc123:$sha256$x"));
        user["attributes"]["apiKey_abc123_name"] = json!(["Old"]);
    });
    let how = "apikeys revoke abc123 --owner alice";
    let (_, found) = doctor(&realm, &[]);
    assert!(advice(&found, "key abc123", "cannot be in a key").ends_with(how));
    let run = realm.run("reindex", &["--all"]);
    assert!(
        run.status == 1 && run.stdout.contains(how),
        "{}",
        run.stdout
    );
    let run = realm
        .run("show", &["abc123", "--owner", "alice"])
        .succeeded();
    assert!(run.stdout.contains("Old"), "{}", run.stdout);
    let without = realm.run("revoke", &["abc123"]);
    assert!(without.status == 2 && without.stderr.contains("with its --owner"));
    assert!(!without.stderr.contains("abc123"), "it may be a key");
    let run = realm
        .run("revoke", &["abc123", "--owner", "alice"])
        .succeeded();
    assert!(run.stdout.contains("revoked: abc123"), "{}", run.stdout);
    let alice = realm.user("alice");
    assert!(!alice["attributes"].to_string().contains("abc123"));
    assert_eq!(realm.look_up(&kept).len(), 1, "the other key is as it was");
    assert_eq!(doctor(&realm, &[]).0, 0);
    assert_eq!(
        realm.run("revoke", &["abc123", "--owner", "alice"]).status,
        2
    );
}

#[test]
fn tokens_that_many_services_would_not_take_are_told_of() {
    let realm = Realm::prepared();
    realm.key_of("alice");
    realm.key_of("bob");
    assert_eq!(doctor(&realm, &[]).1["looked_at"]["tokens"], 2);
    let mapper = json!({"name": "notes", "protocol": "openid-connect",
        "protocolMapper": "oidc-usermodel-attribute-mapper",
        "config": {"user.attribute": "notes", "claim.name": "notes", "multivalued": "true",
                   "jsonType.label": "String", "access.token.claim": "true"}});
    let path = realm.client_path("api-key-gateway");
    realm.admin(
        "POST",
        &format!("{path}/protocol-mappers/models"),
        Some(&mapper),
    );
    realm.edit(&realm.user_path("bob"), |user| {
        user["attributes"]["notes"] = json!(["a", "b", "c"].map(|note| note.repeat(2000)));
    });
    let (status, found) = doctor(&realm, &[]);
    assert_eq!(status, 4, "{found:#}");
    let advice = advice(&found, "tokens", "of 1 of 2 owners that were looked at");
    assert!(advice.contains("\"api-key-gateway\""), "{advice}");
    let bob = realm.user_path("bob");
    let claims = realm.grant(bob.trim_start_matches("users/")).unwrap();
    let real = claims.to_string().len() * 4 / 3;
    let said = format!("about {} KiB", (real + 480).div_ceil(1024));
    assert!(found.to_string().contains(&said), "{said}: {found:#}");
}
