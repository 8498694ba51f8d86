//! Keycloak's answer to a look-up. See `crates/core/tests/properties/users.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::users::holds(data));
