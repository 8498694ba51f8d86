//! The parts of a shell that any process with threads needs.
//!
//! The service (`crates/serve`) and Envoy's module (`crates/envoy-module`) share them: one worker of the
//! core for each configuration, under a lock for all threads; plain memory in the place of a gateway's
//! shared data; the loop that drives the core's machines; the work between requests. The shells
//! around give a [`Host`]: calls to Keycloak, and the log.

pub mod background;
pub mod clock;
pub mod exchange;
pub mod management;
mod request;
mod route;
mod state;
mod store;

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use apikeys_core::config::Config;
use apikeys_core::keycloak::Call;
use apikeys_core::machine::Event;
use apikeys_core::trace::TraceContext;
use zeroize::Zeroizing;

pub use request::{Facts, Request, is_address};
pub use route::{Route, Shared};
pub use state::{Inner, Keys, State, threads};
pub use store::Memory;

/// The process around a route.
pub trait Host: Send + Sync + 'static {
    /// Makes a call to Keycloak, and gives up after `timeout_ms`.
    fn call(
        &self,
        config: &Config,
        call: &Call,
        trace: Option<&TraceContext>,
        timeout_ms: u64,
    ) -> impl Future<Output = Answer> + Send;

    /// Writes a line to the log.
    fn log(&self, level: Level, line: &str);

    /// Writes a line to the audit log. It is JSON.
    fn audit(&self, level: Level, line: &str);
}

/// The importance of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Work as usual.
    Info,
    /// Something that an operator should know.
    Warning,
    /// Something that does not work.
    Error,
}

/// An answer of Keycloak, or the reason why there is none.
pub enum Answer {
    /// Keycloak answered.
    Given {
        /// The HTTP status.
        status: u16,
        /// The body, unless it is too large. It may hold a token.
        body: Option<Zeroizing<Vec<u8>>>,
    },
    /// The reason why there is no answer.
    Failed(String),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given { status, .. } => write!(f, "Given({status})"),
            Self::Failed(why) => write!(f, "Failed({why})"),
        }
    }
}

impl Answer {
    /// The answer, as an event for a machine.
    #[must_use]
    pub fn event(&self) -> Event<'_> {
        match self {
            Self::Given { status, body } => Event::Answer {
                status: *status,
                body: body.as_ref().map(|body| body.as_slice()),
            },
            Self::Failed(why) => Event::Failed(why),
        }
    }
}

/// Locks a mutex that no panic leaves half changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
