//! A token bucket as one number: the instant at which all spent tokens are earned back.
//!
//! (The generic cell rate algorithm, ITU-T I.371.) Two buckets merge by taking the later instant.

use crate::clock::UnixMillis;

/// A step of the clock backwards that is still taken for a correction.
const CORRECTION_US: u64 = 1_000_000;

/// How fast a bucket fills, how much it holds, and how far ahead of time a token may be reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Microseconds in which one token is earned.
    interval_us: u64,
    /// Microseconds in which a whole burst is earned.
    burst_us: u64,
    /// Microseconds for which a caller may wait for a token that is not earned yet.
    patience_us: u64,
}

/// The instant at which a bucket is full again, in microseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FullAt(pub u64);

impl Bucket {
    /// A bucket that earns `count` within `per_ms` milliseconds, and holds `burst`.
    #[must_use]
    pub const fn new(count: u64, per_ms: u64, burst: u64) -> Self {
        let count = if count == 0 { 1 } else { count };
        let interval_us = (per_ms * 1000).div_ceil(count);
        Self {
            interval_us,
            burst_us: interval_us * burst,
            patience_us: 0,
        }
    }

    /// The same bucket, for callers that may wait this long for a token.
    #[must_use]
    pub const fn with_patience_ms(self, patience_ms: u64) -> Self {
        Self {
            patience_us: patience_ms * 1000,
            ..self
        }
    }

    /// Spends a token, whether the bucket has one or not. The debt is bounded.
    pub fn spend(self, full_at: &mut FullAt, now: UnixMillis) {
        let earned_from = self.believed(*full_at, now).0.max(micros(now));
        let most = micros(now) + self.burst_us + self.patience_us;
        *full_at = FullAt((earned_from + self.interval_us).min(most));
    }

    /// Spends a token, and gives the milliseconds from `now` on until it is earned: 0 where the
    /// bucket held it. None, and no token is spent, where the wait would be longer than the
    /// bucket's patience.
    pub fn reserve(self, full_at: &mut FullAt, now: UnixMillis) -> Option<u64> {
        let wait_ms = self.wait_ms(*full_at, now);
        if wait_ms * 1000 > self.patience_us {
            return None;
        }
        self.spend(full_at, now);
        Some(wait_ms)
    }

    /// Returns a token to the bucket. The token was spent since the bucket was last full.
    pub fn give_back(self, full_at: &mut FullAt, now: UnixMillis) {
        if !self.is_full(*full_at, now) {
            full_at.0 = full_at.0.saturating_sub(self.interval_us);
        }
    }

    /// The milliseconds from `now` on until the bucket has a token.
    #[must_use]
    pub fn wait_ms(self, full_at: FullAt, now: UnixMillis) -> u64 {
        self.wait_ms_for(1000, full_at, now)
    }

    /// The milliseconds from `now` until the bucket has earned `thousandths` of a token. The number may
    /// be larger than the bucket.
    #[must_use]
    pub fn wait_ms_for(self, thousandths: u64, full_at: FullAt, now: UnixMillis) -> u64 {
        let needed_us = self.interval_us.saturating_mul(thousandths) / 1000;
        let owed_us = self.owed_us(full_at, now);
        let wait_us = (owed_us + needed_us).saturating_sub(self.burst_us);
        wait_us.div_ceil(1000)
    }

    /// Whether the bucket is full.
    #[must_use]
    pub fn is_full(self, full_at: FullAt, now: UnixMillis) -> bool {
        self.owed_us(full_at, now) == 0
    }

    fn owed_us(self, full_at: FullAt, now: UnixMillis) -> u64 {
        self.believed(full_at, now).0.saturating_sub(micros(now))
    }

    /// After a clock step backwards, forgets the earlier spending: its debt would last as long as
    /// the step.
    fn believed(self, full_at: FullAt, now: UnixMillis) -> FullAt {
        let latest = micros(now) + self.burst_us + self.patience_us + CORRECTION_US;
        if full_at.0 > latest {
            FullAt::default()
        } else {
            full_at
        }
    }
}

