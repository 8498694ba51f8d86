//! Proves a prepared realm by the calls of the gateway and of the management API.

use anyhow::{Result, bail, ensure};
use apikeys_core::keycloak::lightweight::is_lightweight;
use apikeys_core::signing_key::SigningKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::MANAGEMENT_CLIENT;
use super::clients::{Duty, WantedClient};
use super::plan::Wanted;
use super::state::text;
use super::throw_away::{self, ThrowAway};
use crate::admin_error::{AdminError, one_line};
use crate::keycloak_admin::KeycloakAdmin;
use crate::system;

/// How far Keycloak's clock may be behind ours. Keycloak refuses an assertion from its
/// future, and accepts a client's assertion for only 60 s.
const SKEW_SECONDS: u64 = 30;
const ASSERTION_SECONDS: u64 = 60;
/// Prefix of the ids of this tool's assertions: no key's id begins so, and so no gateway's.
pub(crate) const JTI_PREFIX: &str = "apikeys-";

/// A client, and the key for its sign-in.
pub(crate) struct Signer<'a> {
    pub(crate) client: &'a WantedClient,
    pub(crate) key: &'a SigningKey,
}

/// The results of a proof.
#[derive(Debug)]
pub(crate) struct Report {
    /// For each client, its proven duty and its roles.
    pub(crate) proven: Vec<String>,
    /// Settings that work and may still surprise.
    pub(crate) notes: Vec<String>,
}

/// The extent of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Writes nothing: asks for a grant for an owner that does not exist. Keycloak checks
    /// provider, key and client before it fails, and never reaches consent and the like.
    ByReading,
    /// Gets the same grant as a request, for an owner made for this proof.
    WithAnOwner,
}

/// Signs in as each client, looks at its token, and tries the grant.
pub(crate) fn verify(
    admin: &KeycloakAdmin,
    wanted: &Wanted,
    signers: &[Signer<'_>],
    proof: Proof,
) -> Result<Report> {
    let discovery = admin.public(".well-known/openid-configuration")?;
    let realm = Realm {
        admin,
        issuer: text(&discovery, "issuer"),
    };
    let mut proven = Vec::new();
    let mut notes = Vec::new();
    for signer in signers {
        proven.push(realm.prove(wanted, signer, proof, &mut notes)?);
    }
    if realm.issuer != admin.realm_url() {
        notes.push(format!(
            "tokens of this realm name {:?} as their issuer: the gateway's keycloak_url must be \
             what stands there before /realms/",
            realm.issuer
        ));
    }
    Ok(Report { proven, notes })
}

struct Realm<'a> {
    admin: &'a KeycloakAdmin,
    issuer: &'a str,
}

