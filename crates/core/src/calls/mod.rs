//! Calls to Keycloak, shared by the requests of a worker: the gateway's own token, the ids of
//! calls and assertions, the limit on calls in flight, and the breaker that leaves Keycloak alone.

pub mod breaker;
mod ids;
pub mod in_flight;
pub mod service_token;

pub use ids::{ExchangeId, Ids};
