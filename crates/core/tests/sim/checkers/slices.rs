//! Invariant 8: a worker is held for one slice at most.
//!
//! Each verification has come back for a turn after each slice of its rounds, and so has each
//! refusal of a wrong secret.

use apikeys_core::exchange::Source;

use super::{Checker, Seen, Word, holds};
use crate::request::End;
use crate::truth::Truth;

/// Rounds that take a worker no longer than a slice may; its own number, since the core's is
/// under test.
const ROUNDS_PER_SLICE: u32 = 12;

pub struct Slices;

impl Checker for Slices {
    fn invariant(&self) -> u8 {
        8
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Truth) -> Word {
        let Seen::Ended(ended) = seen else {
            return Ok(());
        };
        let slices = ended.rounds.div_ceil(ROUNDS_PER_SLICE);
        let least = match ended.end {
            // The last turn is for the signatures.
            End::Forwarded {
                source: Source::FirstUse,
                ..
            } => slices,
            End::Rejected { reason, .. } if reason == "wrong secret" => slices.saturating_sub(1),
            _ => return Ok(()),
        };
        holds(ended.turns >= least, || {
            let (rounds, turns) = (ended.rounds, ended.turns);
            format!("{rounds} rounds in {turns} turns, and {least} is the least")
        })
    }
}
