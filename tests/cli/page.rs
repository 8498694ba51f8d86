//! `docs/tool.md`, each command run in its order, each answer held against the page.

use std::path::Path;
use std::process::Command;

use crate::steps;
use crate::world::{Realm, admin_password, keycloak_url};

#[test]
fn every_command_of_the_page_prints_what_the_page_says() {
    let realm = Realm::new();
    let page = steps::steps(include_str!("../../docs/tool.md"));
    let expecting = page.iter().filter(|step| step.expected.is_some());
    assert!(expecting.count() >= 15, "the page's answers are found");
    let tool = Path::new(env!("CARGO_BIN_EXE_apikeys")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("bash");
    shell
        .env("PATH", format!("{}:{path}", tool.display()))
        .env("KEYCLOAK_URL", keycloak_url())
        .env("KEYCLOAK_REALM", &realm.name)
        .env("KEYCLOAK_ADMIN_USER", "admin")
        .env("KEYCLOAK_ADMIN_PASSWORD", admin_password());
    steps::run(&page, &realm.folder, shell);
}

#[test]
fn every_command_is_on_the_page_and_has_examples() {
    let page = include_str!("../../docs/tool.md");
    let help = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_apikeys"))
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
    assert_eq!(commands.len(), 14);
    for command in commands {
        assert!(page.contains(&format!("apikeys {command}")), "{command}");
        assert!(
            help(&[command, "--help"]).contains("Examples:"),
            "{command}"
        );
    }
}
