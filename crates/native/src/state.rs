//! The state that the requests of a route share.

use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::available_parallelism;

use apikeys_core::background::Watch;
use apikeys_core::config::Config;
use apikeys_core::exchange::gate::Gate;
use apikeys_core::exchange::{Env, Worker};
use apikeys_core::manage::Manager;
use apikeys_core::signing_key::SigningKey;

use crate::store::{Memory, View};
use crate::{clock, lock};

/// The signing keys of a route.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The gateway's key.
    pub gateway: Arc<SigningKey>,
    /// The management API's key. Ignored by an exchange.
    pub management: Arc<SigningKey>,
}

/// The state that the requests of a route share. A new signing key starts a new state. A request keeps
/// the state that it began with.
#[derive(Clone)]
pub struct State(Arc<Parts>);

struct Parts {
    inner: Mutex<Inner>,
    /// Shared with the other routes: one route publishes revocations there for the others.
    memory: Arc<Memory>,
    keys: Keys,
}

/// The parts of a [`State`] behind its lock.
pub struct Inner {
    /// The core's worker.
    pub worker: Worker,
    /// The poll and the self-check.
    pub watch: Watch,
    /// The management API's state, in mode `manage`.
    pub manager: Option<Manager>,
    /// The places of verifications.
    pub gate: Gate,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

impl State {
    /// An empty state with these keys.
    #[must_use]
    pub fn new(config: &Arc<Config>, keys: Keys, memory: &Arc<Memory>) -> Self {
        let manager = config.management.as_ref();
        let manager = manager.map(|_| Manager::new(Arc::clone(&keys.management), &nonce()));
        let worker = Worker::new(Arc::clone(config), Arc::clone(&keys.gateway), &nonce());
        // The management API's machine can compute bcrypt only in slices.
        let gate = match manager {
            None => Gate::apart(threads()),
            Some(_) => Gate::new(),
        };
        let inner = Inner {
            watch: Watch::new(&worker),
            worker,
            manager,
            gate,
        };
        Self(Arc::new(Parts {
            inner: Mutex::new(inner),
            memory: Arc::clone(memory),
            keys,
        }))
    }

    /// Whether both are the same state.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether its keys are these.
    #[must_use]
    pub fn has_keys(&self, keys: &Keys) -> bool {
        let own = &self.0.keys;
        own.gateway.kid() == keys.gateway.kid() && own.management.kid() == keys.management.kid()
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// Whether a panic has left it half changed. It must not be used any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.inner.is_poisoned()
    }

    /// Locks it.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0.inner)
    }

    /// Lends a machine its environment for one step. `source` gives the client's address.
    pub fn with_env<T>(
        &self,
        source: &dyn Fn() -> Option<Vec<u8>>,
        act: impl FnOnce(&mut Env<'_>, &mut Watch, Option<&mut Manager>) -> T,
    ) -> T {
        let inner = &mut *self.lock();
        let mut env = Env {
            now: clock::now(),
            worker: &mut inner.worker,
            gate: &mut inner.gate,
            store: &mut View(&self.0.memory),
            nonce: &nonce,
            source,
        };
        act(&mut env, &mut inner.watch, inner.manager.as_mut())
    }
}

/// The number of threads for bcrypt: one per core.
#[must_use]
pub fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Unique bytes; they need not be secret.
fn nonce() -> Vec<u8> {
    let mut bytes = vec![0_u8; 16];
    // If this fails, the zeros stay. The core adds the time and a counter.
    let _ = getrandom::fill(&mut bytes);
    bytes
}
