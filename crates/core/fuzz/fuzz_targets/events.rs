//! Keycloak's admin events. See `crates/core/tests/properties/events.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::events::holds(data));
