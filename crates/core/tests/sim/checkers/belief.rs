//! Invariant 11: an answer of Keycloak is checked before it is believed.
//!
//! A request whose answer nobody may believe (another's record, two owners, a token of another
//! subject) is refused, at once.

use apikeys_core::exchange::Output;

use super::{Checker, Seen, Word, holds};
use crate::truth::Truth;

pub struct Belief;

impl Checker for Belief {
    fn invariant(&self) -> u8 {
        11
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Truth) -> Word {
        let Seen::Step {
            output,
            poison: Some(poison),
            ..
        } = seen
        else {
            return Ok(());
        };
        holds(matches!(output, Output::Reject { .. }), || {
            format!("{poison} was believed: {output:?}")
        })
    }
}
