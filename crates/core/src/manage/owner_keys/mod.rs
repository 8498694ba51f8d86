//! The keys of one owner as Keycloak stores them: listed, and changed.
//!
//! An [`Edit`] is applied to attributes that were just read under the owner's lock. So all its
//! checks (room, presence of the key, rotation) see the very data that the write replaces. No
//! other key's attributes are touched.

mod edit;
mod keys;
mod setting;

pub use edit::{Edit, EditRefused, Edited, NewKey, Replacement};
pub use keys::{KeyState, KeySummary, find, key_ids, list, same_key, same_keys};
pub use setting::Setting;

#[cfg(test)]
mod tests;
