//! Invariant 9: memory is bounded: caches, queues, pending requests, shared names.

use super::{Checker, Seen, Word, holds};
use crate::truth::Truth;

// Its own number: the core's is under test.
const PENDING_MAX: usize = 1024;
const NEW_KEYS_MAX: usize = 256;
const FAILURES_MAX: usize = 1024;
const QUEUE_MAX: usize = 64;
const EVENTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 4096;
const RENEWING_MAX: usize = 1024;

pub struct Bounded;

impl Checker for Bounded {
    fn invariant(&self) -> u8 {
        9
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Truth) -> Word {
        match seen {
            Seen::Sizes {
                worker,
                events,
                places,
                config,
            } => {
                let entries = [
                    worker.tokens,
                    worker.verified,
                    worker.refused,
                    worker.limited,
                ];
                let fits = entries.iter().all(|entries| *entries <= config.l1_entries)
                    && worker.pending <= PENDING_MAX
                    && worker.flights <= worker.pending
                    && worker.new_keys <= worker.pending.min(NEW_KEYS_MAX)
                    && worker.calls <= worker.pending
                    && worker.failures <= FAILURES_MAX
                    && *events <= EVENTS_MAX
                    && worker.addresses <= ADDRESSES_MAX
                    && worker.renewing <= RENEWING_MAX
                    && worker.dropped <= RENEWING_MAX
                    && *places <= QUEUE_MAX + 1;
                holds(fits, || {
                    format!("a worker holds {worker:?} and {places} places")
                })
            }
            Seen::Shared {
                entries, slots_max, ..
            } => holds(entries <= slots_max, || {
                format!("{entries} names in shared data, and {slots_max} is the most")
            }),
            _ => Ok(()),
        }
    }
}
