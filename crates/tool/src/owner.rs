//! Finds the owner of keys by name, e-mail address, client or Keycloak id, or by a key's id.

use anyhow::{Context, Result, bail, ensure};
use apikeys_core::api_key::record::{INDEX_ATTRIBUTE, index_value};
use apikeys_core::keycloak::owner::User;
use apikeys_core::keycloak::users::is_user_id;
use serde_json::{Value, json};

use crate::args::OwnerArgs;
use crate::keycloak_admin::{KeycloakAdmin, query, segment};

/// Finds the owner that the arguments name.
pub(crate) fn find(admin: &KeycloakAdmin, meant: &OwnerArgs) -> Result<User> {
    let user = match (&meant.owner, &meant.service_account) {
        (Some(name), _) => find_user(admin, name)?,
        (None, Some(client_id)) => find_service_account(admin, client_id)?,
        (None, None) => bail!("give --owner or --service-account"),
    };
    // A search may answer with a part of the user.
    read(admin, id_of(&user)?)
}

/// Finds the owner that the arguments name, or else the one indexed under the key's id;
/// `None` if no user is.
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

/// The users that the index names for this key's id. The gateway looks them up in the same way.
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
    // Older releases answer an odd search with users that do not match.
    users.retain(|user| {
        let indexed = user.attributes.get(INDEX_ATTRIBUTE).into_iter().flatten();
        indexed.into_iter().any(|value| *value == index)
    });
    Ok(users)
}

/// Reads a user with all its fields.
pub(crate) fn read(admin: &KeycloakAdmin, id: &str) -> Result<User> {
    understood(admin.get(&format!("users/{}", segment(id)))?)
}

/// Parses Keycloak's representation of a user.
pub(crate) fn understood(user: Value) -> Result<User> {
    User::from_value(user).context("Keycloak gave a user that is none")
}

/// The owner in a result.
pub(crate) fn shown(user: &User) -> Value {
    json!({ "id": user.id(), "username": user.username() })
}

/// The owner as an argument of a command: its name, or its id if a shell could misread the
/// name.
pub(crate) fn as_argument(owner: &User) -> &str {
    match owner.username() {
        name if is_plain(name) => name,
        _ => owner.id(),
    }
}

/// Says how to end the owner's record of this id, which may be any text.
pub(crate) fn how_to_end(id: &str, owner: &User) -> String {
    match is_plain(id) && id.is_ascii() {
        true => format!("apikeys revoke {id} --owner {}", as_argument(owner)),
        false => "take this value out of apiKeys (admin console, user, Attributes)".to_owned(),
    }
}

/// Whether a text is one word to a shell, and no option.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "-_.@+".contains(c);
    !text.is_empty() && text.chars().all(plain) && !text.starts_with('-')
}

/// Paths of Keycloak below `users/` that name no user.
const NO_USERS: [&str; 2] = ["count", "profile"];

/// Looks for a name, an e-mail address and an id alike: a name may have the form of an id.
fn find_user(admin: &KeycloakAdmin, meant: &str) -> Result<Value> {
    let mut found = admin.list(&format!("users?exact=true&username={}", query(meant)))?;
    if meant.contains('@') {
        found.extend(admin.list(&format!("users?exact=true&email={}", query(meant)))?);
    }
    // Older releases answer an odd search with users that do not match.
    found.retain(|user| {
        ["username", "email"].iter().any(|field| {
            let value = user.get(*field).and_then(Value::as_str).unwrap_or_default();
            value.to_lowercase() == meant.to_lowercase()
        })
    });
    if is_user_id(meant) && !NO_USERS.contains(&meant) {
        found.extend(admin.find(&format!("users/{}", segment(meant)))?);
    }
    let mut users: Vec<Value> = Vec::new();
    for user in found {
        if !users.iter().any(|other| other.get("id") == user.get("id")) {
            users.push(user);
        }
    }
    match users.as_slice() {
        [user] => Ok(user.clone()),
        [] => bail!(
            "realm {:?} has no user {meant:?}; for a client's service account give \
             --service-account CLIENT_ID",
            admin.realm()
        ),
        several => {
            let ways = several.iter().map(|user| way_to(user, meant));
            bail!(
                "{} users of realm {:?} go by {meant:?}; give the one that is meant: {}",
                several.len(),
                admin.realm(),
                ways.collect::<Result<Vec<String>>>()?.join("; ")
            )
        }
    }
}

