//! The arguments of the commands that look at keys and change them.

use std::path::PathBuf;

use apikeys_core::config::defaults;
use clap::Args;

use super::connection::{Connection, Names};
use super::making::{MakingArgs, OutputArgs, OwnerArgs};
use super::offline::IndexKeyArgs;
use super::values::grace;

/// The public id of a key. The command refuses a text that is no id, and does not repeat it:
/// it may be a key.
#[derive(Debug, Args)]
pub(crate) struct KeyIdArg {
    /// The key's public id: 12 lower-case letters and digits, 24 of an imported key. Not the
    /// key itself. A record of another tool's with another id takes --owner.
    #[arg(value_name = "KEY_ID")]
    pub(crate) key_id: String,
}

#[derive(Debug, Args)]
#[command(mut_group("OwnerArgs", |group| group.required(true)))]
#[command(after_help = "\
Examples:
  apikeys list --keycloak-url https://id.example.com --realm shop --owner alice
  The ids of all that work, for a script:
    apikeys list … --owner alice --output json | jq -r '.keys[] | select(.state == \"active\") | .key_id'")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) owner: OwnerArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  Whose key is this, and does it work?
    apikeys show --keycloak-url https://id.example.com --realm shop 4fj9aa01xk2p
  A key whose record no gateway finds, since its index is missing:
    apikeys show … --owner alice 4fj9aa01xk2p")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) key: KeyIdArg,
    #[command(flatten)]
    pub(crate) owner: OwnerArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  The old key works for another day, the new one at once:
    apikeys rotate --keycloak-url https://id.example.com --realm shop 4fj9aa01xk2p
  Nobody uses the old one any more:
    apikeys rotate … --grace 0 4fj9aa01xk2p
  A new key for another year:
    apikeys rotate … --grace 7d --expires-days 365 4fj9aa01xk2p")]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub(crate) key: KeyIdArg,
    #[command(flatten)]
    pub(crate) owner: OwnerArgs,
    /// How long the old key goes on, at most 7 days: seconds, or as 90s, 15m, 24h, 7d. Never
    /// longer than its own end.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = grace)]
    pub(crate) grace: u64,
    /// Days until the new key ends; without, it ends when the old one would have.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) expires_days: Option<u32>,
    #[command(flatten)]
    pub(crate) making: MakingArgs,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  apikeys revoke --keycloak-url https://id.example.com --realm shop 4fj9aa01xk2p
  A key that was found somewhere, by itself:
    apikeys revoke … --key-file leaked.txt
    pbpaste | apikeys revoke … --key-file -
  A key whose index is missing, or that is at two owners:
    apikeys revoke … --owner alice 4fj9aa01xk2p
  All keys of an owner that Keycloak refuses to write, so that none ends by itself:
    apikeys revoke … --owner alice --all

A KEY_ID that is not there is no failure: it does not work. A text in --key-file that is no key is
one: it may be cut or mistyped, and the key itself goes on.")]
pub(crate) struct RevokeArgs {
    /// The key's public id: 12 lower-case letters and digits, 24 of an imported key. Not the
    /// key itself.
    #[arg(
        value_name = "KEY_ID",
        required_unless_present_any = ["all", "key_file"],
        conflicts_with_all = ["all", "key_file"]
    )]
    pub(crate) key_id: Option<String>,
    /// End the key that this file holds as its one line, if the stored hash proves it to be one;
    /// - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    pub(crate) key_file: Option<PathBuf>,
    /// The prefix of the key in --key-file; the key_prefix of the gateway's configuration.
    #[arg(long, value_name = "PREFIX", default_value = defaults::KEY_PREFIX, requires = "key_file")]
    pub(crate) key_prefix: String,
    #[command(flatten)]
    pub(crate) index_key: IndexKeyArgs,
    /// End all keys of the owner: takes its link to the gateway away, and then the keys' records
    /// if Keycloak lets the user be written.
    #[arg(long, requires = "OwnerArgs")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) owner: OwnerArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}
