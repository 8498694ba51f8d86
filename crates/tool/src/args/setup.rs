//! The arguments of `apikeys setup`.

use std::path::PathBuf;

use apikeys_core::config::defaults;
use clap::Args;

use super::connection::{Connection, Names};
use super::making::OutputArgs;
use super::values::issuer;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  See what would change, without changing it:
    apikeys setup --keycloak-url https://id.example.com --realm shop \\
      --signing-key-file key.pem --dry-run
  Change it; run again at any time, only what differs is touched:
    apikeys setup --keycloak-url https://id.example.com --realm shop --signing-key-file key.pem
  Without the client that the management API works by:
    apikeys setup … --signing-key-file key.pem --no-management
  The password from a secret store:
    vault read … | apikeys setup … --admin-password-file -")]
pub(crate) struct SetupArgs {
    /// The gateway's signing key (PEM, PKCS#8, P-256); made, readable by you alone, if it is
    /// not there.
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key_file: PathBuf,
    /// Trust the key of --signing-key-file in place of the one the realm trusts now. Gateways
    /// that sign with the old one are refused from then on; apikeys signing-key replaces a key
    /// without that.
    #[arg(long)]
    pub(crate) replace_signing_key: bool,
    /// Issuer of the gateway's assertions; Keycloak takes https URLs alone.
    #[arg(long, value_name = "URL", default_value = defaults::ASSERTION_ISSUER,
          value_parser = issuer)]
    pub(crate) assertion_issuer: String,
    /// Show the changes, and make none.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// With --dry-run: exit with status 3 when changes are pending.
    #[arg(long, requires = "dry_run")]
    pub(crate) exit_code: bool,
    /// Leave the management client out: for realms where this tool alone makes keys.
    #[arg(long)]
    pub(crate) no_management: bool,
    /// A signing key of the management client's own (as --signing-key-file); without, the two
    /// clients sign in with one key.
    #[arg(long, value_name = "FILE", conflicts_with = "no_management")]
    pub(crate) management_signing_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}
