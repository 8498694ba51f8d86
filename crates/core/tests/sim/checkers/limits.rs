//! Invariant 14: a key's rate limit lets through what it allows, no more and no less.
//!
//! Of a bucket that holds `n` tokens and earns one in each interval, at most `n` requests and one
//! for each interval go on between any two instants:
//!
//! - on one worker always, whatever shared data does: its own memory counts each of them;
//! - on all workers of a node together while shared data loses nothing. Each bucket that is evicted,
//!   written over, read wrongly or not written adds at most `n`: what one worker had not seen.
//!
//! A worker that forgot a bucket (`l1_entries`), or met another limit of the key meanwhile, begins
//! with a full one in its own memory. So does every worker after a clock step.
//!
//! A request is refused only if a bucket that each request that went on was taken from is empty,
//! and is told no longer wait than that bucket's. A clock that was set back may hold up a key for
//! the step, and as long as its bucket takes to fill.

use std::collections::BTreeMap;

use apikeys_core::api_key::terms::RateLimit;
use apikeys_core::rejection::Rejection;

use super::{Checker, Ended, Seen, Word, holds};
use crate::keys::KEYS;
use crate::request::End;
use crate::truth::Truth;

/// A step of the clock that is taken for a correction; its own number.
const CORRECTION_MS: u64 = 1000;

/// A filter in a worker: node, worker, its generation, and route.
type Place = (usize, usize, u32, usize);
/// A key of a realm on a node.
type Key = (usize, usize, String);

/// A request that went on.
#[derive(Clone, Copy)]
struct Admitted {
    limit: RateLimit,
    /// By the node's clock.
    at: u64,
    place: Place,
    slots: u32,
    lost_before: u64,
    /// How often its worker had met another limit of the key.
    changes: u64,
}

#[derive(Default)]
pub struct Limits {
    /// Those since the last step of the node's clock.
    admitted: BTreeMap<Key, Vec<Admitted>>,
    /// All of them: a bucket remembers what was taken before a step forwards.
    ever: BTreeMap<Key, Vec<Admitted>>,
    /// The settings of each node's clock.
    eras: BTreeMap<usize, usize>,
    /// The latest limit of a key in a worker, and the number of changes before.
    met: BTreeMap<(Place, Key), (RateLimit, u64)>,
}

impl Checker for Limits {
    fn invariant(&self) -> u8 {
        14
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Truth) -> Word {
        let Seen::Ended(ended) = seen else {
            return Ok(());
        };
        let node = ended.request.node;
        let era = self.eras.entry(node).or_default();
        if *era != ended.clock.count() {
            *era = ended.clock.count();
            self.admitted.retain(|(at, ..), _| *at != node);
        }
        let limit = ended
            .terms
            .as_ref()
            .and_then(|terms| terms.rate_limit.as_deref());
        let Some(limit) = limit.and_then(RateLimit::parse) else {
            return Ok(());
        };
        match ended.end {
            End::Forwarded { .. } => self.went_on(ended, limit),
            End::Rejected {
                rejection: Rejection::RateLimited(spent),
                ..
            } => self.refused(ended, limit, spent.wait_ms),
            _ => Ok(()),
        }
    }
}

fn interval_us(limit: RateLimit) -> u64 {
    (u64::from(limit.seconds) * 1_000_000).div_ceil(u64::from(limit.requests))
}

fn place(ended: &Ended<'_>) -> Place {
    let request = ended.request;
    let generation = ended.generation;
    (request.node, request.worker, generation, request.route)
}

fn key(ended: &Ended<'_>) -> Key {
    let key = ended.request.key().unwrap_or_default();
    (ended.request.node, ended.realm, key)
}

impl Limits {
    fn went_on(&mut self, ended: &Ended<'_>, limit: RateLimit) -> Word {
        let changes = self.meet(ended, limit);
        let (lost_before, lost) = ended.lost_buckets;
        let (now, place, slots) = (ended.node_now, place(ended), ended.config.l2_slots);
        let request = Admitted {
            limit,
            at: now,
            place,
            slots,
            lost_before,
            changes,
        };
        self.ever.entry(key(ended)).or_default().push(request);
        let admitted = self.admitted.entry(key(ended)).or_default();
        admitted.push(request);
        let (most, interval_us) = (u64::from(limit.requests), interval_us(limit));
        let earned = |since: u64| (now - since) * 1000 / interval_us;
        let same = || admitted.iter().filter(|other| other.limit == limit);
        if ended.config.l1_entries >= KEYS {
            let own = same().filter(|other| (other.place, other.changes) == (place, changes));
            within(&own.collect::<Vec<_>>(), |first| most + earned(first.at))
                .map_err(|why| format!("one worker under {limit}: {why}"))?;
        }
        if slots == 0 {
            return Ok(());
        }
        let shared = same().filter(|other| other.slots == slots);
        within(&shared.collect::<Vec<_>>(), |first| {
            most * (1 + lost - first.lost_before) + earned(first.at)
        })
        .map_err(|why| format!("a node under {limit}: {why}"))
    }

    fn refused(&mut self, ended: &Ended<'_>, limit: RateLimit, wait_ms: u64) -> Word {
        self.meet(ended, limit);
        let interval_us = interval_us(limit);
        let burst_us = interval_us * u64::from(limit.requests);
        if ended
            .clock
            .owes(ended.now, burst_us.div_ceil(1000) + CORRECTION_MS)
        {
            return Ok(());
        }
        // Without shared data, a worker counts its own requests alone.
        let (place, alone) = (place(ended), ended.config.l2_slots == 0);
        let admitted = self.ever.entry(key(ended)).or_default().iter();
        let counted = admitted.filter(|other| {
            other.limit == limit && (other.slots == 0) == alone && (!alone || other.place == place)
        });
        let full_at_us = counted.fold(0, |full_at_us: u64, other| {
            full_at_us.max(other.at * 1000) + interval_us
        });
        let owed_us = full_at_us.saturating_sub(ended.node_now * 1000);
        let least_ms = (owed_us + interval_us)
            .saturating_sub(burst_us)
            .div_ceil(1000);
        holds(wait_ms <= least_ms, || {
            format!("{limit} is spent for {wait_ms} ms, and in truth for {least_ms} ms")
        })
    }

    /// Notes the limit that a worker has for a key; gives the number of limits before.
    fn meet(&mut self, ended: &Ended<'_>, limit: RateLimit) -> u64 {
        let at = (place(ended), key(ended));
        let (last, changes) = self.met.entry(at).or_insert((limit, 0));
        if *last != limit {
            (*last, *changes) = (limit, *changes + 1);
        }
        *changes
    }
}

/// Holds all requests from each first one on against the most that may have gone on since.
fn within(admitted: &[&Admitted], most: impl Fn(&Admitted) -> u64) -> Word {
    let mut windows = admitted.iter().enumerate().map(|(at, first)| {
        let count = (admitted.len() - at) as u64;
        (count, most(first))
    });
    let broken = windows.find(|(count, most)| count > most);
    broken.map_or(Ok(()), |(count, most)| {
        Err(format!("{count} requests went on, and {most} is the most"))
    })
}
