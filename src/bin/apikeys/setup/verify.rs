//! Proves a prepared realm by doing what the gateway will do.

use anyhow::{Result, bail, ensure};
use apikey_jwt_exchange::signing_key::SigningKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::plan::Wanted;
use super::state::text;
use super::{MANAGEMENT_CLIENT, SERVICE_ROLES};
use crate::admin_error::one_line;
use crate::keycloak_admin::KeycloakAdmin;
use crate::system;

/// How far behind our clock Keycloak's may be: it takes no assertion from its
/// future, and a client's assertion for 60 s alone.
const SKEW_SECONDS: u64 = 30;
const ASSERTION_SECONDS: u64 = 60;

/// What was seen.
#[derive(Debug)]
pub(crate) struct Report {
    /// The management roles in the token of the gateway's service account.
    pub(crate) roles: Vec<String>,
    /// What works and may still surprise.
    pub(crate) notes: Vec<String>,
}

/// Signs in as the gateway, looks at the token, and tries a grant for an owner
/// that does not exist.
pub(crate) fn verify(admin: &KeycloakAdmin, wanted: &Wanted, key: &SigningKey) -> Result<Report> {
    let discovery = admin.public(".well-known/openid-configuration")?;
    let gateway = Gateway {
        admin,
        wanted,
        key,
        realm_issuer: text(&discovery, "issuer").to_owned(),
    };
    let claims = gateway.service_token()?;
    let roles = management_roles(&claims);
    let missing: Vec<&str> = SERVICE_ROLES
        .into_iter()
        .filter(|role| !roles.iter().any(|held| held == role))
        .collect();
    ensure!(
        missing.is_empty(),
        "the token of {:?} lacks the roles {} of {MANAGEMENT_CLIENT}: its service account holds \
         them, so a client scope or mapper is missing; give the client the default scope \"roles\"",
        wanted.client_id,
        missing.join(", ")
    );
    for (claim, scope) in [("sub", "basic"), ("preferred_username", "profile")] {
        ensure!(
            claims.get(claim).is_some(),
            "tokens of {:?} have no {claim}: give the client the default scope {scope:?}",
            wanted.client_id
        );
    }
    gateway.try_grant()?;
    let mut notes = Vec::new();
    if gateway.realm_issuer != admin.realm_url() {
        notes.push(format!(
            "tokens of this realm name {:?} as their issuer: the gateway's keycloak_url must be \
             what stands there before /realms/",
            gateway.realm_issuer
        ));
    }
    Ok(Report { roles, notes })
}

struct Gateway<'a> {
    admin: &'a KeycloakAdmin,
    wanted: &'a Wanted,
    key: &'a SigningKey,
    realm_issuer: String,
}

impl Gateway<'_> {
    /// The claims of a service token, as the gateway gets one.
    fn service_token(&self) -> Result<Value> {
        let assertion = self.assertion(&self.wanted.client_id, &self.wanted.client_id)?;
        let (status, answer) = self.token_request("client_credentials", &assertion, &[])?;
        let Some(token) = answer.get("access_token").and_then(Value::as_str) else {
            bail!(
                "client {:?} cannot sign in with its key: Keycloak answers {status} ({})",
                self.wanted.client_id,
                words(&answer)
            );
        };
        let claims = token
            .split('.')
            .nth(1)
            .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok())
            .and_then(|json| serde_json::from_slice(&json).ok());
        match claims {
            Some(claims) => Ok(claims),
            None => bail!(
                "Keycloak's access tokens are no JWTs: the gateway can use no others, check the \
                 access token settings of {:?}",
                self.wanted.client_id
            ),
        }
    }

    /// Asks for a token of nobody. Keycloak looks at the owner last: that it finds
    /// none says that provider, key and client are as they should be.
    fn try_grant(&self) -> Result<()> {
        let nobody = format!("nobody-{}", system::random_name()?);
        let client = self.assertion(&self.wanted.client_id, &self.wanted.client_id)?;
        let grant = self.assertion(&self.wanted.assertion_issuer, &nobody)?;
        let (status, answer) = self.token_request(
            "urn:ietf:params:oauth:grant-type:jwt-bearer",
            &client,
            &[("assertion", &grant)],
        )?;
        ensure!(
            text(&answer, "error") == "invalid_grant"
                && text(&answer, "error_description") == "User not found",
            "Keycloak does not take the gateway's assertions: it answers {status} ({}) where \
             \"User not found\" was expected, to a grant for an owner that does not exist",
            words(&answer)
        );
        Ok(())
    }

    fn token_request(
        &self,
        grant_type: &str,
        client_assertion: &str,
        extra: &[(&str, &str)],
    ) -> Result<(u16, Value)> {
        let mut form = vec![
            ("grant_type", grant_type),
            ("client_id", &self.wanted.client_id),
            (
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ),
            ("client_assertion", client_assertion),
        ];
        form.extend_from_slice(extra);
        Ok(self.admin.token_request(&form)?)
    }

    fn assertion(&self, issuer: &str, subject: &str) -> Result<String> {
        let now = system::now()?.as_seconds();
        Ok(self.key.sign(&json!({
            "iss": issuer,
            "sub": subject,
            "aud": self.realm_issuer,
            "iat": now.saturating_sub(SKEW_SECONDS),
            "exp": now + ASSERTION_SECONDS,
            "jti": system::random_name()?,
        }))?)
    }
}

fn management_roles(claims: &Value) -> Vec<String> {
    let roles = claims.pointer(&format!("/resource_access/{MANAGEMENT_CLIENT}/roles"));
    let mut names: Vec<String> = roles
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|role| role.as_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// Keycloak's own words of a refusal; never a token.
fn words(answer: &Value) -> String {
    let words = format!(
        "{}: {}",
        text(answer, "error"),
        text(answer, "error_description")
    );
    one_line(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_management_roles_of_a_token() {
        let claims = json!({"resource_access": {
            "account": {"roles": ["manage-account"]},
            "realm-management": {"roles": ["view-users", "query-users"]},
        }});
        assert_eq!(management_roles(&claims), ["query-users", "view-users"]);
        assert!(management_roles(&json!({})).is_empty());
    }
}
