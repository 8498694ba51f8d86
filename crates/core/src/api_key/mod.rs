//! An API key: its text, its record in Keycloak, and the comparison of the two.

pub mod format;
pub mod hash;
pub mod record;
pub mod terms;
