//! Carries out one step of a plan.

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::plan::{Action, RolesOf};
use super::state::{RolePaths, find_client, id, text};
use crate::keycloak_admin::{KeycloakAdmin, segment};

pub(crate) fn apply(admin: &KeycloakAdmin, action: &Action) -> Result<()> {
    let providers = "identity-provider/instances";
    match action {
        Action::WriteUserProfile(profile) => admin.put("users/profile", profile)?,
        Action::WriteEvents(events) => admin.put("events/config", events)?,
        Action::CreateProvider(provider) => admin.post(providers, provider)?,
        Action::WriteProvider(provider) => {
            let alias = segment(text(provider, "alias"));
            admin.put(&format!("{providers}/{alias}"), provider)?;
        }
        Action::CreateClient(client) => admin.post("clients", client)?,
        Action::WriteClient(client) => admin.put(&format!("clients/{}", id(client)?), client)?,
        Action::GrantRoles(of) => {
            let paths = paths(admin, of)?;
            admin.post(&paths.held, &roles(admin, &paths, &of.roles)?)?;
        }
        Action::TakeRoles(of) => {
            let paths = paths(admin, of)?;
            admin.delete(&paths.held, &roles(admin, &paths, &of.roles)?)?;
        }
        Action::MapRoles(of) => {
            let paths = paths(admin, of)?;
            admin.post(&paths.mapped, &roles(admin, &paths, &of.roles)?)?;
        }
    }
    Ok(())
}

fn paths(admin: &KeycloakAdmin, of: &RolesOf) -> Result<RolePaths> {
    let client = find_client(admin, &of.client_id)?
        .ok_or_else(|| anyhow!("client {:?} is gone", of.client_id))?;
    RolePaths::of(admin, &client)
}

/// The roles of these names, in the form that Keycloak expects.
fn roles(admin: &KeycloakAdmin, paths: &RolePaths, names: &[String]) -> Result<Value> {
    let read = |name: &String| {
        admin
            .get(&format!("{}/{}", paths.roles, segment(name)))
            .with_context(|| format!("cannot read role {name:?} of realm-management"))
    };
    names.iter().map(read).collect()
}
