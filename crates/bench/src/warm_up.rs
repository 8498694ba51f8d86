//! The warm-up of a node that has restarted: one worker with empty caches, 3,000 requests a second
//! by Zipf's law, and calls of 10 ms.

use crate::traffic::Usage;
use crate::virtual_node::{Hash, Run, Scenario, run};

/// How long a verification of cost 10 takes a worker; `first_use_ms` of `docs/performance.md`,
/// less its calls.
pub const BCRYPT_10: Hash = Hash::Bcrypt {
    verification_ms: 60,
};
const REQUESTS_PER_SECOND: f64 = 3000.0;
const TTL_SECONDS: u64 = 300;

/// A node that has seen none of its keys.
#[must_use]
pub fn cold_node(keys: usize, hash: Hash, seconds: u64) -> Scenario {
    let usage = Usage::zipf(keys, REQUESTS_PER_SECOND);
    Scenario {
        hash,
        known: false,
        warm_up_seconds: 0,
        seconds,
        ..Scenario::steady(usage, TTL_SECONDS, 1)
    }
}

/// A row of the table in `docs/performance.md`. Keycloak works on `at_once` calls, or on any number of
/// them.
#[must_use]
pub fn row(keys: usize, hash: Hash, at_once: Option<usize>, seconds: u64) -> Vec<String> {
    let scenario = Scenario {
        keycloak_at_once: at_once,
        ..cold_node(keys, hash, seconds)
    };
    let Run {
        counted,
        held_up_until_seconds,
        ..
    } = run(&scenario, &|| {});
    // Two calls for each first use.
    let served = at_once.map_or("any".to_owned(), |at_once| {
        (at_once as u64 * 500 / scenario.call_ms).to_string()
    });
    let name = match hash {
        Hash::Sha256 => "sha256",
        Hash::Bcrypt { .. } => "bcrypt, cost 10",
    };
    let refused = 100.0 * counted.refused as f64 / counted.requests as f64;
    vec![
        keys.to_string(),
        name.to_owned(),
        served,
        seconds.to_string(),
        format!("{held_up_until_seconds:.1}"),
        format!("{refused:.2}"),
    ]
}
