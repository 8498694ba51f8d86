//! Wakes a stream, or a configuration, from any thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::raw::{self, Envoy};

/// Wakes a stream on its worker thread, or a configuration on the main thread.
///
/// Envoy's scheduler may be used only as long as the thread that it posts to lives. A stream lives no
/// longer than its worker thread, so the scheduler is deleted with the stream, under the lock that each
/// use takes.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Mutex<Option<Scheduler>>>);

#[derive(Debug)]
struct Scheduler {
    envoy: Envoy,
    commit: unsafe extern "C" fn(Envoy, u64),
    delete: unsafe extern "C" fn(Envoy),
}

// SAFETY: Envoy lets any thread use and delete a scheduler; the mutex keeps these apart.
unsafe impl Send for Scheduler {}

impl Waker {
    /// # Safety
    /// A hook of this stream runs.
    pub(crate) unsafe fn of_stream(stream: Envoy) -> Self {
        Self::new(Scheduler {
            // SAFETY: the caller's promise.
            envoy: unsafe { raw::scheduler_new(stream) },
            commit: raw::scheduler_commit,
            delete: raw::scheduler_delete,
        })
    }

    /// # Safety
    /// A hook of this configuration runs.
    pub(crate) unsafe fn of_config(config: Envoy) -> Self {
        Self::new(Scheduler {
            // SAFETY: the caller's promise.
            envoy: unsafe { raw::config_scheduler_new(config) },
            commit: raw::config_scheduler_commit,
            delete: raw::config_scheduler_delete,
        })
    }

    fn new(scheduler: Scheduler) -> Self {
        let known = !scheduler.envoy.is_null();
        Self(Arc::new(Mutex::new(known.then_some(scheduler))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Scheduler>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes it: its `on_wake` runs soon, on its own thread. Does nothing after its end.
    pub fn wake(&self) {
        if let Some(scheduler) = &*self.lock() {
            // SAFETY: not deleted yet, and the lock keeps it so. Envoy only queues the event.
            unsafe { (scheduler.commit)(scheduler.envoy, 0) }
        }
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        if let Some(scheduler) = self.lock().take() {
            // SAFETY: taken out, so it is deleted once, and nobody uses it any more.
            unsafe { (scheduler.delete)(scheduler.envoy) }
        }
    }
}
