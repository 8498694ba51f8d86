//! The owner of keys: found, linked to the gateway's identity provider, and
//! changed in one place.

use anyhow::{Context, Result, bail, ensure};
use apikey_jwt_exchange::api_key::record::Attributes;
use serde_json::{Value, json};

use crate::args::OwnerArgs;
use crate::keycloak_admin::{KeycloakAdmin, query, segment};

/// A user or a client's service-account user, who can own keys.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) id: String,
    pub(crate) username: String,
    pub(crate) enabled: bool,
    /// What Keycloak waits for the user to do; until then it grants no tokens.
    pub(crate) required_actions: Vec<String>,
    pub(crate) attributes: Attributes,
}

impl Owner {
    /// Finds the one owner that is meant.
    pub(crate) fn find(admin: &KeycloakAdmin, meant: &OwnerArgs) -> Result<Self> {
        let user = match (&meant.owner, &meant.service_account) {
            (Some(name), _) => find_user(admin, name)?,
            (None, Some(client_id)) => find_service_account(admin, client_id)?,
            (None, None) => bail!("give --owner or --service-account"),
        };
        // A search's answer need not be whole.
        Self::read(&read_user(admin, id_of(&user)?)?)
    }

    fn read(user: &Value) -> Result<Self> {
        let username = user.get("username").and_then(Value::as_str);
        let actions = user.get("requiredActions").and_then(Value::as_array);
        Ok(Self {
            id: id_of(user)?.to_owned(),
            username: username.unwrap_or_default().to_owned(),
            enabled: user.get("enabled") == Some(&Value::Bool(true)),
            required_actions: actions
                .into_iter()
                .flatten()
                .filter_map(|action| action.as_str().map(str::to_owned))
                .collect(),
            attributes: attributes_of(user)?,
        })
    }
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

fn read_user(admin: &KeycloakAdmin, id: &str) -> Result<Value> {
    Ok(admin.get(&format!("users/{}", segment(id)))?)
}

/// Links the owner to the gateway's identity provider, under the owner's own id;
/// a link that is there already is kept.
///
/// The provider must exist: Keycloak takes a link to one that does not.
pub(crate) fn ensure_link(admin: &KeycloakAdmin, owner: &Owner, alias: &str) -> Result<()> {
    let links = format!("users/{}/federated-identity", segment(&owner.id));
    if !is_linked(admin, &links, owner, alias)? {
        let link = json!({
            "identityProvider": alias, "userId": owner.id, "userName": owner.username,
        });
        let posted = admin.post(&format!("{links}/{}", segment(alias)), &link);
        // Refused as well when another tool was quicker: then the link is there.
        if !is_linked(admin, &links, owner, alias)? {
            posted?;
            bail!(
                "user {:?} was linked to {alias:?}, and is not",
                owner.username
            );
        }
    }
    let holders = admin.list(&format!(
        "users?idpAlias={}&idpUserId={}",
        query(alias),
        query(&owner.id)
    ))?;
    let others: Vec<&str> = holders
        .iter()
        .filter_map(|user| id_of(user).ok())
        .filter(|id| *id != owner.id)
        .collect();
    ensure!(
        others.is_empty(),
        "the user {} is linked to {alias:?} under the id of {:?}: keys of the one could become \
         tokens of the other. Delete that link (admin console, user, Identity provider links) and \
         find out who made it",
        others.join(" and the user "),
        owner.username
    );
    Ok(())
}

fn is_linked(admin: &KeycloakAdmin, links: &str, owner: &Owner, alias: &str) -> Result<bool> {
    let existing = admin.list(links)?;
    let link = existing
        .iter()
        .find(|link| link.get("identityProvider").and_then(Value::as_str) == Some(alias));
    match link.map(|link| link.get("userId").and_then(Value::as_str)) {
        None => Ok(false),
        Some(Some(id)) if id == owner.id => Ok(true),
        Some(_) => bail!(
            "user {:?} is linked to {alias:?} under another id than its own: delete that link \
             (admin console, user, Identity provider links) and find out who made it",
            owner.username
        ),
    }
}

/// Changes an owner's attributes, and nothing else of the owner: the one place
/// that writes users, so that a lock has one place to be.
///
/// Keycloak replaces the user by what it is sent, so the whole of it is read,
/// changed and sent, and read again: another program may have written between.
pub(crate) fn change_attributes(
    admin: &KeycloakAdmin,
    owner_id: &str,
    change: impl FnOnce(&mut Attributes) -> Result<()>,
) -> Result<()> {
    let before = read_user(admin, owner_id)?;
    let mut attributes = attributes_of(&before)?;
    change(&mut attributes)?;
    let mut user = before.clone();
    let members = user
        .as_object_mut()
        .context("Keycloak gave a user that is no object")?;
    members.insert("attributes".to_owned(), json!(attributes));
    admin.put(&format!("users/{}", segment(owner_id)), &user)?;
    let after = read_user(admin, owner_id)?;
    if let Some(field) = difference(&before, &attributes, &after)? {
        bail!(
            "user {owner_id} was written, and is not as it was written ({field}): another program \
             changed it at the same time, or this realm's user profile changes what is written. \
             Look at the user before you go on"
        );
    }
    Ok(())
}

/// The first field in which the user read back is not as it should be. An
/// attribute that is new beside ours was written by somebody else, rightly.
fn difference(before: &Value, expected: &Attributes, after: &Value) -> Result<Option<String>> {
    for field in [
        "id",
        "username",
        "email",
        "firstName",
        "lastName",
        "enabled",
        "emailVerified",
    ] {
        if before.get(field) != after.get(field) {
            return Ok(Some(field.to_owned()));
        }
    }
    let found = attributes_of(after)?;
    let sorted = |values: Option<&Vec<String>>| {
        let mut values = values.cloned().unwrap_or_default();
        values.sort();
        values
    };
    Ok(expected
        .keys()
        .find(|name| sorted(expected.get(*name)) != sorted(found.get(*name)))
        .cloned())
}

fn attributes_of(user: &Value) -> Result<Attributes> {
    match user.get("attributes") {
        None | Some(Value::Null) => Ok(Attributes::new()),
        Some(attributes) => serde_json::from_value(attributes.clone())
            .context("the user's attributes are not lists of texts"),
    }
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

    fn user(attributes: &Value) -> Value {
        json!({"id": "1", "username": "alice", "email": "a@b", "enabled": true,
               "attributes": attributes})
    }

    #[test]
    fn sees_what_a_write_lost_and_bears_what_others_added() {
        let before = user(&json!({"a": ["1"]}));
        let expected: Attributes = [("a".to_owned(), vec!["1".to_owned(), "2".to_owned()])].into();
        let check = |after: &Value| difference(&before, &expected, after).unwrap();
        assert_eq!(check(&user(&json!({"a": ["2", "1"]}))), None);
        assert_eq!(check(&user(&json!({"a": ["2", "1"], "b": ["x"]}))), None);
        assert_eq!(check(&user(&json!({"a": ["1"]}))).as_deref(), Some("a"));
        assert_eq!(
            check(&user(&json!({"a": ["1", "2", "2"]}))).as_deref(),
            Some("a")
        );
        assert_eq!(check(&user(&json!({}))).as_deref(), Some("a"));
        let mut renamed = user(&json!({"a": ["1", "2"]}));
        renamed["email"] = json!("other");
        assert_eq!(check(&renamed).as_deref(), Some("email"));
    }

    #[test]
    fn an_id_is_told_from_a_name() {
        assert!(is_uuid("174aa39f-d2c5-4654-8727-b5119384708d"));
        assert!(!is_uuid("alice"));
        assert!(!is_uuid("174aa39f-d2c5-4654-8727_b5119384708d"));
    }

    #[test]
    fn a_user_without_attributes_has_none() {
        assert!(attributes_of(&json!({"id": "1"})).unwrap().is_empty());
        assert!(attributes_of(&json!({"attributes": {"a": 1}})).is_err());
    }
}
