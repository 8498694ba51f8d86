//! A deterministic simulation: nodes of gateways, clients, Keycloak and the time, all
//! from one seed, with faults of every kind, held against the invariants.
//!
//! The core is the one that ships, unmodified; the clock, the network, Keycloak and the hosts'
//! shared data are made up. `make sim SEEDS=… FROM=…` runs more seeds than `make test` does;
//! `SIM_FAULTS=torn_read=0.5` sets a fault's probability, and one seed alone prints its trace.

#![allow(unreachable_pub, reason = "modules of a test have no other user")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that meets what it does not expect fails, and says what it saw"
)]

mod callout;
mod checkers;
mod events;
mod faults;
mod keys;
mod mutations;
mod network;
mod node;
mod polls;
mod request;
mod requests;
mod setup;
mod store;
mod tally;
mod trace;
mod truth;
mod workload;
mod world;

use test_kit::{checksum, dice, keycloak, sweep};

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use checkers::Violation;
use faults::Fault;
use tally::Tally;
use world::{Run, World};

/// The range that `make test-all` runs.
const SEEDS: u64 = 2_000;
/// The seeds of `cargo test` alone.
const FEW_SEEDS: u64 = 20;

/// Runs one seed to its end.
fn run(seed: u64, faults: &str) -> Run {
    let world = World::new(seed, faults);
    let trace = world.trace.clone();
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| Run {
        trace: trace.text(),
        violation: Some(checkers::panics::violation(&*panic)),
        tally: Tally::default(),
    })
}

/// The first violation among these seeds, on all processors.
fn first_violation(from: u64, seeds: u64, faults: &str) -> (Option<(u64, Violation)>, Tally) {
    let next = AtomicU64::new(from);
    let found = Mutex::new((None::<(u64, Violation)>, Tally::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                break;
            }
            let run = run(seed, faults);
            let mut found = found.lock().unwrap();
            found.1.add(&run.tally);
            found.1.traced(seed, &run.trace);
            if let Some(violation) = run.violation
                && found.0.as_ref().is_none_or(|(first, _)| seed < *first)
            {
                found.0 = Some((seed, violation));
                // Those before this one are under way already.
                next.store(from + seeds, Ordering::Relaxed);
            }
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    found.into_inner().unwrap()
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &str, otherwise: u64) -> u64 {
    setting(name).map_or(otherwise, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is '{value}', which is no number"))
    })
}

#[test]
fn no_seed_of_the_range_breaks_an_invariant() {
    let (from, seeds) = (number("SIM_FROM", 0), number("SIM_SEEDS", FEW_SEEDS));
    let faults = setting("SIM_FAULTS").unwrap_or_default();
    if seeds == 1 {
        println!("{}", run(from, &faults).trace);
    }
    let (violation, tally) = first_violation(from, seeds, &faults);
    if let Some((seed, violation)) = violation {
        let trace = run(seed, &faults).trace;
        let from = trace.len().saturating_sub(6_000);
        let from = trace[from..].find('\n').map_or(0, |at| from + at);
        panic!(
            "{}\n\nseed {seed} breaks invariant {}: {}\nreproduce it, at this commit: make sim SEEDS=1 FROM={seed}{}\n",
            &trace[from..],
            violation.invariant,
            violation.what,
            setting("SIM_FAULTS").map_or(String::new(), |faults| format!(" SIM_FAULTS={faults}")),
        );
    }
    println!(
        "\n{seeds} seeds from {from}, traces {:016x}, {} requests, {} hang-ups, {} told",
        tally.traces,
        tally.requests(),
        tally.hung_up,
        tally.told
    );
    println!(
        "{} poisoned answers; answers of Keycloak: {:?}",
        tally.poisoned, tally.calls
    );
    for (how, count) in &tally.ends {
        println!("{count:>9} {how}");
    }
    if seeds >= SEEDS && faults.is_empty() {
        reaches_everything(&tally);
    }
}

/// Without some kind of end, the range of seeds would prove nothing about it.
fn reaches_everything(tally: &Tally) {
    for how in [
        "forwarded L1",
        "forwarded L2",
        "forwarded Refresh",
        "forwarded FirstUse",
        "forwarded Stale",
        "passed NoKey",
        "passed Fallback",
        "rejected missing_credentials",
        "rejected invalid_api_key",
        "rejected ambiguous_credentials",
        "rejected identity_provider_unavailable",
        "rejected overloaded",
        "rejected throttled",
        "rejected rate_limited",
        "rejected address_not_allowed",
    ] {
        let count = tally.ends.get(how).copied().unwrap_or(0);
        assert!(count >= 100, "only {count} requests ended as {how}");
    }
    assert!(tally.poisoned >= 500 && tally.hung_up >= 100 && tally.told >= 1000);
    for kind in ["events", "events on"] {
        let count = tally.calls.get(kind).copied().unwrap_or(0);
        assert!(count >= 1000, "{count} calls for {kind}");
    }
    for fault in Fault::ALL {
        let count = tally.faults[&fault.name()];
        assert!(count >= 100, "{fault:?} struck {count} times");
    }
}

#[test]
fn one_seed_is_one_run_byte_for_byte() {
    for seed in 0..20 {
        let (first, second) = (run(seed, ""), run(seed, ""));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert!(
            first.trace.lines().count() > 50,
            "seed {seed} does next to nothing"
        );
    }
    assert_ne!(run(1, "").trace, run(2, "").trace);
}
