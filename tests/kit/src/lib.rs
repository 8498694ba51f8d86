//! Shared parts of the tests of several crates: one made-up Keycloak, one list of scenarios, one dice, one sweep for
//! secrets.

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests alone use it, and a test that meets what it does not expect fails"
)]

pub mod checksum;
pub mod dice;
pub mod keycloak;
pub mod keys;
pub mod markdown;
pub mod metrics;
pub mod page;
pub mod pattern;
pub mod repository;
pub mod scenarios;
pub mod store;
pub mod sweep;
