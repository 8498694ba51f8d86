//! Exchanges API keys for Keycloak JWTs inside an API gateway.

pub mod api_key;
pub mod cache;
pub mod clock;
pub mod config;
pub mod keycloak;
pub mod mac;
pub mod signing_key;

#[cfg(test)]
mod test_support;