impl Realm<'_> {
    fn prove(
        &self,
        wanted: &Wanted,
        signer: &Signer<'_>,
        proof: Proof,
        notes: &mut Vec<String>,
    ) -> Result<String> {
        let client = signer.client;
        let (token, claims) = self.service_token(signer)?;
        let roles = management_roles(&claims);
        let missing: Vec<&str> = client
            .duty
            .roles()
            .into_iter()
            .filter(|role| !roles.iter().any(|held| held == role))
            .collect();
        ensure!(
            missing.is_empty() || !is_lightweight(&token),
            "tokens of {:?} are lightweight and list no roles, though the client does not ask for \
             that: a client policy of the realm does (executor use-lightweight-access-token); \
             except the client from it",
            client.client_id
        );
        ensure!(
            missing.is_empty(),
            "the token of {:?} lacks the roles {} of {MANAGEMENT_CLIENT}: its service account \
             holds them, so a client scope or mapper is missing; give the client the default scope \
             \"roles\"",
            client.client_id,
            missing.join(", ")
        );
        let does = match client.duty {
            Duty::Exchange => {
                for (claim, scope) in [("sub", "basic"), ("preferred_username", "profile")] {
                    ensure!(
                        claims.get(claim).is_some(),
                        "tokens of {:?} have no {claim}: give the client the default scope \
                         {scope:?}",
                        client.client_id
                    );
                }
                match proof {
                    Proof::ByReading => self.grant_nobody(wanted, signer)?,
                    Proof::WithAnOwner => self.grant_an_owner(wanted, signer, notes)?,
                }
                "may grant"
            }
            Duty::Manage => "may write users' keys",
        };
        Ok(format!(
            "{:?} signs in with its key (kid {}) and {does}; its token carries {}",
            client.client_id,
            signer.key.kid(),
            roles.join(", ")
        ))
    }

    /// A service token, as the filter gets one, and its claims.
    fn service_token(&self, signer: &Signer<'_>) -> Result<(Zeroizing<String>, Value)> {
        let client_id = &signer.client.client_id;
        let (status, answer) = self.token_request(signer, "client_credentials", &[])?;
        let Some(token) = answer.get("access_token").and_then(Value::as_str) else {
            bail!(
                "client {client_id:?} cannot sign in with its key: Keycloak answers {status} ({})",
                words(&answer)
            );
        };
        match claims(token) {
            Some(claims) => Ok((Zeroizing::new(token.to_owned()), claims)),
            None => bail!(
                "Keycloak's access tokens are no JWTs: the gateway can use no others, check the \
                 access token settings of {client_id:?}"
            ),
        }
    }

    /// Asks for a token for an owner made for this purpose, as a gateway does.
    fn grant_an_owner(
        &self,
        wanted: &Wanted,
        signer: &Signer<'_>,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        throw_away::sweep(self.admin)?;
        let mut owner = match ThrowAway::make(self.admin) {
            Ok(owner) => owner,
            Err(error) => match error.downcast_ref() {
                Some(AdminError::Refused {
                    status: 400..500,
                    message,
                    ..
                }) => {
                    notes.push(format!(
                        "the grant was tried for nobody alone: the realm does not take the user \
                         that it would be tried with ({message}). Try a key of a real owner"
                    ));
                    return self.grant_nobody(wanted, signer);
                }
                _ => return Err(error),
            },
        };
        let granted = owner
            .make_owner(&wanted.identity_provider)
            .and_then(|actions| self.grant_to(owner.id(), wanted, signer).map(|()| actions));
        let removed = owner.remove();
        match (granted, removed) {
            (Ok(actions), Ok(())) if actions.is_empty() => Ok(()),
            (Ok(actions), Ok(())) => {
                notes.push(format!(
                    "the realm has each new user do {}: until that is done, keys of the user are \
                     refused",
                    one_line(&actions.join(", "))
                ));
                Ok(())
            }
            (Err(error), Err(left)) => Err(error.context(format!("{left:#}"))),
            (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
        }
    }

    fn grant_to(&self, owner_id: &str, wanted: &Wanted, signer: &Signer<'_>) -> Result<()> {
        let (status, answer) = self.grant(owner_id, wanted, signer)?;
        let client_id = &signer.client.client_id;
        let Some(token) = answer.get("access_token").and_then(Value::as_str) else {
            bail!(
                "Keycloak gives {client_id:?} no token for an owner that was made to try it, so \
                 each key is refused: it answers {status} ({}). Look at the client's settings in \
                 the admin console, and at the realm's client policies",
                words(&answer)
            );
        };
        ensure!(
            claims(token).is_some_and(|claims| text(&claims, "sub") == owner_id),
            "tokens that {client_id:?} gets for an owner do not name the owner as sub: a mapper \
             of the client or of its scopes replaces it"
        );
        Ok(())
    }

    /// Asks for a token for nobody. Keycloak looks for the owner after it has checked provider,
    /// key and client, so an answer that it finds none proves those three.
    fn grant_nobody(&self, wanted: &Wanted, signer: &Signer<'_>) -> Result<()> {
        let nobody = format!("nobody-{}", system::random_name()?);
        let (status, answer) = self.grant(&nobody, wanted, signer)?;
        ensure!(
            text(&answer, "error") == "invalid_grant"
                && text(&answer, "error_description") == "User not found",
            "Keycloak does not take the gateway's assertions: it answers {status} ({}) where \
             \"User not found\" was expected, to a grant for an owner that does not exist",
            words(&answer)
        );
        Ok(())
    }

    fn grant(&self, owner_id: &str, wanted: &Wanted, signer: &Signer<'_>) -> Result<(u16, Value)> {
        let grant = self.assertion(signer.key, &wanted.assertion_issuer, owner_id)?;
        self.token_request(
            signer,
            "urn:ietf:params:oauth:grant-type:jwt-bearer",
            &[("assertion", &grant)],
        )
    }

    fn token_request(
        &self,
        signer: &Signer<'_>,
        grant_type: &str,
        extra: &[(&str, &str)],
    ) -> Result<(u16, Value)> {
        let client_id = &signer.client.client_id;
        let assertion = self.assertion(signer.key, client_id, client_id)?;
        let mut form = vec![
            ("grant_type", grant_type),
            ("client_id", client_id),
            (
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ),
            ("client_assertion", &assertion),
        ];
        form.extend_from_slice(extra);
        Ok(self.admin.token_request(&form)?)
    }

    fn assertion(&self, key: &SigningKey, issuer: &str, subject: &str) -> Result<String> {
        let now = system::now()?.as_seconds();
        Ok(key.sign(&json!({
            "iss": issuer,
            "sub": subject,
            "aud": self.issuer,
            "iat": now.saturating_sub(SKEW_SECONDS),
            "exp": now + ASSERTION_SECONDS,
            "jti": format!("{JTI_PREFIX}{}", system::random_name()?),
        }))?)
    }
}

fn claims(token: &str) -> Option<Value> {
    let json = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&json).ok()
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

/// Keycloak's own words in a refusal; never a token.
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
