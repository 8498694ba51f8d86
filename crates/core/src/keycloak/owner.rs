//! The admin REST interface's view of one owner: the user, its links, its writes.
//!
//! A write to Keycloak replaces the whole user, so a writer sends all that it read. A link to
//! an identity provider is made by an atomic test-and-set; the lock of `manage::change` rests
//! on that.

use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ANSWER_BYTES_MAX, Call, Endpoint, UNRESERVED};
use crate::api_key::record::Attributes;

/// The largest owner, in bytes of JSON, that can be looked up: the answer with a larger one in
/// it would exceed the bytes that are read.
pub const OWNER_BYTES_MAX: usize = ANSWER_BYTES_MAX - 1024;

/// The name of a client's service account. Keycloak keeps names of users in lower case.
#[must_use]
pub fn service_account_name(client_id: &str) -> String {
    format!("service-account-{}", client_id.to_lowercase())
}

/// Reads the whole of a user.
#[must_use]
pub fn read_call(users_path: &str, owner_id: &str, bearer: &str) -> Call {
    Call::get(Endpoint::Owner, user_path(users_path, owner_id), bearer)
}

/// Replaces a user by this representation, which must be whole.
#[must_use]
pub fn write_call(users_path: &str, owner_id: &str, user: &Value, bearer: &str) -> Call {
    Call::with_json(
        Endpoint::Change,
        "PUT",
        user_path(users_path, owner_id),
        user,
        bearer,
    )
}

/// Reads a user's links to identity providers.
#[must_use]
pub fn links_call(users_path: &str, owner_id: &str, bearer: &str) -> Call {
    Call::get(Endpoint::Owner, links_path(users_path, owner_id), bearer)
}

/// Links a user to an identity provider: 204, or 409 where it is linked already.
/// Keycloak keeps id and name as they are sent (26.7.5); a link to a provider that is
/// not there is 204 as well, and is not among those that are read.
#[must_use]
pub fn link_call(users_path: &str, owner_id: &str, link: &Link, bearer: &str) -> Call {
    let path = link_path(users_path, owner_id, &link.provider);
    let body = json!({
        "identityProvider": link.provider, "userId": link.id, "userName": link.name,
    });
    Call::with_json(Endpoint::Change, "POST", path, &body, bearer)
}

/// Takes a user's link to an identity provider away: 204, or 404 where there is none.
#[must_use]
pub fn unlink_call(users_path: &str, owner_id: &str, provider: &str, bearer: &str) -> Call {
    Call {
        method: "DELETE",
        ..Call::get(
            Endpoint::Change,
            link_path(users_path, owner_id, provider),
            bearer,
        )
    }
}

/// Finds the users that are linked to a provider under this id.
#[must_use]
pub fn holders_call(users_path: &str, provider: &str, link_id: &str, bearer: &str) -> Call {
    let (provider, id) = (encoded(provider), encoded(link_id));
    Call::get(
        Endpoint::Owner,
        format!("{users_path}?idpAlias={provider}&idpUserId={id}"),
        bearer,
    )
}

fn user_path(users_path: &str, owner_id: &str) -> String {
    format!("{users_path}/{}", encoded(owner_id))
}

fn links_path(users_path: &str, owner_id: &str) -> String {
    format!("{}/federated-identity", user_path(users_path, owner_id))
}

fn link_path(users_path: &str, owner_id: &str, provider: &str) -> String {
    format!("{}/{}", links_path(users_path, owner_id), encoded(provider))
}

pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// A user's link to an identity provider.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Link {
    /// The provider's alias.
    #[serde(rename = "identityProvider")]
    pub provider: String,
    /// The user's id there.
    #[serde(rename = "userId", default)]
    pub id: String,
    /// The user's name there.
    #[serde(rename = "userName", default)]
    pub name: String,
}

/// Reasons an answer about an owner cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OwnerFault {
    /// There is no such user.
    #[error("the realm has no such user")]
    Absent,
    /// The token is not accepted (any more).
    #[error("Keycloak answered 401: the token is not accepted")]
    Unauthorized,
    /// The account lacks the role.
    #[error("Keycloak answered 403: the account lacks the role manage-users of realm-management")]
    Forbidden,
    /// It is there already.
    #[error("Keycloak answered 409: it is there already")]
    Conflict,
    /// Another status.
    #[error("Keycloak answered {0}")]
    Status(u16),
    /// Not the expected JSON.
    #[error("an answer that cannot be read")]
    Malformed,
}

/// Reads the status of a call without a useful body.
///
/// # Errors
/// [`OwnerFault`] for any status that is no success.
pub fn read_status(status: u16) -> Result<(), OwnerFault> {
    match status {
        200..=299 => Ok(()),
        401 => Err(OwnerFault::Unauthorized),
        403 => Err(OwnerFault::Forbidden),
        404 => Err(OwnerFault::Absent),
        409 => Err(OwnerFault::Conflict),
        _ => Err(OwnerFault::Status(status)),
    }
}

/// A user as it was read, to be changed and written whole.
#[derive(Clone, PartialEq)]
pub struct User {
    whole: Value,
    /// Its attributes.
    pub attributes: Attributes,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Attributes hold hashes, and the rest may be private to a person.
        f.debug_struct("User")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl User {
    /// Reads the answer to [`read_call`].
    ///
    /// # Errors
    /// [`OwnerFault`]; a user other than the one that was asked for is
    /// [`OwnerFault::Malformed`].
    pub fn read(status: u16, body: &[u8], owner_id: &str) -> Result<Self, OwnerFault> {
        read_status(status)?;
        let user: Value = serde_json::from_slice(body).map_err(|_| OwnerFault::Malformed)?;
        let user = Self::from_value(user).ok_or(OwnerFault::Malformed)?;
        if user.id() == owner_id {
            Ok(user)
        } else {
            Err(OwnerFault::Malformed)
        }
    }

    /// A user from its representation; none if it is not one.
    #[must_use]
    pub fn from_value(whole: Value) -> Option<Self> {
        let attributes = match whole.as_object()?.get("attributes") {
            None | Some(Value::Null) => Attributes::new(),
            Some(attributes) => Attributes::deserialize(attributes).ok()?,
        };
        Some(Self { whole, attributes })
    }

    /// Keycloak's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.text("id")
    }

