//! The faults of a run, each with its probability.

use crate::manage::change::{HOLD_MS, STALE_MS};

/// The probability of each fault: of a call, an input or a pause between changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Faults {
    /// A call never arrives.
    pub(super) dropped: f64,
    /// A call takes effect, and its answer is lost.
    pub(super) answer_lost: f64,
    /// A call is answered 500 or 503 and has no effect.
    pub(super) refused: f64,
    /// A write of the user is answered 400 and has no effect: the user profile refuses it.
    pub(super) profile: f64,
    /// A call takes effect and is answered 500 or 503.
    pub(super) refused_after: f64,
    /// A call takes effect late, as late as the assumption allows.
    pub(super) late: f64,
    /// A writer stands still before it sees an answer, for up to two minutes.
    pub(super) paused: f64,
    /// A writer is gone before it sees an answer.
    pub(super) crashed: f64,
    /// The longest way of a call that is not late, in milliseconds.
    pub(super) way_ms: u64,
    /// Clocks differ by this much at most, in milliseconds.
    pub(super) skew_ms: u64,
    /// An administrator begins an edit by hand after this many changes.
    pub(super) administrator: f64,
}

impl Faults {
    pub(super) const NONE: Self = Self {
        dropped: 0.0,
        answer_lost: 0.0,
        refused: 0.0,
        profile: 0.0,
        refused_after: 0.0,
        late: 0.0,
        paused: 0.0,
        crashed: 0.0,
        way_ms: 20,
        skew_ms: 30_000,
        administrator: 0.0,
    };
    pub(super) const ALL: Self = Self {
        dropped: 0.01,
        answer_lost: 0.01,
        refused: 0.01,
        profile: 0.05,
        refused_after: 0.01,
        late: 0.02,
        paused: 0.005,
        crashed: 0.02,
        way_ms: 700,
        ..Self::NONE
    };
    /// The same faults, some off and some often: an error that takes three faults of a kind
    /// needs more than a little of each.
    pub(super) fn mixed(self, mut by: impl FnMut() -> f64) -> Self {
        Self {
            dropped: self.dropped * by(),
            answer_lost: self.answer_lost * by(),
            refused: self.refused * by(),
            refused_after: self.refused_after * by(),
            late: self.late * by(),
            paused: self.paused * by(),
            crashed: self.crashed * by(),
            ..self
        }
    }

    pub(super) const ADMINISTRATOR: Self = Self {
        administrator: 0.5,
        ..Self::NONE
    };
}

/// A world that breaks an assumption of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breakage {
    /// A link is put over another's.
    LinksAreNoLock,
    /// A call takes effect much later.
    LaterThanAssumed,
    /// Clocks differ by a minute more than late calls leave room for.
    ClocksFurtherApart,
    /// A deletion of a link is repeated on the way, and arrives again a while later.
    DeletedTwice,
}

/// How late a call may take effect, in milliseconds after it was sent.
pub(super) fn late_ms_max(skew_ms: u64) -> u64 {
    STALE_MS - HOLD_MS - skew_ms - 1
}
