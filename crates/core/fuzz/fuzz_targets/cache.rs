//! The caches above a store that lies. See `crates/core/tests/properties/cache.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::cache::holds(data));
