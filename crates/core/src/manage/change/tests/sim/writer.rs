//! A writer: its clock, its patience, and its present change.

use std::collections::BTreeSet;

use crate::manage::change::OwnerChange;
use crate::manage::owner_keys::Edit;

/// One of the writers.
#[derive(Debug)]
pub(super) struct Writer {
    /// The lead of its clock over the slowest one.
    pub(super) offset_ms: u64,
    /// Changes that it has yet to begin.
    pub(super) changes_left: u32,
    /// The number of the input that it waits for; any other number is of the past.
    pub(super) awaited: u64,
    /// Its last call was one that only a breaker of locks makes.
    pub(super) at_the_break: bool,
    pub(super) attempt: Option<Attempt>,
}

/// A change that a writer makes.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) serial: usize,
    pub(super) machine: OwnerChange,
    pub(super) began_at: u64,
    pub(super) inputs: u64,
}

/// The world's view of a change, which may live longer than its writer.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) holder: String,
    pub(super) edit: Edit,
    pub(super) patience_ms: u64,
    /// A fault struck it.
    pub(super) faulty: bool,
    /// It took longer than a holder may go on for.
    pub(super) slow: bool,
    /// Its latest reading of the owner.
    pub(super) last_read: Option<Read>,
    /// Writes of its own that took effect.
    pub(super) writes: u64,
    pub(super) end: Option<End>,
}

/// How a change ended, as its writer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Made,
    /// The caller was told that nothing has changed.
    NotMade,
    /// The caller was told that the outcome is unknown.
    Unknown,
    /// Nobody was told anything.
    Crashed,
}

/// The owner as a writer last read it, and the number of its writes by then.
#[derive(Debug, Clone, Default)]
pub(super) struct Read {
    pub(super) ids: BTreeSet<String>,
    pub(super) writes: u64,
    pub(super) administered: u64,
}
