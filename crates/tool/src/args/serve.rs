//! The arguments of `apikeys serve`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  apikeys serve --config serve.yaml --check
  apikeys serve --config serve.yaml

It listens on loopback by default, and logs JSON lines to standard output. SIGTERM ends it after the
requests under way have their answers. SIGHUP makes it read the signing key again, and so does a change
of the key's file.")]
pub(crate) struct ServeArgs {
    /// The configuration: YAML or JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Checks the configuration and its files, then exits. Calls no server.
    #[arg(long)]
    pub(crate) check: bool,
}
