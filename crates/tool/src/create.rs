//! `apikeys create`: makes a key for an owner.
//!
//! The order lets nobody in if the run is interrupted: the record is written and read back
//! first, and the key itself is told last.

use anyhow::{Result, anyhow, ensure};
use apikeys_core::api_key::record::is_scope;
use apikeys_core::api_key::terms::NAME_CHARS_MAX;
use apikeys_core::clock::UnixMillis;
use apikeys_core::manage::owner_keys::{Edit, NewKey, Setting};

use crate::args::{CreateArgs, words};
use crate::realm_checks::{check_realm, check_scopes};
use crate::{new_key, owner, system};

pub(crate) const DAY_MS: u64 = 24 * 3600 * 1000;

pub(crate) fn run(args: &CreateArgs) -> Result<()> {
    let now = system::now()?;
    let asked = Asked::from_args(args, now)?;
    let format = new_key::format(&args.making.key_prefix)?;
    let admin = args.connection.sign_in()?;
    check_realm(&admin, &args.names.identity_provider)?;
    check_scopes(&admin, &args.names.client_id, asked.scopes.as_deref())?;
    let owner = owner::find(&admin, &args.owner)?;
    let made = new_key::generate(&format, &args.making.hash)?;
    let edit = Edit::Create {
        key: NewKey {
            id: made.key.id().to_owned(),
            hash_text: made.hash_text,
            name: asked.name,
            created: now,
            expires_at: asked.expires_at,
            scopes: asked.scopes,
            settings: asked.settings,
        },
        keys_max: args.making.limit.keys_max(),
    };
    let (names, making) = (&args.names, &args.making);
    new_key::record_and_tell(&admin, names, &owner, &made.key, (edit, None), making)
}

/// The requested key, in bounds.
#[derive(Debug)]
struct Asked {
    name: String,
    expires_at: UnixMillis,
    scopes: Option<String>,
    settings: Vec<Setting>,
}

impl Asked {
    fn from_args(args: &CreateArgs, now: UnixMillis) -> Result<Self> {
        let name = words("--name", &args.name, NAME_CHARS_MAX)?;
        let expires_at = match &args.expires_at {
            None => now.plus_ms(u64::from(args.expires_days) * DAY_MS),
            Some(text) => UnixMillis::parse_rfc3339(text)
                .map_err(|error| anyhow!("--expires-at is {error}"))?,
        };
        // Keycloak stores whole seconds: cut the rest off before the comparison.
        let expires_at = UnixMillis::from_seconds(expires_at.as_seconds());
        ensure!(
            expires_at > now,
            "--expires-at is in the past (it is {} now): such a key would never work",
            now.to_rfc3339()
        );
        if let Some(scopes) = &args.scopes {
            ensure!(
                is_scope(scopes),
                "--scopes must be OAuth scopes with single spaces between, as 'orders:read \
                 orders:write'; leave it out for the gateway's own"
            );
        }
        Ok(Self {
            name,
            expires_at,
            scopes: args.scopes.clone(),
            settings: args.settings.given()?,
        })
    }
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
