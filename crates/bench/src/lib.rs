//! A node's behaviour, in a formula and in virtual time, and the page that shows the
//! measured figures: apart from the bench, since tests hold the three against each
//! other.

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the bench and its tests alone use it: they fail by panicking, and count less than 2^53"
)]

pub mod capacity_model;
pub mod page;
pub mod traffic;
pub mod virtual_node;
pub mod virtual_realm;
pub mod warm_up;
