//! Rate limits on look-ups. For keys that this node has never verified, only failed look-ups count.
//!
//! An attacker can make up any number of keys. So each look-up of a new key spends a token of a
//! bucket: [`IN_VAIN_PER_SECOND`] a second, [`IN_VAIN_BURST`] at once. If the key is then verified,
//! the token returns to the bucket. Unknown keys, wrong secrets, ended keys, clients that disconnect
//! and calls without an answer return none. So good keys do not add to the cost of a flood, and a
//! restart with only good keys uses up no tokens.
//!
//! The share of recent look-ups that failed predicts how many tokens the waiting requests will use up.
//! A crowd of made-up keys gets tokens in the order of arrival, one each 20 ms. A crowd of good keys
//! waits only for room among the calls in flight. A request is refused if it would wait longer than
//! the callout timeout.
//!
//! Known keys have a separate rate right after an outage. All of them come at once then, because none
//! could be refreshed.

use super::bucket::{Bucket, FullAt};
use crate::calls::ExchangeId;
use crate::clock::UnixMillis;
use crate::config::Config;

/// Look-ups of new keys per second that may fail.
pub const IN_VAIN_PER_SECOND: u64 = 50;
/// Look-ups of new keys that may fail at once.
pub const IN_VAIN_BURST: u64 = 100;
/// The most new keys that wait at once: a quarter of all pending requests, and less than Kong's limit
/// for waiting requests (`/wait`), which also holds known keys.
pub const WAITING_MAX: usize = 256;
/// Each outcome moves the share of failed look-ups by 1/16 of the difference.
const SHARE_STEP: u64 = 16;

/// Look-ups of known keys per second, right after an outage.
const REFRESHES_PER_SECOND: u64 = 200;
/// Look-ups of known keys at once, right after an outage.
const REFRESHES_BURST: u64 = 50;

/// The new keys of one worker: the tokens left for look-ups, and the requests that wait for one.
#[derive(Debug)]
pub struct NewKeys {
    bucket: Bucket,
    full_at: FullAt,
    /// How often a look-up has spent the first token of a full bucket.
    begun: u64,
    /// The share of recent look-ups that failed, in thousandths.
    in_vain: u64,
    /// The waiting requests, in the order of arrival.
    waiting: Vec<ExchangeId>,
    patience_ms: u64,
}

/// A token spent by a look-up.
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

    /// Takes a place in the queue, or keeps it. Returns false and frees the place if the wait would be too
    /// long.
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

    /// Frees the request's place, if it has one.
    pub fn leave(&mut self, id: ExchangeId) {
        if let Ok(place) = self.waiting.binary_search(&id) {
            self.waiting.remove(place);
        }
    }

    /// The number of waiting requests that came earlier.
    #[must_use]
    pub fn before(&self, id: ExchangeId) -> usize {
        self.waiting.partition_point(|waiting| *waiting < id)
    }

    /// The number of waiting requests.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no request waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The milliseconds until a request gets a token, with `before` requests ahead of it and the current
    /// share of failures.
    #[must_use]
    pub fn wait_ms(&self, before: usize, now: UnixMillis) -> u64 {
        let thousandths = 1000 + before as u64 * self.in_vain;
        self.bucket.wait_ms_for(thousandths, self.full_at, now)
    }

    /// Spends a token and frees the place. Returns none if the earlier requests are expected to use up all
    /// tokens.
    pub fn spend(&mut self, id: ExchangeId, now: UnixMillis) -> Option<Spent> {
        if self.wait_ms(self.before(id), now) > 0 {
            return None;
        }
        self.begun += u64::from(self.bucket.is_full(self.full_at, now));
        self.bucket.spend(&mut self.full_at, now);
        self.leave(id);
        Some(Spent { begun: self.begun })
    }

    /// Returns the token of a look-up with a verified key. If the bucket was full meanwhile, time has
    /// returned the token already.
    pub fn verified(&mut self, spent: Spent, now: UnixMillis) {
        self.in_vain -= self.in_vain.div_ceil(SHARE_STEP);
        if spent.begun == self.begun {
            self.bucket.give_back(&mut self.full_at, now);
        }
    }

    /// Counts a failed look-up.
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

    /// Takes the next turn, and returns the milliseconds until it comes; none if too many wait already.
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
