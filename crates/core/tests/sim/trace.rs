//! The events of a run, a line each: the same for the same seed, byte for byte.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

/// A run's trace. Holds no secret: keys go by their number. A copy of it outlives a panic.
#[derive(Default, Clone)]
pub struct Trace(Arc<Mutex<String>>);

impl Trace {
    /// Notes an event at this time, in milliseconds since the run began.
    pub fn note(&mut self, at: u64, what: std::fmt::Arguments<'_>) {
        let mut text = self.0.lock().unwrap();
        let _ = writeln!(text, "{at:>7} {what}");
    }

    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}
