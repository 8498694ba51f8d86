//! The command line: commands, arguments and their bounds.

use std::sync::LazyLock;

use apikeys_core::build_info::BuildInfo;
use clap::{Parser, Subcommand};

mod connection;
mod create;
mod import;
mod keys;
mod making;
mod offline;
mod records;
mod serve;
mod settings;
mod setup;
mod signing_key;
#[cfg(test)]
mod tests;
mod values;

pub(crate) use connection::Names;
pub(crate) use create::CreateArgs;
pub(crate) use import::{ImportArgs, ImportFormat, OwnerField};
pub(crate) use keys::{ListArgs, RevokeArgs, RotateArgs, ShowArgs};
pub(crate) use making::{HashAlgorithm, HashArgs, MakingArgs, OutputFormat, OwnerArgs};
pub(crate) use offline::{
    CompletionsArgs, HashCommandArgs, IndexKeyArgs, InspectArgs, KeySourceArgs, UsageArgs,
};
pub(crate) use records::{DoctorArgs, ExpiringArgs, ReindexArgs};
pub(crate) use serve::ServeArgs;
pub(crate) use settings::{SwitchArgs, UpdateArgs};
pub(crate) use setup::SetupArgs;
pub(crate) use signing_key::{KeyInRealmArgs, RetireArgs, SigningKeyArgs, SigningKeyCommand};
pub(crate) use values::words;

/// The text of `--version` after the name.
static VERSION: LazyLock<String> = LazyLock::new(|| BuildInfo.to_string());

/// Prepares Keycloak realms for API keys, and manages the keys.
#[derive(Debug, Parser)]
#[command(name = "apikeys", version = VERSION.as_str(), arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  export KEYCLOAK_URL=https://id.example.com KEYCLOAK_REALM=shop KEYCLOAK_ADMIN_PASSWORD=…
  apikeys setup --signing-key-file signing-key.pem
  apikeys create --owner alice --name Laptop
  apikeys rotate 4fj9aa01xk2p
  apikeys doctor

Passwords and keys are read from files, standard input or the environment, never from an argument,
since arguments can be read by every process of the machine: KEYCLOAK_ADMIN_PASSWORD or
--admin-password-file.
Exit status: 0 done, 1 failed, 2 wrong usage, 3 changes are pending (setup --dry-run --exit-code),
4 there is something to look at (doctor, expiring --exit-code), 5 there are errors (doctor).")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prepares a realm for the gateway: shows the differences, and changes them.
    Setup(SetupArgs),
    /// Makes an API key for a user or a service account, and prints it, once.
    Create(CreateArgs),
    /// Lists the keys of an owner, the newest first.
    List(ListArgs),
    /// Shows a key: its owner, whether it works, and when it was last used.
    Show(ShowArgs),
    /// Replaces a key by a new one, and prints that, once; the old one goes on for a while.
    Rotate(RotateArgs),
    /// Changes a key's settings: name, limit, networks, labels.
    Update(UpdateArgs),
    /// Switches a key off; it stays, and can be enabled again.
    #[command(after_help = "\
Examples:
  apikeys disable --keycloak-url https://id.example.com --realm shop 4fj9aa01xk2p
  A key whose index is missing:
    apikeys disable … --owner alice 4fj9aa01xk2p")]
    Disable(SwitchArgs),
    /// Switches a disabled key on again.
    #[command(after_help = "\
Examples:
  apikeys enable --keycloak-url https://id.example.com --realm shop 4fj9aa01xk2p")]
    Enable(SwitchArgs),
    /// Ends a key.
    Revoke(RevokeArgs),
    /// Brings keys of an older system: from CSV, JSON or Kong's declarative configuration.
    Import(ImportArgs),
    /// Makes another tool's keys findable: adds index and link.
    Reindex(ReindexArgs),
    /// Lists the keys that end soon and have no replacement.
    Expiring(ExpiringArgs),
    /// Adds up the requests by key and outcome in gateways' logs. Calls no server.
    Usage(UsageArgs),
    /// Checks everything that keys depend on, and says how to repair it. Changes nothing.
    Doctor(DoctorArgs),
    /// Replaces the gateway's signing key, in steps that refuse no request.
    SigningKey(SigningKeyArgs),
    /// Tells the form, id and checksum of a key, read from the key itself. Calls no server.
    Inspect(InspectArgs),
    /// Prints the hash of a key, as Keycloak stores it. Calls no server.
    Hash(HashCommandArgs),
    /// Runs the exchange as a service for gateways without Wasm: forward auth, ext_authz.
    Serve(ServeArgs),
    /// Prints a script that completes this tool's command lines.
    Completions(CompletionsArgs),
}
