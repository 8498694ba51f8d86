//! The realm's objects: compares them with setup's result, changes none, and tries the
//! signing key if there is one.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::finding::Finding;
use crate::args::DoctorArgs;
use crate::keycloak_admin::{KeycloakAdmin, segment};
use crate::setup::clients::{Duty, WantedClient};
use crate::setup::plan::{Action, Conflicts, Plan, Step, Wanted};
use crate::setup::signing_key_file::SigningKeyFile;
use crate::setup::state::{State, find_client, text};
use crate::setup::verify::{self, Proof, Signer};

const SETUP: &str = "run apikeys setup";
/// The clocks may differ by this many seconds without a warning. Keycloak refuses assertions
/// beyond the provider's clock skew, 30 s.
const CLOCK_WARNING_SECONDS: u64 = 5;
const CLOCK_ERROR_SECONDS: u64 = 30;

/// Where a provider keeps the keys that it trusts.
const PROVIDER_KEY: &str = "/config/publicKeySignatureVerifier";

/// The signing keys that were given.
pub(crate) struct Keys {
    gateway: Option<SigningKeyFile>,
    manager: Option<SigningKeyFile>,
}

impl Keys {
    pub(crate) fn open(args: &DoctorArgs) -> Result<Self> {
        let open = |path: &Option<std::path::PathBuf>| -> Result<Option<SigningKeyFile>> {
            let file = path.as_deref().map(SigningKeyFile::open).transpose()?;
            if let Some(file) = &file {
                ensure!(!file.is_new(), "there is no file {}", file.path().display());
            }
            Ok(file)
        };
        Ok(Self {
            gateway: open(&args.signing_key_file)?,
            manager: open(&args.management_signing_key_file)?,
        })
    }

    fn of(&self, duty: Duty) -> Option<&SigningKeyFile> {
        match (duty, &self.manager) {
            (Duty::Manage, Some(own)) => Some(own),
            _ => self.gateway.as_ref(),
        }
    }
}

/// Checks the realm, its users apart.
pub(crate) fn look(args: &DoctorArgs, admin: &KeycloakAdmin, keys: &Keys) -> Result<Vec<Finding>> {
    ensure!(
        admin.find("")?.is_some(),
        "there is no realm {:?}: check --realm",
        admin.realm()
    );
    let mut findings = clock(admin.clock_ahead_seconds());
    findings.extend(issuer(admin)?);
    let provider = segment(&args.names.identity_provider);
    let provider = admin.find(&format!("identity-provider/instances/{provider}"))?;
    let provider = provider.as_ref();
    let client = |client_id: &str, duty| -> Result<Option<WantedClient>> {
        let found = find_client(admin, client_id)?;
        let trusted = match &found {
            Some(client) => trusted_key(client, "/attributes/jwks.string"),
            None => provider.and_then(|at| trusted_key(at, PROVIDER_KEY)),
        };
        let given = keys.of(duty).map(|file| file.key().public_jwk());
        // The gateway's client must be there; the management API's may be missing.
        Ok(
            (duty == Duty::Exchange || found.is_some()).then(|| WantedClient {
                client_id: client_id.to_owned(),
                duty,
                signing_jwk: given.or(trusted).unwrap_or_else(|| json!({})),
            }),
        )
    };
    let Some(gateway) = client(&args.names.client_id, Duty::Exchange)? else {
        return Ok(findings);
    };
    let wanted = Wanted {
        gateway,
        manager: client(&args.names.management_client_id, Duty::Manage)?,
        identity_provider: args.names.identity_provider.clone(),
        assertion_issuer: args.assertion_issuer.clone(),
        replace_signing_key: false,
    };
    let differences = differences(&Plan::new(&State::read(admin, &wanted)?, &wanted));
    // A difference from the plan is reported already; the trial could fail because of it.
    if differences.is_empty() {
        findings.extend(tried(admin, &wanted, keys));
    }
    findings.extend(differences);
    Ok(findings)
}

/// The changes that setup would make, and the conflicts that would stop it.
fn differences(plan: &Result<Plan, Conflicts>) -> Vec<Finding> {
    match plan {
        // Each conflict brings its own advice.
        Err(Conflicts(conflicts)) => conflicts
            .iter()
            .map(|conflict| Finding::error("realm", conflict, ""))
            .collect(),
        Ok(plan) => {
            let warnings = plan
                .warnings
                .iter()
                .map(|warning| Finding::warning("realm", warning, ""));
            warnings
                .chain(plan.steps.iter().flat_map(difference))
                .collect()
        }
    }
}

fn difference(step: &Step) -> Vec<Finding> {
    if matches!(
        step.action,
        Action::CreateProvider(_) | Action::CreateClient(_)
    ) {
        return vec![Finding::error(&step.object, "it is not there", SETUP)];
    }
    step.changes
        .iter()
        .map(|change| {
            let problem = format!(
                "{} is {}, where {} is needed: {}",
                change.field, change.is, change.becomes, change.why
            );
            match step.action {
                // Keys work without events, and also with too many roles.
                Action::WriteEvents(_) | Action::TakeRoles(_) => {
                    Finding::warning(&step.object, problem, SETUP)
                }
                _ => Finding::error(&step.object, problem, SETUP),
            }
        })
        .collect()
}

