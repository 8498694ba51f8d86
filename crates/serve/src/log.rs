//! The log: JSON lines on standard output, with the audit log among them.
//!
//! A separate thread writes, so no request waits for the log. If the output is not read, lines are
//! dropped and counted.

use std::io::Write;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// The most lines that wait for the writer.
const LINES_MAX: usize = 32 * 1024;

static OUTPUT: OnceLock<NonBlocking> = OnceLock::new();

/// Starts the log. The guard writes the last lines when it is dropped.
pub(crate) fn start() -> WorkerGuard {
    let (output, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .finish(std::io::stdout());
    let writer = OUTPUT.get_or_init(|| output).clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_writer(move || writer.clone())
        .finish();
    // Fails if a test has set one before.
    let _ = tracing::subscriber::set_global_default(subscriber);
    guard
}

/// Writes a line of the audit log. It is JSON already.
pub(crate) fn audit(line: &str) {
    if let Some(mut output) = OUTPUT.get().cloned() {
        let mut whole = String::with_capacity(line.len() + 1);
        whole.push_str(line);
        whole.push('\n');
        // If too many lines wait, the writer drops this one and counts it.
        let _ = output.write_all(whole.as_bytes());
    }
}

/// The number of lines dropped so far.
pub(crate) fn dropped() -> usize {
    let counter: Option<ErrorCounter> = OUTPUT.get().map(NonBlocking::error_counter);
    counter.map_or(0, |counter| counter.dropped_lines())
}
