//! The admin REST interface's events: the changes that administrators and tools made.
//!
//! Each event names the changed thing by a path below the realm. An event of one user concerns
//! that user. Most others may concern anybody's roles or tokens, and an event not known to be
//! harmless counts as such. Events need `adminEventsEnabled` in the realm: without it the list
//! is empty and not an error, so [`config_call`] asks.

use serde::Deserialize;

use super::users::{EVENTS_ROLE, is_user_id};
use super::{Call, Endpoint};
use crate::clock::UnixMillis;
use crate::config::Config;

/// Roles with which Keycloak shows events.
const EVENTS_ROLES: [&str; 3] = [EVENTS_ROLE, "manage-events", "realm-admin"];

/// Whether a service token with these roles can read the realm's events.
#[must_use]
pub fn may_read_events(management_roles: &[String]) -> bool {
    let mut roles = management_roles.iter();
    roles.any(|role| EVENTS_ROLES.contains(&role.as_str()))
}

/// Links of owners to this identity provider are locks of our own tools and change nothing
/// about the owner.
const LOCK_PROVIDER: &str = "api-keys-lock";

/// No event is dated after this, the end of the year 9999.
const NEVER: UnixMillis = UnixMillis(253_402_300_799_999);

/// The call for a page of events, the newest first: those after `since`, or any.
#[must_use]
pub fn events_call(
    config: &Config,
    service_token: &str,
    since: Option<UnixMillis>,
    (first, max): (usize, usize),
) -> Call {
    let since = since.map_or_else(String::new, |since| format!("&dateFrom={}", since.0));
    let path = &config.realm.admin_events_path;
    let path = format!("{path}?first={first}&max={max}{since}");
    Call::get(Endpoint::Events, path, service_token)
}

/// The call for an empty page of events: the smallest way to see whether Keycloak shows them.
#[must_use]
pub fn no_events_call(config: &Config, service_token: &str) -> Call {
    events_call(config, service_token, Some(NEVER), (0, 1))
}

/// The call for the realm's event settings: does it keep events?
#[must_use]
pub fn config_call(config: &Config, service_token: &str) -> Call {
    let path = format!("{}/config", config.realm.events_path);
    Call::get(Endpoint::Events, path, service_token)
}

/// The users that a change concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concerns {
    /// Nobody with a token in a cache.
    Nobody,
    /// The user of this id.
    Owner(String),
    /// Any of them.
    Everybody,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminEvent {
    /// Its identity among events.
    pub id: String,
    /// The instant of the change, by Keycloak's clock.
    pub time: UnixMillis,
    /// The users that it concerns.
    pub concerns: Concerns,
}

