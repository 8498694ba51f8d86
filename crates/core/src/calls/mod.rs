//! Calls to Keycloak, as the requests of a worker share them: the gateway's own token, the
//! ids of calls and assertions, and when Keycloak is left alone.

pub mod breaker;
mod ids;
pub mod service_token;

pub use ids::{ExchangeId, Ids};
