//! The text of a key. See `crates/core/tests/properties/key_format.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::key_format::holds(data));
