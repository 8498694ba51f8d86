//! An API key: its text, what Keycloak stores of it, and how the two are compared.

pub mod format;
pub mod hash;
pub mod record;
