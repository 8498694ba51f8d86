//! The `apikeys` tool, as an operator runs it.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::expect::REALM;
use crate::secrets;
use crate::stack::project;
use crate::world::World;

/// A command of the tool, not yet run.
pub(crate) fn command(world: &World, keycloak_url: &str, arguments: &[&str]) -> Command {
    // The folder of scripts/run.sh's build.
    let target =
        std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| format!("{}/target", project()));
    let (name, rest) = arguments.split_first().expect("a command");
    let mut command = Command::new(format!("{target}/release/apikeys"));
    command
        .arg(name)
        .args(["--keycloak-url", keycloak_url, "--admin-user", "admin"])
        .args(["--realm", REALM.get().expect("a realm")])
        .args(rest)
        .env("KEYCLOAK_ADMIN_PASSWORD", &world.admin_password)
        .stdin(Stdio::null());
    command
}

/// Runs it; returns the status and the JSON on standard output, or else its error text.
pub(crate) fn run(world: &World, arguments: &[&str]) -> Result<(i32, Value), String> {
    let output = command(world, world.keycloak.url(), arguments)
        .output()
        .expect("the tool: scripts/run.sh builds it");
    read(&output)
}

fn read(output: &Output) -> Result<(i32, Value), String> {
    match serde_json::from_slice::<Value>(&output.stdout) {
        Ok(document) => {
            if let Some(key) = document["api_key"].as_str() {
                secrets::register(key);
            }
            Ok((output.status.code().unwrap_or(-1), document))
        }
        Err(_) => Err(secrets::redact(&String::from_utf8_lossy(&output.stderr))),
    }
}
