//! Arguments shared by the commands that name an owner or make a key.

use std::path::PathBuf;

use apikeys_core::config::defaults;
use clap::{Args, ValueEnum};

/// Algorithm of a key's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HashAlgorithm {
    Bcrypt,
    Sha256,
}

/// Format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Text,
    /// One JSON document on standard output.
    Json,
}

/// The argument for the format of results.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// For people, or one JSON document for programs.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
}

impl OutputArgs {
    pub(crate) fn is_json(&self) -> bool {
        self.output == OutputFormat::Json
    }
}

/// The owner of a key.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct OwnerArgs {
    /// The owner: a user's name, e-mail address or Keycloak id.
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<String>,
    /// The owner: the service account of this client.
    #[arg(long, value_name = "CLIENT_ID")]
    pub(crate) service_account: Option<String>,
}

impl OwnerArgs {
    pub(crate) fn is_given(&self) -> bool {
        self.owner.is_some() || self.service_account.is_some()
    }
}

/// The arguments for a key's hash.
#[derive(Debug, Args)]
pub(crate) struct HashArgs {
    /// How the key is hashed.
    #[arg(long, value_enum, default_value_t = HashAlgorithm::Bcrypt)]
    pub(crate) hash_algorithm: HashAlgorithm,
    /// bcrypt's cost, 4 to 14: each step doubles the time that a key's first use takes.
    #[arg(long, value_name = "COST", default_value_t = defaults::BCRYPT_COST,
          value_parser = clap::value_parser!(u64).range(4..=14))]
    pub(crate) bcrypt_cost: u64,
}

/// The arguments for a new key: its form, its hash, its place.
#[derive(Debug, Args)]
pub(crate) struct MakingArgs {
    /// The prefix of the key; must be the key_prefix of the gateway's configuration.
    #[arg(long, value_name = "PREFIX", default_value = defaults::KEY_PREFIX)]
    pub(crate) key_prefix: String,
    #[command(flatten)]
    pub(crate) hash: HashArgs,
    #[command(flatten)]
    pub(crate) limit: LimitArgs,
    /// The form of the output: text is the key alone on standard output, and its details on
    /// standard error; json is one object on standard output.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
    /// Write the key to this new file, readable by you alone, and not to standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) output_file: Option<PathBuf>,
}

/// How many keys an owner may hold.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Keys that an owner may hold, expired ones included.
    #[arg(long, value_name = "COUNT", default_value_t = defaults::MAX_KEYS_PER_USER,
          value_parser = clap::value_parser!(u64).range(1..=100))]
    max_keys_per_user: u64,
}

impl LimitArgs {
    pub(crate) fn keys_max(&self) -> usize {
        usize::try_from(self.max_keys_per_user).unwrap_or(usize::MAX)
    }
}
