//! `apikeys`, the command-line tool: prepares Keycloak realms for API keys, and
//! manages the keys.
//!
//! It runs on an administrator's machine, not in a gateway. Each command reads the present
//! state, changes only the differences, and reads again to check them. The core's own
//! machine changes owners, under their lock.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

mod admin_error;
mod args;
mod change;
mod create;
mod doctor;
mod expiring;
mod import;
mod inspect;
mod key_source;
mod keycloak_admin;
mod keys;
mod last_used;
mod links;
mod new_key;
mod output;
mod owner;
mod progress;
mod proxy;
mod realm_checks;
mod reindex;
mod revoke_all;
mod revoke_presented;
mod setup;
mod signing_key;
mod summary;
mod system;
#[cfg(test)]
mod test_server;
mod trust;
mod update;
mod usage;
mod users;
mod wrong_usage;

use args::{Cli, Command, CompletionsArgs, ServeArgs};
use wrong_usage::WrongUsage;

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let outcome = match parsed().command {
        Command::Setup(args) => setup::run(&args),
        Command::Create(args) => create::run(&args).map(done),
        Command::List(args) => keys::list(&args).map(done),
        Command::Show(args) => keys::show(&args).map(done),
        Command::Rotate(args) => keys::rotate(&args).map(done),
        Command::Update(args) => update::run(&args).map(done),
        Command::Disable(args) => update::disable(&args).map(done),
        Command::Enable(args) => update::enable(&args).map(done),
        Command::Revoke(args) => keys::revoke(&args).map(done),
        Command::Import(args) => import::run(&args),
        Command::Reindex(args) => reindex::run(&args),
        Command::Expiring(args) => expiring::run(&args),
        Command::Usage(args) => usage::run(&args).map(done),
        Command::Doctor(args) => doctor::run(&args),
        Command::SigningKey(args) => signing_key::run(&args).map(done),
        Command::Inspect(args) => inspect::run(&args),
        Command::Hash(args) => inspect::hash(&args).map(done),
        Command::Serve(args) => serve(&args).map(done),
        Command::Completions(args) => completions(&args).map(done),
    };
    outcome.unwrap_or_else(|error| {
        output::note(&format!("apikeys: {error:#}"));
        match error.is::<WrongUsage>() {
            true => ExitCode::from(wrong_usage::EXIT_STATUS),
            false => ExitCode::FAILURE,
        }
    })
}

/// Parses the command line. If Keycloak's address is missing, the refusal also names the
/// variables that set it for all commands.
fn parsed() -> Cli {
    Cli::try_parse().unwrap_or_else(|mut refusal| {
        if refusal.kind() == ErrorKind::MissingRequiredArgument
            && refusal.to_string().contains("--keycloak-url")
        {
            let tip = "KEYCLOAK_URL and KEYCLOAK_REALM in the environment stand for --keycloak-url \
                       and --realm";
            let tip = ContextValue::StyledStrs(vec![tip.into()]);
            refusal.insert(ContextKind::Suggested, tip);
        }
        refusal.exit()
    })
}

/// Runs the service, or only checks its configuration.
fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    if args.check {
        apikeys_serve::check(&args.config)?;
        return Ok(output::result("the configuration can be used")?);
    }
    apikeys_serve::serve(&args.config)
}

/// Writes the completion script of a shell.
fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "apikeys", &mut script);
    Ok(output::result(String::from_utf8(script)?.trim_end())?)
}
