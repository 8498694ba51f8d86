//! An administrator of one realm, with the roles that the help names, and with tokens
//! that do not outlive a run.

use serde_json::{Value, json};

use crate::world::{Realm, Run, keycloak_url};

const PASSWORD: &str = "operator-password";

/// A user of the realm without any rights yet.
struct Operator<'a> {
    realm: &'a Realm,
    /// The path of its client roles.
    held: String,
    management: String,
}

impl<'a> Operator<'a> {
    fn of(realm: &'a Realm) -> Self {
        let user = json!({"username": "operator", "enabled": true, "email": "o@example.com",
            "firstName": "O", "lastName": "P", "emailVerified": true,
            "credentials": [{"type": "password", "value": PASSWORD}]});
        realm.admin("POST", "users", Some(&user));
        let management = realm.client_path("realm-management");
        let held = format!(
            "{}/role-mappings/clients/{}",
            realm.user_path("operator"),
            management.trim_start_matches("clients/")
        );
        Self {
            realm,
            held,
            management,
        }
    }

    fn give(&self, roles: &[&str]) {
        let read = |name: &&str| self.realm.get(&format!("{}/roles/{name}", self.management));
        let roles: Vec<Value> = roles.iter().map(read).collect();
        self.realm.admin("POST", &self.held, Some(&json!(roles)));
    }

    fn run(&self, command: &str, extra: &[&str]) -> Run {
        let realm = &self.realm.name;
        let output = std::process::Command::new(crate::tool::path())
            .args(command.split(' '))
            .args(["--keycloak-url", &keycloak_url(), "--realm", realm])
            .args(["--admin-realm", realm, "--admin-user", "operator"])
            .args(extra)
            .env("KEYCLOAK_ADMIN_PASSWORD", PASSWORD)
            .output();
        Run::of(output.unwrap())
    }
}

#[test]
fn the_roles_that_the_help_names_are_enough() {
    let realm = Realm::prepared();
    let operator = Operator::of(&realm);
    let account = ["--service-account", "billing-service"];
    let create = [&account, ["--name", "n", "--scopes", "email"].as_slice()].concat();
    operator.run("create", &create).refused_with("lacks a role");
    operator.give(&["view-users", "view-events"]);
    operator.run("list", &["--owner", "alice"]).succeeded();
    operator.run("expiring", &[]).succeeded();
    operator.run("doctor", &[]).refused_with("lacks a role");
    operator.give(&["view-clients", "view-identity-providers"]);
    operator.run("doctor", &[]).succeeded();
    operator.run("create", &create).refused_with("manage-users");
    operator.give(&["manage-users"]);
    let made = operator.run("create", &create).succeeded();
    let id = made.stderr.split_whitespace().nth(2).unwrap();
    for (command, extra) in [
        ("show", [id].as_slice()),
        (
            "rotate",
            &[id, "--hash-algorithm", "sha256", "--grace", "0"],
        ),
        ("reindex", &["--all"]),
        ("revoke", &[id]),
    ] {
        operator.run(command, extra).succeeded();
    }
    operator.give(&["realm-admin"]);
    let key = realm.file("key.pem");
    operator
        .run("setup", &["--signing-key-file", &key])
        .succeeded();
}

#[test]
fn the_roles_that_the_page_names_are_enough_to_rotate_the_signing_key() {
    let realm = Realm::prepared();
    let operator = Operator::of(&realm);
    let file = realm.file("next.pem");
    let key = ["--signing-key-file", file.as_str()];
    let run = |step: &str, extra: &[&str]| {
        operator.run(&format!("signing-key {step}"), &[&key, extra].concat())
    };
    operator.give(&["manage-clients", "view-identity-providers"]);
    assert!(run("new", &[]).stderr.contains("lacks a role"));
    operator.give(&["manage-identity-providers"]);
    run("new", &[]).succeeded();
    assert!(run("activate", &[]).stderr.contains("lacks a role"));
    operator.give(&["view-events"]);
    run("activate", &[]).succeeded();
    run("retire", &["--now"]).succeeded();
}

#[test]
fn a_token_is_renewed_before_it_is_too_old_for_what_is_begun_with_it() {
    let realm = Realm::prepared();
    realm.edit("", |settings| settings["accessTokenLifespan"] = json!(2));
    let operator = Operator::of(&realm);
    operator.give(&["manage-users", "view-identity-providers"]);
    let rows: Vec<String> = (0..4)
        .map(|n| format!("alice,an-old-key-of-alice-{n}"))
        .collect();
    let file = realm.file("keys.csv");
    std::fs::write(&file, format!("owner,key\n{}\n", rows.join("\n"))).unwrap();
    let index = realm.private_file("index-key.txt", crate::import::INDEX_KEY);
    let source = ["--format", "csv", &file, "--index-key-file", &index];
    // The hashes alone take longer than a token lives.
    let slow = ["--bcrypt-cost", "14", "--apply"];
    let run = operator
        .run("import", &[source.as_slice(), &slow].concat())
        .succeeded();
    assert!(run.stdout.contains("4 imported"), "{}", run.stdout);
}
