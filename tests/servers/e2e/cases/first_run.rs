//! The first `make run`: the printed command works, and only their owner can read its
//! files.

use std::process::Command;

use serde_json::Value;

use crate::secrets;
use crate::world::{Case, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("first_run::the_printed_command_works_as_printed", printed).needs(Need::FirstRun),
        Case::new("first_run::demo_env_is_for_its_owner_alone", owner_alone).needs(Need::FirstRun),
    ]
}

fn printed(world: &World) {
    let stack = world.stack();
    let line = stack
        .printed
        .lines()
        .map(str::trim)
        .find(|line| line.contains("curl "))
        .unwrap_or_else(|| panic!("no curl line in: {}", secrets::redact(&stack.printed)));
    // In a shell without this stack's variables, like a reader's.
    let output = Command::new("bash")
        .args(["-c", line])
        .current_dir(crate::stack::project())
        .output()
        .expect("bash");
    let said = String::from_utf8_lossy(&output.stdout);
    let head = said.lines().next().unwrap_or_default();
    assert!(
        head.ends_with("200 OK"),
        "{line}: {}",
        secrets::redact(&said)
    );
    let body = said.split("\r\n\r\n").last().unwrap_or_default();
    let body: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    assert_eq!(body["username"], "alice", "{}", secrets::redact(&said));
    let token = body["headers"]["authorization"]
        .as_str()
        .unwrap_or_default();
    secrets::register(token.trim_start_matches("Bearer "));
}

fn owner_alone(world: &World) {
    use std::os::unix::fs::PermissionsExt;
    for name in ["demo.env", "signing-key.pem"] {
        let file = world.stack().run_dir.join(name);
        let mode = std::fs::metadata(&file).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let printed = &world.stack().printed;
    assert!(!printed.contains(&world.api_key), "the key is printed");
}
