//! Proves the checkers: the core is broken on purpose, in one way at a time, and
//! within the seeds of `make test` the checker of that very invariant must see it.

use apikey_jwt_exchange::sabotage::{Sabotage, commit};

use super::run;

/// Seeds that are tried for each; far fewer than `make test` runs.
const SEEDS: u64 = 400;

/// The invariant that a breakage breaks.
fn invariant(sabotage: Sabotage) -> u8 {
    match sabotage {
        Sabotage::RefusesAll | Sabotage::BreakerStaysOpen => 0,
        Sabotage::SealUnchecked => 1,
        Sabotage::EndIgnored | Sabotage::KeyEndIgnored => 2,
        Sabotage::TtlSlides | Sabotage::RevocationIgnored | Sabotage::EventsIgnored => 3,
        Sabotage::FailsOpen => 4,
        Sabotage::KeyForId | Sabotage::TokenForId => 5,
        Sabotage::KeyStays | Sabotage::RefusedFallsBack => 6,
        Sabotage::DeadlineIgnored | Sabotage::ClaimsKept => 7,
        Sabotage::OneSlice => 8,
        Sabotage::CacheUnbounded => 9,
        Sabotage::PanicsOnNonsense => 10,
        Sabotage::SubjectUnchecked | Sabotage::FirstOwnerTaken => 11,
        Sabotage::HostRandomTrusted => 12,
        Sabotage::FailuresUncounted | Sabotage::LookupsUnlimited | Sabotage::WarmKeysThrottled => {
            13
        }
    }
}

/// Breaks the core, and gives the first seed at which its own checker says so.
fn caught_at(sabotage: Sabotage) -> Option<u64> {
    commit(Some(sabotage));
    let caught = (0..SEEDS).find(|&seed| {
        let violation = run(seed, "").violation;
        violation.is_some_and(|violation| violation.invariant == invariant(sabotage))
    });
    commit(None);
    caught
}

#[test]
fn every_breakage_is_caught_by_the_checker_of_its_invariant() {
    let mut escaped = Vec::new();
    for sabotage in Sabotage::ALL {
        match caught_at(sabotage) {
            Some(seed) => println!(
                "{sabotage:?}: invariant {}, seed {seed}",
                invariant(sabotage)
            ),
            None => escaped.push(sabotage),
        }
    }
    assert!(
        escaped.is_empty(),
        "no checker sees these within {SEEDS} seeds: {escaped:?}"
    );
}

#[test]
fn every_invariant_has_a_breakage() {
    for number in 0..=13 {
        let broken = Sabotage::ALL
            .into_iter()
            .any(|sabotage| invariant(sabotage) == number);
        assert!(broken, "nothing breaks invariant {number}");
    }
}
