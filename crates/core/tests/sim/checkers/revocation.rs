//! Invariant 3: a revoked key is exchanged no longer than the stated bound.
//!
//! The bound is the TTL (and `stale_if_error_seconds`), from the look-up on, and the longest
//! time that an exchange takes after its look-up. On a node that was told of the revocation, by
//! a tool or by the answer to a poll, it is a second, for cached tokens and for exchanges under
//! way. In calm weather, in which no event is lost, it is the time between two polls, a tick
//! and a second. A clock that is set back moves neither.

use super::answered::longest_ms;
use super::{Checker, Ended, Seen, Word, holds};
use crate::polls::TICK_MS;
use crate::truth::Truth;

/// The longest time from the news to its effect on a node.
const TOLD_MS: u64 = 1000;

/// The time between a change in Keycloak and its effect on each node, where no event is lost. None
/// without polls.
pub fn polled_ms(ended: &Ended<'_>) -> Option<u64> {
    let poll = ended.config.revocation_poll_ms;
    (poll > 0).then_some(poll + TICK_MS + TOLD_MS)
}

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
        // A change to another owner, now in the index of the same key, is no event of this one.
        let own = truth.last_own(ended.realm, &key, &issued.subject, ended.now);
        within_bound(ended, truth, &issued.subject, (last, own.unwrap_or(last)))
    }
}

/// Holds the end of a request against the bound: the facts of the key that decided it were true
/// until `last`, and as far as its owner's own record goes, until `own`.
pub fn within_bound(
    ended: &Ended<'_>,
    truth: &Truth,
    owner: &str,
    (last, own): (u64, u64),
) -> Word {
    // A token may be used past its TTL for so long when Keycloak cannot be asked.
    let ttl = ended.config.cache_ttl_ms + ended.config.stale_if_error_ms;
    let took = ended.now - ended.sent_at;
    let bound = ttl.max(took.min(longest_ms(ended)));
    holds(ended.now <= last + bound, || {
        let late = ended.now - last;
        format!("{late} ms after the key was good for it last, and {bound} is the bound")
    })?;
    let told = truth.told_since(ended.request.node, ended.realm, owner, last);
    // A route without shared data gets no news.
    let told = told.filter(|_| ended.config.l2_slots > 0);
    let late = told.map_or(0, |told| ended.now.saturating_sub(told));
    holds(late <= TOLD_MS, || {
        format!("{late} ms after the node was told of a change of {owner}")
    })?;
    let late = ended.now.saturating_sub(own);
    let calm = ended.calm_since.is_some_and(|since| since <= own);
    let polled = polled_ms(ended).filter(|_| calm);
    holds(polled.is_none_or(|polled| late <= polled), || {
        let poll = ended.config.revocation_poll_ms;
        format!("{late} ms after the key was good for it last, polled every {poll} ms")
    })
}
