//! Drives the core's [`OwnerChange`]: its calls over HTTP, its waits by sleeping.
//!
//! The filter's management API drives the same machine, so every change of an owner's keys
//! takes the same lock.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::loggable;
use apikeys_core::keycloak::owner::{User, service_account_name};
use apikeys_core::machine::{Effect, Event};
use apikeys_core::manage::change::{Change, ChangeError, ChangeOutput, Changed, OwnerChange};
use apikeys_core::manage::owner_keys::{self, Edit, EditRefused, KeyState};

use zeroize::Zeroizing;

use crate::admin_error::AdminError;
use crate::args::Names;
use crate::keycloak_admin::{CALL_TIMEOUT, KeycloakAdmin};
use crate::{owner, system};

/// How long a change waits for other changes: longer than an abandoned lock lives.
const WAIT_MS_MAX: u64 = 60_000;

/// A new key that no gateway would find.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfindable {
    /// The tool took it away again.
    #[error("{}: the key was taken away again", EditRefused::OwnerNotFound)]
    Undone,
    /// It is still there.
    #[error(
        "{}; the key could not be taken away again ({failure}): revoke it",
        EditRefused::OwnerNotFound
    )]
    Left { failure: String },
}

/// Makes one change of an owner's keys, as an administrator: also for disabled owners, and
/// for owners whose link was taken away. Looks a new key up as a gateway does, and takes it
/// away again if the look-up does not find it.
///
/// # Errors
/// [`Unfindable`], [`ChangeError`] and faults of the calls.
pub(crate) fn make(
    admin: &KeycloakAdmin,
    names: &Names,
    owner_id: &str,
    edit: Edit,
) -> Result<Changed> {
    let mut changed = make_unseen(admin, names, owner_id, edit)?;
    let Some(id) = changed.edited.added.clone() else {
        return Ok(changed);
    };
    match is_found(admin, owner_id, &id) {
        Ok(false) => {}
        Ok(true) => return Ok(changed),
        // The key was written and read back before.
        Err(error) => {
            let warning = format!("the key could not be looked up, so try it: {error:#}");
            changed.warnings.push(warning);
            return Ok(changed);
        }
    }
    let edit = Edit::Revoke { id };
    Err(match make_unseen(admin, names, owner_id, edit) {
        // Another writer had ended it before the look-up.
        Ok(undone) if undone.edited.ended.is_empty() => return Ok(changed),
        Ok(_) => Unfindable::Undone.into(),
        Err(error) => Unfindable::Left {
            failure: format!("{error:#}"),
        }
        .into(),
    })
}

/// Refuses a usable key that no gateway finds: none would find its successor. A key that another
/// writer ended meanwhile is not found either, and passes: the change itself refuses it.
///
/// # Errors
/// [`EditRefused::OwnerNotFound`] and faults of the calls.
pub(crate) fn check_found(
    admin: &KeycloakAdmin,
    owner: &User,
    id: &str,
    now: UnixMillis,
) -> Result<()> {
    let is_usable = |owner: &User| {
        owner_keys::find(&owner.attributes, id, now)
            .is_some_and(|key| !matches!(key.state, KeyState::Unusable(_)))
    };
    if is_usable(owner)
        && !is_found(admin, owner.id(), id)?
        && is_usable(&owner::read(admin, owner.id())?)
    {
        bail!(EditRefused::OwnerNotFound);
    }
    Ok(())
}

/// Whether a gateway finds the key of this id with this owner.
pub(crate) fn is_found(admin: &KeycloakAdmin, owner_id: &str, id: &str) -> Result<bool> {
    let found = owner::indexed(admin, id)?;
    Ok(found.iter().any(|user| user.id() == owner_id))
}

fn make_unseen(
    admin: &KeycloakAdmin,
    names: &Names,
    owner_id: &str,
    edit: Edit,
) -> Result<Changed> {
    let change = Change {
        users_path: admin.users_path(),
        identity_provider: names.identity_provider.clone(),
        owner_id: owner_id.to_owned(),
        edit,
        gateway_accounts: gateway_accounts(names),
        disabled_owners: true,
        relink: true,
        holder: system::random_name()?,
        wait_ms_max: WAIT_MS_MAX,
        callout_timeout_ms: CALL_TIMEOUT.as_millis().try_into()?,
    };
    drive(admin, change)
}

/// The service accounts of the gateway's own clients.
pub(crate) fn gateway_accounts(names: &Names) -> Vec<String> {
    [&names.client_id, &names.management_client_id]
        .map(|client_id| service_account_name(client_id))
        .into()
}

fn drive(admin: &KeycloakAdmin, change: Change) -> Result<Changed> {
    let mut machine = OwnerChange::new(change, system::now()?);
    let mut output = machine.begin(&admin.bearer(), system::now()?);
    loop {
        let effect = match output {
            ChangeOutput::Await(effect) => effect,
            ChangeOutput::Done(result) => return Ok((*result)?),
        };
        let answer = perform(admin, effect);
        let event = match &answer {
            Ok((status, body)) => Event::Answer {
                status: *status,
                body: Some(body.as_bytes()),
            },
            Err(why) => Event::Failed(why),
        };
        // Read the clock after the token, which may need a call: the machine compares the
        // clock with the age of its lock.
        let bearer = admin.bearer();
        output = machine.handle_event(event, &bearer, system::now()?);
    }
}

/// Makes a call, within the client's own time limit, or waits.
fn perform(admin: &KeycloakAdmin, effect: Effect) -> Result<(u16, Zeroizing<String>), String> {
    match effect {
        Effect::Call { call, .. } => admin.send(&call).map_err(|error| why(&error)),
        Effect::Yield { wait_ms, .. } => {
            thread::sleep(Duration::from_millis(wait_ms.unwrap_or_default()));
            Ok((204, Zeroizing::default()))
        }
        Effect::Compute { .. } => Err("a change computes nothing".to_owned()),
    }
}

/// The cause of a failed call, without the address.
fn why(error: &AdminError) -> String {
    match error {
        AdminError::Unreachable { source, .. } => loggable(&source.to_string()),
        other => loggable(&other.to_string()),
    }
}

/// Whether the next owner's keys may fare better.
pub(crate) fn concerns_one_owner(error: &ChangeError) -> bool {
    match error {
        ChangeError::Unauthorized
        | ChangeError::Forbidden
        | ChangeError::NoLockProvider
        | ChangeError::Keycloak { .. } => false,
        ChangeError::Refused(_)
        | ChangeError::RefusedByKeycloak { .. }
        | ChangeError::OwnerUnreadable
        | ChangeError::NoSuchOwner
        | ChangeError::ForeignLink(_)
        | ChangeError::IdLinkedElsewhere(_)
        | ChangeError::Busy
        | ChangeError::Unknown(_)
        | ChangeError::NotAsWritten => true,
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
