//! Requests as they arrive: independent of each other (a Poisson process), each with a
//! key; the use of keys falls off as a power of their rank (Zipf's law). A seed is a
//! sequence.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The use of keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    pub keys: usize,
    /// The rate of all keys together.
    pub requests_per_second: f64,
    /// Zipf's exponent; 0 uses all keys alike.
    pub exponent: f64,
}

impl Usage {
    /// By Zipf's law with exponent 1.
    pub const fn zipf(keys: usize, requests_per_second: f64) -> Self {
        Self {
            keys,
            requests_per_second,
            exponent: 1.0,
        }
    }

    /// Each key's share of the requests, the most used first.
    pub fn shares(&self) -> impl Iterator<Item = f64> + use<> {
        let exponent = self.exponent;
        let weight = move |rank: usize| (rank as f64).powf(-exponent);
        let keys = self.keys;
        let all: f64 = (1..=keys).map(weight).sum();
        (1..=keys).map(move |rank| weight(rank) / all)
    }
}

/// The requests of a [`Usage`], one after the other.
pub struct Traffic {
    chance: ChaCha8Rng,
    /// For each key, the share of the requests with this key or a more used one.
    up_to: Vec<f64>,
    requests_per_second: f64,
    next_at_seconds: f64,
}

impl Traffic {
    pub fn new(usage: &Usage, seed: u64) -> Self {
        let shares = usage.shares().scan(0.0, |sum, share| {
            *sum += share;
            Some(*sum)
        });
        Self {
            chance: ChaCha8Rng::seed_from_u64(seed),
            up_to: shares.collect(),
            requests_per_second: usage.requests_per_second,
            next_at_seconds: 0.0,
        }
    }

    /// The time of the next request, in microseconds from the beginning.
    pub fn next_at_us(&self) -> u64 {
        (self.next_at_seconds * 1e6) as u64
    }

    /// The next request's key, and the index of its worker.
    pub fn take(&mut self, workers: usize) -> (usize, usize) {
        let until = -(1.0 - self.chance.random::<f64>()).ln();
        self.next_at_seconds += until / self.requests_per_second;
        let drawn = self.chance.random::<f64>();
        let key = self.up_to.partition_point(|sum| *sum <= drawn);
        // The last sum may lie a little below 1.
        let key = key.min(self.up_to.len() - 1);
        (key, self.chance.random_range(0..workers))
    }
}
