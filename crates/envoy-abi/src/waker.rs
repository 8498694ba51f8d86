//! Wakes a stream, or a configuration, from any thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::raw::Envoy;

/// Wakes a stream on its worker thread, or a configuration on the main thread.
///
/// Envoy's scheduler may be used only as long as the thread that it posts to lives. A stream lives no
/// longer than its worker thread, so the scheduler is deleted with the stream, under the lock that each
/// use takes.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Mutex<Option<Scheduler>>>);

type Commit = unsafe extern "C" fn(Envoy, u64);
type Delete = unsafe extern "C" fn(Envoy);

#[derive(Debug)]
struct Scheduler {
    envoy: Envoy,
    commit: Commit,
    delete: Delete,
}

// SAFETY: Envoy lets any thread use and delete a scheduler; the mutex keeps these apart.
unsafe impl Send for Scheduler {}

impl Waker {
    /// # Safety
    /// `envoy` is null, or a new scheduler of these two functions.
    pub(crate) unsafe fn new(envoy: Envoy, commit: Commit, delete: Delete) -> Self {
        let scheduler = (!envoy.is_null()).then_some(Scheduler {
            envoy,
            commit,
            delete,
        });
        Self(Arc::new(Mutex::new(scheduler)))
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
