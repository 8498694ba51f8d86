//! The part of a worker that polls and self-checks use.

use crate::calls::Ids;
use crate::calls::service_token::{ServiceToken, Session, lacks_role};
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::exchange::Env;
use crate::revocation::Revocations;
use crate::signing_key::SigningKey;
use crate::store::slots::SharedStore;

/// Time, a worker without its requests, and the host's shared data.
pub(crate) struct WatchEnv<'a> {
    pub(crate) now: UnixMillis,
    pub(crate) config: &'a Config,
    pub(crate) signing_key: &'a SigningKey,
    pub(crate) service_token: &'a mut ServiceToken,
    pub(crate) revocations: &'a mut Revocations,
    pub(crate) store: &'a mut dyn SharedStore,
    pub(crate) ids: &'a mut Ids,
    /// Gives bytes that are given once; they need not be secret.
    pub(crate) nonce: &'a dyn Fn() -> Vec<u8>,
}

impl<'a> WatchEnv<'a> {
    pub(super) fn of(env: &'a mut Env<'_>) -> Self {
        let worker = &mut *env.worker;
        Self {
            now: env.now,
            config: &worker.config,
            signing_key: &worker.signing_key,
            service_token: &mut worker.service_token,
            revocations: worker.cache.revocations_mut(),
            store: env.store,
            ids: &mut worker.ids,
            nonce: env.nonce,
        }
    }

    /// Everything needed to get the gateway's own token.
    pub(super) fn session(&mut self) -> Session<'_> {
        Session {
            now: self.now,
            config: self.config,
            client_id: &self.config.client_id,
            signing_key: self.signing_key,
            lacks_role,
            tokens: self.service_token,
            ids: self.ids,
            nonce: self.nonce,
        }
    }
}
