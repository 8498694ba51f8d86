//! The arguments of `apikeys serve`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  apikeys serve --config serve.yaml --check
  apikeys serve --config serve.yaml

It listens on loopback or a Unix socket unless the file says otherwise, and logs JSON lines to standard
output. SIGTERM ends it when the requests under way have their answers; SIGHUP reads the signing key
again, which a change of its file does as well.")]
pub(crate) struct ServeArgs {
    /// The configuration: YAML or JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Checks the configuration and the files that it names, and ends. Calls no server.
    #[arg(long)]
    pub(crate) check: bool,
}
