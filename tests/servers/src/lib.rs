//! Shared parts of the suites on real servers: the stack, its gateways and their logs,
//! Keycloak's administrator, and the secrets that nothing may show.

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests alone use it: it may read the clock, and fails by panicking"
)]

pub mod client;
pub mod database;
pub mod expect;
pub mod faults;
pub mod gateway;
pub mod keycloak;
pub mod log;
pub mod owner;
pub mod portal;
pub mod secrets;
pub mod stack;
pub mod tool;
pub mod wait;
