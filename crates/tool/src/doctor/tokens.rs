//! How large the tokens of owners are: services limit the size of a request's head.
//!
//! Keycloak shows the claims of an example token without a sign-in. They are enough for the
//! size, and no usable token exists.

use anyhow::Result;
use apikeys_core::audit::LARGE_TOKEN_BYTES;
use apikeys_core::keycloak::owner::User;
use apikeys_core::manage::owner_keys::{KeyState, KeySummary};
use serde_json::Value;

use super::finding::Finding;
use crate::admin_error::AdminError;
use crate::keycloak_admin::{KeycloakAdmin, query};
use crate::setup::state::{find_client, id};

/// The most owners to check; each costs a call.
pub(crate) const OWNERS_MAX: usize = 100;
/// Size of a token without its claims: its header, and a signature of RS256 with 2048 bits.
const BESIDE_CLAIMS_BYTES: usize = 480;

/// An owner, and the scopes of its key with the most scopes.
#[derive(Debug)]
pub(crate) struct Sample {
    owner_id: String,
    name: String,
    scopes: String,
}

impl Sample {
    /// `None` for an owner that gets no token.
    pub(crate) fn of(owner: &User, keys: &[KeySummary]) -> Option<Self> {
        let works = |key: &&KeySummary| matches!(key.state, KeyState::Active | KeyState::Rotating);
        let scopes = keys.iter().filter(works).map(|key| key.scopes.as_deref());
        let scopes = scopes.max_by_key(|scopes| scopes.map_or(0, str::len))?;
        owner.is_enabled().then(|| Self {
            owner_id: owner.id().to_owned(),
            name: owner.username().to_owned(),
            scopes: scopes.unwrap_or_default().to_owned(),
        })
    }
}

/// The number of owners checked, and the findings.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    pub(crate) owners: usize,
    pub(crate) finding: Option<Finding>,
}

/// Checks the tokens that the gateway's client would get for these owners.
pub(crate) fn look(admin: &KeycloakAdmin, client_id: &str, samples: &[Sample]) -> Result<Tokens> {
    let Some(client) = find_client(admin, client_id)? else {
        return Ok(Tokens::default());
    };
    let client = id(&client)?;
    let mut sizes = Vec::new();
    for sample in samples {
        let path = format!(
            "clients/{client}/evaluate-scopes/generate-example-access-token?userId={}&scope={}",
            query(&sample.owner_id),
            query(&sample.scopes)
        );
        match admin.get(&path) {
            Ok(claims) => sizes.push((token_bytes(&claims), sample.name.as_str())),
            Err(error @ AdminError::Refused { .. }) => {
                let problem = format!("their size cannot be told: {error}");
                return Ok(Tokens {
                    owners: sizes.len(),
                    finding: Some(Finding::warning("tokens", problem, "")),
                });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Tokens {
        owners: sizes.len(),
        finding: judge(&sizes, client_id),
    })
}

fn judge(sizes: &[(usize, &str)], client_id: &str) -> Option<Finding> {
    let large = sizes.iter().filter(|(bytes, _)| *bytes > LARGE_TOKEN_BYTES);
    let (bytes, name) = sizes.iter().max()?;
    let count = large.count();
    (count > 0).then(|| {
        Finding::warning(
            "tokens",
            format!(
                "those of {count} of {} owners that were looked at take more than {} KiB, that of \
                 {name:?} about {} KiB; many services take no more than 8 KiB for a request's \
                 whole head, and answer 400 or 431",
                sizes.len(),
                LARGE_TOKEN_BYTES / 1024,
                bytes.div_ceil(1024)
            ),
            &format!(
                "have less in them (mappers of client {client_id:?} and of its client scopes, \
                 roles, groups), or have the services take more"
            ),
        )
    })
}

/// The size of a token with these claims, give or take a hundred bytes.
fn token_bytes(claims: &Value) -> usize {
    claims.to_string().len().div_ceil(3) * 4 + BESIDE_CLAIMS_BYTES
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn large_tokens_are_told_once_with_the_largest() {
        assert_eq!(judge(&[], "c"), None);
        let small = (LARGE_TOKEN_BYTES, "alice");
        assert_eq!(judge(&[small], "c"), None);
        let sizes = [small, (17_000, "bob"), (LARGE_TOKEN_BYTES + 1, "carol")];
        let text = judge(&sizes, "c").unwrap().text();
        for words in [
            "of 2 of 3 owners",
            "\"bob\" about 17 KiB",
            "431",
            "do: have less",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn a_size_is_that_of_the_encoded_token() {
        let claims = json!({"sub": "x".repeat(6000 - 10)});
        assert_eq!(claims.to_string().len(), 6000);
        assert_eq!(token_bytes(&claims), 8000 + BESIDE_CLAIMS_BYTES);
    }

    #[test]
    fn the_key_with_the_most_scopes_is_the_one_and_owners_without_tokens_are_none() {
        let owner = |enabled: bool| {
            User::from_value(json!({"id": "1", "username": "a", "enabled": enabled})).unwrap()
        };
        let key = |scopes: Option<&str>, state| KeySummary {
            id: "abc123def456".into(),
            name: String::new(),
            created: None,
            expires_at: None,
            scopes: scopes.map(str::to_owned),
            grace_until: None,
            replaced_by: None,
            disabled: false,
            rate_limit: None,
            allowed_addresses: None,
            environment: None,
            labels: None,
            state,
        };
        let keys = [
            key(Some("a b"), KeyState::Active),
            key(None, KeyState::Active),
            key(Some("a b c"), KeyState::Expired),
        ];
        assert_eq!(Sample::of(&owner(true), &keys).unwrap().scopes, "a b");
        assert_eq!(Sample::of(&owner(true), &keys[1..]).unwrap().scopes, "");
        assert!(Sample::of(&owner(true), &keys[2..]).is_none());
        assert!(Sample::of(&owner(false), &keys).is_none());
        assert!(Sample::of(&owner(true), &[]).is_none());
    }
}
