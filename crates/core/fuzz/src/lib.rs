//! The properties of `crates/core/tests/properties`, for libFuzzer: `make fuzz`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a property that is broken panics"
)]

#[path = "../../tests/properties/mod.rs"]
pub mod properties;
