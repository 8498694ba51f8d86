//! The shipped wasm under a model of its two hosts, each as hostile as it really is.
//!
//! Kong cannot be run wherever this is built, and no running host tears a read or evicts
//! an entry when asked to. So the hosts are built: proxy-wasm's functions over virtual time
//! and a made-up Keycloak, with the quirks of each host that have bitten filters. For each
//! there is a test that leads a naive filter into it, so that the model is known to have
//! it, and scenarios in which ours is not bitten. Needs the built filter:
//! `scripts/build-wasm.sh`.

#![cfg(test)]
#![allow(unreachable_pub, reason = "modules of a test have no other user")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect fails"
)]

mod abi;
mod api;
mod check;
mod flights;
mod gateway;
mod host;
mod imports;
mod keycloak_adapter;
mod keys;
mod node;
mod shared_data;
mod truth;
mod vm;

mod scenarios;

use test_kit::{checksum, sweep};
