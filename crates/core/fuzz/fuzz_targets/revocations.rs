//! The log of revocations over shared data that lies. See `crates/core/tests/properties/revocations.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::revocations::holds(data));
