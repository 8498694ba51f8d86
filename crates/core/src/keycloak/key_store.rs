//! The realm's public keys as a worker keeps them: when to fetch, and how long to trust.
//!
//! A worker has one for each realm that it serves. It must soon stop trusting a key that was
//! removed in Keycloak, it must not refuse every caller at once in an outage of Keycloak, and
//! it must not ask again and again for tokens that name invented keys.

use std::sync::Arc;

use super::jwks::KeySet;
use super::public_key::PublicKey;
use crate::clock::UnixMillis;

/// Older keys are fetched anew when they are used: twice the default life of an access token.
/// So a removed key hardly outlives the tokens that it signed, for six calls an hour.
pub const FRESH_MS: u64 = 10 * 60_000;
/// While they cannot be fetched, keys are used until they are this old.
pub const USABLE_MS: u64 = 60 * 60_000;
/// The shortest time between two tries, for an unknown name or to renew.
pub const RETRY_MS: u64 = 60_000;
/// The same, while there are no keys that could be used.
pub const RETRY_WITHOUT_KEYS_MS: u64 = 5_000;

/// The same after a try whose client hung up before the answer. It is short, so that others
/// need not wait long for keys; it is not zero, so that hanging up cannot make the gateway
/// fetch at will.
pub const RETRY_GIVEN_UP_MS: u64 = 5_000;

/// The next step of a request with a token that names a key.
#[derive(Debug, Clone)]
pub enum Need {
    /// Verify with this one.
    Use(Arc<PublicKey>),
    /// Fetch the keys, report by [`KeyStore::fetched`], [`KeyStore::failed`] or
    /// [`KeyStore::given_up`], and ask again.
    Fetch,
    /// Another request fetches them: wait and ask again.
    Wait,
    /// The realm has no key of this name: refuse the token.
    Unknown,
    /// There are no keys, and fetching them failed just now: the token cannot be judged.
    Unavailable,
}

/// A fetch: the latest one, under way or over.
#[derive(Debug, Clone, Copy)]
struct Try {
    began_at: UnixMillis,
    /// While it is under way: the end of the others' wait.
    lease_until: Option<UnixMillis>,
    /// Its request was gone before its answer.
    given_up: bool,
}

#[derive(Debug)]
struct Kept {
    keys: KeySet,
    /// The instant at which Keycloak was asked: the keys are those of then.
    asked_at: UnixMillis,
}

/// The keys, and the latest attempt to fetch them.
#[derive(Debug, Default)]
pub struct KeyStore {
    kept: Option<Kept>,
    latest: Option<Try>,
}

impl KeyStore {
    /// Asks for the key of this name. A request that is told to fetch has until `lease_until`.
    pub fn need(&mut self, kid: &str, lease_until: UnixMillis, now: UnixMillis) -> Need {
        self.follow_clock(now);
        let kept = self.kept.as_ref();
        let Some(kept) = kept.filter(|kept| now.since_ms(kept.asked_at) < USABLE_MS) else {
            let pauses = (RETRY_WITHOUT_KEYS_MS, 0);
            return self.try_or(pauses, lease_until, now, Need::Unavailable);
        };
        let pauses = (RETRY_MS, RETRY_GIVEN_UP_MS);
        let fresh = now.since_ms(kept.asked_at) < FRESH_MS;
        match kept.keys.find(kid).map(Arc::clone) {
            Some(key) if fresh => Need::Use(key),
            Some(key) => match self.try_or(pauses, lease_until, now, Need::Unknown) {
                Need::Fetch => Need::Fetch,
                // Requests during a renewal need not wait for it.
                _ => Need::Use(key),
            },
            None => self.try_or(pauses, lease_until, now, Need::Unknown),
        }
    }

    /// Keeps the keys that were fetched.
    pub fn fetched(&mut self, keys: KeySet, now: UnixMillis) {
        let began_at = self.latest.map(|latest| latest.began_at.min(now));
        self.kept = Some(Kept {
            keys,
            asked_at: began_at.unwrap_or(now),
        });
        self.end_of_try();
    }

    /// Ends a fetch that gave no keys.
    pub fn failed(&mut self) {
        self.end_of_try();
    }

    /// Ends a fetch whose client is gone. Its result is unknown, so another try may follow
    /// soon, and at once where there are no keys at all.
    pub fn given_up(&mut self) {
        self.end_of_try();
        if let Some(latest) = &mut self.latest {
            latest.given_up = true;
        }
    }

