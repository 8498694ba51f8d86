//! Look-ups for keys that this node has never verified: those that come to nothing are bounded.
//!
//! A stranger can make up any number of keys. So each such look-up spends a token of a bucket:
//! [`IN_VAIN_PER_SECOND`] a second, [`IN_VAIN_BURST`] at once. A key that is then verified gives
//! its token back, as if it had never been spent. Unknown keys, wrong secrets, ended keys, clients
//! that hang up and calls without an answer give back nothing. So a flood costs Keycloak the same
//! whether good keys come meanwhile or not, and a restart with good keys alone spends nothing.
//!
//! The share of look-ups that lately came to nothing tells how many tokens the requests that wait
//! will spend. A crowd of strangers gets them in the order of arrival, each 20 ms after the one
//! before. A crowd of good keys waits for calls in flight alone. A request that would wait for
//! longer than a callout may take is refused.
//!
//! Known keys have a rate of their own right after an outage, when all of them come at once because
//! none could be refreshed.

use super::bucket::{Bucket, FullAt};
use crate::calls::ExchangeId;
use crate::clock::UnixMillis;
use crate::config::Config;

/// Look-ups per second that come to nothing.
pub const IN_VAIN_PER_SECOND: u64 = 50;
/// Look-ups that come to nothing at once.
pub const IN_VAIN_BURST: u64 = 100;
/// New keys that wait at once: a quarter of all pending requests, and fewer than a node of Kong lets
/// wait at once (`/wait`), where known keys wait as well.
pub const WAITING_MAX: usize = 256;
/// An outcome moves the share of look-ups in vain by this part of the way.
const SHARE_STEP: u64 = 16;

/// Known keys per second, right after Keycloak came back.
const REFRESHES_PER_SECOND: u64 = 200;
/// Such keys that a worker asks for at once.
const REFRESHES_BURST: u64 = 50;

/// The new keys of one worker: the tokens that strangers may still spend, and the requests that
/// wait for one.
#[derive(Debug)]
pub struct NewKeys {
    bucket: Bucket,
    full_at: FullAt,
    /// How often a token was spent from the full bucket.
    begun: u64,
    /// Thousandths of the look-ups that lately came to nothing.
    in_vain: u64,
    /// In the order in which they came.
    waiting: Vec<ExchangeId>,
    patience_ms: u64,
}

/// The token that a look-up has spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    begun: u64,
}

impl NewKeys {
    /// A full bucket. A request may wait for as long as a callout may take.
    #[must_use]
    pub const fn new(config: &Config) -> Self {
        Self {
            bucket: Bucket::new(IN_VAIN_PER_SECOND, 1000, IN_VAIN_BURST),
            full_at: FullAt(0),
            begun: 0,
            in_vain: 0,
            waiting: Vec::new(),
            patience_ms: config.callout_timeout_ms,
        }
    }

    /// Takes a place among those that wait, or keeps it. False, and no place, where the wait would
    /// be too long.
    pub fn join(&mut self, id: ExchangeId, now: UnixMillis) -> bool {
        let (place, is_new) = match self.waiting.binary_search(&id) {
            Ok(place) => (place, false),
            Err(place) => (place, true),
        };
        let is_full = is_new && self.waiting.len() >= WAITING_MAX;
        if is_full || self.wait_ms(place, now) > self.patience_ms {
            self.leave(id);
            return false;
        }
        if is_new {
            self.waiting.insert(place, id);
        }
        true
    }

    /// Gives the place back, if there is one.
    pub fn leave(&mut self, id: ExchangeId) {
        if let Ok(place) = self.waiting.binary_search(&id) {
            self.waiting.remove(place);
        }
    }

    /// The number of requests that came before.
    #[must_use]
    pub fn before(&self, id: ExchangeId) -> usize {
        self.waiting.partition_point(|waiting| *waiting < id)
    }

    /// The number of requests that wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no request waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The milliseconds until a request with so many before it gets a token, if the look-ups go
    /// on as of late.
    #[must_use]
    pub fn wait_ms(&self, before: usize, now: UnixMillis) -> u64 {
        let thousandths = 1000 + before as u64 * self.in_vain;
        self.bucket.wait_ms_for(thousandths, self.full_at, now)
    }

    /// Spends a token and gives the place back. None where the bucket has no token beside those
    /// that the requests before are expected to spend in vain.
    pub fn spend(&mut self, id: ExchangeId, now: UnixMillis) -> Option<Spent> {
        if self.wait_ms(self.before(id), now) > 0 {
            return None;
        }
        self.begun += u64::from(self.bucket.is_full(self.full_at, now));
        self.bucket.spend(&mut self.full_at, now);
        self.leave(id);
        Some(Spent { begun: self.begun })
    }

    /// The key of a look-up is verified: its token comes back, unless the bucket was full since.
    pub fn verified(&mut self, spent: Spent, now: UnixMillis) {
        self.in_vain -= self.in_vain.div_ceil(SHARE_STEP);
        if spent.begun == self.begun {
            self.bucket.give_back(&mut self.full_at, now);
        }
    }

    /// A look-up came to nothing.
    pub const fn came_to_nothing(&mut self) {
        self.in_vain += (1000 - self.in_vain).div_ceil(SHARE_STEP);
    }
}

