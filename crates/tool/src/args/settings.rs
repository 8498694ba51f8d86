//! The arguments for the settings of a key: given with a new one, and changed.

use anyhow::{Result, ensure};
use apikeys_core::api_key::terms::{
    AllowedAddresses, LABELS_CHARS_MAX, NAME_CHARS_MAX, NETWORKS_MAX, RateLimit,
};
use apikeys_core::manage::owner_keys::Setting;
use clap::{ArgGroup, Args};

use super::connection::{Connection, Names};
use super::keys::KeyIdArg;
use super::making::{OutputArgs, OwnerArgs};
use super::values::{network, rate_limit, words};

/// The settings that a key may have.
#[derive(Debug, Args)]
pub(crate) struct SettingArgs {
    /// The limit of the key's requests, on each node of a gateway: 100/60 is a hundred at once,
    /// and a hundred in a minute.
    #[arg(long, value_name = "REQUESTS/SECONDS", value_parser = rate_limit)]
    pub(crate) rate_limit: Option<RateLimit>,
    /// A network that the key may come from, as 192.0.2.0/24; give it up to 16 times. Without,
    /// the key may come from anywhere.
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub(crate) allow_from: Vec<String>,
    /// Where the key is used, as live: for lists and logs only.
    #[arg(long, value_name = "TEXT")]
    pub(crate) environment: Option<String>,
    /// A label of the key, as team=pay; can be given several times. For lists and logs, it
    /// decides nothing.
    #[arg(long = "label", value_name = "TEXT")]
    pub(crate) labels: Vec<String>,
}

impl SettingArgs {
    /// The settings that are given.
    pub(crate) fn given(&self) -> Result<Vec<Setting>> {
        let mut settings = Vec::new();
        settings.extend(self.rate_limit.map(|limit| Setting::RateLimit(Some(limit))));
        if !self.allow_from.is_empty() {
            let allowed = AllowedAddresses::parse(&self.allow_from.join(" "));
            ensure!(
                allowed.is_some(),
                "--allow-from can be given {NETWORKS_MAX} times"
            );
            settings.push(Setting::AllowedAddresses(allowed));
        }
        if let Some(text) = &self.environment {
            let text = words("--environment", text, NAME_CHARS_MAX)?;
            settings.push(Setting::Environment(Some(text)));
        }
        if !self.labels.is_empty() {
            let labels = words("--label", &self.labels.join(" "), LABELS_CHARS_MAX)?;
            settings.push(Setting::Labels(Some(labels)));
        }
        Ok(settings)
    }
}

/// The key to change.
#[derive(Debug, Args)]
pub(crate) struct SwitchArgs {
    #[command(flatten)]
    pub(crate) key: KeyIdArg,
    #[command(flatten)]
    pub(crate) owner: OwnerArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args([
    "name", "rate_limit", "no_rate_limit", "allow_from", "allow_from_anywhere", "environment",
    "no_environment", "labels", "no_labels",
]))]
#[command(after_help = "\
Examples:
  A hundred requests in a minute, from the office alone:
    apikeys update --keycloak-url https://id.example.com --realm shop 4fj9aa01xk2p \\
      --rate-limit 100/60 --allow-from 192.0.2.0/24 --allow-from 2001:db8::/32
  Without a limit again:
    apikeys update … 4fj9aa01xk2p --no-rate-limit

Settings that are not named stay as they are.")]
pub(crate) struct UpdateArgs {
    /// The purpose of the key, for people: 1 to 100 characters.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    #[command(flatten)]
    settings: SettingArgs,
    /// Take the limit away.
    #[arg(long, conflicts_with = "rate_limit")]
    no_rate_limit: bool,
    /// Let the key come from anywhere.
    #[arg(long, conflicts_with = "allow_from")]
    allow_from_anywhere: bool,
    /// Take the environment away.
    #[arg(long, conflicts_with = "environment")]
    no_environment: bool,
    /// Take all labels away.
    #[arg(long, conflicts_with = "labels")]
    no_labels: bool,
    #[command(flatten)]
    pub(crate) target: SwitchArgs,
}

impl UpdateArgs {
    /// The settings to change, each with its new value.
    pub(crate) fn settings(&self) -> Result<Vec<Setting>> {
        let mut settings = Vec::new();
        if let Some(name) = &self.name {
            settings.push(Setting::Name(words("--name", name, NAME_CHARS_MAX)?));
        }
        settings.extend(self.settings.given()?);
        let taken = [
            (self.no_rate_limit, Setting::RateLimit(None)),
            (self.allow_from_anywhere, Setting::AllowedAddresses(None)),
            (self.no_environment, Setting::Environment(None)),
            (self.no_labels, Setting::Labels(None)),
        ];
        let taken = taken.into_iter().filter(|(is_taken, _)| *is_taken);
        settings.extend(taken.map(|(_, setting)| setting));
        Ok(settings)
    }
}
