//! Keycloak's record of a key. See `crates/core/tests/properties/record.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::record::holds(data));
