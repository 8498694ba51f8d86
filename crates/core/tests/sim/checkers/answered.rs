//! Invariant 7: every request gets an answer, within its deadline.
//!
//! The deadline is twice the time-out of a callout. A request that queues for a verification,
//! or follows one that does, has the time in the queue on top.

use super::{Checker, Ended, Seen, Word, holds};
use crate::truth::Truth;

/// Extra time for the worker's own work, and for rounding to milliseconds.
const SLACK_MS: u64 = 50;
/// The time of a full queue with the costs of these runs, at 0.4 ms a round.
const QUEUE_MS: u64 = 65 * 32 * 2 / 5;

/// The time-out of a wait for others, beside the wait itself.
const WAIT_MS: u64 = 3_200;

pub struct Answered;

/// The longest that a request may take.
pub fn longest_ms(ended: &Ended<'_>) -> u64 {
    let callout = ended.config.callout_timeout_ms;
    let queue = QUEUE_MS + callout;
    // A step backwards hides the time since the last answer, a time-out at most.
    let timeout = if ended.waited {
        WAIT_MS.max(callout)
    } else {
        callout
    };
    let hidden = ended.clock.backwards_capped(ended.sent_at, timeout);
    let queues = match (ended.turns > 0, ended.waited) {
        (false, false) => 0,
        // Its own place in the queue.
        (true, false) => queue,
        // And that of a leader before.
        (_, true) => 2 * queue,
    };
    2 * callout + queues + hidden + SLACK_MS
}

impl Checker for Answered {
    fn invariant(&self) -> u8 {
        7
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Truth) -> Word {
        match seen {
            Seen::Ended(ended) => {
                let (took, longest) = (ended.now - ended.sent_at, longest_ms(ended));
                holds(took <= longest, || {
                    format!("answered after {took} ms, and {longest} is the longest")
                })
            }
            Seen::Closed { unanswered, .. } => holds(*unanswered == 0, || {
                format!("{unanswered} requests without an answer")
            }),
            Seen::Idle { worker, places } => {
                let held = worker.flights + worker.pending + places;
                holds(held == 0, || {
                    format!("nobody waits, and {worker:?}, {places} places are held")
                })
            }
            _ => Ok(()),
        }
    }
}
