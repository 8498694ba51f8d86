//! Calls to Keycloak, shared by the requests of a worker: the gateway's own token, the ids of
//! calls and assertions, and the breaker that leaves Keycloak alone.

pub mod breaker;
mod ids;
pub mod service_token;

pub use ids::{ExchangeId, Ids};
