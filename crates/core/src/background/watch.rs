//! A worker's own questions to Keycloak: polls of revocations, and self-checks.
//!
//! Each worker has one, though several root contexts may drive it: routes with the same
//! configuration share their worker.

use super::env::WatchEnv;
use super::poller::{Poller, Polling};
use super::self_check::{Findings, SelfCheck};
use crate::exchange::{Env, Worker};
use crate::machine::{Effect, Event};

/// Polls and self-checks of one worker.
#[derive(Debug)]
pub struct Watch {
    poller: Poller,
    self_check: SelfCheck,
}

impl Watch {
    /// The polls and self-checks of this worker, at their start.
    #[must_use]
    pub fn new(worker: &Worker) -> Self {
        let (config, signing_key) = (&worker.config, &worker.signing_key);
        let seed = worker.ids.seed();
        Self {
            poller: Poller::new(config.revocation_poll_ms, signing_key, seed),
            self_check: SelfCheck::new(config, signing_key, seed),
        }
    }

    /// A tick of the poll.
    pub(super) fn poll(&mut self, env: &mut Env<'_>) -> Option<Effect> {
        self.poller.tick(&mut WatchEnv::of(env))
    }

    /// The outcome of the poll's call.
    pub(super) fn poll_event(&mut self, event: Event<'_>, env: &mut Env<'_>) -> Option<Effect> {
        self.poller.handle_event(event, &mut WatchEnv::of(env))
    }

    /// A tick of the self-check, after the poll's.
    pub(super) fn check(&mut self, env: &mut Env<'_>) -> Option<Effect> {
        self.self_check.tick(&mut WatchEnv::of(env))
    }

    /// The outcome of the self-check's call.
    pub(super) fn check_event(&mut self, event: Event<'_>, env: &mut Env<'_>) {
        self.self_check.handle_event(event, &mut WatchEnv::of(env));
    }

    /// Whether a poll is under way.
    #[must_use]
    pub const fn is_polling(&self) -> bool {
        self.poller.is_under_way()
    }

    /// The state of polling, if it changed since the last call.
    pub fn take_polling(&mut self) -> Option<Polling> {
        self.poller.take_notice()
    }

    /// Admin events that were acted on; a few pages.
    #[must_use]
    pub fn events(&self) -> usize {
        self.poller.events()
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

    /// The same, if they are the first or hold news.
    pub fn take_findings(&mut self) -> Option<Findings> {
        self.self_check.take_findings()
    }
}
