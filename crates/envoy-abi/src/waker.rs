//! Wakes a stream, or a configuration, from any thread.

use std::cell::Cell;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::raw::Envoy;

thread_local! {
    /// The waker that this thread uses right now, and whether it ended meanwhile.
    static USED: Cell<(*const Mutex<Option<Scheduler>>, bool)> =
        const { Cell::new((ptr::null(), false)) };
}

/// Wakes a stream on its worker thread, or a configuration on the main thread.
///
/// Envoy's scheduler may be used only as long as the thread that it posts to lives. A stream lives no
/// longer than its worker thread, so the scheduler is deleted with the stream, under the lock that each
/// use takes.
///
/// Envoy holds a configuration while it queues an event for it. If all others let go of it meanwhile, it
/// ends within [`Waker::wake`], on the thread that wakes it: so no lock of the caller's that `on_end` takes may be
/// held there.
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
        let mut held = self.lock();
        let Some(scheduler) = &*held else {
            return;
        };
        let outer = USED.replace((Arc::as_ptr(&self.0), false));
        // SAFETY: not deleted yet, and the lock keeps it so.
        unsafe { (scheduler.commit)(scheduler.envoy, 0) }
        let (_, has_ended) = USED.replace(outer);
        if has_ended {
            delete(held.take());
        }
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        let this = Arc::as_ptr(&self.0);
        if USED.get().0 == this {
            // This thread holds the lock, and deletes the scheduler after its use.
            return USED.set((this, true));
        }
        delete(self.lock().take());
    }
}

fn delete(scheduler: Option<Scheduler>) {
    if let Some(scheduler) = scheduler {
        // SAFETY: taken out, so it is deleted once, and nobody uses it any more.
        unsafe { (scheduler.delete)(scheduler.envoy) }
    }
}
