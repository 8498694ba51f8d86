//! The purpose of it all: a good key gets its token, where nothing is in the way.
//!
//! Without this a gateway that refuses everything would hold every invariant.

use apikeys_core::exchange::Source;
use apikeys_core::rejection::Rejection;

use super::revocation::polled_ms;
use super::{Checker, Seen, Word, holds};
use crate::request::{Address, End};
use crate::truth::Truth;

/// The time that a key must have been good, beside the life of a remembered refusal.
const SETTLED_MS: u64 = 10_000;
/// The same for a refusal that ends with the news of its owner.
const SETTLED_NEWS_MS: u64 = 2_500;
/// A key with an end nearer than this may be refused: its token would not last for a second.
const END_MS: u64 = 5_000;

pub struct Serves;

impl Checker for Serves {
    fn invariant(&self) -> u8 {
        0
    }

    fn see(&mut self, seen: &Seen<'_>, truth: &Truth) -> Word {
        let Seen::Ended(ended) = seen else {
            return Ok(());
        };
        let (Some(calm_since), Some(key)) = (ended.calm_since, ended.request.key()) else {
            return Ok(());
        };
        let Some(hold) = truth.good_since(ended.realm, &key) else {
            return Ok(());
        };
        // The refusal of a key with an owner ends with the news of the owner's change, others
        // with their TTL.
        let indexed_since = truth.indexed_since(ended.realm, &key);
        let end = truth.ends.get(&(ended.realm, key)).copied().unwrap_or(0);
        let remembered = ended.config.negative_ttl_ms + SETTLED_MS;
        let news = polled_ms(ended).map_or(remembered, |polled| polled + SETTLED_NEWS_MS);
        let settled =
            (hold.from + news.min(remembered)).max(indexed_since.max(calm_since) + remembered);
        if ended.now < settled || ended.now + END_MS > end {
            return Ok(());
        }
        match ended.end {
            End::Forwarded {
                source: Source::Stale,
                ..
            } => holds(false, || "a token past its TTL in calm weather".to_owned()),
            End::Forwarded { .. } => Ok(()),
            // Others failed too often from its address.
            End::Rejected {
                rejection: Rejection::Throttled,
                ..
            } if matches!(ended.request.from, Address::Shared(_)) => Ok(()),
            // The terms have checkers of their own.
            End::Rejected {
                rejection: Rejection::RateLimited(_) | Rejection::AddressNotAllowed,
                ..
            } => Ok(()),
            other => holds(false, || format!("a good key in calm weather: {other:?}")),
        }
    }
}
