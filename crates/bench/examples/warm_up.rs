//! Prints the table of a node's warm-up in `docs/performance.md`.

#![allow(clippy::print_stdout, reason = "it prints a table")]

use apikeys_bench::virtual_node::Hash;
use apikeys_bench::warm_up::{BCRYPT_10, row};

fn main() {
    let rows = [
        (1000, Hash::Sha256, None, 60),
        (10_000, Hash::Sha256, None, 60),
        (100_000, Hash::Sha256, None, 60),
        (1000, Hash::Sha256, Some(2), 300),
        (10_000, Hash::Sha256, Some(2), 300),
        (1000, BCRYPT_10, None, 300),
        (10_000, BCRYPT_10, None, 900),
    ];
    for (keys, hash, at_once, seconds) in rows {
        println!("| {} |", row(keys, hash, at_once, seconds).join(" | "));
    }
}