/// The argument that names this user alone, out of several that match.
fn way_to(user: &Value, meant: &str) -> Result<String> {
    let id = id_of(user)?;
    let username = user.get("username").and_then(Value::as_str);
    let username = username.unwrap_or_default();
    Ok(match id == meant {
        true => format!("it is the id of {username:?} (--owner {username:?})"),
        false => format!("{username:?} is called so (--owner {id})"),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keycloak_admin::Credentials;
    use crate::test_server::TestServer;

    const ID: &str = "174aa39f-d2c5-4654-8727-b5119384708d";
    const OTHER_ID: &str = "9af1a39f-d2c5-4654-8727-b51193847000";

    /// A Keycloak with these users: id, name, e-mail address.
    fn find_among(users: &'static [(&str, &str, &str)], meant: &str) -> Result<Value> {
        let shown = |(id, name, email): &(&str, &str, &str)| json!({ "id": id, "username": name, "email": email });
        let server = TestServer::start(move |request| {
            let path = request.split(' ').nth(1).unwrap_or_default();
            let of = |index: fn(&(&str, &str, &str)) -> String, value: &str| {
                let value = value
                    .replace("%2D", "-")
                    .replace("%2E", ".")
                    .replace("%40", "@");
                let found = users.iter().filter(|user| index(user) == value);
                (200, Value::Array(found.map(shown).collect()).to_string())
            };
            let users_path = "/admin/realms/demo/users";
            if path.ends_with("/token") {
                (
                    200,
                    json!({ "access_token": "t", "expires_in": 60 }).to_string(),
                )
            } else if let Some((_, name)) = path.split_once("?exact=true&username=") {
                of(|user| user.1.to_owned(), name)
            } else if let Some((_, email)) = path.split_once("?exact=true&email=") {
                of(|user| user.2.to_owned(), email)
            } else if path.strip_prefix(users_path) == Some("/count") {
                (200, "7".to_owned())
            } else {
                let id = path.rsplit('/').next().unwrap_or_default();
                match users.iter().find(|user| user.0 == id) {
                    Some(user) => (200, shown(user).to_string()),
                    None => (404, json!({ "error": "User not found" }).to_string()),
                }
            }
        });
        let credentials = Credentials {
            realm: "master".into(),
            client_id: "admin-cli".into(),
            username: "admin".into(),
            password: "p".to_owned().into(),
        };
        let admin = KeycloakAdmin::sign_in(&server.url(), "demo", credentials, None)?;
        find_user(&admin, meant)
    }

    #[test]
    fn an_owner_is_found_by_name_address_and_id_whatever_their_forms() {
        for (users, meant, id) in [
            (&[("u-1", "alice", "a@b.de")][..], "alice", "u-1"),
            (&[("u-1", "alice", "a@b.de")], "a@b.de", "u-1"),
            (&[("u-1", "alice", "a@b.de")], "u-1", "u-1"),
            (&[(ID, "alice", "a@b.de")], ID, ID),
            // A name that has the form of an id.
            (&[(OTHER_ID, ID, "")], ID, OTHER_ID),
            (&[(ID, ID, "")], ID, ID),
            (&[("u-1", "count", "")], "count", "u-1"),
        ] {
            let found = find_among(users, meant).unwrap();
            assert_eq!(id_of(&found).unwrap(), id, "{meant}");
        }
        let error = find_among(&[], ID).unwrap_err().to_string();
        assert!(error.contains("has no user"), "{error}");
    }

    #[test]
    fn two_that_are_meant_are_told_with_a_way_to_each() {
        let error = find_among(&[(ID, "alice", ""), (OTHER_ID, ID, "")], ID).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("2 users"), "{told}");
        assert!(told.contains("--owner \"alice\""), "{told}");
        assert!(told.contains(&format!("--owner {OTHER_ID}")), "{told}");
        let error = find_among(&[(ID, "a@b.de", ""), (OTHER_ID, "bob", "a@b.de")], "a@b.de");
        let told = error.unwrap_err().to_string();
        assert!(told.contains(ID) && told.contains(OTHER_ID), "{told}");
    }
}
