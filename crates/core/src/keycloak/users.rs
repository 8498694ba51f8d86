//! The admin REST interface's search for the owner of a key.

use serde::Deserialize;

use super::{Call, Endpoint, UNRESERVED};
use crate::api_key::record::{Attributes, INDEX_ATTRIBUTE, KeyRecord, RecordError, index_value};
use crate::config::Config;
use percent_encoding::utf8_percent_encode;

/// The role of client `realm-management` without which Keycloak answers every
/// search with 200 and `[]`, or 403.
pub const LOOKUP_ROLE: &str = "view-users";
/// The role without which Keycloak answers a search for events with 403.
pub const EVENTS_ROLE: &str = "view-events";
/// Roles that hold [`LOOKUP_ROLE`] within them.
const LOOKUP_ROLES: [&str; 3] = [LOOKUP_ROLE, "manage-users", "realm-admin"];

/// Whether a service token with these roles can look owners up.
#[must_use]
pub fn may_look_up(management_roles: &[String]) -> bool {
    management_roles
        .iter()
        .any(|role| LOOKUP_ROLES.contains(&role.as_str()))
}

/// The roles of client `realm-management` among these that are not needed to look owners up and
/// to read events. Roles that are part of [`LOOKUP_ROLE`] come along with it and are not named.
#[must_use]
pub fn needless_roles(management_roles: &[String]) -> Vec<&str> {
    const NEEDED: [&str; 4] = [LOOKUP_ROLE, "query-users", "query-groups", EVENTS_ROLE];
    let roles = management_roles.iter().map(String::as_str);
    roles.filter(|role| !NEEDED.contains(role)).collect()
}

/// The call that finds the owner of a key by the long index attribute. Two
/// answers are asked for, since more than one is a refusal.
#[must_use]
pub fn lookup_call(config: &Config, service_token: &str, id: &str) -> Call {
    let query = format!("{INDEX_ATTRIBUTE}:{}", index_value(id));
    let path = format!(
        "{}?briefRepresentation=false&max=2&q={}",
        config.realm.users_path,
        utf8_percent_encode(&query, UNRESERVED)
    );
    Call::get(Endpoint::Lookup, path, service_token)
}

/// An owner with the record of the key that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Keycloak's id of the user, which its tokens name as `sub`.
    pub id: String,
    /// The record.
    pub record: KeyRecord,
}

/// The result of the search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// One enabled owner holds this key.
    Owner(Box<Owner>),
    /// One owner holds it, and is disabled: the key must not be used, but it can be ended.
    Disabled(Box<Owner>),
    /// Keycloak says that no user holds it.
    Unknown,
    /// A user holds it, but it must not be used.
    Refused(LookupRefusal),
}

/// Reasons a key that was found is not used. The client learns none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookupRefusal {
    /// More than one user answers to the id.
    #[error("more than one user answers to this id")]
    SeveralOwners,
    /// The owner is disabled.
    #[error("owner disabled")]
    OwnerDisabled,
    /// The owner's record cannot be used.
    #[error("{0}")]
    Record(#[from] RecordError),
}

/// Reasons the search gave no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The service token is not accepted (any more).
    #[error("Keycloak answered 401: the service token is not accepted")]
    Unauthorized,
    /// The service account lacks the role.
    #[error(
        "Keycloak answered 403: the gateway's service account lacks the role \
         {LOOKUP_ROLE} of client realm-management; grant it, or run: apikeys setup"
    )]
    Forbidden,
    /// Another status.
    #[error("Keycloak answered {0}")]
    Status(u16),
    /// Not the JSON of a list of users.
    #[error("an answer that is no list of users")]
    Malformed,
}

#[derive(Deserialize)]
struct User {
    id: String,
    enabled: bool,
    #[serde(default)]
    attributes: Attributes,
}

/// Whether a text can be Keycloak's id of a user. Its own users have a UUID, users from
/// elsewhere `f:<provider>:<name>`, where the name may be an address. No id can break a path or
/// a line.
#[must_use]
pub fn is_user_id(text: &str) -> bool {
    let in_id = |b: u8| b.is_ascii_alphanumeric() || b"-:._@+=~".contains(&b);
    // Dots alone would lead to another path.
    (1..=255).contains(&text.len()) && text.bytes().all(in_id) && !matches!(text, "." | "..")
}

