//! Entries of the shared cache. See `crates/core/tests/properties/sealed.rs`.

#![no_main]

use apikey_jwt_exchange_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::sealed::holds(data));
