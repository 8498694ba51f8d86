//! The life of a key: made, listed, rotated, revoked, by its owner or an operator.
//!
//! [`owner_keys`] is what an owner's attributes say of keys and how a change alters
//! them; [`change`] makes one change under the owner's lock. Both serve the filter's
//! management API and the command-line tool, so that there is one writer.

pub mod body;
pub mod change;
pub mod owner_keys;
pub mod problem;
pub mod router;
