//! Answers of the token endpoint. See `crates/core/tests/properties/tokens.rs`.

#![no_main]

use apikey_jwt_exchange_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::tokens::holds(data));
