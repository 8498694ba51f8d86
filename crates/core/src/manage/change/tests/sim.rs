//! Eight writers, an administrator and one owner, interleaved at random by seed.
//!
//! The machine is the one that ships; Keycloak, the network, the clocks and the fate of each
//! writer are made up. A run ends when every writer has made its changes, every request has
//! arrived and one more change, without faults, has gone through.
//!
//! `cargo test` alone runs a tenth of the seeds, which finds gross errors and proves nothing;
//! `scripts/sim.sh writers` runs all. `WRITERS_SEEDS=20000` sets another number for each kind.

mod faults;
mod network;
mod run;
mod truth;
mod writer;

use std::collections::BTreeMap;

use faults::{Breakage, Faults};
use run::Run;

/// The number of times that each thing happened.
type Tally = BTreeMap<&'static str, u64>;

/// The outcome of a seed: events seen, and promises broken.
struct Outcome {
    tally: Tally,
    violation: Option<String>,
}

fn outcome(seed: u64, faults: Faults, breakage: Option<Breakage>) -> Outcome {
    let mut run = Run::new(seed, faults, breakage);
    let violation = run.run_out().err();
    Outcome {
        tally: run.tally,
        violation,
    }
}

/// Runs the seeds of one kind of world; fails with the trace of the first that breaks a
/// promise.
fn hold(faults: Faults, seeds: u64) -> Tally {
    let mut tally = Tally::new();
    for seed in 0..part_of(seeds) {
        let outcome = outcome(seed, faults, None);
        for (what, count) in outcome.tally {
            *tally.entry(what).or_default() += count;
        }
        if outcome.violation.is_some() {
            tell(seed, faults);
        }
    }
    tally
}

/// Runs a failed seed again, and fails with its trace.
fn tell(seed: u64, faults: Faults) -> ! {
    let mut run = Run::traced(seed, faults, None);
    let violation = run.run_out().unwrap_err();
    let trace = run.trace.join("\n");
    let from = trace.len().saturating_sub(12_000);
    let from = from + trace[from..].find('\n').unwrap_or(0);
    panic!(
        "{}\n\nseed {seed} with {faults:?}: {violation}",
        &trace[from..]
    );
}

/// How many seeds of a range to run.
fn part_of(range: u64) -> u64 {
    match option_env!("WRITERS_SEEDS") {
        None => range / 10,
        Some("all") => range,
        Some(number) => number.parse().unwrap(),
    }
}

/// Without some kind of fault or end, the range of seeds would prove nothing about it.
#[track_caller]
fn reached(tally: &Tally, wanted: &[&str]) {
    if part_of(100) < 100 {
        return;
    }
    for what in wanted {
        let count = tally.get(what).copied().unwrap_or(0);
        assert!(count >= 20, "{what}: {count} times, of {tally:?}");
    }
}

#[test]
fn writers_that_meet_make_every_change_one_after_the_other() {
    let tally = hold(Faults::NONE, 150);
    reached(&tally, &["made", "refused", "waited", "linked", "unlinked"]);
    for never in ["unknown", "busy", "broken", "crashed"] {
        assert_eq!(tally.get(never), None, "{never}: {tally:?}");
    }
}

#[test]
fn no_change_is_lost_or_undone_by_faults_crashes_and_clocks() {
    let tally = hold(Faults::ALL, 1_000);
    reached(
        &tally,
        &[
            "made",
            "refused",
            "unknown",
            "busy",
            "crashed",
            "late",
            "paused",
            "broken",
            "breaker found dead",
            "refused by the profile",
        ],
    );
}

#[test]
fn an_administrator_who_takes_no_lock_loses_and_destroys_only_what_is_said() {
    let tally = hold(Faults::ADMINISTRATOR, 200);
    reached(&tally, &["made", "administered", "collided", "rolled back"]);
    let with_faults = Faults {
        administrator: 0.5,
        ..Faults::ALL
    };
    hold(with_faults, 300);
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..5 {
        let trace = || {
            let mut run = Run::traced(seed, Faults::ALL, None);
            run.run_out().unwrap();
            run.trace
        };
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}

/// Checks that a world broken in this way breaks this promise in one of so many seeds.
#[track_caller]
fn is_seen(breakage: Breakage, promise: &str, seeds: u64) {
    let mut others = Vec::new();
    for seed in 0..seeds {
        match outcome(seed, Faults::ALL, Some(breakage)).violation {
            Some(violation) if violation.contains(promise) => return,
            violation => others.extend(violation),
        }
    }
    panic!("{breakage:?} breaks nothing of {promise:?}, and else: {others:?}");
}

#[test]
fn a_lock_that_is_none_is_seen() {
    is_seen(Breakage::LinksAreNoLock, "two writers at once", 50);
}

#[test]
fn without_what_is_assumed_changes_are_lost() {
    let promise = "two writers at once";
    is_seen(Breakage::LaterThanAssumed, promise, 1_000);
    is_seen(Breakage::ClocksFurtherApart, promise, 1_000);
    is_seen(Breakage::DeletedTwice, promise, 100);
}
