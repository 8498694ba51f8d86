//! The text of a key. See `crates/core/tests/properties/key_format.rs`.

#![no_main]

use apikey_jwt_exchange_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::key_format::holds(data));