    /// The user's name; `service-account-<client>` for a service account.
    #[must_use]
    pub fn username(&self) -> &str {
        self.text("username")
    }

    /// Whether it is enabled.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.whole.get("enabled") == Some(&Value::Bool(true))
    }

    /// Actions that the user must take before Keycloak grants it tokens.
    pub fn required_actions(&self) -> impl Iterator<Item = &str> {
        let actions = self.whole.get("requiredActions").and_then(Value::as_array);
        actions.into_iter().flatten().filter_map(Value::as_str)
    }

    /// Its size as JSON, in bytes, with the attributes as they are now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.to_value().to_string().len()
    }

    /// Whether it is too large for a gateway that looks it up.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.bytes() > OWNER_BYTES_MAX
    }

    /// The representation with the attributes as they are now.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut whole = self.whole.clone();
        if let Some(members) = whole.as_object_mut() {
            members.insert("attributes".to_owned(), json!(self.attributes));
        }
        whole
    }

    fn text(&self, name: &str) -> &str {
        let value = self.whole.get(name).and_then(Value::as_str);
        value.unwrap_or_default()
    }
}

/// Reads the answer to [`links_call`].
///
/// # Errors
/// [`OwnerFault`].
pub fn read_links(status: u16, body: &[u8]) -> Result<Vec<Link>, OwnerFault> {
    read_status(status)?;
    serde_json::from_slice(body).map_err(|_| OwnerFault::Malformed)
}

/// Reads the ids in the answer to [`holders_call`].
///
/// # Errors
/// [`OwnerFault`].
pub fn read_holders(status: u16, body: &[u8]) -> Result<Vec<String>, OwnerFault> {
    #[derive(Deserialize)]
    struct Holder {
        id: String,
    }
    read_status(status)?;
    let holders: Vec<Holder> = serde_json::from_slice(body).map_err(|_| OwnerFault::Malformed)?;
    Ok(holders.into_iter().map(|holder| holder.id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "/admin/realms/demo/users";

    #[test]
    fn ids_and_aliases_cannot_leave_their_place_in_a_path() {
        assert_eq!(
            unlink_call(USERS, "a/../b?", "x#y", "T").path,
            "/admin/realms/demo/users/a%2F..%2Fb%3F/federated-identity/x%23y"
        );
        assert_eq!(
            holders_call(USERS, "a&b", "c d", "T").path,
            "/admin/realms/demo/users?idpAlias=a%26b&idpUserId=c%20d"
        );
    }

    #[test]
    fn a_user_is_written_whole_with_its_attributes_changed_alone() {
        let body = json!({"id": "u1", "username": "alice", "email": "a@b", "enabled": true,
                          "firstName": "A", "attributes": {"other": ["1"]}});
        let mut user = User::read(200, body.to_string().as_bytes(), "u1").unwrap();
        user.attributes.insert("new".into(), vec!["2".into()]);
        let mut expected = body;
        expected["attributes"]["new"] = json!(["2"]);
        assert_eq!(user.to_value(), expected);
        let call = write_call(USERS, "u1", &user.to_value(), "T");
        assert_eq!((call.method, call.bearer.as_deref()), ("PUT", Some("T")));
        let sent: Value = serde_json::from_str(call.json.as_deref().unwrap()).unwrap();
        assert_eq!(sent, expected);
    }

    #[test]
    fn another_user_than_the_one_asked_for_is_not_believed() {
        let read = |body: &str| User::read(200, body.as_bytes(), "u1");
        assert_eq!(
            read(r#"{"id":"u2","username":"b"}"#),
            Err(OwnerFault::Malformed)
        );
        for body in ["[]", "null", "", r#"{"id":"u1","attributes":{"a":1}}"#] {
            assert_eq!(read(body), Err(OwnerFault::Malformed), "{body}");
        }
        assert!(
            read(r#"{"id":"u1"}"#)
                .is_ok_and(|user| user.attributes.is_empty() && !user.is_enabled())
        );
    }

    #[test]
    fn each_status_has_its_meaning() {
        for (status, fault) in [
            (401, OwnerFault::Unauthorized),
            (403, OwnerFault::Forbidden),
            (404, OwnerFault::Absent),
            (409, OwnerFault::Conflict),
            (500, OwnerFault::Status(500)),
            (302, OwnerFault::Status(302)),
        ] {
            assert_eq!(read_status(status), Err(fault));
            assert_eq!(read_links(status, b"[]"), Err(fault));
            assert_eq!(User::read(status, b"{}", "u1"), Err(fault));
        }
        assert_eq!(read_status(204), Ok(()));
    }

    #[test]
    fn links_without_a_name_are_links() {
        let links = read_links(200, br#"[{"identityProvider":"api-keys","userId":"u1"}]"#);
        assert_eq!(links.unwrap()[0].provider, "api-keys");
    }

    #[test]
    fn debug_output_of_a_user_holds_no_attribute() {
        let user = User::from_value(
            json!({"id": "u1", "email": "SECRET", "attributes": {"apiKeys": ["SECRET"]}}),
        );
        assert!(!format!("{user:?}").contains("SECRET"));
    }
}
