//! Scripted scenarios of the exchange: the machine, a made-up Keycloak, and a clock
//! that stands where the test puts it.

#![allow(unreachable_pub, reason = "modules of a test have no other user")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect fails"
)]

mod abuse;
mod client;
mod concurrency;
mod credentials;
mod faults;
mod memory;
mod outages;
mod refusals;
mod renewals;
mod revocation;
mod rig;
mod signing_keys;
mod terms;
mod tokens;
mod usage;
mod waits;
mod world;

use test_kit::{checksum, keycloak, keys, store, sweep};
