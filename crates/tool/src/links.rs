//! A user's links to identity providers.

use apikeys_core::keycloak::owner::Link;
use serde::Deserialize;

use crate::admin_error::AdminError;
use crate::keycloak_admin::{KeycloakAdmin, segment};

/// Reads a user's links.
pub(crate) fn of(admin: &KeycloakAdmin, user_id: &str) -> Result<Vec<Link>, AdminError> {
    let path = format!("users/{}/federated-identity", segment(user_id));
    // A user deleted in the meantime has none.
    let Some(links) = admin.find(&path)? else {
        return Ok(Vec::new());
    };
    Vec::deserialize(links).map_err(|_| AdminError::NotUnderstood {
        method: "GET",
        path,
        what: "no links",
    })
}