/// Reads an answer to [`lookup_call`].
///
/// # Errors [`LookupError`] when the answer says nothing about the key.
pub fn read_lookup_answer(status: u16, body: &[u8], id: &str) -> Result<Lookup, LookupError> {
    match status {
        200 => {}
        401 => return Err(LookupError::Unauthorized),
        403 => return Err(LookupError::Forbidden),
        _ => return Err(LookupError::Status(status)),
    }
    let users: Vec<User> = serde_json::from_slice(body).map_err(|_| LookupError::Malformed)?;
    let user = match <[User; 1]>::try_from(users) {
        Ok([user]) => user,
        Err(users) if users.is_empty() => return Ok(Lookup::Unknown),
        Err(_) => return Ok(Lookup::Refused(LookupRefusal::SeveralOwners)),
    };
    if !is_user_id(&user.id) {
        return Err(LookupError::Malformed);
    }
    let record = match KeyRecord::find(&user.attributes, id) {
        Ok(record) => record,
        Err(reason) => return Ok(Lookup::Refused(reason.into())),
    };
    let owner = Box::new(Owner {
        id: user.id,
        record,
    });
    Ok(match user.enabled {
        true => Lookup::Owner(owner),
        false => Lookup::Disabled(owner),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::test_support::{config, owner_json};

    const ID: &str = "abc123def456";

    fn read(users: &Value) -> Result<Lookup, LookupError> {
        read_lookup_answer(200, users.to_string().as_bytes(), ID)
    }

    #[test]
    fn asks_by_the_whole_index_value_for_at_most_two() {
        let call = lookup_call(&config(), "TOKEN", ID);
        assert_eq!(call.method, "GET");
        assert!(
            call.path
                .starts_with("/admin/realms/demo/users?briefRepresentation=false&max=2&q=")
        );
        assert!(
            call.path
                .ends_with(&format!("apiKeyIndex%3A{}", index_value(ID)))
        );
        assert_eq!(call.bearer.as_deref(), Some("TOKEN"));
    }

    #[test]
    fn believes_one_enabled_owner_that_holds_that_very_id() {
        let Ok(Lookup::Owner(owner)) = read(&json!([owner_json("user-1", ID)])) else {
            panic!("an owner")
        };
        assert_eq!(owner.id, "user-1");
    }

    #[test]
    fn an_empty_list_alone_means_unknown() {
        assert_eq!(read(&json!([])), Ok(Lookup::Unknown));
        // Such an answer comes from a Keycloak that ignores the query and gives its first user.
        let other = json!([owner_json("user-1", "zzz999zzz999")]);
        assert_eq!(
            read(&other),
            Ok(Lookup::Refused(RecordError::Absent.into()))
        );
    }

    #[test]
    fn refuses_two_owners_of_one_id() {
        let two = json!([
            owner_json("user-1", ID),
            owner_json("user-2", "zzz999zzz999")
        ]);
        assert_eq!(
            read(&two),
            Ok(Lookup::Refused(LookupRefusal::SeveralOwners))
        );
    }

    #[test]
    fn tells_a_disabled_owner_from_others() {
        let mut owner = owner_json("user-1", ID);
        owner["enabled"] = json!(false);
        let Ok(Lookup::Disabled(disabled)) = read(&json!([owner])) else {
            panic!("a disabled owner")
        };
        assert_eq!(disabled.id, "user-1");
        owner["enabled"] = Value::Null;
        assert_eq!(read(&json!([owner])), Err(LookupError::Malformed));
    }

    #[test]
    fn refuses_answers_that_are_no_list_of_users() {
        for body in [
            "",
            "<html>",
            "{}",
            "[{}]",
            "[1]",
            "null",
            "[{\"id\":\"a b\",\"enabled\":true}]",
        ] {
            let read = read_lookup_answer(200, body.as_bytes(), ID);
            assert_eq!(read, Err(LookupError::Malformed), "{body}");
        }
        for (status, fault) in [
            (401, LookupError::Unauthorized),
            (403, LookupError::Forbidden),
            (302, LookupError::Status(302)),
            (500, LookupError::Status(500)),
        ] {
            assert_eq!(read_lookup_answer(status, b"[]", ID), Err(fault));
        }
    }

    #[test]
    fn an_id_of_a_user_is_as_long_as_keycloaks_column_at_most() {
        for (length, believed) in [(0, false), (1, true), (255, true), (256, false)] {
            let read = read(&json!([owner_json(&"a".repeat(length), ID)]));
            assert_eq!(matches!(read, Ok(Lookup::Owner(_))), believed, "{length}");
        }
    }

    #[test]
    fn believes_the_ids_of_users_from_elsewhere_and_none_that_would_break_a_line() {
        for (id, believed) in [
            ("f:8f2a-1b:alice", true),
            ("alice.b", true),
            ("a:b", true),
            ("f:8f2a-1b:alice_b+c@example.com", true),
            ("f:8f2a-1b:YWJj_w==", true),
            ("a b", false),
            ("a%2fb", false),
            ("a?b", false),
            ("a#b", false),
            ("ä", false),
            ("a/b", false),
            ("a\nb", false),
            (".", false),
            ("..", false),
            ("...", true),
        ] {
            let read = read(&json!([owner_json(id, ID)]));
            assert_eq!(matches!(read, Ok(Lookup::Owner(_))), believed, "{id}");
        }
    }

    #[test]
    fn a_token_without_the_role_cannot_look_up() {
        assert!(may_look_up(&["query-users".into(), "view-users".into()]));
        assert!(may_look_up(&["realm-admin".into()]));
        assert!(!may_look_up(&["query-users".into(), "view-events".into()]));
    }
}
