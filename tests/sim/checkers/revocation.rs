//! Invariant 3: what was revoked is exchanged no longer than the stated bound.
//!
//! The bound is the TTL, from the look-up on, and the longest that an exchange takes
//! after its look-up. A clock that is set back holds an entry for as much longer.

use super::answered::longest_ms;
use super::{Checker, Seen, Word, holds};
use crate::truth::Truth;

pub struct Revocation;

impl Checker for Revocation {
    fn invariant(&self) -> u8 {
        3
    }

    fn see(&mut self, seen: &Seen<'_>, truth: &Truth) -> Word {
        let Seen::Ended(ended) = seen else {
            return Ok(());
        };
        let Some(issued) = ended.end.token().and_then(|token| truth.tokens.get(token)) else {
            return Ok(());
        };
        let key = ended.request.key().unwrap_or_default();
        let last = truth.last_good(ended.realm, &key, &issued.subject, ended.now);
        let Some(last) = last else {
            return Ok(());
        };
        let ttl = ended.config.cache_ttl_ms;
        let set_back = ended.clock.backwards_since(last.saturating_sub(ttl));
        let took = ended.now - ended.sent_at;
        let bound = ttl.max(took.min(longest_ms(ended))) + set_back;
        holds(ended.now <= last + bound, || {
            let late = ended.now - last;
            format!("exchanged {late} ms after the key was good last, and {bound} is the bound")
        })
    }
}
