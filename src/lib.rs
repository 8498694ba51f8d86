//! The filter: the proxy-wasm shell around the core, for Kong Gateway and Envoy. It translates
//! between a host and [`apikeys_core`], and decides nothing.
//!
//! All calls to the host are made here, by the SDK's `hostcalls` and not by the methods of its
//! traits, which unwrap each result. Where the SDK reports a host's refusal, the request is
//! rejected. The SDK panics on unexpected statuses, so each call is made only where both hosts
//! give an expected one; docs/hosts.md lists the remaining traps. Each module handles the
//! differences between the hosts that concern it.

// Built only for Wasm: natively there is no host to call.
#![cfg(target_arch = "wasm32")]

mod audit;
mod callout;
mod gateway;
mod http_context;
mod identity;
mod manage_context;
mod metrics;
mod request_id;
mod root_context;
mod route;
mod shared_store;
mod system;
mod wiping;
mod workers;

use log::LevelFilter;
use proxy_wasm::types::LogLevel;

/// Registers the filter with the host.
pub(crate) fn start() {
    proxy_wasm::set_log_level(LogLevel::Info);
    log::set_max_level(LevelFilter::Info);
    proxy_wasm::set_root_context(|_| Box::<root_context::RootFilter>::default());
}

/// The entry point that hosts call.
mod entry {
    #![allow(
        missing_docs,
        reason = "the macro's function is the host's, not ours to describe"
    )]
    proxy_wasm::main! {{ crate::start(); }}
}
