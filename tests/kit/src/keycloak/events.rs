//! The realm's two logs: the changes by administrators, and the tokens that were given.

use apikeys_core::clock::UnixMillis;
use serde_json::{Value, json};

/// An administrator's operation on a user.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// A line of the realm's admin events.
#[derive(Clone)]
pub struct AdminEvent {
    pub id: String,
    /// The time of the change.
    pub time: UnixMillis,
    /// The time from which a search shows it: an event can come late.
    pub visible_at: UnixMillis,
    pub operation: Operation,
    /// `users/<id>` and perhaps more.
    pub resource_path: String,
}

/// The fate of the admin event of an edit.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum EventFate {
    #[default]
    Shown,
    Lost,
    Late(u64),
    Twice,
}

/// A line of the realm's user events: a grant.
#[derive(Clone)]
pub struct GrantEvent {
    pub time: UnixMillis,
    pub user_id: String,
    /// The id of the client's assertion; none where an event lacks it.
    pub client_assertion_id: Option<String>,
}

impl GrantEvent {
    fn shown(&self) -> Value {
        let mut details = json!({ "auth_type": "code", "grant_type": super::JWT_BEARER });
        if let Some(id) = &self.client_assertion_id {
            details["client_assertion_id"] = json!(id);
        }
        json!({
            "time": self.time.0, "type": "JWT_AUTHORIZATION_GRANT", "realmId": "r-1",
            "clientId": super::GATEWAY_CLIENT, "userId": self.user_id,
            "ipAddress": "127.0.0.1", "details": details,
        })
    }
}

/// The realm's event settings.
pub(super) fn config(keeps_grants: bool, keeps_changes: bool) -> Value {
    json!({
        "eventsEnabled": keeps_grants, "adminEventsEnabled": keeps_changes,
        "enabledEventTypes": ["CLIENT_LOGIN", "JWT_AUTHORIZATION_GRANT"],
    })
}

/// The grants of a user or of all, the newest first or last, as the query asks for them.
pub(super) fn grants(events: &[GrantEvent], query: &str) -> Value {
    let asked = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(found, _)| *found == name);
        found.map(|(_, value)| super::decoded(value))
    };
    assert_eq!(asked("type").as_deref(), Some("JWT_AUTHORIZATION_GRANT"));
    let number = |name: &str, otherwise| asked(name).map_or(otherwise, |n| n.parse().unwrap());
    let user = asked("user");
    let is_asked = |event: &&GrantEvent| user.as_ref().is_none_or(|user| *user == event.user_id);
    let mut found: Vec<&GrantEvent> = events.iter().filter(is_asked).collect();
    found.sort_by_key(|event| std::cmp::Reverse(event.time));
    if asked("direction").as_deref() == Some("asc") {
        found.reverse();
    }
    let page = found.into_iter().skip(number("first", 0));
    page.take(number("max", 100))
        .map(GrantEvent::shown)
        .collect()
}

/// A page of the events after `dateFrom`, the newest first; a hundred, unless `max` says
/// otherwise.
pub(super) fn admin(events: &[AdminEvent], query: &str, now: UnixMillis) -> Value {
    let number = |name: &str, otherwise: u64| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(found, _)| *found == name);
        found.map_or(otherwise, |(_, value)| value.parse().unwrap())
    };
    let [from, first, max] = [("dateFrom", 0), ("first", 0), ("max", 100)]
        .map(|(name, otherwise)| number(name, otherwise));
    let name = |operation| match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
    };
    let shown = events.iter().rev();
    let shown = shown.filter(|event| event.time.0 > from && event.visible_at <= now);
    let mut shown: Vec<&AdminEvent> = shown.collect();
    shown.sort_by_key(|event| std::cmp::Reverse(event.time));
    let page = shown.into_iter().skip(first as usize);
    page.take(max as usize)
        .map(|event| {
            json!({
                "id": event.id,
                "time": event.time.0,
                "operationType": name(event.operation),
                "resourceType": "USER",
                "resourcePath": event.resource_path,
            })
        })
        .collect()
}
