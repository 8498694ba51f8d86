//! `apikeys list`, `show`, `rotate` and `revoke`: work on existing keys.

use anyhow::{Context, Result, bail};
use apikeys_core::api_key::format::is_id;
use apikeys_core::keycloak::owner::User;
use apikeys_core::manage::owner_keys::{self, Edit, Replacement};
use serde_json::{Value, json};

use crate::admin_error::one_line;
use crate::args::{ListArgs, OwnerArgs, RevokeArgs, RotateArgs, ShowArgs};
use crate::create::DAY_MS;
use crate::keycloak_admin::KeycloakAdmin;
use crate::realm_checks::check_realm;
use crate::wrong_usage::WrongUsage;
use crate::{
    change, last_used, new_key, output, owner, revoke_all, revoke_presented, summary, system,
};

/// Lists an owner's keys.
pub(crate) fn list(args: &ListArgs) -> Result<()> {
    let admin = args.connection.sign_in()?;
    let owner = owner::find(&admin, &args.owner)?;
    let keys = owner_keys::list(&owner.attributes, system::now()?);
    let uses = last_used::read(&admin, owner.id(), &keys)?;
    if args.output.is_json() {
        let keys: Vec<Value> = keys
            .iter()
            .map(|key| summary::document(key, uses.of_key(&key.id, key.created)))
            .collect();
        let document = json!({ "owner": owner::shown(&owner), "keys": keys });
        return Ok(output::result(&format!("{document:#}"))?);
    }
    if keys.is_empty() {
        output::note(&format!("{:?} holds no keys", owner.username()));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| summary::row(key, uses.of_key(&key.id, key.created)))
        .collect();
    Ok(output::result(&output::grid(&summary::HEADS, &rows))?)
}

/// Shows one key.
pub(crate) fn show(args: &ShowArgs) -> Result<()> {
    let id = id_of_a_record(&args.key.key_id, &args.owner)?;
    let admin = args.connection.sign_in()?;
    let owner = owner::find_or_look_up(&admin, &args.owner, id)?.with_context(|| unknown(id))?;
    check_held(&owner, id)?;
    let key = owner_keys::find(&owner.attributes, id, system::now()?)
        .with_context(|| not_held(&owner, id))?;
    let uses = last_used::read(&admin, owner.id(), std::slice::from_ref(&key))?;
    let last_use = uses.of_key(id, key.created);
    if args.output.is_json() {
        let mut document = summary::document(&key, last_use);
        if let Value::Object(members) = &mut document {
            members.insert("owner".to_owned(), owner::shown(&owner));
        }
        return Ok(output::result(&format!("{document:#}"))?);
    }
    let enabled = match owner.is_enabled() {
        true => "",
        false => ", disabled: the key is refused",
    };
    let rows = [
        ("key id", id),
        ("name", &summary::or_unknown(Some(&key.name), "")),
        (
            "owner",
            &format!("{} ({}){enabled}", owner.username(), owner.id()),
        ),
        ("state", &summary::state(&key)),
        ("created", &summary::time_or_unknown(key.created)),
        ("ends", &summary::time_or_unknown(key.ends_at())),
        (
            "scopes",
            &summary::or_unknown(key.scopes.as_deref(), "the gateway's own"),
        ),
        ("last used", &summary::used(&key, last_use)),
    ];
    let settings = summary::settings(&key);
    let settings = settings
        .iter()
        .map(|(label, value)| (*label, value.as_str()));
    let rows: Vec<_> = rows.into_iter().chain(settings).collect();
    Ok(output::result(&output::table(&rows))?)
}

/// Replaces a key by a new one.
pub(crate) fn rotate(args: &RotateArgs) -> Result<()> {
    let id = checked_id(&args.key.key_id)?;
    let format = new_key::format(&args.making.key_prefix)?;
    let admin = args.connection.sign_in()?;
    check_realm(&admin, &args.names.identity_provider)?;
    let owner = owner::find_or_look_up(&admin, &args.owner, id)?.with_context(|| unknown(id))?;
    let now = system::now()?;
    change::check_found(&admin, &owner, id, now)
        .with_context(|| format!("key {id} is as it was"))?;
    let made = new_key::generate(&format, &args.making.hash)?;
    let edit = Edit::Rotate {
        id: id.to_owned(),
        replacement: Replacement {
            id: made.key.id().to_owned(),
            hash_text: made.hash_text,
            created: now,
            expires_at: args
                .expires_days
                .map(|days| now.plus_ms(u64::from(days) * DAY_MS)),
        },
        grace_ms: args.grace * 1000,
        keys_max: args.making.limit.keys_max(),
    };
    let (names, making) = (&args.names, &args.making);
    new_key::record_and_tell(&admin, names, &owner, &made.key, (edit, Some(id)), making)
}

/// Ends a key.
pub(crate) fn revoke(args: &RevokeArgs) -> Result<()> {
    if let Some(path) = &args.key_file {
        return revoke_presented::run(args, path);
    }
    let Some(id) = &args.key_id else {
        return revoke_all::run(args);
    };
    let id = id_of_a_record(id, &args.owner)?;
    let admin = args.connection.sign_in()?;
    let owner = owner::find_or_look_up(&admin, &args.owner, id)?;
    if let Some(owner) = &owner {
        check_held(owner, id)?;
    }
    end(args, &admin, owner.as_ref(), id)
}

