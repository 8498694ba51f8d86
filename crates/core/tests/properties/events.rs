//! Keycloak's admin events: the user that each concerns, by a reader of its own; and the
//! settings of events.
//!
//! The first line is the status, the rest the body.

use apikeys_core::keycloak::admin_events::{Concerns, read_config_answer, read_events_answer};
use serde_json::Value;

use super::{first_line, strict_json};

pub fn holds(data: &[u8]) {
    let (status, body) = first_line(data);
    let status = std::str::from_utf8(status)
        .ok()
        .and_then(|text| text.parse().ok());
    let status = status.unwrap_or(200);
    let (events, on) = (
        read_events_answer(status, body),
        read_config_answer(status, body),
    );
    if status != 200 {
        assert!(events.is_err() && on.is_err(), "{status} says nothing");
        return;
    }
    let value = strict_json(body).unwrap_or(Value::Null);
    if let Ok(on) = on {
        assert_eq!(value["adminEventsEnabled"], on);
    }
    let Ok(events) = events else {
        return;
    };
    let listed = value.as_array().unwrap();
    assert_eq!(events.len(), listed.len());
    for (event, listed) in events.iter().zip(listed) {
        assert_eq!(listed["time"], event.time.0);
        let path = listed["resourcePath"].as_str().unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        let created = listed["operationType"] == "CREATE";
        match &event.concerns {
            Concerns::Owner(owner) => {
                assert_eq!(parts[..2], ["users", owner], "{path}");
                assert!(!owner.contains(['/', '\n', ' ']));
            }
            // Only an event that certainly concerns nobody may say so.
            Concerns::Nobody => {
                let lock = parts.len() > 3
                    && (parts[0], parts[2]) == ("users", "federated-identity")
                    && parts[3].starts_with("api-keys-lock");
                let made =
                    created && (parts.len() == 2 || (parts.len() == 4 && parts[0] == "clients"));
                assert!(lock || made, "{path}");
            }
            Concerns::Everybody => assert!(
                parts[0] != "users" || parts.len() < 2 || !plain(parts[1]),
                "{path}"
            ),
        }
    }
}

/// An id as Keycloak makes them.
fn plain(id: &str) -> bool {
    id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}
