//! When keys were last used, from Keycloak's own events.
//!
//! Each exchange is a `JWT_AUTHORIZATION_GRANT` event of the owner's whose
//! `client_assertion_id` begins with the key's id. Between exchanges a key is served
//! from the gateway's cache, so the time is exact to `cache_ttl_seconds`.

use std::collections::BTreeMap;

use apikey_jwt_exchange::clock::UnixMillis;
use serde_json::Value;

use crate::admin_error::AdminError;
use crate::keycloak_admin::{KeycloakAdmin, query};
use crate::summary::LastUsed;

/// Events of an owner that are looked through, the newest first.
const EVENTS_MAX: usize = 1000;

/// Reads when the keys of this owner were last used; none where the administrator may
/// not read events.
pub(crate) fn read(admin: &KeycloakAdmin, owner_id: &str) -> Result<LastUsed, AdminError> {
    let path = format!(
        "events?type=JWT_AUTHORIZATION_GRANT&max={EVENTS_MAX}&user={}",
        query(owner_id)
    );
    match admin.list(&path) {
        Ok(events) => Ok(Some(by_key(&events))),
        Err(AdminError::Refused { status: 403, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn by_key(events: &[Value]) -> BTreeMap<String, UnixMillis> {
    let mut used = BTreeMap::new();
    for event in events {
        let assertion = event.pointer("/details/client_assertion_id");
        let at = event.get("time").and_then(Value::as_u64);
        let id = assertion
            .and_then(Value::as_str)
            .and_then(|id| id.split_once('.'));
        if let (Some((id, _)), Some(at)) = (id, at) {
            let latest = used.entry(id.to_owned()).or_insert(UnixMillis(at));
            *latest = UnixMillis(at).max(*latest);
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_latest_event_of_each_key_counts() {
        let event = |id: &str, at: u64| json!({"time": at, "details": {"client_assertion_id": id}});
        let events = [
            event("abc123def456.xyz", 1000),
            event("abc123def456.xyw", 3000),
            event("zzz123def456.xyw", 2000),
            event("without", 9),
            json!({"time": 5}),
        ];
        let used = by_key(&events);
        let expected = [("abc123def456", 3000), ("zzz123def456", 2000)];
        let expected = expected.map(|(id, at)| (id.to_owned(), UnixMillis(at)));
        assert!(used == BTreeMap::from(expected));
    }
}
