//! The log of revocations over shared data that lies. See `crates/core/tests/properties/revocations.rs`.

#![no_main]

use apikey_jwt_exchange_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::revocations::holds(data));
