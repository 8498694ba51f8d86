//! `apikeys expiring`: lists the keys that end soon and have no replacement.

use std::process::ExitCode;

use anyhow::Result;
use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::owner::User;
use apikeys_core::keycloak::user_events::LastUse;
use apikeys_core::manage::owner_keys::{self, KeyState, KeySummary};
use serde_json::{Value, json};

use crate::admin_error::one_line;
use crate::args::ExpiringArgs;
use crate::create::DAY_MS;
use crate::{output, owner, summary, system, users};

/// The exit status of `--exit-code` when there are such keys.
const SOME: u8 = 4;

pub(crate) fn run(args: &ExpiringArgs) -> Result<ExitCode> {
    let admin = args.connection.sign_in()?;
    let now = system::now()?;
    let soon = now.plus_ms(u64::from(args.days) * DAY_MS);
    let mut found: Vec<(KeySummary, User)> = Vec::new();
    // Keys of owners without a link do not work: apikeys doctor reports those.
    users::each_linked(&admin, &args.names.identity_provider, |user| {
        let keys = ending(&user, now, soon);
        found.extend(keys.into_iter().map(|key| (key, user.clone())));
        Ok(())
    })?;
    found.sort_by_key(|(key, _)| key.ends_at());
    let none = found.is_empty();
    if args.output.is_json() {
        let keys: Vec<Value> = found
            .iter()
            .map(|(key, user)| {
                let mut document = summary::document(key, LastUse::Unknown);
                if let Value::Object(members) = &mut document {
                    members.insert("owner".to_owned(), owner::shown(user));
                }
                document
            })
            .collect();
        output::result(&format!("{:#}", json!({ "keys": keys })))?;
    } else if none {
        output::note(&format!("no key ends within {} days", args.days));
    } else {
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|(key, user)| {
                vec![
                    summary::time_or_unknown(key.ends_at()),
                    one_line(&key.id),
                    one_line(user.username()),
                    one_line(&key.name),
                ]
            })
            .collect();
        output::result(&output::grid(&["ENDS", "KEY ID", "OWNER", "NAME"], &rows))?;
    }
    Ok(match !none && args.exit_code {
        true => ExitCode::from(SOME),
        false => ExitCode::SUCCESS,
    })
}

/// The keys of an owner that work, end soon and have no replacement.
pub(crate) fn ending(owner: &User, now: UnixMillis, soon: UnixMillis) -> Vec<KeySummary> {
    let mut keys = owner_keys::list(&owner.attributes, now);
    keys.retain(|key| {
        key.state == KeyState::Active && key.ends_at().is_some_and(|end| end <= soon)
    });
    keys
}
