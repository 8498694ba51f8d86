//! The log: lines of JSON on standard output, the audit log's among them.
//!
//! A thread of its own writes. Where nobody reads the output, lines are dropped and counted: no
//! request waits for the log.

use std::io::Write;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that may wait for the writer.
const LINES_MAX: usize = 32 * 1024;

static OUTPUT: OnceLock<NonBlocking> = OnceLock::new();

/// Begins to log; the guard writes the last lines when it is dropped.
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
    // A test may have set one before.
    let _ = tracing::subscriber::set_global_default(subscriber);
    guard
}

/// Writes a line of the audit log, which is JSON already.
pub(crate) fn audit(line: &str) {
    if let Some(mut output) = OUTPUT.get().cloned() {
        let mut whole = String::with_capacity(line.len() + 1);
        whole.push_str(line);
        whole.push('\n');
        // The writer drops the line where too many wait, and counts it.
        let _ = output.write_all(whole.as_bytes());
    }
}

/// The lines that were dropped so far.
pub(crate) fn dropped() -> usize {
    let counter: Option<ErrorCounter> = OUTPUT.get().map(NonBlocking::error_counter);
    counter.map_or(0, |counter| counter.dropped_lines())
}
