//! `apikeys`, the command-line tool: prepares Keycloak realms for API keys, and
//! makes the keys.
//!
//! It runs where an administrator does, not in a gateway. Both commands read
//! what is there before they change it, change what differs alone, and read it
//! again to see that it holds.

use std::process::ExitCode;

use clap::Parser;

mod admin_error;
mod args;
mod create;
mod keycloak_admin;
mod output;
mod owner;
mod setup;
mod system;

use args::{Cli, Command};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Create(args) => create::run(&args).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        output::note(&format!("apikeys: {error:#}"));
        ExitCode::FAILURE
    })
}
