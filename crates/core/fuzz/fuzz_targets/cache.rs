//! The caches above a store that lies. See `crates/core/tests/properties/cache.rs`.

#![no_main]

use apikey_jwt_exchange_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::cache::holds(data));
