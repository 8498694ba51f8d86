//! The purpose of a call to Keycloak, in a word.

use apikeys_core::keycloak::Call;

use super::form;

/// The purpose of a call to Keycloak.
pub fn asked(call: &Call) -> &'static str {
    let path = call.path.split('?').next().unwrap();
    let links = path.split_once("/federated-identity");
    match (call.method, links) {
        ("GET", Some(("", _))) => unreachable!("a link is somebody's"),
        ("GET", Some(_)) => "links",
        ("POST", Some((_, "/api-keys-lock"))) => "lock",
        ("DELETE", Some((_, "/api-keys-lock"))) => "unlock",
        ("POST", Some(_)) => "link",
        ("DELETE", Some(_)) => "unlink",
        (_, None) if path.contains("/groups") => "claim",
        ("PUT", _) => "write",
        ("GET", _) if path.ends_with("/certs") => "keys",
        ("GET", _) if path.ends_with("/.well-known/openid-configuration") => "discovery",
        ("GET", _) if path.ends_with("/users/profile") => "profile",
        ("GET", _) if path.ends_with("/events") => "events",
        ("GET", _) if path.ends_with("/admin-events") => "changes",
        ("GET", _) if path.ends_with("/events/config") => "changes",
        ("GET", _) if call.path.contains("q=apiKeyIndex") => "look-up",
        ("GET", _) if call.path.contains("idpAlias=") => "holders",
        ("GET", _) => "user",
        _ => {
            let form = form(call);
            match (form.get("assertion"), form.get("scope")) {
                (Some(_), _) => "grant",
                (None, Some(_)) => "scopes",
                (None, None) => "token",
            }
        }
    }
}
