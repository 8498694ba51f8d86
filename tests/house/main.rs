//! The rules of the house, which no compiler knows: the layering, the pages and what is generated
//! of the code, the configurations of the gateways, what a release is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod contract;
mod dist;
mod generated;
mod kong_compose;
mod kong_schema;
mod observe;
mod pages;
mod reasons;
mod sizing;
mod tidy;
