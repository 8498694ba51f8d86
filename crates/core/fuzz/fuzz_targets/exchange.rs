//! The exchange led through anything. See `crates/core/tests/properties/exchange.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::exchange::holds(data));
