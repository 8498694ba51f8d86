//! The configuration. See `crates/core/tests/properties/config.rs`.

#![no_main]

use apikey_jwt_exchange_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::config::holds(data));
