//! `apikeys update`, `disable` and `enable`: change the settings of a key.

use anyhow::{Context, Result};
use apikeys_core::keycloak::user_events::LastUse;
use apikeys_core::manage::owner_keys::{Edit, Setting};
use serde_json::Value;

use crate::admin_error::one_line;
use crate::args::{SwitchArgs, UpdateArgs};
use crate::keys::{check_held, id_of_a_record, unknown};
use crate::{change, output, owner, summary};

/// Changes the settings that the arguments name.
pub(crate) fn run(args: &UpdateArgs) -> Result<()> {
    update(&args.target, args.settings()?, "updated")
}

/// Switches a key off.
pub(crate) fn disable(args: &SwitchArgs) -> Result<()> {
    update(args, vec![Setting::Disabled(true)], "disabled")
}

/// Switches a key on again.
pub(crate) fn enable(args: &SwitchArgs) -> Result<()> {
    update(args, vec![Setting::Disabled(false)], "enabled")
}

fn update(args: &SwitchArgs, settings: Vec<Setting>, done: &str) -> Result<()> {
    let id = id_of_a_record(&args.key.key_id, &args.owner)?;
    let admin = args.connection.sign_in()?;
    let owner = owner::find_or_look_up(&admin, &args.owner, id)?.with_context(|| unknown(id))?;
    check_held(&owner, id)?;
    let edit = Edit::Update {
        id: id.to_owned(),
        settings,
    };
    let subject = format!("{} of {:?}", one_line(id), owner.username());
    let changed = change::make(&admin, &args.names, owner.id(), edit)
        .with_context(|| format!("key {subject}"))?;
    for warning in &changed.warnings {
        output::warning(warning);
    }
    if args.output.is_json() {
        let key = changed.keys.iter().find(|key| key.id == id);
        let key = key.context("the key is not among the owner's any more")?;
        let mut document = summary::document(key, LastUse::Unknown);
        if let Value::Object(members) = &mut document {
            members.insert("owner".to_owned(), owner::shown(&owner));
        }
        return Ok(output::result(&format!("{document:#}"))?);
    }
    if changed.edited.changed.is_empty() {
        output::note(&format!(
            "nothing to change: {subject} has these values already"
        ));
        return Ok(());
    }
    Ok(output::result(&format!(
        "{done}: {subject}; gateways that have it in their caches hear of it within \
         revocation_poll_seconds, or cache_ttl_seconds where that is off"
    ))?)
}
