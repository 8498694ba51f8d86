//! The owner of keys: found by what a person calls it, or by a key's id.

use anyhow::{Context, Result, bail, ensure};
use apikey_jwt_exchange::api_key::record::{INDEX_ATTRIBUTE, index_value};
use apikey_jwt_exchange::keycloak::owner::User;
use serde_json::{Value, json};

use crate::args::OwnerArgs;
use crate::keycloak_admin::{KeycloakAdmin, query, segment};

/// Finds the one owner that is meant.
pub(crate) fn find(admin: &KeycloakAdmin, meant: &OwnerArgs) -> Result<User> {
    let user = match (&meant.owner, &meant.service_account) {
        (Some(name), _) => find_user(admin, name)?,
        (None, Some(client_id)) => find_service_account(admin, client_id)?,
        (None, None) => bail!("give --owner or --service-account"),
    };
    // A search's answer need not be whole.
    read(admin, id_of(&user)?)
}

/// Finds the owner that is meant, or that is indexed under the key's id; none where
/// nobody is.
pub(crate) fn find_or_look_up(
    admin: &KeycloakAdmin,
    meant: &OwnerArgs,
    key_id: &str,
) -> Result<Option<User>> {
    if meant.is_given() {
        return find(admin, meant).map(Some);
    }
    let found = indexed(admin, key_id)?;
    match found.as_slice() {
        [] => Ok(None),
        [user] => read(admin, user.id()).map(Some),
        several => {
            let names: Vec<&str> = several.iter().map(User::username).collect();
            bail!(
                "{} users are indexed under {key_id}, and no gateway takes a key of two owners: \
                 {}. Say which one is meant by --owner, or --service-account",
                several.len(),
                names.join(", ")
            )
        }
    }
}

/// The users whose index names this key's id; the gateway looks them up in this way.
pub(crate) fn indexed(admin: &KeycloakAdmin, key_id: &str) -> Result<Vec<User>> {
    let index = index_value(key_id);
    let found = admin.list(&format!(
        "users?briefRepresentation=false&max=10&q={}",
        query(&format!("{INDEX_ATTRIBUTE}:{index}"))
    ))?;
    let mut users = found
        .into_iter()
        .map(understood)
        .collect::<Result<Vec<User>>>()?;
    // Older releases have answered an odd search with users that do not match.
    users.retain(|user| {
        let indexed = user.attributes.get(INDEX_ATTRIBUTE).into_iter().flatten();
        indexed.into_iter().any(|value| *value == index)
    });
    Ok(users)
}

/// Reads the whole of a user.
pub(crate) fn read(admin: &KeycloakAdmin, id: &str) -> Result<User> {
    understood(admin.get(&format!("users/{}", segment(id)))?)
}

/// A user as Keycloak represents it.
pub(crate) fn understood(user: Value) -> Result<User> {
    User::from_value(user).context("Keycloak gave a user that is none")
}

/// An owner as it is told.
pub(crate) fn shown(user: &User) -> Value {
    json!({ "id": user.id(), "username": user.username() })
}

fn find_user(admin: &KeycloakAdmin, name: &str) -> Result<Value> {
    let realm = admin.realm();
    if is_uuid(name) {
        return admin
            .find(&format!("users/{}", segment(name)))?
            .with_context(|| format!("realm {realm:?} has no user with the id {name}"));
    }
    let mut found = admin.list(&format!("users?exact=true&username={}", query(name)))?;
    if name.contains('@') {
        let by_email = admin.list(&format!("users?exact=true&email={}", query(name)))?;
        for user in by_email {
            if !found.iter().any(|other| other.get("id") == user.get("id")) {
                found.push(user);
            }
        }
    }
    // Older releases have answered an odd search with users that do not match.
    found.retain(|user| {
        ["username", "email"].iter().any(|field| {
            let value = user.get(*field).and_then(Value::as_str).unwrap_or_default();
            value.to_lowercase() == name.to_lowercase()
        })
    });
    match found.as_slice() {
        [user] => Ok(user.clone()),
        [] => bail!(
            "realm {realm:?} has no user {name:?}; for a client's service account give \
             --service-account CLIENT_ID"
        ),
        several => {
            let ids: Vec<&str> = several.iter().filter_map(|user| id_of(user).ok()).collect();
            bail!(
                "{} users of realm {realm:?} go by {name:?}; give the id of the one that is meant: \
                 --owner {}",
                several.len(),
                ids.join(", or --owner ")
            )
        }
    }
}

fn find_service_account(admin: &KeycloakAdmin, client_id: &str) -> Result<Value> {
    let clients = admin.list(&format!("clients?clientId={}", query(client_id)))?;
    let client = clients
        .iter()
        .find(|client| client.get("clientId").and_then(Value::as_str) == Some(client_id))
        .with_context(|| format!("realm {:?} has no client {client_id:?}", admin.realm()))?;
    ensure!(
        client.get("serviceAccountsEnabled") == Some(&Value::Bool(true)),
        "client {client_id:?} has no service account: turn on \"Service account roles\" in its \
         settings"
    );
    let id = segment(id_of(client)?);
    Ok(admin.get(&format!("clients/{id}/service-account-user"))?)
}

fn id_of(object: &Value) -> Result<&str> {
    let id = object.get("id").and_then(Value::as_str);
    id.context("Keycloak gave an object without an id")
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_from_a_name() {
        assert!(is_uuid("174aa39f-d2c5-4654-8727-b5119384708d"));
        assert!(!is_uuid("alice"));
        assert!(!is_uuid("174aa39f-d2c5-4654-8727_b5119384708d"));
    }
}
