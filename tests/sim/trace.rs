//! What happened in a run, a line each: the same for the same seed, byte for byte.

use std::fmt::Write;

/// A run's trace. Holds no secret: keys go by their number.
#[derive(Default)]
pub struct Trace {
    text: String,
}

impl Trace {
    /// Notes what happened at this time, in milliseconds since the run began.
    pub fn note(&mut self, at: u64, what: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.text, "{at:>7} {what}");
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}
