//! Properties of every reader of outside bytes, each a function of any bytes at all.
//!
//! One list for two drivers: `crates/core/tests/property.rs` runs each over the seeds, over
//! random bytes and over seeds that were tampered with; `fuzz/` gives them to libFuzzer, which
//! is led by coverage. A property panics when it is broken. For the inputs that a reader may
//! accept it has a reader of its own, strict and slow, and does not use ours.

pub mod cache;
pub mod config;
pub mod events;
pub mod exchange;
pub mod headers;
pub mod key_format;
pub mod oracle;
pub mod outgoing;
pub mod record;
pub mod revocations;
pub mod sealed;
pub mod tokens;
pub mod users;

use test_kit::store;

/// A property: holds, or panics.
pub type Property = fn(&[u8]);

/// Each with the name of its seeds' folder and of its fuzz target.
pub const ALL: [(&str, Property); 12] = [
    ("cache", cache::holds),
    ("config", config::holds),
    ("events", events::holds),
    ("exchange", exchange::holds),
    ("headers", headers::holds),
    ("key_format", key_format::holds),
    ("outgoing", outgoing::holds),
    ("record", record::holds),
    ("revocations", revocations::holds),
    ("sealed", sealed::holds),
    ("tokens", tokens::holds),
    ("users", users::holds),
];

/// The first line and the rest.
pub fn first_line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|&byte| byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

/// The bytes with each of these marks replaced: a seed stays readable, holds no secret,
/// and a fuzzer need not find a checksum.
pub fn filled(data: &[u8], marks: &[(&str, &[u8])]) -> Vec<u8> {
    let mut filled = Vec::with_capacity(data.len());
    let mut rest = data;
    'bytes: while let Some((&byte, after)) = rest.split_first() {
        for (mark, value) in marks {
            if let Some(after) = rest.strip_prefix(mark.as_bytes()) {
                filled.extend_from_slice(value);
                rest = after;
                continue 'bytes;
            }
        }
        filled.push(byte);
        rest = after;
    }
    filled
}

/// The JSON as a strict reader sees it: `serde_json` does not look at the encoding of texts
/// that it skips, so those are made whole before.
pub fn strict_json(body: &[u8]) -> Option<serde_json::Value> {
    serde_json::from_str(&String::from_utf8_lossy(body)).ok()
}

pub fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