/// Ends a key of this owner, and tells of it.
pub(crate) fn end(
    args: &RevokeArgs,
    admin: &KeycloakAdmin,
    owner: Option<&User>,
    id: &str,
) -> Result<()> {
    let revoked = match owner {
        None => false,
        Some(owner) => {
            let edit = Edit::Revoke { id: id.to_owned() };
            let changed = change::make(admin, &args.names, owner.id(), edit)
                .map_err(|error| revoke_all::offered(error, id, owner))?;
            !changed.edited.ended.is_empty()
        }
    };
    let now = system::now()?;
    let key = owner.and_then(|owner| owner_keys::find(&owner.attributes, id, now));
    let name = key.map(|key| key.name);
    if args.output.is_json() {
        let owner = owner.map(owner::shown);
        let document = json!({ "key_id": id, "name": name, "revoked": revoked, "owner": owner });
        return Ok(output::result(&format!("{document:#}"))?);
    }
    match (owner, revoked) {
        (Some(owner), true) if !is_id(id) => output::result(&format!(
            "revoked: {} of {:?}; no gateway took it, since no key can have that id",
            one_line(id),
            owner.username()
        ))?,
        (Some(owner), true) => output::result(&format!(
            "revoked: {id} ({:?}) of {:?}; gateways that have it in their caches hear of it within \
             revocation_poll_seconds, or cache_ttl_seconds where that is off",
            name.unwrap_or_default(),
            owner.username()
        ))?,
        (Some(owner), false) => output::note(&not_held(owner, id)),
        (None, _) => output::note(&unknown(id)),
    }
    Ok(())
}

/// The id of a record. Another tool's record may have an id that no key can have: only
/// --owner finds such a record.
pub(crate) fn id_of_a_record<'a>(text: &'a str, meant: &OwnerArgs) -> Result<&'a str> {
    match meant.is_given() {
        true => Ok(text),
        false => checked_id(text),
    }
}

/// Refuses a text that is no id, which may be a key, unless the owner holds a record of that id.
pub(crate) fn check_held(owner: &User, id: &str) -> Result<()> {
    if owner_keys::key_ids(&owner.attributes).any(|held| held == id) {
        return Ok(());
    }
    checked_id(id).map(drop)
}

/// An id; for any other text, advice that does not repeat it: it may be a key.
pub(crate) fn checked_id(text: &str) -> Result<&str> {
    if is_id(text) {
        return Ok(text);
    }
    bail!(WrongUsage(
        "KEY_ID is no id of a key: 12 lower-case letters and digits, or 24 of an imported key. A \
         record whose id is another is shown and revoked with its --owner. If it was a key itself, it now stands in this shell's history and was seen by every process \
         of this machine: revoke it. apikeys inspect tells the id of a key that it reads from \
         standard input"
            .to_owned()
    ))
}

pub(crate) fn unknown(id: &str) -> String {
    format!(
        "no owner is indexed under {id}, so no gateway takes such a key: it was revoked, or is of \
         another realm, or its index is missing (give --owner, or run apikeys reindex)"
    )
}

fn not_held(owner: &User, id: &str) -> String {
    format!("{:?} holds no key {id}", owner.username())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_id_is_named_with_its_owner_and_what_it_does_not_hold_may_be_a_key() {
        let meant = |owner: Option<&str>| OwnerArgs {
            owner: owner.map(str::to_owned),
            service_account: None,
        };
        assert_eq!(
            id_of_a_record("abc123", &meant(Some("dave"))).unwrap(),
            "abc123"
        );
        let error = id_of_a_record("abc123", &meant(None)).unwrap_err();
        assert!(error.to_string().contains("with its --owner"), "{error}");
        let dave = json!({"id": "1", "username": "dave",
            "attributes": {"apiKeys": ["key:abc123:$sha256$x", "rubbish"]}});
        let dave = User::from_value(dave).unwrap();
        check_held(&dave, "abc123").unwrap();
        check_held(&dave, "4fj9aa01xk2p").unwrap();
        for other in ["ABC123", "rubbish", "", "sk_live_4fj9aa01xk2p_SECRET"] {
            let error = check_held(&dave, other).unwrap_err();
            assert!(error.is::<WrongUsage>());
            assert!(other.is_empty() || !error.to_string().contains(other));
        }
    }

    #[test]
    fn what_is_no_id_is_refused_and_not_repeated() {
        let key = "sk_live_4fj9aa01xk2p_SECRETSECRETSECRETSECRETSECRETSE123456";
        for text in [key, "", "4FJ9AA01XK2P", "4fj9aa01xk2", "4fj9aa01xk2p/"] {
            let error = checked_id(text).unwrap_err();
            assert!(error.is::<WrongUsage>());
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
        assert_eq!(checked_id("4fj9aa01xk2p").unwrap(), "4fj9aa01xk2p");
        assert!(checked_id("4fj9aa01xk2p4fj9aa01xk2p").is_ok());
    }
}
