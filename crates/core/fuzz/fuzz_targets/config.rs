//! The configuration. See `crates/core/tests/properties/config.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::config::holds(data));
