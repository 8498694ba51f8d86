//! The rules of the house, which no compiler knows: the layering, the pages, the files generated
//! from the code, the configurations of the gateways, the content of a release.

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
mod service;
mod sizing;
mod tidy;
