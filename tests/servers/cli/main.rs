//! The `apikeys` tool against a real Keycloak.
//!
//! Each test makes a realm of its own and deletes it again, so tests run side by side and
//! leave nothing. They need a running Keycloak:
//!
//! ```text
//! KEYCLOAK_URL=http://127.0.0.1:8080 KEYCLOAK_ADMIN_USER=admin KEYCLOAK_ADMIN_PASSWORD=… \
//! cargo test -p suites --test cli
//! ```
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may read the clock, and fails by panicking, in its helpers as well"
)]

mod create;
mod import;
mod keys;
mod offline;
mod operator;
mod page;
mod records;
mod refused;
mod secrets;
mod serve;
mod setup;
mod signing_key;
mod update;
mod world;

use suites::tool;
use test_kit::page as steps;
