//! The arguments of `apikeys create`.

use std::path::PathBuf;

use apikey_jwt_exchange::config::defaults;
use clap::{Args, ValueEnum};

use super::connection::{Connection, Names};

/// How the hash of a new key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HashAlgorithm {
    Bcrypt,
    Sha256,
}

/// What the key is printed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// The key alone on standard output, what is known of it on standard error.
    Text,
    /// One JSON object on standard output.
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  A key of alice's for a year:
    apikeys create --keycloak-url https://id.example.com --realm shop --owner alice --name Laptop
  A key of a client's service account, for two scopes, into a file:
    apikeys create … --service-account billing-service --name Nightly \\
      --scopes 'orders:read orders:write' --expires-days 90 --output-file billing.key
  For a script:
    apikeys create … --owner alice --name CI --output json | jq -r .api_key")]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) owner: OwnerArgs,
    /// What the key is for, for people: 1 to 100 characters.
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: String,
    /// Days until the key ends.
    #[arg(long, value_name = "DAYS", default_value_t = 365, conflicts_with = "expires_at",
          value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) expires_days: u32,
    /// When the key ends, as 2027-01-28T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_at: Option<String>,
    /// OAuth scopes of the key's tokens, separated by spaces; without, the gateway's own.
    #[arg(long, value_name = "SCOPES")]
    pub(crate) scopes: Option<String>,
    /// What the key begins with; must be the key_prefix of the gateway's configuration.
    #[arg(long, value_name = "PREFIX", default_value = defaults::KEY_PREFIX)]
    pub(crate) key_prefix: String,
    /// How the key is hashed.
    #[arg(long, value_enum, default_value_t = HashAlgorithm::Bcrypt)]
    pub(crate) hash_algorithm: HashAlgorithm,
    /// bcrypt's cost, 4 to 14: each step doubles the time that a key's first use takes.
    #[arg(long, value_name = "COST", default_value_t = defaults::BCRYPT_COST,
          value_parser = clap::value_parser!(u64).range(4..=14))]
    pub(crate) bcrypt_cost: u64,
    /// Keys that an owner may hold, expired ones included.
    #[arg(long, value_name = "COUNT", default_value_t = defaults::MAX_KEYS_PER_USER,
          value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) max_keys_per_user: u64,
    /// What the key is printed as.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
    /// Write the key to this new file, readable by you alone, and not to standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) output_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Whose key it is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct OwnerArgs {
    /// The owner: a user's name, e-mail address or Keycloak id.
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<String>,
    /// The owner: the service account of this client.
    #[arg(long, value_name = "CLIENT_ID")]
    pub(crate) service_account: Option<String>,
}
