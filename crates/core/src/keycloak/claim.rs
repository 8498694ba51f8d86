//! A claim: a group that stands for the right to do something, one at a time.
//!
//! Keycloak has one group of a name, and making it is an atomic test-and-set, as making a link
//! is. But a link has no identity of its own: it is deleted by user and provider, so a late
//! deletion hits the next link. A group is deleted by its id, so a claim ends by its own
//! deletion alone.

use serde::Deserialize;
use serde_json::json;

use super::owner::{OwnerFault, encoded, read_status};
use super::{Call, Endpoint};

/// Claims a name: 201, or 409 if it is claimed already.
#[must_use]
pub fn claim_call(users_path: &str, name: &str, holder: &str, bearer: &str) -> Call {
    let group = json!({"name": name, "attributes": {"holder": [holder]}});
    Call::with_json(
        Endpoint::Change,
        "POST",
        groups_path(users_path),
        &group,
        bearer,
    )
}

/// The call that reads the holder of a name.
#[must_use]
pub fn read_call(users_path: &str, name: &str, bearer: &str) -> Call {
    let (path, name) = (groups_path(users_path), encoded(name));
    Call::get(
        Endpoint::Change,
        format!("{path}?search={name}&exact=true&briefRepresentation=false"),
        bearer,
    )
}

/// Ends this very claim: 204, or 404 if it has ended.
#[must_use]
pub fn end_call(users_path: &str, claim: &Claim, bearer: &str) -> Call {
    let path = format!("{}/{}", groups_path(users_path), encoded(&claim.id));
    Call {
        method: "DELETE",
        ..Call::get(Endpoint::Change, path, bearer)
    }
}

/// Groups lie beside users.
fn groups_path(users_path: &str) -> String {
    let realm = users_path.strip_suffix("users").unwrap_or(users_path);
    format!("{realm}groups")
}

/// A claim that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The group's id, which no other claim ever has.
    pub id: String,
    /// The holder's text; empty where it cannot be read.
    pub holder: String,
}

/// Reads the answer to [`read_call`].
///
/// # Errors
/// [`OwnerFault`].
pub fn read(status: u16, body: &[u8], name: &str) -> Result<Option<Claim>, OwnerFault> {
    #[derive(Deserialize)]
    struct Group {
        id: String,
        name: String,
        #[serde(default)]
        attributes: Attributes,
    }
    #[derive(Default, Deserialize)]
    struct Attributes {
        #[serde(default)]
        holder: Vec<String>,
    }
    read_status(status)?;
    let groups: Vec<Group> = serde_json::from_slice(body).map_err(|_| OwnerFault::Malformed)?;
    let group = groups.into_iter().find(|group| group.name == name);
    Ok(group.map(|group| Claim {
        id: group.id,
        holder: group
            .attributes
            .holder
            .into_iter()
            .next()
            .unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "/auth/admin/realms/demo/users";

    #[test]
    fn a_claim_is_a_group_beside_the_users() {
        let call = claim_call(USERS, "break u1", "h@1", "T");
        assert_eq!(
            (call.method, call.path.as_str()),
            ("POST", "/auth/admin/realms/demo/groups")
        );
        let group: serde_json::Value = serde_json::from_str(&call.json.unwrap()).unwrap();
        assert_eq!(
            group,
            json!({"name": "break u1", "attributes": {"holder": ["h@1"]}})
        );
        assert_eq!(
            read_call(USERS, "a&b c", "T").path,
            "/auth/admin/realms/demo/groups?search=a%26b%20c&exact=true&briefRepresentation=false"
        );
        let claim = Claim {
            id: "../1".to_owned(),
            holder: String::new(),
        };
        let call = end_call(USERS, &claim, "T");
        assert_eq!(
            (call.method, call.path.as_str()),
            ("DELETE", "/auth/admin/realms/demo/groups/..%2F1")
        );
    }

    #[test]
    fn the_claim_of_that_very_name_is_found() {
        let body = json!([
            {"id": "1", "name": "break u10", "attributes": {"holder": ["other@1"]}},
            {"id": "2", "name": "break u1", "attributes": {"holder": ["h@1"]}, "path": "/x"},
        ]);
        let read = |name| read(200, body.to_string().as_bytes(), name);
        let claim = read("break u1").unwrap().unwrap();
        assert_eq!((claim.id.as_str(), claim.holder.as_str()), ("2", "h@1"));
        assert_eq!(read("break u"), Ok(None));
    }

    #[test]
    fn a_group_that_says_nothing_is_a_claim_of_nobodys() {
        for group in [
            json!({"id": "1", "name": "n"}),
            json!({"id": "1", "name": "n", "attributes": {}}),
            json!({"id": "1", "name": "n", "attributes": {"holder": []}}),
        ] {
            let claim = read(200, json!([group]).to_string().as_bytes(), "n");
            assert_eq!(claim.unwrap().unwrap().holder, "");
        }
        assert_eq!(read(200, b"{}", "n"), Err(OwnerFault::Malformed));
        assert_eq!(read(403, b"[]", "n"), Err(OwnerFault::Forbidden));
    }
}
