//! Invariant 12: nothing rests on the host's random source, which on Kong may give
//! the same bytes for ever: no assertion ever comes twice.

use super::{Checker, Seen, Word, holds};
use crate::truth::Truth;

pub struct Unique;

impl Checker for Unique {
    fn invariant(&self) -> u8 {
        12
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Truth) -> Word {
        let Seen::Closed { reuses, .. } = seen else {
            return Ok(());
        };
        holds(*reuses == 0, || {
            format!("{reuses} assertions came a second time")
        })
    }
}
