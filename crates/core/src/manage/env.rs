//! The environment of a management request: the exchange's, and the state of the manager.

use std::sync::Arc;

use super::end::End;
use super::owners::Owners;
use super::request::management;
use crate::calls::service_token::{ServiceToken, Session};
use crate::exchange::Env;
use crate::exchange::bucket::FullAt;
use crate::key_random::KeyRandom;
use crate::keycloak::key_store::KeyStore;
use crate::keycloak::lightweight::is_lightweight;
use crate::keycloak::token::AccessToken;
use crate::rejection::Reason;
use crate::signing_key::SigningKey;

/// The roles of client `realm-management` that let the manager write users.
const WRITE_ROLES: [&str; 2] = ["manage-users", "realm-admin"];

/// State that one worker's requests share for one configuration, beside the state of the
/// exchange.
#[derive(Debug)]
pub struct Manager {
    signing_key: Arc<SigningKey>,
    pub(super) service_token: ServiceToken,
    pub(super) keys: KeyStore,
    pub(super) owners: Owners,
    /// Verifications for addresses with too many failures.
    pub(super) suspects: FullAt,
    /// Look-ups of presented keys, which take no other credentials.
    pub(super) presented: FullAt,
    pub(super) random: KeyRandom,
}

impl Manager {
    /// An empty state. `signing_key` is the management client's; `seed` is any bytes that no
    /// other worker has had.
    #[must_use]
    pub fn new(signing_key: Arc<SigningKey>, seed: &[u8]) -> Self {
        Self {
            random: KeyRandom::new(&signing_key, seed),
            signing_key,
            service_token: ServiceToken::default(),
            keys: KeyStore::default(),
            owners: Owners::default(),
            suspects: FullAt::default(),
            presented: FullAt::default(),
        }
    }
}

/// Everything that a management request works with.
#[derive(Debug)]
pub struct ManageEnv<'a, 'b> {
    /// Shared with the exchange.
    pub exchange: &'a mut Env<'b>,
    /// Shared with other management requests.
    pub manager: &'a mut Manager,
}

impl ManageEnv<'_, '_> {
    /// The means to get the manager's token.
    pub(super) fn session(&mut self) -> Result<Session<'_>, End> {
        let (worker, manager) = (&mut *self.exchange.worker, &mut *self.manager);
        Ok(Session {
            now: self.exchange.now,
            config: &worker.config,
            client_id: &management(&worker.config)?.client_id,
            signing_key: &manager.signing_key,
            lacks_role,
            tokens: &mut manager.service_token,
            ids: &mut worker.ids,
            nonce: self.exchange.nonce,
        })
    }
}

/// The reason that the manager's token cannot write users, if it cannot.
fn lacks_role(token: &AccessToken) -> Option<Reason> {
    let roles = &token.management_roles;
    if roles
        .iter()
        .any(|role| WRITE_ROLES.contains(&role.as_str()))
    {
        None
    } else if is_lightweight(&token.jwt) {
        Some(Reason::LightweightToken("management"))
    } else {
        Some(Reason::MissingManageRole)
    }
}
