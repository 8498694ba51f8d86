//! One change of one owner's keys, under the owner's lock in Keycloak.
//!
//! Keycloak has no version of a user to compare: of six concurrent read-change-writes all six
//! are answered 204 and one survives. But it does make links to an identity provider, and
//! making one is an atomic test-and-set. So a link to the disabled provider [`LOCK_PROVIDER`]
//! is the lock of its user. Each of our writers, in a gateway or in the tool, takes it first:
//!
//! ```text
//! lock ─▶ read links ─▶ read user ─▶ edit ─▶ link? ─▶ write ─▶ read again ─▶ unlink? ─▶ unlock
//!  │ 409     │ not ours    ▲                           │        │ not as written
//!  ▼         ▼             └───────────────────────────┼────────┘
//! look at its holder: wait, or, when the holder is     ▼ refused
//! long gone, break it                                 take our own link away ─▶ unlock
//! ```
//!
//! [`Edit::RevokeAll`] takes the owner's link away before it reads the user. So it ends all
//! keys of an owner with an unreadable record, or of one that Keycloak refuses to write. The
//! records stay then, and [`Changed::records_kept`] says why.
//!
//! A lease without a fence rests on time. A holder begins nothing that rests on its lock (link,
//! write, unlink, unlock) later than [`HOLD_MS`] after it took it, and others break a lock no
//! sooner than [`STALE_MS`]. A holder that gets no answer does not give the lock back, because
//! Keycloak may still carry out its request: the lock then stays until it is stale.
//!
//! A writer breaks a lock by deleting a link, and the deletion hits any link that is there by
//! then. So a breaker first claims the right to break ([`BREAK_GROUP`]), looks again, and gives
//! the claim back only when the deletion has been answered. Claims get stale as locks do. They
//! are ended by their id, which hits no later claim (see [`crate::keycloak::claim`]).
//!
//! **Assumption:** a request takes effect once, within `STALE_MS - HOLD_MS` less the difference
//! between the writers' clocks, or never.
//!
//! **Changes that an administrator makes by hand** take no lock, and this one does not guard
//! them. A change saved between a writer's reading and its write is written over. A form opened
//! before a write and saved after it undoes that write. A change that is undone before it is
//! read again is made anew, or told as [`ChangeError::NotAsWritten`].
//!
//! [`OwnerChange`] is a state machine without I/O, like the exchange: the filter
//! drives it by callouts, the command-line tool by a plain HTTP client.
//!
//! [`Edit::RevokeAll`]: super::owner_keys::Edit::RevokeAll

mod error;
mod lock;
mod steps;

pub use error::ChangeError;
pub use lock::{BREAK_GROUP, HOLD_MS, LOCK_PROVIDER, STALE_MS};
pub use steps::{Change, ChangeOutput, Changed, OwnerChange};

#[cfg(test)]
mod tests;
