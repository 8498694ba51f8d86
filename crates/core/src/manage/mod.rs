//! The life of a key: made, listed, changed, rotated, revoked, by its owner or an operator.
//!
//! [`Manage`] is the management API's state machine, without I/O like the exchange's. The shell
//! brings the request's head, the body on demand, and the [`Event`] of each [`Effect`]. The
//! machine answers with the one next step ([`Output`]).
//!
//! ```text
//! head ─▶ route ─▶ token's shape ─▶ body ─▶ realm's keys ─▶ verify the caller
//!           │                                                      │
//!           ├▶ openapi.json, preflight                      manager's token
//!           └▶ validate: the exchange itself                       │
//!                                        list, show ◀──────────────┼──▶ update, revoke ─▶ change
//!                                          │                create, rotate
//!                                      last used            scopes ─▶ hash in slices ─▶ change ─▶ look-up
//! ```
//!
//! [`owner_keys`] reads keys from an owner's attributes and edits them; [`change`] makes one
//! change under the owner's lock. Both serve this API and the command-line tool, so there is
//! one writer.
//!
//! Invariants held here: an API key never makes keys; a caller acts for itself, unless it has
//! the administrators' role; each request ends with exactly one answer.
//!
//! [`Effect`]: crate::machine::Effect
//! [`Event`]: crate::machine::Event

mod answers;
pub mod body;
pub mod change;
mod end;
mod env;
pub mod owner_keys;
mod owners;
pub mod problem;
mod request;
pub mod router;
mod steps;

pub use answers::{Answer, OPENAPI};
pub use env::{ManageEnv, Manager};
pub use request::RequestHead;
pub use steps::{Manage, Output, Report, SETTLE_MS};
