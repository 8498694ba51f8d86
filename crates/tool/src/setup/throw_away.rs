//! A user that lives for one grant: the owner for setup's proof of the grant.
//!
//! Keycloak checks much of a grant, such as consent, only after it has found the user
//! (measured, 26.7.5), so a grant for an unknown user proves too little. The user has a random
//! name, no credentials and no key, and setup always deletes it. If a run is killed, the next
//! run deletes its user.

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::state::{id, text};
use crate::admin_error::AdminError;
use crate::keycloak_admin::{KeycloakAdmin, query, segment};
use crate::system;

/// The prefix of such users' names; 32 hexadecimal digits follow.
const NAME_PREFIX: &str = "apikeys-proof-";
/// The domain of their addresses; it belongs to nobody (RFC 6761).
const DOMAIN: &str = "apikeys.invalid";
/// A user this old is abandoned: no proof takes so long.
const LEFT_BEHIND_MS: u64 = 10 * 60 * 1000;

/// The user, until [`remove`](Self::remove).
pub(crate) struct ThrowAway<'a> {
    admin: &'a KeycloakAdmin,
    representation: Value,
    path: String,
}

impl<'a> ThrowAway<'a> {
    /// Makes the user, with all fields that the usual profiles require, as an administrator
    /// could.
    ///
    /// # Errors
    /// [`AdminError::Refused`] if the realm refuses the user; then nothing is made.
    pub(crate) fn make(admin: &'a KeycloakAdmin) -> Result<Self> {
        let name = format!("{NAME_PREFIX}{}", system::random_name()?);
        let email = format!("{name}@{DOMAIN}");
        let user = json!({
            "username": name, "email": email, "emailVerified": true, "enabled": true,
            "firstName": "Proof", "lastName": "Of setup",
        });
        admin.post("users", &user)?;
        // Search by address: if the realm uses it as the name, Keycloak has replaced the name.
        let found = admin.list(&format!("users?exact=true&email={}", query(&email)));
        let user = found.map_err(anyhow::Error::from).and_then(|found| {
            let [user] = found.as_slice() else {
                return Err(anyhow!("Keycloak does not find it"));
            };
            let path = format!("users/{}", id(user)?);
            Ok(Self {
                admin,
                representation: admin.get(&path)?,
                path,
            })
        });
        user.with_context(|| format!("user {name:?} was made to prove the grant: delete it"))
    }

    /// The user's id, for the assertion's subject.
    pub(crate) fn id(&self) -> &str {
        text(&self.representation, "id")
    }

    /// Makes it an owner like others: without required actions, and linked to the provider.
    /// Returns the actions that the realm requires of every new user.
    pub(crate) fn make_owner(&mut self, provider: &str) -> Result<Vec<String>> {
        let actions = self.representation.get("requiredActions");
        let actions: Vec<String> = actions
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|action| action.as_str().map(str::to_owned))
            .collect();
        if !actions.is_empty() {
            super::amend::set(&mut self.representation, &["requiredActions"], &json!([]));
            self.admin.put(&self.path, &self.representation)?;
        }
        let link = json!({
            "identityProvider": provider, "userId": self.id(),
            "userName": text(&self.representation, "username"),
        });
        let path = format!("{}/federated-identity/{}", self.path, segment(provider));
        self.admin.post(&path, &link)?;
        Ok(actions)
    }

    /// Deletes the user.
    pub(crate) fn remove(self) -> Result<()> {
        delete(self.admin, &self.path).with_context(|| {
            format!(
                "user {:?} was made to prove the grant, and could not be deleted: delete it",
                text(&self.representation, "username")
            )
        })
    }
}

/// Deletes the users of earlier runs that were killed.
pub(crate) fn sweep(admin: &KeycloakAdmin) -> Result<()> {
    let now = system::now()?.0;
    let found = admin.list(&format!(
        "users?briefRepresentation=true&max=100&username={}",
        query(NAME_PREFIX)
    ))?;
    for user in found.iter().filter(|user| is_left_behind(user, now)) {
        delete(admin, &format!("users/{}", id(user)?))?;
    }
    Ok(())
}

fn delete(admin: &KeycloakAdmin, path: &str) -> Result<(), AdminError> {
    match admin.delete(path, &json!({})) {
        Err(AdminError::Refused { status: 404, .. }) => Ok(()),
        other => other,
    }
}

fn is_left_behind(user: &Value, now: u64) -> bool {
    let name = text(user, "username");
    let name = name.strip_suffix(&format!("@{DOMAIN}")).unwrap_or(name);
    let is_ours = name.strip_prefix(NAME_PREFIX).is_some_and(|random| {
        random.len() == 32 && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    let made = user.get("createdTimestamp").and_then(Value::as_u64);
    is_ours && made.is_some_and(|made| now.saturating_sub(made) > LEFT_BEHIND_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_of_an_earlier_run_is_told_by_its_name_and_age() {
        let name = format!("{NAME_PREFIX}{}", "0a".repeat(16));
        let left = |name: &str, made: u64| {
            let user = json!({"username": name, "createdTimestamp": made});
            is_left_behind(&user, 2 * LEFT_BEHIND_MS)
        };
        assert!(left(&name, 0) && left(&format!("{name}@{DOMAIN}"), 0));
        assert!(!left(&name, LEFT_BEHIND_MS), "another run's, at work");
        for other in [
            "alice",
            "apikeys-proof-of-work",
            &name[1..],
            &format!("{name}0"),
        ] {
            assert!(!left(other, 0), "{other}");
        }
        assert!(!is_left_behind(&json!({ "username": name }), u64::MAX));
    }
}
