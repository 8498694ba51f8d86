//! The exchange of one request: an API key goes in, a token of its owner comes out.
//!
//! [`Exchange`] is a state machine without I/O. A shell around one host calls
//! [`Exchange::begin`] with the request's head. The answer is an [`Output`]: pass,
//! forward or reject, which ends the exchange, or an effect to wait for. The shell
//! brings its event to [`Exchange::handle_event`], as often as it takes, and calls
//! [`Exchange::abort`] where the request went away.
//!
//! The way of a request that no cache knows:
//!
//! ```text
//! request ─▶ credentials ─▶ caches ─▶ flight ─▶ service token ─▶ look-up
//!                │             │ hit     │ other leads: wait        │
//!                ▼             ▼         ▼                          ▼
//!             reject/pass   forward   caches again     verify: memo, or bcrypt in
//!                                                      slices behind the gate
//!                                                                   │
//!                      forward ◀─ remember ◀─ grant ◀─── sign ◀─────┘
//! ```

pub mod bucket;
pub mod credentials;
mod env;
pub mod flight;
pub mod gate;
pub mod identity;
pub mod lookups;
pub mod rate_limit;
pub mod renewing;
mod steps;
pub mod throttle;
mod worker;

pub use env::Env;
pub use steps::{Exchange, Forward, Output, Pass, Source};
pub use worker::{PENDING_MAX, Sizes, Worker};
