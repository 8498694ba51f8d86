//! `apikeys doctor`: checks everything that keys depend on, and says how to repair it.
//!
//! It changes nothing. It compares the realm with setup's result ([`realm`]), the records of
//! all users with the gateway's rules ([`records`]), and the tokens of some owners with the
//! limits of services ([`tokens`]).

mod finding;
mod realm;
mod records;
mod tokens;

use std::cmp::Reverse;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};

use crate::args::DoctorArgs;
use crate::{output, system};
use finding::{Finding, Level};

/// The exit status for warnings without errors.
const WARNINGS: u8 = 4;
/// The exit status for errors.
const ERRORS: u8 = 5;

pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let keys = realm::Keys::open(args)?;
    let admin = args.connection.sign_in()?;
    let mut findings = realm::look(args, &admin, &keys)?;
    let records = records::look(args, &admin, system::now()?)?;
    findings.extend(records.findings);
    let tokens = tokens::look(&admin, &args.names.client_id, &records.samples)?;
    findings.extend(tokens.finding);
    findings.sort_by_key(|finding| Reverse(finding.level));
    let errors = findings
        .iter()
        .filter(|finding| finding.level == Level::Error)
        .count();
    let warnings = findings.len() - errors;
    if args.output.is_json() {
        let document = json!({
            "errors": errors,
            "warnings": warnings,
            "looked_at": {
                "users": records.users, "owners": records.owners, "keys": records.keys,
                "tokens": tokens.owners,
            },
            "findings": findings.iter().map(Finding::document).collect::<Vec<Value>>(),
        });
        output::result(&format!("{document:#}"))?;
    } else {
        for finding in &findings {
            output::result(&finding.text())?;
        }
        output::result(&format!(
            "{}, {}; looked at the realm and at {} users, of whom {} \
             hold {} keys, and at the tokens of {}{}",
            counted(errors, "error"),
            counted(warnings, "warning"),
            records.users,
            records.owners,
            records.keys,
            tokens.owners,
            match args.signing_key_file {
                Some(_) => "",
                None => "; to try the signing key as well, give --signing-key-file",
            }
        ))?;
    }
    Ok(match (errors, warnings) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(WARNINGS),
        _ => ExitCode::from(ERRORS),
    })
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