/// Signs in as each client that it has a key for.
fn tried(admin: &KeycloakAdmin, wanted: &Wanted, keys: &Keys) -> Vec<Finding> {
    let signers: Vec<Signer<'_>> = wanted
        .clients()
        .filter_map(|client| {
            let key = keys.of(client.duty)?.key();
            Some(Signer { client, key })
        })
        .collect();
    match verify::verify(admin, wanted, &signers, Proof::ByReading) {
        Ok(_) => Vec::new(),
        Err(error) => vec![Finding::error("signing in", format!("{error:#}"), "")],
    }
}

/// The first key that an object trusts.
fn trusted_key(object: &Value, path: &str) -> Option<Value> {
    let stored = object.pointer(path)?.as_str()?;
    let jwks: Value = serde_json::from_str(stored).ok()?;
    jwks.pointer("/keys/0").cloned()
}

/// Compares this machine's clock with Keycloak's, if Keycloak's tokens tell the time.
fn clock(ahead_seconds: Option<i64>) -> Vec<Finding> {
    let subject = "clock";
    let Some(ahead) = ahead_seconds else {
        let problem = "Keycloak's clock cannot be told: its access tokens are no JWTs";
        return vec![Finding::warning(subject, problem, "compare the clocks")];
    };
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let seconds = ahead.unsigned_abs();
    let problem = format!("this machine's is {seconds} s {direction} Keycloak's");
    let advice = "let both keep time (NTP). Run this on the gateway's machine: it is its clock that \
                  matters";
    if seconds <= CLOCK_WARNING_SECONDS {
        Vec::new()
    } else if seconds < CLOCK_ERROR_SECONDS {
        vec![Finding::warning(subject, problem, advice)]
    } else {
        let problem = format!("{problem}: assertions are refused");
        vec![Finding::error(subject, problem, advice)]
    }
}

/// Tokens are checked against the issuer that the gateway expects.
fn issuer(admin: &KeycloakAdmin) -> Result<Option<Finding>> {
    let discovery = admin.public(".well-known/openid-configuration")?;
    let issuer = text(&discovery, "issuer");
    if issuer == admin.realm_url() {
        return Ok(None);
    }
    Ok(Some(Finding::warning(
        "issuer",
        format!(
            "tokens name {issuer:?}, and --keycloak-url makes it {:?}",
            admin.realm_url()
        ),
        "the gateway's keycloak_url must be what stands before /realms/ in the tokens'; if it is, \
         all is well",
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use crate::setup::amend::Change;
    use crate::setup::plan::RolesOf;

    fn step(action: Action) -> Step {
        let change = Change {
            field: "x".into(),
            is: "1".into(),
            becomes: "2".into(),
            why: "it must",
        };
        Step {
            object: "object".into(),
            action,
            changes: vec![change],
        }
    }

    #[test]
    fn what_keeps_keys_from_working_is_an_error_and_the_rest_a_warning() {
        let roles = || RolesOf {
            client_id: "c".into(),
            roles: vec![],
        };
        for (action, level) in [
            (Action::WriteClient(json!({})), Level::Error),
            (Action::WriteUserProfile(json!({})), Level::Error),
            (Action::CreateClient(json!({})), Level::Error),
            (Action::GrantRoles(roles()), Level::Error),
            (Action::TakeRoles(roles()), Level::Warning),
            (Action::WriteEvents(json!({})), Level::Warning),
        ] {
            let found = difference(&step(action));
            assert_eq!((found[0].level, found.len()), (level, 1));
            assert_eq!(found[0].advice, SETUP);
        }
    }

    #[test]
    fn clocks_that_differ_are_told_before_assertions_are_refused() {
        for ahead in [-5, 0, 5] {
            assert_eq!(clock(Some(ahead)), []);
        }
        for (ahead, level, words) in [
            (Some(6), Level::Warning, "6 s ahead of"),
            (Some(-29), Level::Warning, "29 s behind"),
            (Some(30), Level::Error, "assertions are refused"),
            (Some(i64::MIN), Level::Error, "behind"),
            (None, Level::Warning, "no JWTs"),
        ] {
            let [found] = &clock(ahead)[..] else {
                panic!("{ahead:?}")
            };
            assert!(
                found.level == level && found.problem.contains(words),
                "{found:?}"
            );
        }
    }

    #[test]
    fn what_setup_would_not_dare_to_change_is_an_error() {
        let conflicts = Conflicts(vec!["user profile: users may edit; take it out".into()]);
        let found = differences(&Err(conflicts));
        assert_eq!(found[0].level, Level::Error);
        assert!(found[0].text().contains("take it out"));
        let plan = Plan {
            warnings: vec!["event settings: admin events keep".into()],
            ..Plan::default()
        };
        assert_eq!(differences(&Ok(plan))[0].level, Level::Warning);
    }
}
