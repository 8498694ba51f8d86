//! Scripted scenarios of the management API: the machine, a made-up Keycloak that signs
//! real tokens, the workers of a node, and a clock that stands where the test puts it.
//!
//! Every answer of every scenario is held against `openapi.json` (`openapi.rs`), and all
//! that is said in one is swept for secrets when its world ends (`world.rs`).

#![allow(unreachable_pub, reason = "modules of a test have no other user")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect fails"
)]

mod answers;
mod arbitrary;
mod browser;
mod callers;
mod client;
mod crowd;
mod document;
mod faults;
mod lifecycle;
mod openapi;
mod refused;
mod request;
mod requests;
mod told;
mod updating;
mod uses;
mod validating;
mod world;

use test_kit::{dice, keycloak, keys, store, sweep};