    /// Begins a try, unless another is under way, or was made less than the first pause ago
    /// (the second pause, if it was given up).
    fn try_or(
        &mut self,
        (pause_ms, given_up_ms): (u64, u64),
        lease_until: UnixMillis,
        now: UnixMillis,
        otherwise: Need,
    ) -> Need {
        if let Some(latest) = self.latest {
            let pause_ms = match latest.given_up {
                true => given_up_ms,
                false => pause_ms,
            };
            match latest.lease_until {
                Some(until) if now < until => return Need::Wait,
                _ if now.since_ms(latest.began_at) < pause_ms => return otherwise,
                _ => {}
            }
        }
        self.latest = Some(Try {
            began_at: now,
            lease_until: Some(lease_until),
            given_up: false,
        });
        Need::Fetch
    }

    fn end_of_try(&mut self) {
        if let Some(latest) = &mut self.latest {
            latest.lease_until = None;
        }
    }

    /// After a clock was set back, instants in the future mean nothing: a try dated then holds
    /// nobody up, and keys dated then are renewed when they are next used.
    fn follow_clock(&mut self, now: UnixMillis) {
        if self.latest.is_some_and(|latest| latest.began_at > now) {
            self.latest = None;
        }
        if let Some(kept) = &mut self.kept
            && kept.asked_at > now
        {
            kept.asked_at = now.minus_ms(FRESH_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{jwks, signed_by_openssl, signing_key};

    const MINUTE: u64 = 60_000;

    fn at(ms: u64) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + ms)
    }

    /// The name of the one key that a realm has at first, and later.
    fn first() -> String {
        signing_key().kid().to_owned()
    }

    fn first_keys() -> KeySet {
        jwks(&[signing_key().public_jwk()])
    }

    fn later_keys() -> KeySet {
        jwks(&[signed_by_openssl()["keys"]["ed"].clone()])
    }

    fn need(store: &mut KeyStore, kid: &str, ms: u64) -> &'static str {
        match store.need(kid, at(ms + 2000), at(ms)) {
            Need::Use(key) => {
                assert_eq!(key.kid(), kid);
                "use"
            }
            Need::Fetch => "fetch",
            Need::Wait => "wait",
            Need::Unknown => "unknown",
            Need::Unavailable => "unavailable",
        }
    }

    /// A store that fetched the first key at 0.
    fn filled() -> KeyStore {
        let mut store = KeyStore::default();
        assert_eq!(need(&mut store, &first(), 0), "fetch");
        store.fetched(first_keys(), at(9));
        store
    }

    #[test]
    fn fetches_once_for_all_that_wait_and_then_uses_the_key() {
        let mut store = KeyStore::default();
        assert_eq!(need(&mut store, &first(), 0), "fetch");
        assert_eq!(need(&mut store, &first(), 1), "wait");
        store.fetched(first_keys(), at(9));
        assert_eq!(need(&mut store, &first(), 10), "use");
        assert_eq!(need(&mut store, &first(), FRESH_MS - 1), "use");
    }

    #[test]
    fn without_keys_a_failed_fetch_is_tried_again_soon() {
        let mut store = KeyStore::default();
        assert_eq!(need(&mut store, &first(), 0), "fetch");
        store.failed();
        assert_eq!(need(&mut store, &first(), 4_999), "unavailable");
        assert_eq!(need(&mut store, &first(), 5_000), "fetch");
        store.failed();
        assert_eq!(need(&mut store, &first(), 9_999), "unavailable");
        assert_eq!(need(&mut store, &first(), 10_000), "fetch");
    }

    #[test]
    fn an_unknown_name_has_the_keys_fetched_once_a_minute_at_most() {
        let mut store = filled();
        assert_eq!(need(&mut store, "x", 59_999), "unknown");
        assert_eq!(need(&mut store, "x", 60_000), "fetch");
        assert_eq!(need(&mut store, "y", 60_001), "wait");
        assert_eq!(need(&mut store, &first(), 60_001), "use");
        store.failed();
        for ms in [60_002, 119_999] {
            assert_eq!(need(&mut store, "x", ms), "unknown");
            assert_eq!(need(&mut store, &first(), ms), "use");
        }
        assert_eq!(need(&mut store, "x", 120_000), "fetch");
    }

    #[test]
    fn a_new_key_is_found_by_its_name() {
        let mut store = filled();
        assert_eq!(need(&mut store, "ed", MINUTE), "fetch");
        store.fetched(later_keys(), at(MINUTE + 9));
        assert_eq!(need(&mut store, "ed", MINUTE + 10), "use");
        assert_eq!(need(&mut store, &first(), MINUTE + 10), "unknown");
    }

