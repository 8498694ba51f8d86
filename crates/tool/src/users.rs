//! All users of a realm, page by page.
//!
//! Keycloak does not list service accounts among the users, but finds them by name and by
//! link (measured, 26.7.5).

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use anyhow::Result;
use apikeys_core::keycloak::owner::User;
use indicatif::ProgressBar;
use serde_json::Value;

use crate::keycloak_admin::{KeycloakAdmin, query};
use crate::owner::understood;
use crate::progress;

const PAGE: usize = 500;
const SERVICE_ACCOUNTS: &str = "service-account-";
/// With attributes.
const WHOLE: &str = "briefRepresentation=false&";

/// Calls `look` for all users, service accounts at the end, until it breaks.
pub(crate) fn each(
    admin: &KeycloakAdmin,
    mut look: impl FnMut(User, &ProgressBar) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let count = admin.get("users/count")?.as_u64().unwrap_or(0);
    let bar = progress::bar("users", usize::try_from(count).unwrap_or(0));
    // Between two pages a user may come or go, which shifts the rest by one.
    let mut seen = BTreeSet::new();
    for filter in ["", &format!("username={SERVICE_ACCOUNTS}&")] {
        let outcome = pages(admin, &format!("{filter}{WHOLE}"), |user| {
            bar.inc(1);
            if !seen.insert(user.id().to_owned()) {
                return Ok(ControlFlow::Continue(()));
            }
            look(user, &bar)
        })?;
        if outcome.is_break() {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Calls `look` for all users linked to an identity provider, service accounts included.
pub(crate) fn each_linked(
    admin: &KeycloakAdmin,
    provider: &str,
    mut look: impl FnMut(User) -> Result<()>,
) -> Result<()> {
    let filter = format!("idpAlias={}&{WHOLE}", query(provider));
    pages(admin, &filter, |user| look(user).map(ControlFlow::Continue)).map(drop)
}

/// The ids of all users linked to an identity provider.
pub(crate) fn linked(admin: &KeycloakAdmin, provider: &str) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    // Without attributes, which Keycloak reads user by user.
    let filter = format!("idpAlias={}&briefRepresentation=true&", query(provider));
    pages(admin, &filter, |user| {
        ids.insert(user.id().to_owned());
        Ok(ControlFlow::Continue(()))
    })
    .map(drop)?;
    Ok(ids)
}

fn pages(
    admin: &KeycloakAdmin,
    filter: &str,
    mut look: impl FnMut(User) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let mut first = 0;
    loop {
        let path = format!("users?{filter}first={first}&max={PAGE}");
        let page: Vec<Value> = admin.list(&path)?;
        let last = page.len() < PAGE;
        for user in page {
            if look(understood(user)?)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if last {
            return Ok(ControlFlow::Continue(()));
        }
        first += PAGE;
    }
}
