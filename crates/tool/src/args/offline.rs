//! The arguments of the commands that need no Keycloak: hash, inspect, usage, completions.

use std::ffi::OsString;
use std::path::PathBuf;

use apikeys_core::config::defaults;
use clap::Args;
use clap_complete::Shell;

use super::making::{HashArgs, OutputArgs};

/// The source of a key. Never an argument.
#[derive(Debug, Args)]
pub(crate) struct KeySourceArgs {
    /// The file with the key as its one line; - is standard input.
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) key_file: PathBuf,
    /// The name of the environment variable that holds the key.
    #[arg(long, value_name = "NAME", conflicts_with = "key_file")]
    pub(crate) key_variable: Option<String>,
    /// Catches a key given as an argument: the command refuses it and does not repeat it.
    #[arg(hide = true, allow_hyphen_values = true, num_args = 0.., value_name = "KEY")]
    pub(crate) misplaced: Vec<OsString>,
}

/// The source of the index key, the secret from which the ids of imported keys derive.
#[derive(Debug, Args)]
pub(crate) struct IndexKeyArgs {
    /// A file, readable by you alone, with the index_key of the gateway's configuration as its
    /// one line; without, the variable API_KEY_INDEX_KEY is read.
    #[arg(long, value_name = "FILE")]
    pub(crate) index_key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  apikeys usage --log envoy.log
  The logs of two nodes, for one key:
    apikeys usage --log node-1.log --log node-2.log --key 4fj9aa01xk2p
  docker compose logs --no-log-prefix kong | apikeys usage --output json

Gateways write the lines where their configuration has usage: true.")]
pub(crate) struct UsageArgs {
    /// A gateway's log; - is standard input. Can be given several times.
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) log: Vec<PathBuf>,
    /// Show only this key.
    #[arg(long, value_name = "KEY_ID")]
    pub(crate) key: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  apikeys hash < key.txt
  Quick to verify, and as safe for keys that this tool makes:
    apikeys hash --hash-algorithm sha256 --key-file key.txt
  From a secret store, without a file:
    vault read … | apikeys hash")]
pub(crate) struct HashCommandArgs {
    #[command(flatten)]
    pub(crate) key: KeySourceArgs,
    #[command(flatten)]
    pub(crate) hash: HashArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  apikeys inspect < key.txt
  apikeys inspect --key-file key.txt --output json
  API_KEY=… apikeys inspect --key-variable API_KEY
  The id of a key that was imported:
    apikeys inspect --index-key-file index-key.txt < key.txt

Nothing is asked of Keycloak. Exit status: 0 it can be a key, 1 it cannot.")]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) key: KeySourceArgs,
    /// The prefix of keys; the key_prefix of the gateway's configuration.
    #[arg(long, value_name = "PREFIX", default_value = defaults::KEY_PREFIX)]
    pub(crate) key_prefix: String,
    #[command(flatten)]
    pub(crate) index_key: IndexKeyArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bash:  apikeys completions bash > ~/.local/share/bash-completion/completions/apikeys
  zsh:   apikeys completions zsh > \"${fpath[1]}/_apikeys\"
  fish:  apikeys completions fish > ~/.config/fish/completions/apikeys.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}
