//! Entries of the shared cache. See `crates/core/tests/properties/sealed.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::sealed::holds(data));
