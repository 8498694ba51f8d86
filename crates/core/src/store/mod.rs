//! The memory that the workers of a node share (the host's shared data), and its entries.
//!
//! Other filters in the same host may write there too, and the host may lose or tear a value: so
//! each value is under a seal, and nothing is taken for granted.

pub mod buckets;
pub(crate) mod lease;
pub mod sealed;
pub mod slots;
