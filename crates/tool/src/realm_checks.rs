//! Checks of a realm before a key is written to it.

use anyhow::{Context, Result, bail, ensure};
use apikeys_core::keycloak::realm_checks::AttributePolicy;
use serde_json::Value;

use crate::keycloak_admin::{KeycloakAdmin, query, segment};
use crate::setup::PROVIDER_ID;

/// Refuses a realm without setup. It would accept the writes, but the key would not work, or
/// users could make keys themselves.
pub(crate) fn check_realm(admin: &KeycloakAdmin, alias: &str) -> Result<()> {
    let provider = admin.find(&format!("identity-provider/instances/{}", segment(alias)))?;
    if provider.is_none() && admin.find("")?.is_none() {
        bail!("there is no realm {:?}: check --realm", admin.realm());
    }
    let kind = provider
        .as_ref()
        .and_then(|provider| provider.get("providerId"));
    ensure!(
        kind.and_then(Value::as_str) == Some(PROVIDER_ID),
        "realm {:?} has no identity provider {alias:?} for API keys: run apikeys setup, or give \
         --identity-provider",
        admin.realm()
    );
    let profile = admin.get("users/profile")?;
    let policy = profile
        .get("unmanagedAttributePolicy")
        .and_then(Value::as_str);
    ensure!(
        AttributePolicy::of(policy) == Ok(AttributePolicy::Administrators),
        "the user profile of realm {:?} has unmanagedAttributePolicy {}, where keys need \
         ADMIN_EDIT: run apikeys setup",
        admin.realm(),
        policy.unwrap_or("not set")
    );
    Ok(())
}

/// Refuses a scope that the key's tokens cannot have: the key would be refused at each use.
pub(crate) fn check_scopes(
    admin: &KeycloakAdmin,
    client_id: &str,
    scopes: Option<&str>,
) -> Result<()> {
    let Some(scopes) = scopes else {
        return Ok(());
    };
    let known = scopes_of_client(admin, client_id)?;
    let unknown: Vec<&str> = scopes
        .split(' ')
        .filter(|scope| !known.iter().any(|known| known == scope))
        .collect();
    ensure!(
        unknown.is_empty(),
        "client {client_id:?} has no scope {}: make it a client scope of the realm and add it to \
         the client as optional, or choose among {}",
        unknown.join(", "),
        known.join(", ")
    );
    Ok(())
}

/// The scopes that the gateway's client may ask for.
pub(crate) fn scopes_of_client(admin: &KeycloakAdmin, client_id: &str) -> Result<Vec<String>> {
    let clients = admin.list(&format!("clients?clientId={}", query(client_id)))?;
    let client = clients
        .iter()
        .find(|client| client.get("clientId").and_then(Value::as_str) == Some(client_id))
        .with_context(|| {
            format!(
                "realm {:?} has no client {client_id:?}: run apikeys setup, or give --client-id",
                admin.realm()
            )
        })?;
    let scopes = allowed_scopes(client);
    Ok(scopes.into_iter().map(str::to_owned).collect())
}

fn allowed_scopes(client: &Value) -> Vec<&str> {
    let of = |name: &str| {
        client
            .get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let mut scopes: Vec<&str> = of("defaultClientScopes")
        .chain(of("optionalClientScopes"))
        .filter_map(Value::as_str)
        .chain(["openid"])
        .collect();
    scopes.sort_unstable();
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_client_may_ask_for_its_scopes_and_openid() {
        let client = json!({"defaultClientScopes": ["basic"], "optionalClientScopes": ["orders"]});
        assert_eq!(allowed_scopes(&client), ["basic", "openid", "orders"]);
    }
}
