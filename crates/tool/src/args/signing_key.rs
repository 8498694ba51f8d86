//! The arguments of `apikeys signing-key`.

use std::path::PathBuf;

use apikeys_core::config::defaults;
use clap::{Args, Subcommand};

use super::connection::{Connection, Names};
use super::making::OutputArgs;
use super::values::{grace, issuer};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  The next key: made, and trusted by the realm beside the one that gateways have now:
    apikeys signing-key new --keycloak-url https://id.example.com --realm shop \\
      --signing-key-file next.pem
  Is it accepted, what must gateways be given, and which of them have it by now?
    apikeys signing-key activate … --signing-key-file next.pem
  Once all gateways sign with it:
    apikeys signing-key retire … --signing-key-file next.pem
  To call a rotation off, keep the old key:
    apikeys signing-key retire … --signing-key-file signing-key.pem

Each can be repeated at any time, after an interruption as well. No gateway's request is refused.")]
pub(crate) struct SigningKeyArgs {
    #[command(subcommand)]
    pub(crate) command: SigningKeyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SigningKeyCommand {
    /// Makes the next key, and lets the realm trust it beside the one in use.
    #[command(after_help = "\
Examples:
  apikeys signing-key new --keycloak-url https://id.example.com --realm shop \\
    --signing-key-file next.pem")]
    New(KeyInRealmArgs),
    /// Signs in with the next key, and shows the setting for gateways and which gateways have
    /// the key. Changes nothing.
    #[command(after_help = "\
Examples:
  apikeys signing-key activate --keycloak-url https://id.example.com --realm shop \\
    --signing-key-file next.pem
  For a script that waits until no gateway signs with another key:
    apikeys signing-key activate … --output json | jq '.signed_in[] | select(.is_given_key | not)'")]
    Activate(KeyInRealmArgs),
    /// Lets the realm trust this key alone, unless a gateway signs with another one.
    #[command(after_help = "\
Examples:
  apikeys signing-key retire --keycloak-url https://id.example.com --realm shop \\
    --signing-key-file next.pem
  The old key leaked: gateways that still sign with it are refused from now on:
    apikeys signing-key retire … --signing-key-file next.pem --now")]
    Retire(RetireArgs),
}

/// A signing key, and the places where the realm trusts it.
#[derive(Debug, Args)]
pub(crate) struct KeyInRealmArgs {
    /// The key that gateways are to sign with from now on (PEM, PKCS#8, P-256). new makes it,
    /// readable by you alone, if it is not there.
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key_file: PathBuf,
    /// The management client's own key, where it has one: the gateway's stays as it is.
    #[arg(long)]
    pub(crate) management: bool,
    /// Issuer of the gateway's assertions.
    #[arg(long, value_name = "URL", default_value = defaults::ASSERTION_ISSUER,
          value_parser = issuer)]
    pub(crate) assertion_issuer: String,
    /// How far back to look for the keys that gateways sign with, as 90s, 15m, 1h. Each node
    /// of gateways signs in at least every five minutes.
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = grace)]
    pub(crate) unused_for: u64,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct RetireArgs {
    /// Retire the other keys even if gateways sign with them, or if Keycloak's events do not
    /// tell: for a key that leaked.
    #[arg(long)]
    pub(crate) now: bool,
    #[command(flatten)]
    pub(crate) key: KeyInRealmArgs,
}
