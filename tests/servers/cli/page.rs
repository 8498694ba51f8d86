//! Pages with commands that need Keycloak alone: the test runs each command in its
//! order, and compares each answer with the page.

use std::process::Command;

use crate::steps;
use crate::world::{Realm, admin_password, keycloak_url};

#[test]
fn every_command_of_the_page_prints_what_the_page_says() {
    walk(&Realm::new(), include_str!("../../../docs/tool.md"), 15);
}

#[test]
fn a_realm_that_was_prepared_by_hand_leaves_setup_nothing_to_do() {
    walk(&Realm::new(), include_str!("../../../docs/realm.md"), 10);
}

#[test]
fn a_key_that_leaked_is_found_ended_and_its_uses_are_told() {
    let realm = Realm::prepared();
    let quick = ["--name", "Nightly", "--hash-algorithm", "sha256"];
    let made = realm.json(
        "create",
        &[["--owner", "alice"].as_slice(), &quick].concat(),
    );
    realm.private_file("leaked.txt", made["api_key"].as_str().unwrap());
    // As a gateway signs in to exchange the key.
    let jti = format!("{}.1", made["key_id"].as_str().unwrap());
    let alice = realm.user("alice");
    let granted = realm.grant_with("api-key-gateway", alice["id"].as_str().unwrap(), &jti);
    assert_eq!(granted.unwrap()["sub"], alice["id"]);
    walk(
        &realm,
        include_str!("../../../docs/runbooks/key-leaked.md"),
        3,
    );
}

#[test]
fn the_service_answers_as_its_page_says() {
    let realm = Realm::prepared();
    std::fs::rename(realm.file("key.pem"), realm.file("signing-key.pem")).unwrap();
    let quick = ["--name", "Orders", "--hash-algorithm", "sha256"];
    let made = realm.json(
        "create",
        &[["--owner", "alice"].as_slice(), &quick].concat(),
    );
    realm.private_file("key.txt", made["api_key"].as_str().unwrap());
    let ports = suites::stack::free_ports(2);
    let [exchange, operations] = [ports[0], ports[1]].map(|port| format!("127.0.0.1:{port}"));
    let page = include_str!("../../../docs/install/service.md");
    // Uses the tests' Keycloak, and free ports.
    let listens =
        format!("# serve.yaml\nlisten: [\"{exchange}\"]\nlisten_operations: [\"{operations}\"]");
    let page = page
        .replace("# serve.yaml", &listens)
        .replace("https://login.example.com", &keycloak_url())
        .replace("realm: shop", &format!("realm: {}", realm.name))
        .replace("http://127.0.0.1:8181", &format!("http://{exchange}"))
        .replace("http://127.0.0.1:8182", &format!("http://{operations}"));
    walk(&realm, &page, 7);
}

/// Runs a page that has at least so many answers.
#[track_caller]
fn walk(realm: &Realm, page: &str, answers: usize) {
    let page = steps::steps(page);
    let expecting = page.iter().filter(|step| step.expected.is_some());
    assert!(expecting.count() >= answers, "the page's answers are found");
    let tool = crate::tool::path().parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("bash");
    shell
        .env("PATH", format!("{}:{path}", tool.display()))
        .env("KEYCLOAK_URL", keycloak_url())
        .env("KEYCLOAK_REALM", &realm.name)
        .env("KEYCLOAK_ADMIN_USER", "admin")
        .env("KEYCLOAK_ADMIN_PASSWORD", admin_password());
    steps::run(&page, &realm.folder, shell, crate::secrets::redact);
}

#[test]
fn every_command_is_on_the_page_and_has_examples() {
    let page = include_str!("../../../docs/tool.md");
    let help = |arguments: &[&str]| {
        let output = Command::new(crate::tool::path())
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let all = help(&["--help"]);
    let commands: Vec<&str> = all
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert_eq!(commands.len(), 19);
    for command in commands {
        assert!(page.contains(&format!("apikeys {command}")), "{command}");
        assert!(
            help(&[command, "--help"]).contains("Examples:"),
            "{command}"
        );
    }
}
