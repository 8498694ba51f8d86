//! Tests of a change against a Keycloak in memory.
