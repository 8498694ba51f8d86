//! `apikeys setup`: brings a realm to the state that the gateway needs.
//!
//! Read ([`state`]), compare ([`plan`]), show, apply, read again and prove ([`verify`]).
//! Setup writes only the differences and leaves the rest of each object as it read it, so a
//! second run has nothing to do.

pub(crate) mod amend;
mod apply;
pub(crate) mod clients;
pub(crate) mod plan;
mod providers;
mod settings;
pub(crate) mod signing_key_file;
pub(crate) mod state;
mod throw_away;
pub(crate) mod trust;
pub(crate) mod verify;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use apikeys_core::manage::change::LOCK_PROVIDER;

use crate::args::SetupArgs;
use crate::output;
use clients::{Duty, WantedClient};
use plan::{Plan, Step, Wanted};
use serde_json::{Map, Value, json};
use signing_key_file::SigningKeyFile;
use state::State;
use verify::{Proof, Signer};

/// The client that owns the roles for managing a realm.
const MANAGEMENT_CLIENT: &str = "realm-management";
/// The type of identity provider that accepts assertions as grants (RFC 7523).
pub(crate) const PROVIDER_ID: &str = "jwt-authorization-grant";

/// The exit status of `--dry-run --exit-code` when changes are pending.
const CHANGES_PENDING: u8 = 3;

pub(crate) fn run(args: &SetupArgs) -> Result<ExitCode> {
    check_names(args)?;
    let keys = Keys::open(args)?;
    let admin = args.connection.sign_in()?;
    let wanted = keys.wanted(args);
    let plan = Plan::new(&State::read(&admin, &wanted)?, &wanted)?;
    for warning in &plan.warnings {
        output::warning(warning);
    }
    let told = document(args, &keys, &plan);
    if !args.output.is_json() {
        show(args, &keys, &plan)?;
    }
    if args.dry_run {
        let pending = !plan.steps.is_empty() || keys.new_files().next().is_some();
        tell(args, told, &plan.warnings, &[])?;
        return Ok(match pending && args.exit_code {
            true => ExitCode::from(CHANGES_PENDING),
            false => ExitCode::SUCCESS,
        });
    }
    // Save the keys first: otherwise the realm could trust a key that nobody has.
    keys.save()?;
    for step in &plan.steps {
        apply::apply(&admin, &step.action)
            .with_context(|| format!("{} could not be {}", step.object, step.verb()))?;
        if !args.output.is_json() {
            output::result(&format!("done: {}", step.object))?;
        }
    }
    let left = Plan::new(&State::read(&admin, &wanted)?, &wanted)?;
    if let Some(step) = left.steps.first() {
        bail!(
            "Keycloak took the changes, but {} is not as it was written: is another program \
             changing this realm? Run setup again",
            step.object
        );
    }
    let report = verify::verify(&admin, &wanted, &keys.signers(&wanted), Proof::WithAnOwner)?;
    for note in &report.notes {
        output::warning(note);
    }
    if !args.output.is_json() {
        for line in &report.proven {
            output::result(&format!("verified: {line}"))?;
        }
    }
    let warnings = [plan.warnings, report.notes].concat();
    tell(args, told, &warnings, &report.proven)?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses one name for two objects: setup would turn one into the other.
fn check_names(args: &SetupArgs) -> Result<()> {
    let names = &args.names;
    ensure!(
        args.no_management || names.client_id != names.management_client_id,
        "--client-id and --management-client-id must differ: the gateway's client may write nothing"
    );
    ensure!(
        names.identity_provider != LOCK_PROVIDER,
        "--identity-provider {:?} is the name of the owners' lock; choose another",
        names.identity_provider
    );
    Ok(())
}

/// The files of the signing keys.
struct Keys {
    gateway: SigningKeyFile,
    /// The management client's own, where it has one.
    manager: Option<SigningKeyFile>,
}

impl Keys {
    fn open(args: &SetupArgs) -> Result<Self> {
        let manager = args.management_signing_key_file.as_deref();
        ensure!(
            manager != Some(&args.signing_key_file),
            "--management-signing-key-file is the file of --signing-key-file: leave it out, and \
             both clients sign in with that key"
        );
        Ok(Self {
            gateway: SigningKeyFile::open(&args.signing_key_file)?,
            manager: manager.map(SigningKeyFile::open).transpose()?,
        })
    }

    fn of(&self, duty: Duty) -> &SigningKeyFile {
        match (duty, &self.manager) {
            (Duty::Manage, Some(own)) => own,
            _ => &self.gateway,
        }
    }

    /// The files to write.
    fn new_files(&self) -> impl Iterator<Item = &SigningKeyFile> {
        [Some(&self.gateway), self.manager.as_ref()]
            .into_iter()
            .flatten()
            .filter(|file| file.is_new())
    }

    fn save(&self) -> Result<()> {
        self.new_files().try_for_each(SigningKeyFile::save)
    }

    fn wanted(&self, args: &SetupArgs) -> Wanted {
        let client = |client_id: &str, duty| WantedClient {
            client_id: client_id.to_owned(),
            duty,
            signing_jwk: self.of(duty).key().public_jwk(),
        };
        Wanted {
            gateway: client(&args.names.client_id, Duty::Exchange),
            manager: (!args.no_management)
                .then(|| client(&args.names.management_client_id, Duty::Manage)),
            identity_provider: args.names.identity_provider.clone(),
            assertion_issuer: args.assertion_issuer.clone(),
            replace_signing_key: args.replace_signing_key,
        }
    }

    fn signers<'a>(&'a self, wanted: &'a Wanted) -> Vec<Signer<'a>> {
        let signer = |client: &'a WantedClient| Signer {
            client,
            key: self.of(client.duty).key(),
        };
        wanted.clients().map(signer).collect()
    }
}

/// The plan, for programs.
fn document(args: &SetupArgs, keys: &Keys, plan: &Plan) -> Map<String, Value> {
    let files: Vec<String> = keys
        .new_files()
        .map(|file| file.path().display().to_string())
        .collect();
    let steps: Vec<Value> = plan.steps.iter().map(Step::document).collect();
    let mut document = Map::new();
    document.insert("realm".to_owned(), json!(args.connection.realm));
    document.insert("dry_run".to_owned(), json!(args.dry_run));
    document.insert("signing_keys_made".to_owned(), json!(files));
    document.insert("steps".to_owned(), json!(steps));
    document
}

/// Prints the result for programs, at the end.
fn tell(
    args: &SetupArgs,
    mut document: Map<String, Value>,
    warnings: &[String],
    verified: &[String],
) -> Result<()> {
    if !args.output.is_json() {
        return Ok(());
    }
    document.insert("warnings".to_owned(), json!(warnings));
    document.insert("verified".to_owned(), json!(verified));
    Ok(output::result(&format!("{:#}", Value::Object(document)))?)
}

/// Prints the plan: a line for each object, below it a line for each difference.
fn show(args: &SetupArgs, keys: &Keys, plan: &Plan) -> Result<()> {
    let will = if args.dry_run { "would be" } else { "will be" };
    for file in keys.new_files() {
        output::result(&format!(
            "signing key {will} made: {}",
            file.path().display()
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
