//! Deliberate breakages of the core, each of one invariant: for the tests that prove
//! that a broken invariant is seen.
//!
//! A checker that nothing can trip is worth nothing. `tests/sim/` breaks the core in
//! each of these ways and asserts that its checkers find it. Without the feature
//! `sabotage`, so in everything that ships, [`is`] is the constant `false` and the
//! compiler leaves nothing of it; for Wasm the feature does not compile.

#[cfg(all(feature = "sabotage", target_arch = "wasm32"))]
compile_error!("the feature sabotage breaks the filter on purpose: it is for native tests alone");

/// What is broken, by the invariant of ARCHITECTURE.md that it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// None in particular, and what all of it is for: every key is refused.
    RefusesAll,
    /// None in particular either: a Keycloak that was left alone once is asked no more.
    BreakerStaysOpen,
    /// 1: an entry of shared data is believed without its seal and whoever it is of.
    SealUnchecked,
    /// 2: a token is used past its end.
    EndIgnored,
    /// 2: a token may outlive its key.
    KeyEndIgnored,
    /// 3: each use of a token begins its TTL anew.
    TtlSlides,
    /// 3: what was revoked is served from the caches all the same.
    RevocationIgnored,
    /// 3: what a poll of events shows is not acted on.
    EventsIgnored,
    /// 4: a request passes when Keycloak cannot be asked.
    FailsOpen,
    /// 5: the key itself goes where its id belongs.
    KeyForId,
    /// 5: a token goes where the key's id belongs.
    TokenForId,
    /// 6: whatever is refused falls back.
    RefusedFallsBack,
    /// 6: a header that holds the key stays.
    KeyStays,
    /// 7: an exchange goes on after its deadline.
    DeadlineIgnored,
    /// 7: what an exchange holds is not given back.
    ClaimsKept,
    /// 8: a verification runs in one go.
    OneSlice,
    /// 9: worker memory has no bound.
    CacheUnbounded,
    /// 10: an answer that cannot be read is a panic.
    PanicsOnNonsense,
    /// 11: a token is taken whoever it is of.
    SubjectUnchecked,
    /// 11: the first of several owners is taken.
    FirstOwnerTaken,
    /// 12: the host's random source alone makes an assertion unique.
    HostRandomTrusted,
    /// 13: nobody's failures are counted.
    FailuresUncounted,
    /// 13: keys that nobody has seen are looked up as they come.
    LookupsUnlimited,
    /// 13: who has failed too often is heard no more, with a key in the cache or without.
    WarmKeysThrottled,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::RefusesAll,
        Self::BreakerStaysOpen,
        Self::SealUnchecked,
        Self::EndIgnored,
        Self::KeyEndIgnored,
        Self::TtlSlides,
        Self::RevocationIgnored,
        Self::EventsIgnored,
        Self::FailsOpen,
        Self::KeyForId,
        Self::TokenForId,
        Self::RefusedFallsBack,
        Self::KeyStays,
        Self::DeadlineIgnored,
        Self::ClaimsKept,
        Self::OneSlice,
        Self::CacheUnbounded,
        Self::PanicsOnNonsense,
        Self::SubjectUnchecked,
        Self::FirstOwnerTaken,
        Self::HostRandomTrusted,
        Self::FailuresUncounted,
        Self::LookupsUnlimited,
        Self::WarmKeysThrottled,
    ];
}

#[cfg(feature = "sabotage")]
mod switch {
    use std::cell::Cell;

    use super::Sabotage;

    thread_local! {
        static ACTIVE: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// Breaks the core in this way, or in none, for this thread from here on.
    pub fn commit(sabotage: Option<Sabotage>) {
        ACTIVE.set(sabotage);
    }

    pub(crate) fn is(sabotage: Sabotage) -> bool {
        ACTIVE.get() == Some(sabotage)
    }
}

#[cfg(feature = "sabotage")]
pub use switch::commit;
#[cfg(feature = "sabotage")]
pub(crate) use switch::is;

/// Whether the core is broken in this way: never, in what ships.
#[cfg(not(feature = "sabotage"))]
pub(crate) const fn is(_: Sabotage) -> bool {
    false
}
