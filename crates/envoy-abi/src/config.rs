//! A filter's configuration, as its hooks on the main thread see it.

use std::ptr::null_mut;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::raw::{self, Envoy, Header, SUCCESS, Slice};
use crate::waker::Waker;

/// The time that an answer may take to reach the module, over its call's own limit.
const LATE: Duration = Duration::from_secs(5);

/// A counter or a gauge of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricId(pub(crate) usize);

/// A generic secret of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretId(usize);

/// A configuration that is loaded.
#[derive(Debug)]
pub struct Loading<'a> {
    pub(crate) config: Envoy,
    pub(crate) waker: &'a Waker,
}

type Define = unsafe extern "C" fn(Envoy, Slice, *mut Slice, usize, *mut usize) -> u32;

impl Loading<'_> {
    /// The configuration's waker.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Defines a counter. Envoy takes no new ones later.
    pub fn define_counter(&mut self, name: &str) -> Option<MetricId> {
        self.define(raw::define_counter, name)
    }

    /// Defines a gauge. Envoy takes no new ones later.
    pub fn define_gauge(&mut self, name: &str) -> Option<MetricId> {
        self.define(raw::define_gauge, name)
    }

    fn define(&mut self, define: Define, name: &str) -> Option<MetricId> {
        let (name, mut id) = (Slice::of(name.as_bytes()), 0);
        // SAFETY: the hook that loads this configuration runs; without labels, Envoy reads none.
        let result = unsafe { define(self.config, name, null_mut(), 0, &raw mut id) };
        (result == SUCCESS).then_some(MetricId(id))
    }

    /// Subscribes to a generic secret of this name: of the bootstrap configuration if `source` is empty,
    /// else from the `ConfigSource` that it holds as JSON. Gives the secret's id.
    ///
    /// # Errors
    /// Envoy is older than 1.40, or has no such secret.
    pub fn subscribe(&mut self, name: &str, source: &str) -> Result<SecretId, &'static str> {
        let subscribe = raw::subscribe().ok_or("secrets need Envoy 1.40 or newer")?;
        let (name, source) = (Slice::of(name.as_bytes()), Slice::of(source.as_bytes()));
        // SAFETY: the hook that loads this configuration runs; Envoy copies both.
        match unsafe { subscribe(self.config, name, source) } {
            0 => Err("Envoy has no such secret, or does not understand its source"),
            id => Ok(SecretId(id)),
        }
    }
}

/// A configuration between streams, for the time of one hook, on the main thread.
///
/// It does not leave its thread:
/// ```compile_fail,E0277
/// fn sent<T: Send>() {}
/// sent::<envoy_abi::Outside<'static>>();
/// ```
/// What it lends does not outlive it:
/// ```compile_fail,E0515
/// fn keep(outside: envoy_abi::Outside<'static>, id: envoy_abi::SecretId) -> Option<&'static [u8]> {
///     outside.secret(id)
/// }
/// ```
#[derive(Debug)]
pub struct Outside<'a> {
    pub(crate) config: Envoy,
    pub(crate) calls: &'a Calls,
}

impl Outside<'_> {
    /// Makes a call to a cluster, and gives its id. `headers` must have `:method`, `:path` and
    /// `host` or `:authority`.
    ///
    /// # Errors
    /// Envoy could not send it.
    pub fn call(
        &self,
        cluster: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<u64, &'static str> {
        let callout = raw::callout().ok_or("Envoy is too old")?;
        let of = |(name, value): &(&str, &str)| Header::of(name, value);
        let headers: Vec<Header> = headers.iter().map(of).collect();
        let (cluster, body) = (Slice::of(cluster.as_bytes()), Slice::of(body));
        let limit = u64::try_from(timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let (mut id, start, count) = (0, headers.as_ptr(), headers.len());
        // SAFETY: a hook of this configuration runs on the main thread; Envoy copies cluster, headers and
        // body, writes the id, and calls no hook before it returns.
        match unsafe { callout(self.config, &raw mut id, cluster, start, count, body, limit) } {
            SUCCESS => {
                self.calls.began(timeout);
                Ok(id)
            }
            1 => Err("the call lacks a header"),
            2 => Err("Envoy has no such cluster"),
            _ => Err("the cluster takes no call"),
        }
    }

    /// The secret's text on this thread; none before its first delivery.
    #[must_use]
    pub fn secret(&self, id: SecretId) -> Option<&[u8]> {
        let mut value = Slice::EMPTY;
        // SAFETY: a hook of this configuration runs; Envoy writes the value.
        let known = unsafe { raw::get_secret()?(self.config, id.0, &raw mut value) };
        // SAFETY: Envoy changes a secret between hooks only; `self` lives no longer than the hook.
        let bytes = unsafe { value.bytes() };
        (known && !bytes.is_empty()).then_some(bytes)
    }

    /// Adds to a counter. False before Envoy 1.39, where only a stream can.
    #[must_use]
    pub fn increment(&self, counter: MetricId, by: u64) -> bool {
        // SAFETY: a hook of this configuration runs on the main thread; without labels, Envoy reads none.
        let add = |add: raw::Change| unsafe { add(self.config, counter.0, null_mut(), 0, by) };
        raw::increment().map(add).is_some()
    }

    /// Sets a gauge. False before Envoy 1.39, where only a stream can.
    #[must_use]
    pub fn set_gauge(&self, gauge: MetricId, value: u64) -> bool {
        // SAFETY: as for `increment`.
        let set = |set: raw::Change| unsafe { set(self.config, gauge.0, null_mut(), 0, value) };
        raw::set_gauge().map(set).is_some()
    }
}

/// The answer to a call.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The parts of the body, in their order.
    pub body: Vec<&'a [u8]>,
}

/// The calls under way.
///
/// Envoy cancels a configuration's calls when it destroys the configuration. That must not happen on
/// another thread than the main thread, which owns the calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    state: Mutex<CallsState>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct CallsState {
    under_way: usize,
    longest: Duration,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, CallsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn began(&self, timeout: Duration) {
        let mut state = self.lock();
        state.under_way += 1;
        state.longest = state.longest.max(timeout);
    }

    pub(crate) fn ended(&self) {
        let mut state = self.lock();
        state.under_way = state.under_way.saturating_sub(1);
        self.ended.notify_all();
    }

    /// Waits until no call is under way. False if one should have ended, but did not: the main thread
    /// hands out no answers any more.
    pub(crate) fn wait(&self) -> bool {
        let state = self.lock();
        let limit = state.longest.saturating_add(LATE);
        let wait = self
            .ended
            .wait_timeout_while(state, limit, |state| state.under_way > 0);
        wait.unwrap_or_else(PoisonError::into_inner).0.under_way == 0
    }
}
