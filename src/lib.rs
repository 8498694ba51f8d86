//! Exchanges API keys for Keycloak JWTs inside an API gateway.
//!
//! A client that can only send an API key reaches services that accept only
//! Keycloak's JWTs: this filter, loaded into Kong Gateway or Envoy, takes the key
//! from a request, finds its owner in Keycloak, verifies the key against the stored
//! hash, gets a token for the owner and puts it in the key's place.
//!
//! A reader who follows a request walks through `host` (the proxy-wasm shell, built
//! for Wasm alone), [`exchange`] (the state machine that decides), [`cache`],
//! [`keycloak`] (requests and answers as values) and back. Everything but `host` is
//! pure: no clock, no randomness, no I/O.

pub mod api_key;
pub mod audit;
pub mod background;
pub mod build_info;
pub mod cache;
pub mod calls;
pub mod clock;
pub mod config;
pub mod drbg;
pub mod exchange;
pub mod keycloak;
pub mod mac;
pub mod machine;
pub mod manage;
pub mod metrics;
pub mod rejection;
pub mod revocation;
pub mod signing_key;
pub mod store;
pub mod trace;

#[cfg(target_arch = "wasm32")]
mod host;
#[cfg(test)]
mod test_support;

/// The entry point that hosts call.
#[cfg(target_arch = "wasm32")]
mod entry {
    #![allow(
        missing_docs,
        reason = "the macro's function is the host's, not ours to describe"
    )]
    proxy_wasm::main! {{ crate::host::start(); }}
}
