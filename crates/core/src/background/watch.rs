//! A worker's own questions to Keycloak: polls of revocations, and self-checks.
//!
//! One for each worker, though several root contexts may drive it: routes that are
//! configured alike share their worker.

use super::poller::{PollCall, PollEnv, PollInput, Poller, Polling};
use super::self_check::{CheckEnv, Findings, SelfCheck};
use crate::exchange::{Env, Worker};

/// Polls and self-checks of one worker.
#[derive(Debug)]
pub struct Watch {
    poller: Poller,
    self_check: SelfCheck,
}

impl Watch {
    /// Those of this worker, which has asked for nothing yet.
    #[must_use]
    pub fn new(worker: &Worker) -> Self {
        let (config, signing_key) = (&worker.config, &worker.signing_key);
        let seed = worker.ids.seed();
        Self {
            poller: Poller::new(config.revocation_poll_ms, signing_key, seed),
            self_check: SelfCheck::new(config, signing_key, seed),
        }
    }

    /// Takes an event of the poll of Keycloak's events, and gives the next call. To be
    /// told of each tick after [`Worker::tick`], and of the answer to each call.
    pub fn poll(&mut self, input: PollInput<'_>, env: &mut Env<'_>) -> Option<PollCall> {
        let (worker, nonce, now) = (&mut *env.worker, env.nonce, env.now);
        let ids = std::cell::RefCell::new(&mut worker.ids);
        let mut env = PollEnv {
            now,
            config: &worker.config,
            signing_key: &worker.signing_key,
            service_token: &mut worker.service_token,
            revocations: worker.cache.revocations_mut(),
            store: env.store,
            next_exchange: &mut || ids.borrow_mut().exchange(),
            jti: &mut |name| ids.borrow_mut().jti(name, &nonce(), now),
        };
        self.poller.handle_input(input, &mut env)
    }

    /// Whether a poll is under way.
    #[must_use]
    pub const fn is_polling(&self) -> bool {
        self.poller.is_under_way()
    }

    /// How polling goes, if that changed since it was last asked.
    pub fn take_polling(&mut self) -> Option<Polling> {
        self.poller.take_notice()
    }

    /// Admin events that were acted on; a few pages.
    #[must_use]
    pub fn events(&self) -> usize {
        self.poller.events()
    }

    /// Takes an event of the self-check, and gives the next call. To be told of each
    /// tick after [`Watch::poll`], and of the answer to each call.
    pub fn self_check(&mut self, input: PollInput<'_>, env: &mut Env<'_>) -> Option<PollCall> {
        let (worker, nonce, now) = (&mut *env.worker, env.nonce, env.now);
        let ids = std::cell::RefCell::new(&mut worker.ids);
        let mut env = CheckEnv {
            now,
            config: &worker.config,
            signing_key: &worker.signing_key,
            service_token: &mut worker.service_token,
            store: env.store,
            next_exchange: &mut || ids.borrow_mut().exchange(),
            jti: &mut |name| ids.borrow_mut().jti(name, &nonce(), now),
        };
        self.self_check.handle_input(input, &mut env)
    }

    /// Whether the self-check waits for the answer to a call.
    #[must_use]
    pub fn is_checking(&self) -> bool {
        self.self_check.is_under_way()
    }

    /// The findings of this worker's latest self-check; all unchecked as long as another
    /// worker of the node checks.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        self.self_check.findings()
    }

    /// The same, if it is the first or says something that was not told yet.
    pub fn take_findings(&mut self) -> Option<Findings> {
        self.self_check.take_findings()
    }
}
