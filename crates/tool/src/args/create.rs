//! The arguments of `apikeys create`.

use clap::Args;

use super::connection::{Connection, Names};
use super::making::{MakingArgs, OwnerArgs};
use super::settings::SettingArgs;

#[derive(Debug, Args)]
#[command(mut_group("OwnerArgs", |group| group.required(true)))]
#[command(after_help = "\
Examples:
  A key of alice's for a year:
    apikeys create --keycloak-url https://id.example.com --realm shop --owner alice --name Laptop
  A key of a client's service account, for two scopes, into a file:
    apikeys create … --service-account billing-service --name Nightly \\
      --scopes 'orders:read orders:write' --expires-days 90 --output-file billing.key
  A key of a team's, limited, and from one network alone:
    apikeys create … --owner alice --name CI --rate-limit 100/60 --allow-from 192.0.2.0/24 \\
      --environment live --label team=pay
  For a script:
    apikeys create … --owner alice --name CI --output json | jq -r .api_key")]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) owner: OwnerArgs,
    /// The purpose of the key, for people: 1 to 100 characters.
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
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    #[command(flatten)]
    pub(crate) making: MakingArgs,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}
