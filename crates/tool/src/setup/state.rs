//! The present state of a realm, as far as setup needs it.

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::MANAGEMENT_CLIENT;
use super::plan::Wanted;
use crate::admin_error::AdminError;
use crate::keycloak_admin::{KeycloakAdmin, query, segment};

/// A realm's objects, each one whole as Keycloak gives it.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// The server's description of itself; `None` if the administrator may not read it.
    pub(crate) server: Option<Value>,
    pub(crate) user_profile: Value,
    pub(crate) events: Value,
    pub(crate) identity_providers: Vec<Value>,
    /// The wanted clients that the realm has.
    pub(crate) clients: Vec<ClientState>,
}

/// A client, and the roles of its service account.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientState {
    pub(crate) representation: Value,
    /// Roles of the management client that its service account holds.
    pub(crate) service_roles: Vec<String>,
    /// Roles of the management client that its tokens may carry if its scope is not full.
    pub(crate) mapped_roles: Vec<String>,
}

impl State {
    pub(crate) fn read(admin: &KeycloakAdmin, wanted: &Wanted) -> Result<Self> {
        admin.find("")?.ok_or_else(|| {
            anyhow!(
                "there is no realm {:?}: setup prepares a realm, it does not make one",
                admin.realm()
            )
        })?;
        let mut clients = Vec::new();
        for client in wanted.clients() {
            if let Some(found) = find_client(admin, &client.client_id)? {
                clients.push(ClientState::read(admin, found)?);
            }
        }
        Ok(Self {
            server: server_info(admin)?,
            user_profile: admin.get("users/profile")?,
            events: admin.get("events/config")?,
            identity_providers: admin.list("identity-provider/instances?max=10000")?,
            clients,
        })
    }

    pub(crate) fn identity_provider(&self, alias: &str) -> Option<&Value> {
        self.identity_providers
            .iter()
            .find(|provider| text(provider, "alias") == alias)
    }

    pub(crate) fn client(&self, client_id: &str) -> Option<&Value> {
        self.client_state(client_id)
            .map(|client| &client.representation)
    }

    pub(crate) fn service_roles(&self, client_id: &str) -> &[String] {
        self.client_state(client_id)
            .map_or(&[], |client| &client.service_roles)
    }

    pub(crate) fn mapped_roles(&self, client_id: &str) -> &[String] {
        self.client_state(client_id)
            .map_or(&[], |client| &client.mapped_roles)
    }

    fn client_state(&self, client_id: &str) -> Option<&ClientState> {
        let mut clients = self.clients.iter();
        clients.find(|client| text(&client.representation, "clientId") == client_id)
    }
}

impl ClientState {
    fn read(admin: &KeycloakAdmin, client: Value) -> Result<Self> {
        let (service_roles, mapped_roles) = client_roles(admin, &client)?;
        Ok(Self {
            representation: client,
            service_roles,
            mapped_roles,
        })
    }
}

/// Finds a client of the realm by its client id.
pub(crate) fn find_client(
    admin: &KeycloakAdmin,
    client_id: &str,
) -> Result<Option<Value>, AdminError> {
    let found = admin.list(&format!("clients?clientId={}", query(client_id)))?;
    Ok(found
        .into_iter()
        .find(|client| text(client, "clientId") == client_id))
}

/// The paths of the roles of a client's service account.
pub(crate) struct RolePaths {
    /// All roles.
    pub(crate) roles: String,
    /// The roles that the service account holds.
    pub(crate) held: String,
    /// The roles that the client's tokens may carry.
    pub(crate) mapped: String,
}

impl RolePaths {
    /// Gives the paths for a client with a service account.
    pub(crate) fn of(admin: &KeycloakAdmin, client: &Value) -> Result<Self> {
        let management = find_client(admin, MANAGEMENT_CLIENT)?
            .ok_or_else(|| anyhow!("realm {:?} has no client realm-management", admin.realm()))?;
        let (client, management) = (id(client)?, id(&management)?);
        let account = admin.get(&format!("clients/{client}/service-account-user"))?;
        Ok(Self {
            roles: format!("clients/{management}/roles"),
            held: format!("users/{}/role-mappings/clients/{management}", id(&account)?),
            mapped: format!("clients/{client}/scope-mappings/clients/{management}"),
        })
    }
}

fn client_roles(admin: &KeycloakAdmin, client: &Value) -> Result<(Vec<String>, Vec<String>)> {
    if client.get("serviceAccountsEnabled") != Some(&Value::Bool(true)) {
        return Ok(Default::default());
    }
    let paths = RolePaths::of(admin, client)?;
    let names = |path: &str| -> Result<Vec<String>> {
        let roles = admin.list(path)?;
        Ok(roles
            .iter()
            .map(|role| text(role, "name").to_owned())
            .collect())
    };
    Ok((names(&paths.held)?, names(&paths.mapped)?))
}

/// Reads the server's description. An administrator of one realm alone may not: no fault.
fn server_info(admin: &KeycloakAdmin) -> Result<Option<Value>, AdminError> {
    match admin.server_info() {
        Ok(info) => Ok(Some(info)),
        Err(AdminError::Refused {
            status: 401 | 403 | 404,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An object's id, as a segment of a path.
pub(crate) fn id(object: &Value) -> Result<String> {
    let id = object.get("id").and_then(Value::as_str);
    id.map(segment)
        .context("Keycloak gave an object without an id")
}

/// An object's text under this name; empty if it has none.
pub(crate) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}
