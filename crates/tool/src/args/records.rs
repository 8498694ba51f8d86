//! The arguments of the commands that go through all records: reindex, expiring, doctor.

use std::path::PathBuf;

use apikeys_core::config::defaults;
use clap::Args;

use super::connection::{Connection, Names};
use super::making::{OutputArgs, OwnerArgs};
use super::values::issuer;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  Records that another tool wrote for one owner:
    apikeys reindex --keycloak-url https://id.example.com --realm shop --owner alice
  Of all owners; first to see, then to write:
    apikeys reindex … --all --dry-run
    apikeys reindex … --all

A gateway finds a key by the attribute apiKeyIndex, and Keycloak grants tokens to linked owners
alone. reindex adds both where they are missing. An owner whose index is whole and whose link is
gone was most likely unlinked on purpose, to end all its keys: with --all it is left so, unless
--relink is given.
Exit status: 0 all keys can be found, 1 some cannot, or something failed.")]
pub(crate) struct ReindexArgs {
    #[command(flatten)]
    pub(crate) owner: OwnerArgs,
    /// All owners of the realm.
    #[arg(
        long,
        conflicts_with = "OwnerArgs",
        required_unless_present = "OwnerArgs"
    )]
    pub(crate) all: bool,
    /// With --all: also link owners whose index is complete.
    #[arg(long, requires = "all")]
    pub(crate) relink: bool,
    /// Show the changes, and make none.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  apikeys expiring --keycloak-url https://id.example.com --realm shop --days 30
  For a nightly job that tells when there are any:
    apikeys expiring … --days 14 --exit-code || notify

Keys that are replaced already are not told.
Exit status: 0 done, 1 failed, 2 wrong usage, 4 there are some (with --exit-code).")]
pub(crate) struct ExpiringArgs {
    /// Keys that end within this many days.
    #[arg(long, value_name = "DAYS", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) days: u32,
    /// Exit with status 4 when there are any.
    #[arg(long)]
    pub(crate) exit_code: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  apikeys doctor --keycloak-url https://id.example.com --realm shop
  Sign in as the gateway as well, on its own machine, whose clock matters:
    apikeys doctor … --signing-key-file signing-key.pem
  A look at a realm of millions:
    apikeys doctor … --sample 2000 --output json

Exit status: 0 all is well, 1 it could not be looked at, 2 wrong usage, 4 there are warnings alone,
5 there are errors: keys do not work, or more works than should.")]
pub(crate) struct DoctorArgs {
    /// The gateway's signing key: sign in with it, and compare the realm with it. Without it, the
    /// key that the gateway's client trusts is taken for the right one.
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key_file: Option<PathBuf>,
    /// The management client's own signing key, where it has one.
    #[arg(long, value_name = "FILE", requires = "signing_key_file")]
    pub(crate) management_signing_key_file: Option<PathBuf>,
    /// Issuer of the gateway's assertions.
    #[arg(long, value_name = "URL", default_value = defaults::ASSERTION_ISSUER,
          value_parser = issuer)]
    pub(crate) assertion_issuer: String,
    /// Warn of keys that end within this many days.
    #[arg(long, value_name = "DAYS", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(crate) days: u32,
    /// Look at the records of this many users only, not of all.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sample: Option<u32>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}
