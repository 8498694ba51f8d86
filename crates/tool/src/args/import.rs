//! The arguments of `apikeys import`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::connection::{Connection, Names};
use super::making::{HashArgs, LimitArgs, OutputArgs};
use super::offline::IndexKeyArgs;

/// Format of a file of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// A row of heads, and a row for each key.
    Csv,
    /// A list of objects.
    Json,
    /// Kong's declarative configuration, YAML or JSON, as deck dump or kong config db_export
    /// write it: the keyauth_credentials.
    Kong,
}

/// The field of a Kong consumer that names the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum OwnerField {
    Username,
    CustomId,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  See what would be imported and what would be refused, without writing:
    apikeys import --keycloak-url https://id.example.com --realm shop --format csv \\
      --index-key-file index-key.txt keys.csv
  Import it. What is there already is passed over: a run that was cut off is run again:
    apikeys import … --format csv --index-key-file index-key.txt keys.csv --apply
  Kong's key-auth, whose consumers' custom_id is the Keycloak name:
    deck gateway dump -o kong.yaml
    apikeys import … --format kong --owner-field custom_id --index-key-file index-key.txt kong.yaml

A CSV file has the heads owner and key, and may have name, expires_at (2027-01-28T00:00:00Z) and
scopes; a JSON file is a list of objects with these members. An owner is a user's name, e-mail
address or Keycloak id; of a client's service account service-account-<client>. A key has 16 to 72
visible characters; its id is derived from it by the index_key of the gateway's configuration
(to make one: openssl rand -base64 32).

Every key that is refused is reported with its place, its owner and why; no key is ever printed.
Exit status: 0 all are there, 1 some were refused or the import was cut off, 2 wrong usage.")]
pub(crate) struct ImportArgs {
    /// The file of keys; - is standard input.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The format of the file.
    #[arg(long, value_enum)]
    pub(crate) format: ImportFormat,
    /// Write. Without it, nothing is written, and the output shows the changes.
    #[arg(long)]
    pub(crate) apply: bool,
    #[command(flatten)]
    pub(crate) index_key: IndexKeyArgs,
    /// The field of a Kong consumer that names the owner.
    #[arg(long, value_enum, default_value_t = OwnerField::Username)]
    pub(crate) owner_field: OwnerField,
    /// When Kong's file was written, as 2026-11-28T09:00:00Z: a ttl in it that is the seconds
    /// left counts from then.
    #[arg(long, value_name = "TIME")]
    pub(crate) dumped_at: Option<String>,
    /// A CSV file with the heads from and to: the owner's name in FILE, and its name in
    /// Keycloak. A name that is not in it stays as it is.
    #[arg(long, value_name = "FILE")]
    pub(crate) map: Option<PathBuf>,
    /// The name of keys that have none in the file.
    #[arg(long, value_name = "TEXT", default_value = "Imported")]
    pub(crate) name: String,
    /// Days until keys end that have no end in the file.
    #[arg(long, value_name = "DAYS", default_value_t = 365,
          value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) expires_days: u32,
    /// The prefix of this project's keys; the key_prefix of the gateway's configuration.
    #[arg(long, value_name = "PREFIX",
          default_value = apikeys_core::config::defaults::KEY_PREFIX)]
    pub(crate) key_prefix: String,
    #[command(flatten)]
    pub(crate) hash: HashArgs,
    #[command(flatten)]
    pub(crate) limit: LimitArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}