/// The known keys of one worker, right after an outage.
#[derive(Debug)]
pub struct Refreshes {
    bucket: Bucket,
    full_at: FullAt,
}

impl Refreshes {
    /// A full bucket. A request may wait for its turn for as long as a callout may take.
    #[must_use]
    pub const fn new(config: &Config) -> Self {
        let bucket = Bucket::new(REFRESHES_PER_SECOND, 1000, REFRESHES_BURST);
        Self {
            bucket: bucket.with_patience_ms(config.callout_timeout_ms),
            full_at: FullAt(0),
        }
    }

    /// Takes the next turn, and gives the milliseconds until it comes; none when too many
    /// wait already.
    pub fn take_turn(&mut self, now: UnixMillis) -> Option<u64> {
        self.bucket.reserve(&mut self.full_at, now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_support::config_with;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn new_keys() -> NewKeys {
        NewKeys::new(&config_with(&json!({ "callout_timeout_ms": 100 })))
    }

    /// Look-ups in vain, until no more may go.
    fn flood(keys: &mut NewKeys, now: UnixMillis) -> u64 {
        let mut spent = 0;
        while keys.spend(1000, now).is_some() {
            keys.came_to_nothing();
            spent += 1;
        }
        spent
    }

    #[test]
    fn strangers_have_a_burst_and_then_their_rate() {
        let mut keys = new_keys();
        assert_eq!(flood(&mut keys, NOW), 100);
        assert_eq!(flood(&mut keys, NOW.plus_ms(19)), 0);
        assert_eq!(flood(&mut keys, NOW.plus_ms(20)), 1);
        assert_eq!(flood(&mut keys, NOW.plus_ms(1000)), 49);
        assert_eq!(flood(&mut keys, NOW.plus_ms(86_400_000)), 100);
    }

    #[test]
    fn keys_that_are_verified_spend_nothing() {
        let (mut keys, mut now) = (new_keys(), NOW);
        for _ in 0..1000 {
            let all: Vec<_> = (0..100).map(|id| keys.spend(id, now).unwrap()).collect();
            assert_eq!(keys.spend(100, now), None);
            now = now.plus_ms(10);
            for spent in all {
                keys.verified(spent, now);
            }
        }
        assert_eq!(flood(&mut keys, now), 100);
    }

    /// Otherwise good keys that take long to verify would give strangers more than their rate.
    #[test]
    fn a_token_that_time_has_brought_back_does_not_come_back_twice() {
        let mut keys = new_keys();
        let slow: Vec<_> = (0..100).map(|id| keys.spend(id, NOW).unwrap()).collect();
        let later = NOW.plus_ms(10_000);
        assert_eq!(flood(&mut keys, later), 100);
        for spent in slow {
            keys.verified(spent, later);
        }
        assert_eq!(flood(&mut keys, later), 0);
    }

    #[test]
    fn first_come_first_served_and_no_more_wait_than_get_a_token_in_time() {
        let mut keys = new_keys();
        flood(&mut keys, NOW);
        let joined = (0..10).filter(|id| keys.join(*id, NOW));
        // In 100 ms there are five tokens.
        assert_eq!(joined.count(), 5);
        let later = NOW.plus_ms(20);
        assert_eq!(keys.spend(1, later), None);
        assert_eq!((keys.before(1), keys.wait_ms(1, later)), (1, 20));
        assert!(keys.spend(0, later).is_some());
        assert_eq!((keys.before(1), keys.wait_ms(0, later)), (0, 20));
        // One that goes away makes room.
        assert!(!keys.join(20, NOW));
        keys.leave(1);
        assert!(keys.join(20, NOW.plus_ms(20)));
        // Before it is its turn a request keeps its place.
        assert!(keys.join(2, NOW.plus_ms(20)));
        assert_eq!(keys.before(2), 0);
    }

    #[test]
    fn where_keys_were_good_many_may_wait() {
        let mut keys = new_keys();
        for id in 0..100 {
            keys.spend(id, NOW).unwrap();
        }
        let joined = (100..2000).filter(|id| keys.join(*id, NOW));
        assert_eq!(joined.count(), WAITING_MAX);
        // As soon as they turn out to be strangers, most of them lose their places.
        for _ in 0..100 {
            keys.came_to_nothing();
        }
        let stay = (100..356).filter(|id| keys.join(*id, NOW));
        assert_eq!(stay.count(), 5);
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_nobody_waiting() {
        let mut keys = new_keys();
        flood(&mut keys, NOW);
        let earlier = NOW.minus_ms(3_600_000);
        assert!(keys.spend(1, earlier).is_some());
        assert_eq!(flood(&mut keys, earlier), 99);
    }

    #[test]
    fn known_keys_take_turns_after_an_outage() {
        let mut refreshes = Refreshes::new(&config_with(&json!({ "callout_timeout_ms": 100 })));
        let turns: Vec<_> = (0..80).map(|_| refreshes.take_turn(NOW)).collect();
        assert!(turns[..50].iter().all(|turn| *turn == Some(0)));
        assert_eq!(turns[50..53], [5, 10, 15].map(Some));
        assert!(turns[70..].iter().all(Option::is_none));
        assert_eq!(refreshes.take_turn(NOW.plus_ms(10_000)), Some(0));
    }
}
