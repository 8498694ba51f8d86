//! Writes on a real Keycloak with PostgreSQL: writers that meet at one owner, and twenty
//! thousand owners.
//!
//! ```text
//! scripts/with-postgres.sh cargo test -p suites --test writes
//! ```
//!
//! It starts the stack of `make run`, in a run folder and on ports of its own, with a
//! Keycloak that keeps its data in the PostgreSQL that `scripts/with-postgres.sh` starts,
//! and a second gateway beside the first. The writers meet for `WRITES_SECONDS`, by
//! default 60; there are `WRITES_OWNERS` owners, by default 20,000.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may read the clock, and fails by panicking, in its helpers as well"
)]

mod judge;
mod ledger;
mod many;
mod race;
mod stall;
mod tool;
mod world;
mod writer;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use suites::{client, database, expect, gateway, keycloak, owner, portal, secrets, stack, wait};

use world::World;

type Case = (&'static str, fn(&'static World));

/// In this order: the look-up is timed with few owners before there are many.
const CASES: [Case; 6] = [
    ("race::a_minute_of_eight_writers_loses_nothing", race::meets),
    ("many::are_found_in_the_time_of_few", many::found),
    ("many::the_last_ones_key_is_exchanged", many::exchanged),
    ("many::the_last_ones_keys_are_managed", many::managed),
    (
        "many::a_record_without_its_index_is_indexed_again",
        many::reindexed,
    ),
    ("many::the_doctor_looks_at_all_of_them", many::looked_at),
];

thread_local! {
    /// The message and the place of this thread's last panic.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One at a time: they share an owner's lock, and the machine's time.
    arguments.test_threads = Some(1);
    if arguments.list {
        let trials = CASES.map(|(name, _)| Trial::test(name, || Ok(())));
        return libtest_mimic::run(&arguments, trials.into()).exit_code();
    }
    std::panic::set_hook(Box::new(|panic| {
        let said = secrets::redact(&panic.to_string());
        // Printed for a writer's thread too: no trial reads its `PANIC`.
        eprintln!("{said}");
        PANIC.with_borrow_mut(|last| *last = said);
    }));
    let world: &'static World = match catch_unwind(World::new) {
        // Lives until the last trial; stopped explicitly.
        Ok(world) => Box::leak(Box::new(world)),
        Err(_) => return ExitCode::FAILURE,
    };
    let trials = CASES.map(|(name, run)| {
        Trial::test(name, move || {
            let run = AssertUnwindSafe(|| run(world));
            catch_unwind(run).map_err(|_| Failed::from(PANIC.take()))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    world.end(conclusion.has_failed());
    conclusion.exit_code()
}
