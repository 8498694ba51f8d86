//! Invariant 13: the cost of a stranger is bounded, and nobody else pays for it.
//!
//! A worker refuses a bounded number of bad keys for one address, and no more. It looks up a
//! bounded number of keys that are new to it. A client that has done nothing is never told to
//! wait, nor is a key that was exchanged a moment ago.

use std::collections::BTreeMap;

use apikeys_core::exchange::{Output, Source};
use apikeys_core::machine::Effect;
use apikeys_core::rejection::Rejection;

use super::{Checker, Ended, Seen, Word, holds};
use crate::request::{Address, Credential, End, Request};
use crate::truth::Truth;

// Its own numbers: those of the core are under test.
const LOOKUPS_PER_SECOND: u64 = 50;
const LOOKUPS_BURST: usize = 100;
/// A turn is used up to 40 ms after it came, and a host may be a little late.
const TURNS_LATE: usize = 0;
/// The shortest life of a new entry: the shortest TTL of these runs, and half of the shortest
/// token's life.
const WARM_MS: u64 = 900;

/// A worker, and its filter for a route.
type Place = (usize, usize, usize);

fn place(request: &Request) -> Place {
    (request.node, request.worker, request.route)
}

#[derive(Default)]
pub struct Abuse {
    /// Instants of refusals by worker and address, since the worker began or its clock was set.
    refusals: BTreeMap<(Place, Address), (Era, Vec<u64>)>,
    /// Requests with a key that nobody has, and the instants of their first look-ups, since the
    /// worker began or its clock was set.
    lookups: BTreeMap<Place, (Era, BTreeMap<u64, u64>)>,
    /// The instant at which a key came fresh from Keycloak.
    fresh: BTreeMap<(Place, usize), (Era, u64)>,
}

/// The worker's generation, and the number of times that its clock was set.
type Era = (u32, usize);

fn era(ended: &Ended<'_>) -> Era {
    (ended.generation, ended.clock.count())
}

impl Checker for Abuse {
    fn invariant(&self) -> u8 {
        13
    }

    fn see(&mut self, seen: &Seen<'_>, truth: &Truth) -> Word {
        match seen {
            Seen::Step {
                request,
                node_now,
                era,
                output,
                ..
            } => self.step(request, *node_now, *era, output),
            Seen::Ended(ended) => {
                self.refused(ended)?;
                self.warm(ended, truth)
            }
            _ => Ok(()),
        }
    }
}

impl Abuse {
    fn step(
        &mut self,
        request: &Request,
        now: u64,
        (clock_sets, generation): (usize, u32),
        output: &Output,
    ) -> Word {
        let Output::Await(Effect::Call { call, .. }) = output else {
            return Ok(());
        };
        if call.method != "GET" || !matches!(request.credential, Credential::Unknown(_)) {
            return Ok(());
        }
        // A new worker, or one with its clock set, has its burst again.
        let era = (generation, clock_sets);
        let (since, lookups) = self.lookups.entry(place(request)).or_default();
        if *since != era {
            *since = era;
            lookups.clear();
        }
        lookups.entry(request.id).or_insert(now);
        let since = now.saturating_sub(1000);
        let of_late = lookups.values().filter(|at| (since..=now).contains(at));
        let (count, most) = (
            of_late.count(),
            LOOKUPS_BURST + LOOKUPS_PER_SECOND as usize + TURNS_LATE,
        );
        holds(count <= most, || {
            format!(
                "{count} keys that nobody has were looked up in a second, and {most} is the most"
            )
        })
    }

    fn refused(&mut self, ended: &Ended<'_>) -> Word {
        let End::Rejected { rejection, .. } = ended.end else {
            return Ok(());
        };
        let from = ended.request.from;
        let limit = ended.config.throttle_failures_per_minute;
        if *rejection == Rejection::Throttled {
            return holds(matches!(from, Address::Shared(_)) && limit > 0, || {
                format!("{from:?} is told to wait, and nothing ever came from it")
            });
        }
        if *rejection != Rejection::InvalidApiKey || from == Address::Untold || limit == 0 {
            return Ok(());
        }
        let entry = self.refusals.entry((place(ended.request), from));
        let (since, times) = entry.or_default();
        if *since != era(ended) {
            *since = era(ended);
            times.clear();
        }
        times.push(ended.node_now);
        // The burst, and one for each interval that has passed.
        let broken = times.iter().enumerate().find(|(at, first)| {
            let earned = (ended.node_now - **first) * limit / 60_000;
            (times.len() - at) as u64 > limit + earned + 1
        });
        holds(broken.is_none(), || {
            format!(
                "{} refusals from {from:?}, and {limit} a minute is the limit",
                times.len()
            )
        })
    }

    /// A key that came fresh from Keycloak a moment ago is in the cache.
    fn warm(&mut self, ended: &Ended<'_>, truth: &Truth) -> Word {
        let Credential::Key(number) = ended.request.credential else {
            return Ok(());
        };
        let at = (place(ended.request), number);
        match ended.end {
            End::Forwarded {
                source: Source::FirstUse | Source::Refresh,
                ..
            } => {
                self.fresh.insert(at, (era(ended), ended.now));
                Ok(())
            }
            End::Rejected {
                rejection: Rejection::InvalidApiKey,
                ..
            } => {
                // A later answer of Keycloak's refused it: its token is gone.
                self.fresh.remove(&at);
                Ok(())
            }
            End::Rejected {
                rejection: Rejection::Throttled,
                ..
            } => {
                // Without shared data, nobody notes the news that a worker polls for itself.
                let room = ended.config.l1_entries >= 100 && ended.config.l2_slots > 0;
                let key = ended.request.key().unwrap_or_default();
                let Some((since, made_at)) = self.fresh.get(&at).copied() else {
                    return Ok(());
                };
                // The owner may have been revoked before its key was good again, whether the
                // node was told or not.
                let hold = truth.good_since(ended.realm, &key);
                let undisturbed = hold.is_some_and(|hold| hold.from < made_at)
                    && !truth.told_any_since(ended.request.node, ended.realm, made_at);
                let warm = room && undisturbed && since == era(ended);
                holds(!warm || ended.now > made_at + WARM_MS, || {
                    "a key in the cache is told to wait".to_owned()
                })
            }
            _ => Ok(()),
        }
    }
}
