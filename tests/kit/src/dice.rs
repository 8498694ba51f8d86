//! The only source of chance in a run: one seed, one sequence.

#![allow(
    dead_code,
    reason = "each suite that takes this module uses a part of it"
)]

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws that depend on the seed alone, on any machine.
pub struct Dice(ChaCha8Rng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// True with this probability. It draws in any case, so that a disabled fault does
    /// not change the rest of the run.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.random::<f64>() < probability
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    /// An index below `length`, which is not 0.
    pub fn below(&mut self, length: usize) -> usize {
        self.0.random_range(0..length)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        self.0.random()
    }
}
