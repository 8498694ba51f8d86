//! Work that needs a processor and no quiet machine: it runs while nothing is timed, and
//! pauses during a timed part.

use std::fs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use crate::cores::Cores;

/// The place where such work waits for the lulls between timed parts.
#[derive(Clone, Default)]
pub(crate) struct Lull {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Nothing is timed.
    is_open: bool,
    /// Threads that are at work.
    going: usize,
}

impl Lull {
    /// Lets the work run during this call; all of it has paused when this returns.
    pub(crate) fn during<T>(&self, act: impl FnOnce() -> T) -> T {
        let _closed_at_the_end = Open::new(self);
        act()
    }

    /// Does work on a thread that takes the idle time of all cores. The work must call
    /// [`Lull::wait`] often.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        cores: Cores,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let lull = self.clone();
        thread::spawn(move || {
            let thread = fs::read_link("/proc/thread-self").expect("proc(5)");
            let number = thread.file_name().expect("a number").to_string_lossy();
            cores.give_what_is_left(&number);
            let _going = Going::new(&lull);
            work(&lull)
        })
    }

    /// Waits for a lull, or returns at once in one.
    pub(crate) fn wait(&self) {
        let mut state = self.state();
        if !state.is_open {
            state.going -= 1;
            self.inner.changed.notify_all();
            state = self.until(state, |state| state.is_open);
            state.going += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().expect("nobody panics with it")
    }

    fn until<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        is: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.inner.changed.wait_while(state, |state| !is(state));
        waited.expect("nobody panics with it")
    }
}

/// A lull, until dropped.
struct Open<'a>(&'a Lull);

impl<'a> Open<'a> {
    fn new(lull: &'a Lull) -> Self {
        lull.state().is_open = true;
        lull.inner.changed.notify_all();
        Self(lull)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_open = false;
        drop(self.0.until(state, |state| state.going == 0));
    }
}

/// A thread at work, whether it ends well or panics.
struct Going<'a>(&'a Lull);

impl<'a> Going<'a> {
    fn new(lull: &'a Lull) -> Self {
        lull.state().going += 1;
        lull.wait();
        Self(lull)
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.state().going -= 1;
        self.0.inner.changed.notify_all();
    }
}
