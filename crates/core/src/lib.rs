//! Exchanges API keys for Keycloak JWTs, for any gateway with a shell around it.
//!
//! A client that can only send an API key reaches services that accept only
//! Keycloak's JWTs: the exchange takes the key from a request, finds its owner in Keycloak,
//! verifies the key against the stored hash, gets a token for the owner and puts it in the
//! key's place.
//!
//! All of it is pure: no clock, no randomness, no I/O. A shell reports events and carries out
//! effects. To follow a request, begin at [`exchange`], the state machine that decides, and go
//! on to [`cache`] and [`keycloak`] (requests and answers as values).

pub mod api_key;
pub mod audit;
pub mod background;
pub mod build_info;
pub mod cache;
pub mod calls;
pub mod clock;
pub mod config;

pub mod exchange;
pub mod key_random;
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
pub mod usage;

#[cfg(test)]
mod test_support;
