//! Invariant 2: no token is forwarded past its own end, nor past its key's.
//!
//! By the gateway's clock, always. By the right time as well, where that clock is
//! right within `clock_skew_seconds` and the token is long enough for the skew to be
//! kept off its end.

use super::{Checker, Seen, Word, holds};
use crate::truth::Truth;

pub struct Expiry;

impl Checker for Expiry {
    fn invariant(&self) -> u8 {
        2
    }

    fn see(&mut self, seen: &Seen<'_>, truth: &Truth) -> Word {
        let Seen::Ended(ended) = seen else {
            return Ok(());
        };
        let Some(token) = ended.end.token() else {
            return Ok(());
        };
        let Some(issued) = truth.tokens.get(token) else {
            return Ok(());
        };
        holds(ended.node_now < issued.exp, || {
            "forwarded with a token that is over by the gateway's own clock".to_owned()
        })?;
        let skew = ended.config.clock_skew_ms;
        let is_right = ended.node_now.abs_diff(ended.now) <= skew;
        let is_long = issued.life * 1000 >= 2 * skew;
        holds(!is_right || !is_long || ended.now < issued.exp, || {
            "forwarded with a token that is over, by a clock that is right within the skew"
                .to_owned()
        })?;
        let key = ended.request.key().unwrap_or_default();
        let Some(&key_end) = truth.ends.get(&(ended.realm, key)) else {
            return Ok(());
        };
        holds(ended.node_now < key_end, || {
            "forwarded after the key's end".to_owned()
        })?;
        holds(issued.exp <= key_end + 1000, || {
            "forwarded with a token that outlives its key".to_owned()
        })
    }
}
