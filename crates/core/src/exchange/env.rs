//! The environment of an exchange, which has no clock, no store and no randomness of its own.

use super::gate::Gate;
use core::net::IpAddr;

use super::throttle::{SourceAddress, parse_address};
use super::worker::Worker;
use crate::calls::service_token::{Session, lacks_role};
use crate::clock::UnixMillis;
use crate::store::slots::SharedStore;

/// The environment of an exchange: the time and all shared state.
pub struct Env<'a> {
    /// The instant.
    pub now: UnixMillis,
    /// The worker's state for this configuration.
    pub worker: &'a mut Worker,
    /// The worker's gate, shared by all its configurations.
    pub gate: &'a mut Gate,
    /// The host's shared data.
    pub store: &'a mut dyn SharedStore,
    /// Gives bytes that no other request has; they need not be secret.
    pub nonce: &'a dyn Fn() -> Vec<u8>,
    /// Gives the source address of the request, as the host has it. Not called for a warm
    /// request, unless its key is bound to addresses.
    pub source: &'a dyn Fn() -> Option<Vec<u8>>,
}

impl std::fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

impl Env<'_> {
    /// Everything needed to get the gateway's own token.
    pub(crate) fn session(&mut self) -> Session<'_> {
        let worker = &mut *self.worker;
        Session {
            now: self.now,
            config: &worker.config,
            client_id: &worker.config.client_id,
            signing_key: &worker.signing_key,
            lacks_role,
            tokens: &mut worker.service_token,
            ids: &mut worker.ids,
            nonce: self.nonce,
        }
    }

    /// The id of an assertion that concerns this key.
    pub(crate) fn jti(&mut self, key_id: &str) -> String {
        self.worker.jti(key_id, &(self.nonce)(), self.now)
    }

    /// The address of the request; none where the host does not give it.
    pub(super) fn address(&self) -> Option<IpAddr> {
        parse_address(&(self.source)()?)
    }

    /// The source address of the request; none where nothing is counted, or where the host does
    /// not give it.
    pub(crate) fn source(&self) -> Option<SourceAddress> {
        let address = self.worker.throttle.is_on().then(|| self.address())??;
        Some(SourceAddress::of(address))
    }

    /// Whether an address has failed too often and must wait.
    pub(crate) fn is_throttled(&mut self, source: SourceAddress) -> bool {
        let throttle = &mut self.worker.throttle;
        throttle.is_over(source, self.now, self.store)
    }

    /// Counts a failure, unless the address has failed too often before: true then.
    pub(crate) fn count_failure(&mut self, source: SourceAddress) -> bool {
        let over = self.is_throttled(source);
        if !over {
            let throttle = &mut self.worker.throttle;
            throttle.failed(source, self.now, self.store);
        }
        over
    }
}
