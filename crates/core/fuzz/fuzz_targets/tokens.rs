//! Answers of the token endpoint. See `crates/core/tests/properties/tokens.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::tokens::holds(data));
