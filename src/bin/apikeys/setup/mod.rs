//! `apikeys setup`: brings a realm to the state that the gateway needs.
//!
//! Read ([`state`]), compare ([`plan`]), show, apply, read again and prove
//! ([`verify`]). Only what differs is written, and each object is written as it
//! was read but for that, so a second run has nothing to do.

mod amend;
mod apply;
mod plan;
mod settings;
mod signing_key_file;
mod state;
mod trust;
mod verify;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::args::SetupArgs;
use crate::output;
use plan::{Plan, Wanted};
use signing_key_file::SigningKeyFile;
use state::State;

/// The roles of client `realm-management` that the gateway's service account
/// holds: to look owners up, and to hear of revocations. It can change nothing.
const SERVICE_ROLES: [&str; 2] = ["view-events", "view-users"];
/// The client whose roles manage a realm.
const MANAGEMENT_CLIENT: &str = "realm-management";
/// The kind of identity provider whose assertions are grants (RFC 7523).
pub(crate) const PROVIDER_ID: &str = "jwt-authorization-grant";

/// The exit status of `--dry-run --exit-code` when changes are pending.
const CHANGES_PENDING: u8 = 3;

pub(crate) fn run(args: &SetupArgs) -> Result<ExitCode> {
    let key_file = SigningKeyFile::open(&args.signing_key_file)?;
    let admin = args.connection.sign_in()?;
    let wanted = Wanted {
        client_id: args.names.client_id.clone(),
        identity_provider: args.names.identity_provider.clone(),
        assertion_issuer: args.assertion_issuer.clone(),
        signing_jwk: key_file.key().public_jwk(),
        replace_signing_key: args.replace_signing_key,
    };
    let plan = Plan::new(&State::read(&admin, &wanted)?, &wanted)?;
    for warning in &plan.warnings {
        output::warning(warning);
    }
    show(args, &key_file, &plan)?;
    if args.dry_run {
        let pending = !plan.steps.is_empty() || key_file.is_new();
        return Ok(match pending && args.exit_code {
            true => ExitCode::from(CHANGES_PENDING),
            false => ExitCode::SUCCESS,
        });
    }
    // The key first: a realm that trusts a key nobody has would have to be undone.
    key_file.save()?;
    for step in &plan.steps {
        apply::apply(&admin, &wanted, &step.action)
            .with_context(|| format!("{} could not be {}", step.object, step.verb()))?;
        output::result(&format!("done: {}", step.object))?;
    }
    let left = Plan::new(&State::read(&admin, &wanted)?, &wanted)?;
    if let Some(step) = left.steps.first() {
        bail!(
            "Keycloak took the changes, but {} is not as it was written: is another program \
             changing this realm? Run setup again",
            step.object
        );
    }
    let report = verify::verify(&admin, &wanted, key_file.key())?;
    for note in &report.notes {
        output::warning(note);
    }
    output::result(&format!(
        "verified: {:?} signs in with its key (kid {}) and may grant; its token carries {}",
        wanted.client_id,
        key_file.key().kid(),
        report.roles.join(", ")
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the plan: a line for each object, below it a line for each difference.
fn show(args: &SetupArgs, key_file: &SigningKeyFile, plan: &Plan) -> Result<()> {
    let will = if args.dry_run { "would be" } else { "will be" };
    if key_file.is_new() {
        output::result(&format!(
            "signing key {will} made: {}",
            args.signing_key_file.display()
        ))?;
    }
    for step in &plan.steps {
        output::result(&format!("{} {will} {}", step.object, step.verb()))?;
        for change in &step.changes {
            output::result(&format!("  {change}"))?;
        }
    }
    if plan.steps.is_empty() {
        output::result(&format!(
            "nothing to change in realm {:?}",
            args.connection.realm
        ))?;
    } else if args.dry_run {
        output::result(&format!(
            "changes are pending in realm {:?}; this was a dry run, and none was made",
            args.connection.realm
        ))?;
    }
    Ok(())
}