fn micros(at: UnixMillis) -> u64 {
    at.0.saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    #[test]
    fn a_burst_is_held_and_then_one_for_each_interval() {
        let bucket = Bucket::new(20, 60_000, 20);
        let mut full_at = FullAt::default();
        for _ in 0..20 {
            assert_eq!(bucket.reserve(&mut full_at, NOW), Some(0));
        }
        assert_eq!(bucket.wait_ms(full_at, NOW), 3000);
        assert_eq!(bucket.wait_ms(full_at, NOW.plus_ms(2999)), 1);
        assert_eq!(bucket.reserve(&mut full_at, NOW.plus_ms(2999)), None);
        assert_eq!(bucket.reserve(&mut full_at, NOW.plus_ms(3000)), Some(0));
        assert_eq!(bucket.reserve(&mut full_at, NOW.plus_ms(3000)), None);
        // Unused, it holds its burst again and no more.
        let later = NOW.plus_ms(86_400_000);
        let held = (0..30).filter(|_| bucket.reserve(&mut full_at, later).is_some());
        assert_eq!(held.count(), 20);
    }

    #[test]
    fn what_is_spent_without_asking_is_owed_up_to_a_bound() {
        let bucket = Bucket::new(20, 60_000, 20);
        let mut full_at = FullAt::default();
        for _ in 0..1000 {
            bucket.spend(&mut full_at, NOW);
        }
        assert_eq!(bucket.wait_ms(full_at, NOW), 3000);
        assert_eq!(bucket.wait_ms(full_at, NOW.plus_ms(3000)), 0);
    }

    #[test]
    fn who_has_patience_gets_what_will_be_earned_and_its_turn() {
        let bucket = Bucket::new(50, 1000, 1).with_patience_ms(60);
        let mut full_at = FullAt::default();
        let waits: Vec<_> = (0..5).map(|_| bucket.reserve(&mut full_at, NOW)).collect();
        assert_eq!(waits, [Some(0), Some(20), Some(40), Some(60), None]);
        assert_eq!(bucket.reserve(&mut full_at, NOW.plus_ms(20)), Some(60));
    }

    #[test]
    fn what_is_given_back_is_as_if_it_had_never_been_spent() {
        let bucket = Bucket::new(50, 1000, 100);
        let (mut full_at, mut other) = (FullAt::default(), FullAt::default());
        for _ in 0..100 {
            bucket.spend(&mut full_at, NOW);
        }
        for _ in 0..70 {
            bucket.spend(&mut other, NOW);
        }
        let later = NOW.plus_ms(200);
        for _ in 0..30 {
            bucket.give_back(&mut full_at, later);
        }
        assert_eq!(full_at, other);
        for _ in 0..100 {
            bucket.give_back(&mut full_at, later);
        }
        assert!(bucket.is_full(full_at, later));
        assert_eq!(bucket.wait_ms_for(100_000, full_at, later), 0);
    }

    #[test]
    fn what_the_bucket_never_holds_is_waited_for_as_well() {
        let bucket = Bucket::new(50, 1000, 100);
        let mut full_at = FullAt::default();
        let wait = |full_at, thousandths| bucket.wait_ms_for(thousandths, full_at, NOW);
        assert_eq!(wait(full_at, 100_000), 0);
        assert_eq!(wait(full_at, 100_500), 10);
        assert_eq!(wait(full_at, 200_000), 2000);
        for _ in 0..100 {
            bucket.spend(&mut full_at, NOW);
        }
        assert_eq!(wait(full_at, 0), 0);
        assert_eq!(wait(full_at, 1000), 20);
    }

    #[test]
    fn more_than_one_in_a_millisecond_can_be_told_apart() {
        let bucket = Bucket::new(100_000, 60_000, 100_000);
        let mut full_at = FullAt::default();
        let held = (0..100_100).filter(|_| bucket.reserve(&mut full_at, NOW).is_some());
        assert_eq!(held.count(), 100_000);
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_nobody_in_debt() {
        let bucket = Bucket::new(20, 60_000, 20);
        let mut full_at = FullAt::default();
        for _ in 0..25 {
            bucket.spend(&mut full_at, NOW);
        }
        assert!(bucket.wait_ms(full_at, NOW.minus_ms(500)) > 0);
        let earlier = NOW.minus_ms(86_400_000);
        assert_eq!(bucket.wait_ms(full_at, earlier), 0);
        assert_eq!(bucket.reserve(&mut full_at, earlier), Some(0));
        assert!(full_at < FullAt((NOW.0 - 86_000_000) * 1000));
    }
}
