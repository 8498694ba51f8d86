//! Outgoing texts made of texts from outside. See `crates/core/tests/properties/outgoing.rs`.

#![no_main]

use apikeys_core_fuzz::properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::outgoing::holds(data));
