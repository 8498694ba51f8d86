//! Carries one step of a plan out.

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::plan::{Action, Wanted};
use super::state::{RolePaths, find_client, id};
use crate::keycloak_admin::{KeycloakAdmin, segment};

pub(crate) fn apply(admin: &KeycloakAdmin, wanted: &Wanted, action: &Action) -> Result<()> {
    let client = || -> Result<Value> {
        find_client(admin, &wanted.client_id)?
            .ok_or_else(|| anyhow!("client {:?} is gone", wanted.client_id))
    };
    let provider_path = format!(
        "identity-provider/instances/{}",
        segment(&wanted.identity_provider)
    );
    match action {
        Action::WriteUserProfile(profile) => admin.put("users/profile", profile)?,
        Action::WriteEvents(events) => admin.put("events/config", events)?,
        Action::CreateProvider(provider) => admin.post("identity-provider/instances", provider)?,
        Action::WriteProvider(provider) => admin.put(&provider_path, provider)?,
        Action::CreateClient(client) => admin.post("clients", client)?,
        Action::WriteClient(client) => admin.put(&format!("clients/{}", id(client)?), client)?,
        Action::GrantRoles(names) => {
            let paths = RolePaths::of(admin, &client()?)?;
            admin.post(&paths.held, &roles(admin, &paths, names)?)?;
        }
        Action::TakeRoles(names) => {
            let paths = RolePaths::of(admin, &client()?)?;
            admin.delete(&paths.held, &roles(admin, &paths, names)?)?;
        }
        Action::MapRoles(names) => {
            let paths = RolePaths::of(admin, &client()?)?;
            admin.post(&paths.mapped, &roles(admin, &paths, names)?)?;
        }
    }
    Ok(())
}

/// The roles of these names, as Keycloak wants them given.
fn roles(admin: &KeycloakAdmin, paths: &RolePaths, names: &[String]) -> Result<Value> {
    let read = |name: &String| {
        admin
            .get(&format!("{}/{}", paths.roles, segment(name)))
            .with_context(|| format!("cannot read role {name:?} of realm-management"))
    };
    names.iter().map(read).collect()
}
