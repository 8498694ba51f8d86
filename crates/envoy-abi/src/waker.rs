//! Wakes a stream, or a configuration, from any thread.

use std::sync::{Arc, Mutex, PoisonError};

use crate::raw::{self, Envoy};

/// Wakes a stream on its worker thread, or a configuration on the main thread.
///
/// Envoy's scheduler may be used only as long as the thread that it posts to lives. A stream lives no
/// longer than its worker thread, so the scheduler is deleted with the stream, under the lock that each
/// use takes.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Mutex<Scheduler>>);

#[derive(Debug)]
struct Scheduler {
    /// Envoy's scheduler; none after its end.
    scheduler: Option<Envoy>,
    commit: unsafe extern "C" fn(Envoy, u64),
    delete: unsafe extern "C" fn(Envoy),
}

// SAFETY: Envoy lets any thread use and delete a scheduler; the mutex keeps these apart.
unsafe impl Send for Scheduler {}

impl Waker {
    pub(crate) fn of_stream(scheduler: Envoy) -> Self {
        Self::new(scheduler, raw::scheduler_commit, raw::scheduler_delete)
    }

    pub(crate) fn of_config(scheduler: Envoy) -> Self {
        Self::new(
            scheduler,
            raw::config_scheduler_commit,
            raw::config_scheduler_delete,
        )
    }

    fn new(
        scheduler: Envoy,
        commit: unsafe extern "C" fn(Envoy, u64),
        delete: unsafe extern "C" fn(Envoy),
    ) -> Self {
        Self(Arc::new(Mutex::new(Scheduler {
            scheduler: Some(scheduler),
            commit,
            delete,
        })))
    }

    /// Wakes it: its `on_wake` runs soon, on its own thread. Does nothing after its end.
    pub fn wake(&self) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scheduler) = held.scheduler {
            // SAFETY: not deleted yet, and the lock keeps it so. Envoy only queues the event.
            unsafe { (held.commit)(scheduler, 0) }
        }
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scheduler) = held.scheduler.take() {
            // SAFETY: taken out, so it is deleted once, and nobody uses it any more.
            unsafe { (held.delete)(scheduler) }
        }
    }
}
