//! `apikeys revoke --all`: ends all keys of an owner, even if Keycloak refuses to write it.
//!
//! Every write of a user in Keycloak validates the whole user (26.7.5), so a key of such an
//! owner cannot be ended alone. The owner's link can still be taken away.

use anyhow::{Error, Result};
use apikeys_core::keycloak::owner::User;
use apikeys_core::manage::change::ChangeError;
use apikeys_core::manage::owner_keys::{self, Edit};
use serde_json::json;

use crate::args::RevokeArgs;
use crate::{change, output, owner};

pub(crate) fn run(args: &RevokeArgs) -> Result<()> {
    let admin = args.connection.sign_in()?;
    let owner = owner::find(&admin, &args.owner)?;
    let changed = change::make(&admin, &args.names, owner.id(), Edit::RevokeAll)
        .map_err(|error| error.context(format!("the keys of {:?}", owner.username())))?;
    let kept = changed.records_kept.map(|kept| kept.to_string());
    let mut ids = match kept {
        None => changed.edited.ended,
        Some(_) => owner_keys::key_ids(&owner.attributes)
            .map(str::to_owned)
            .collect(),
    };
    ids.sort_unstable();
    ids.dedup();
    if let Some(kept) = &kept {
        output::warning(&format!(
            "the keys of {:?} do not work, and their records were not seen to go: {kept}. Repeat \
             this once the user is corrected; if the owner is linked again before (reindex, create, \
             rotate, import), these keys work again",
            owner.username()
        ));
    }
    if args.output.is_json() {
        let document = json!({
            "owner": owner::shown(&owner), "revoked": ids, "records_kept": kept,
        });
        return Ok(output::result(&format!("{document:#}"))?);
    }
    if ids.is_empty() {
        output::note(&format!("{:?} holds no keys", owner.username()));
        return Ok(());
    }
    Ok(output::result(&format!(
        "revoked: all keys of {:?} ({}); gateways that have one in their caches hear of it within \
         revocation_poll_seconds, or cache_ttl_seconds where that is off",
        owner.username(),
        ids.join(", ")
    ))?)
}

/// The error of a revocation; if Keycloak refuses the owner, with the way that is left.
pub(crate) fn offered(error: Error, id: &str, owner: &User) -> Error {
    let name = owner.username();
    let is_refused = matches!(
        error.downcast_ref(),
        Some(ChangeError::RefusedByKeycloak { .. })
    );
    error.context(match is_refused {
        true => format!(
            "key {id} of {name:?} goes on; correct the user and repeat this, or end all keys of \
             the owner: apikeys revoke --all --owner {}",
            owner.id()
        ),
        false => format!("key {id} of {name:?}"),
    })
}
