//! The shipped wasm under a model of its two hosts, each as hostile as it really is.
//!
//! Kong does not run on every machine that builds this, and no real host tears a read or
//! evicts an entry on request. So the hosts are modelled: proxy-wasm's functions over
//! virtual time and a made-up Keycloak, with the quirks of each host that have bitten
//! filters. Each quirk has a test that leads a naive filter into it, so that the model is
//! known to have it, and scenarios in which ours is not bitten. Needs the built filter:
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
