//! A filter's configuration, as its hooks on the main thread see it.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::raw::{self, Envoy, Header, SUCCESS, Slice};
use crate::waker::Waker;

/// The longest wait for calls under way when a configuration ends on a worker thread. Calls end sooner,
/// by their own time limit.
const CALLS_END: Duration = Duration::from_secs(60);

/// A counter or a gauge of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricId(pub(crate) usize);

/// A configuration that is loaded.
#[derive(Debug)]
pub struct Loading<'a> {
    pub(crate) config: Envoy,
    pub(crate) waker: &'a Waker,
}

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
        let (name, labels, mut id) = (Slice::of(name.as_bytes()), std::ptr::null_mut(), 0);
        // SAFETY: the hook that loads this configuration runs; without labels, Envoy reads none.
        let result = unsafe { define(self.config, name, labels, 0, &raw mut id) };
        (result == SUCCESS).then_some(MetricId(id))
    }

    /// Subscribes to a generic secret of this name: of the bootstrap configuration if `source` is empty,
    /// else from the `ConfigSource` that it holds as JSON. Gives the secret's id.
    ///
    /// # Errors
    /// Envoy is older than 1.40, or has no such secret.
    pub fn subscribe(&mut self, name: &str, source: &str) -> Result<SecretId, &'static str> {
        let found = raw::newer(SUBSCRIBE);
        if found.is_null() {
            return Err("secrets need Envoy 1.40 or newer");
        }
        // SAFETY: Envoy has the callback of this name since 1.40 with this type.
        let subscribe = unsafe { std::mem::transmute::<*mut c_void, raw::Subscribe>(found) };
        let (name, source) = (Slice::of(name.as_bytes()), Slice::of(source.as_bytes()));
        // SAFETY: the hook that loads this configuration runs; Envoy copies both.
        match unsafe { subscribe(self.config, name, source) } {
            0 => Err("Envoy has no such secret, or does not understand its source"),
            id => Ok(SecretId(id)),
        }
    }
}

/// A generic secret of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretId(usize);

type Define = unsafe extern "C" fn(Envoy, Slice, *mut Slice, usize, *mut usize) -> u32;

const SUBSCRIBE: &CStr =
    c"envoy_dynamic_module_callback_http_filter_config_generic_secret_subscribe";
const READ: &CStr = c"envoy_dynamic_module_callback_http_filter_config_get_generic_secret";
const CALLOUT: &CStr = c"envoy_dynamic_module_callback_http_filter_config_http_callout";
const INCREMENT: &CStr = c"envoy_dynamic_module_callback_http_filter_config_increment_counter";
const SET_GAUGE: &CStr = c"envoy_dynamic_module_callback_http_filter_config_set_gauge";

/// The version of the interface that this Envoy has.
///
/// # Errors
/// Envoy is too old for the module.
pub(crate) fn version() -> Result<&'static CStr, &'static str> {
    if raw::newer(CALLOUT).is_null() {
        return Err("the module needs Envoy 1.38, 1.39 or 1.40; this Envoy is older");
    }
    let is_1_40 = !raw::newer(SUBSCRIBE).is_null();
    Ok(if is_1_40 { c"v0.2.0" } else { c"v0.1.0" })
}

/// A configuration between streams, on the main thread.
#[derive(Debug)]
pub struct Outside<'a> {
    config: Envoy,
    calls: &'a Calls,
    /// Not for other threads.
    here: PhantomData<*mut ()>,
}

impl<'a> Outside<'a> {
    /// # Safety
    /// `config` must be Envoy's object of a configuration whose hook runs on the main thread, until
    /// `'a` ends.
    pub(crate) const unsafe fn new(config: Envoy, calls: &'a Calls) -> Self {
        Self {
            config,
            calls,
            here: PhantomData,
        }
    }

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
        let found = raw::newer(CALLOUT);
        if found.is_null() {
            return Err("Envoy is too old");
        }
        // SAFETY: Envoy has the callback of this name since 1.38 with this type.
        let callout = unsafe { std::mem::transmute::<*mut c_void, raw::Callout>(found) };
        let of = |(name, value): &(&str, &str)| Header::of(name, value);
        let headers: Vec<Header> = headers.iter().map(of).collect();
        let (cluster, body) = (Slice::of(cluster.as_bytes()), Slice::of(body));
        let timeout = u64::try_from(timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let (mut id, start, count) = (0, headers.as_ptr(), headers.len());
        // SAFETY: a hook of this configuration runs on the main thread; Envoy copies cluster, headers and
        // body, writes the id, and calls no hook before it returns.
        match unsafe {
            callout(
                self.config,
                &raw mut id,
                cluster,
                start,
                count,
                body,
                timeout,
            )
        } {
            SUCCESS => {
                self.calls.began();
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
        let found = raw::newer(READ);
        if found.is_null() {
            return None;
        }
        // SAFETY: Envoy has the callback of this name since 1.40 with this type.
        let read = unsafe { std::mem::transmute::<*mut c_void, raw::ReadSecret>(found) };
        let mut value = Slice::EMPTY;
        // SAFETY: a hook of this configuration runs; Envoy writes the value.
        let known = unsafe { read(self.config, id.0, &raw mut value) };
        // SAFETY: Envoy changes a secret between hooks only; `self` lives no longer than the hook.
        let bytes = unsafe { value.bytes() };
        (known && !bytes.is_empty()).then_some(bytes)
    }

    /// Adds to a counter. False before Envoy 1.39, where only a stream can.
    #[must_use]
    pub fn increment(&self, counter: MetricId, by: u64) -> bool {
        self.change(INCREMENT, counter, by)
    }

    /// Sets a gauge. False before Envoy 1.39, where only a stream can.
    #[must_use]
    pub fn set_gauge(&self, gauge: MetricId, value: u64) -> bool {
        self.change(SET_GAUGE, gauge, value)
    }

    fn change(&self, symbol: &CStr, metric: MetricId, value: u64) -> bool {
        let found = raw::newer(symbol);
        if found.is_null() {
            return false;
        }
        // SAFETY: Envoy has both callbacks since 1.39 with this type.
        let change = unsafe { std::mem::transmute::<*mut c_void, raw::ChangeMetric>(found) };
        // SAFETY: a hook of this configuration runs on the main thread; without labels, Envoy reads none.
        unsafe { change(self.config, metric.0, std::ptr::null_mut(), 0, value) };
        true
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

/// The number of calls under way.
///
/// Envoy cancels a configuration's calls when it destroys the configuration. That must not happen on
/// another thread than the main thread, which owns the calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    under_way: Mutex<usize>,
    ended: Condvar,
}

impl Calls {
    fn began(&self) {
        *self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += 1;
    }

    pub(crate) fn ended(&self) {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *under_way = under_way.saturating_sub(1);
        self.ended.notify_all();
    }

    /// Waits until no call is under way.
    pub(crate) fn wait(&self) {
        let under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // After the longest wait, Envoy cancels the calls itself.
        let _ = self
            .ended
            .wait_timeout_while(under_way, CALLS_END, |count| *count > 0);
    }
}
