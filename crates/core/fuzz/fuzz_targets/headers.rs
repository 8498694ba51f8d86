//! Which credential a request carries. See `crates/core/tests/properties/headers.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::headers::holds(data));
