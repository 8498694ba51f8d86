//! Keycloak's admin events. See `crates/core/tests/properties/events.rs`.

#![no_main]

use apikey_jwt_exchange_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::events::holds(data));
