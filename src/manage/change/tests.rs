//! Tests of a change against a Keycloak in memory.

mod keycloak;
mod sim;

use super::*;
