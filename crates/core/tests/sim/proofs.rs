//! Proves the checkers: the core is broken by one mutation at a time, and the checker of that very
//! invariant must see it. Compiled in the copy that `scripts/sim.sh proofs` makes.

use std::panic;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use apikeys_core::mutation;

use super::mutations::{MUTATIONS, Mutation};
use super::run;

/// Seeds that are tried for each; far fewer than a range has.
const SEEDS: u64 = 400;

/// Breaks the core, and gives the first seed at which the mutation's own checker says so.
fn caught_at(mutation: &Mutation) -> Option<u64> {
    mutation::turn_on(Some(mutation.name));
    let caught = (0..SEEDS).find(|&seed| {
        let violation = run(seed, "").violation;
        violation.is_some_and(|violation| violation.invariant == mutation.invariant)
    });
    mutation::turn_on(None);
    caught
}

/// The names of the mutations that no checker of their invariant sees, on all processors.
fn escaped(mutations: &[Mutation]) -> Vec<&str> {
    // A panic of a broken core is a violation like others, and is not printed.
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if mutation::on().is_none() {
            usual(info);
        }
    }));
    let (next, escaped) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(mutation) = mutations.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Mutation {
                name, invariant, ..
            } = mutation;
            match caught_at(mutation) {
                Some(seed) => println!("{name}: invariant {invariant}, seed {seed}"),
                None => escaped.lock().unwrap().push(*name),
            }
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    escaped.into_inner().unwrap()
}

#[test]
fn every_breakage_is_caught_by_the_checker_of_its_invariant() {
    let escaped = escaped(MUTATIONS);
    assert!(
        escaped.is_empty(),
        "no checker of their invariant sees these within {SEEDS} seeds: {escaped:?}"
    );
}

#[test]
fn a_mutation_that_changes_nothing_escapes() {
    let nothing = Mutation {
        name: "Nothing",
        invariant: 1,
        edits: &[],
    };
    assert_eq!(escaped(&[nothing]), ["Nothing"]);
}