/// Reasons an answer about events cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventsError {
    /// The service token is not accepted (any more).
    #[error("Keycloak answered 401: the service token is not accepted")]
    Unauthorized,
    /// The service account lacks the role.
    #[error(
        "Keycloak answered 403: the gateway's service account lacks the role \
         {EVENTS_ROLE} of client realm-management; grant it, or run: apikeys setup"
    )]
    Forbidden,
    /// Another status.
    #[error("Keycloak answered {0}")]
    Status(u16),
    /// Not the expected JSON.
    #[error("an answer that is no list of events")]
    Malformed,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEvent {
    id: Option<String>,
    time: u64,
    #[serde(default)]
    operation_type: String,
    /// Absent for the realm itself.
    resource_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventsConfig {
    admin_events_enabled: bool,
}

/// Reads an answer to [`events_call`].
///
/// # Errors
/// [`EventsError`].
pub fn read_events_answer(status: u16, body: &[u8]) -> Result<Vec<AdminEvent>, EventsError> {
    let events: Vec<RawEvent> = read(status, body)?;
    Ok(events.into_iter().map(AdminEvent::from).collect())
}

/// Reads an answer to [`config_call`]: whether the realm keeps admin events.
///
/// # Errors
/// [`EventsError`].
pub fn read_config_answer(status: u16, body: &[u8]) -> Result<bool, EventsError> {
    let config: EventsConfig = read(status, body)?;
    Ok(config.admin_events_enabled)
}

fn read<'a, T: Deserialize<'a>>(status: u16, body: &'a [u8]) -> Result<T, EventsError> {
    match status {
        200 => serde_json::from_slice(body).map_err(|_| EventsError::Malformed),
        401 => Err(EventsError::Unauthorized),
        403 => Err(EventsError::Forbidden),
        _ => Err(EventsError::Status(status)),
    }
}

impl From<RawEvent> for AdminEvent {
    fn from(raw: RawEvent) -> Self {
        let path = raw.resource_path.unwrap_or_default();
        let created = raw.operation_type == "CREATE";
        let concerns = concerns(&path, created);
        // Keycloak 26 gives each event an id; without one, its contents stand for it.
        let id = raw
            .id
            .unwrap_or_else(|| format!("{} {} {path}", raw.time, raw.operation_type));
        Self {
            id,
            time: UnixMillis(raw.time),
            concerns,
        }
    }
}

/// Finds the users that a change at this path concerns. A thing just made has no members and no
/// owner yet. A changed role or group may be anybody's, and so may the realm, or a client with
/// the scopes and mappers that make tokens. The console, organisations and SCIM name users in
/// paths of their own (26.7.5); no path names a user that joins an organisation.
fn concerns(path: &str, created: bool) -> Concerns {
    let parts: Vec<&str> = path.split('/').collect();
    match *parts {
        ["users", id, "federated-identity", LOCK_PROVIDER] if !id.is_empty() => Concerns::Nobody,
        [
            "users" | "groups" | "roles" | "clients" | "client-scopes",
            _,
        ]
        | ["clients", _, "roles", _]
            if created =>
        {
            Concerns::Nobody
        }
        // An invited user is no member yet.
        [
            "organizations",
            _,
            "members",
            "invite-user" | "invite-existing-user",
        ]
        | ["organizations", _, "invitations", _, ..] => Concerns::Nobody,
        ["users", id, ..]
        | ["ui-ext", _, "users", id]
        | ["organizations", _, "members", id, ..]
        | ["organizations", _, "groups", _, "members", id]
        | ["scim", "v2", "Users", id]
            if is_user_id(id) =>
        {
            Concerns::Owner(id.to_owned())
        }
        _ => Concerns::Everybody,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_support::config;

    const ID: &str = "97b3cb9e-6dbd-46af-87f5-03fb45027d22";

    #[test]
    fn asks_for_a_page_of_the_newest_since_an_instant_or_ever() {
        let call = events_call(&config(), "TOKEN", Some(UnixMillis(5)), (100, 50));
        assert_eq!(
            call.path,
            "/admin/realms/demo/admin-events?first=100&max=50&dateFrom=5"
        );
        assert_eq!(
            (call.method, call.bearer.as_deref()),
            ("GET", Some("TOKEN"))
        );
        let call = events_call(&config(), "TOKEN", None, (0, 1));
        assert_eq!(call.path, "/admin/realms/demo/admin-events?first=0&max=1");
        let call = config_call(&config(), "TOKEN");
        assert_eq!(call.path, "/admin/realms/demo/events/config");
    }

    /// As Keycloak 26.7.5 gives it.
    fn event(operation: &str, path: Option<&str>) -> serde_json::Value {
        let mut event = json!({
            "id": "285eaeb6-78c2-41cc-8e95-b0cf9b00b7cc", "time": 1_795_522_687_610_u64,
            "realmId": "9f570fe4-2d44-4458-90b6-dbd67a762117",
            "authDetails": { "realmId": "r", "clientId": "c", "userId": "u", "ipAddress": "::1" },
            "operationType": operation, "resourceType": "USER",
        });
        if let Some(path) = path {
            event["resourcePath"] = json!(path);
        }
        event
    }

    fn concerned(operation: &str, path: Option<&str>) -> Concerns {
        let body = json!([event(operation, path)]).to_string();
        let events = read_events_answer(200, body.as_bytes()).unwrap();
        events[0].concerns.clone()
    }

    #[test]
    fn what_is_done_to_a_user_concerns_that_user() {
        let owner = Concerns::Owner(ID.to_owned());
        for below in [
            "",
            "/federated-identity/api-keys",
            "/role-mappings/realm",
            "/role-mappings/clients/88c6cd16-44e4-4226-9f44-664a6a5f1b74",
            "/groups/e88c9a1c-0f27-4107-a728-789d08020484",
            "/logout",
            "/reset-password",
        ] {
            let path = format!("users/{ID}{below}");
            for operation in ["UPDATE", "DELETE", "ACTION"] {
                assert_eq!(concerned(operation, Some(&path)), owner, "{path}");
            }
            let made = concerned("CREATE", Some(&path));
            let nobody = below.is_empty();
            let expected = if nobody { &Concerns::Nobody } else { &owner };
            assert_eq!(&made, expected, "{path}");
        }
    }

    #[test]
    fn a_lock_of_our_own_concerns_nobody_and_a_link_like_it_its_user() {
        use crate::manage::change::LOCK_PROVIDER;
        for (alias, expected) in [
            (LOCK_PROVIDER, Concerns::Nobody),
            ("api-keys", Concerns::Owner(ID.to_owned())),
        ] {
            let path = format!("users/{ID}/federated-identity/{alias}");
            assert_eq!(concerned("DELETE", Some(&path)), expected, "{alias}");
        }
    }

    #[test]
    fn what_may_change_anybodys_token_concerns_everybody() {
        for path in [
            None,
            Some(""),
            Some("events/config"),
            Some("identity-provider/instances/api-keys"),
            Some("groups/g/role-mappings/realm"),
            Some("groups/g"),
            Some("roles/r1"),
            Some("roles/r1/composites"),
            Some("roles-by-id/4151d0b1/composites"),
            Some("clients/c"),
            Some("clients/c/roles/cr/composites"),
            Some("clients/c/scope-mappings/realm"),
            Some("client-scopes/s/protocol-mappers/models/m"),
            Some("logout-all"),
            Some("something/new"),
            Some("users"),
            Some("users/"),
            Some("users/a b"),
        ] {
            for operation in ["UPDATE", "DELETE", "ACTION", ""] {
                assert_eq!(concerned(operation, path), Concerns::Everybody, "{path:?}");
            }
        }
        for path in ["groups/g/children", "roles/r1/composites", "clients/c/x/y"] {
            let made = concerned("CREATE", Some(path));
            assert_eq!(made, Concerns::Everybody, "{path}");
        }
    }

    /// As Keycloak's console, its organisations and its SCIM interface log them
    /// (26.7.5; Keycloak's source).
    #[test]
    fn what_is_done_to_a_user_by_another_way_concerns_that_user() {
        for path in [
            "ui-ext/role-mapping-delete/users/ID",
            "organizations/o/members/ID",
            "organizations/o/members/ID/organizations",
            "organizations/o/groups/g/members/ID",
            "scim/v2/Users/ID",
        ] {
            let path = path.replace("ID", ID);
            for operation in ["CREATE", "UPDATE", "DELETE", "ACTION"] {
                let owner = Concerns::Owner(ID.to_owned());
                assert_eq!(concerned(operation, Some(&path)), owner, "{path}");
            }
        }
    }

    #[test]
    fn another_way_that_names_no_user_concerns_everybody() {
        for path in [
            "ui-ext",
            "ui-ext/role-mapping-delete/groups/g",
            "ui-ext/role-mapping-delete/roles/r",
            "ui-ext/role-mapping-delete/clients/c",
            "ui-ext/role-mapping-delete/users",
            "ui-ext/role-mapping-delete/users/",
            "ui-ext/role-mapping-delete/users/a b",
            "ui-ext/users/u",
            // The new member is not in the path.
            "organizations/o/members",
            "organizations/o/groups/g/members",
            "organizations/o/groups/g",
            "organizations/o",
            "organizations/o/identity-providers/i",
            "scim/v2/Users",
            // Members come and go with it.
            "scim/v2/Groups/g",
            "scim/v2/Users/u/more",
        ] {
            for operation in ["CREATE", "UPDATE", "DELETE", "ACTION"] {
                let concerns = concerned(operation, Some(path));
                assert_eq!(concerns, Concerns::Everybody, "{operation} {path}");
            }
        }
    }

    #[test]
    fn an_invitation_concerns_nobody() {
        for path in [
            "organizations/o/members/invite-user",
            "organizations/o/members/invite-existing-user",
            "organizations/o/invitations/i",
            "organizations/o/invitations/i/resend",
        ] {
            for operation in ["ACTION", "DELETE"] {
                assert_eq!(concerned(operation, Some(path)), Concerns::Nobody, "{path}");
            }
        }
    }

    #[test]
    fn what_was_just_made_concerns_nobody() {
        for path in [
            "groups/g",
            "roles/r2",
            "clients/c",
            "clients/c/roles/cr",
            "client-scopes/s",
        ] {
            assert_eq!(concerned("CREATE", Some(path)), Concerns::Nobody, "{path}");
        }
    }

    #[test]
    fn an_event_without_an_id_is_known_by_what_it_says() {
        let read = |event: &serde_json::Value| {
            let body = json!([event]).to_string();
            read_events_answer(200, body.as_bytes()).unwrap().remove(0)
        };
        let mut event = event("UPDATE", Some("users/u"));
        assert_eq!(read(&event).id, "285eaeb6-78c2-41cc-8e95-b0cf9b00b7cc");
        assert_eq!(read(&event).time, UnixMillis(1_795_522_687_610));
        event.as_object_mut().unwrap().remove("id");
        assert_eq!(read(&event).id, "1795522687610 UPDATE users/u");
    }

    #[test]
    fn refuses_answers_that_are_no_events() {
        for body in [
            "",
            "<html>",
            "{}",
            "[1]",
            "[{}]",
            "null",
            "[{\"time\":\"x\"}]",
        ] {
            let read = read_events_answer(200, body.as_bytes());
            assert_eq!(read, Err(EventsError::Malformed), "{body}");
        }
        for (status, fault) in [
            (401, EventsError::Unauthorized),
            (403, EventsError::Forbidden),
            (500, EventsError::Status(500)),
        ] {
            assert_eq!(read_events_answer(status, b"[]"), Err(fault));
            assert_eq!(read_config_answer(status, b"{}"), Err(fault));
        }
        assert_eq!(read_config_answer(200, b"{}"), Err(EventsError::Malformed));
        for on in [true, false] {
            let body = json!({ "adminEventsEnabled": on, "eventsEnabled": !on }).to_string();
            assert_eq!(read_config_answer(200, body.as_bytes()), Ok(on));
        }
    }
}