    #[test]
    fn a_key_that_was_removed_stops_being_trusted() {
        let mut store = filled();
        assert_eq!(need(&mut store, &first(), FRESH_MS), "fetch");
        assert_eq!(need(&mut store, &first(), FRESH_MS + 1), "use");
        store.fetched(later_keys(), at(FRESH_MS + 9));
        assert_eq!(need(&mut store, &first(), FRESH_MS + 10), "unknown");
    }

    #[test]
    fn old_keys_outlast_an_outage_of_an_hour_and_no_longer() {
        let mut store = filled();
        for minute in 10..60 {
            let now = minute * MINUTE;
            assert_eq!(need(&mut store, &first(), now), "fetch");
            store.failed();
            assert_eq!(need(&mut store, &first(), now + 1), "use");
            assert_eq!(need(&mut store, &first(), now + MINUTE - 1), "use");
        }
        assert_eq!(need(&mut store, &first(), USABLE_MS), "fetch");
        store.failed();
        assert_eq!(need(&mut store, &first(), USABLE_MS), "unavailable");
        assert_eq!(need(&mut store, &first(), USABLE_MS + 5_000), "fetch");
    }

    #[test]
    fn keys_are_as_old_as_the_question_for_them() {
        let mut store = KeyStore::default();
        assert_eq!(need(&mut store, &first(), 0), "fetch");
        store.fetched(first_keys(), at(1_900));
        assert_eq!(need(&mut store, &first(), FRESH_MS), "fetch");
    }

    #[test]
    fn a_fetcher_that_is_gone_is_succeeded() {
        let mut store = KeyStore::default();
        assert_eq!(need(&mut store, &first(), 0), "fetch");
        assert_eq!(need(&mut store, &first(), 1_999), "wait");
        assert_eq!(need(&mut store, &first(), 2_000), "unavailable");
        assert_eq!(need(&mut store, &first(), 5_000), "fetch");
    }

    #[test]
    fn who_hangs_up_while_it_fetches_keeps_nobody_from_the_keys() {
        let mut store = KeyStore::default();
        for ms in 0..10 {
            assert_eq!(need(&mut store, &first(), ms), "fetch");
            store.given_up();
        }
        assert_eq!(need(&mut store, &first(), 10), "fetch");
        store.fetched(first_keys(), at(19));
        // With keys at hand it has them fetched no more often than every 5 s.
        for round in 0..10 {
            let now = MINUTE + 10 + round * 5_000;
            assert_eq!(need(&mut store, "x", now), "fetch");
            store.given_up();
            assert_eq!(need(&mut store, "x", now + 4_999), "unknown");
            assert_eq!(need(&mut store, &first(), now + 4_999), "use");
        }
        assert_eq!(need(&mut store, "ed", 2 * MINUTE), "fetch");
        store.fetched(later_keys(), at(2 * MINUTE));
        assert_eq!(need(&mut store, "ed", 2 * MINUTE), "use");
        // One that was seen to its end counts for a minute again.
        assert_eq!(need(&mut store, "x", 3 * MINUTE - 1), "unknown");
    }

    #[test]
    fn a_clock_that_is_set_back_neither_freezes_the_keys_nor_loses_them() {
        let hours = 5 * 60 * MINUTE;
        let mut store = KeyStore::default();
        assert_eq!(need(&mut store, &first(), hours), "fetch");
        store.fetched(first_keys(), at(hours + 9));
        // Of unknown age now: used once more, and renewed.
        assert_eq!(need(&mut store, &first(), 0), "fetch");
        store.failed();
        assert_eq!(need(&mut store, &first(), 1), "use");
        assert_eq!(need(&mut store, &first(), USABLE_MS - FRESH_MS), "fetch");
        store.failed();
        let end = USABLE_MS - FRESH_MS;
        assert_eq!(need(&mut store, &first(), end + 1), "unavailable");
    }

    #[test]
    fn a_fetch_of_the_future_holds_nobody_up() {
        let mut store = KeyStore::default();
        assert_eq!(need(&mut store, &first(), 1_000_000), "fetch");
        assert_eq!(need(&mut store, &first(), 0), "fetch");
        store.failed();
        assert_eq!(need(&mut store, &first(), 5_000), "fetch");
        // Its answer comes after a step backwards.
        assert_eq!(need(&mut store, &first(), 1_000_000), "fetch");
        store.fetched(first_keys(), at(0));
        assert_eq!(need(&mut store, &first(), 1), "use");
    }
}
