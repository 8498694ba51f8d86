//! What a warm request and a refresh take, in instructions: a figure that no busy machine changes.

use crate::gateway::Gateway;
use crate::keycloak_adapter::Asked;
use crate::keys::{key, owner};
use crate::node::BOTH;

/// Measured: 48,500 and 49,700, a fifth of it two blocks of SHA-256, a fifth allocation. The
/// rest is room for another compiler.
const INSTRUCTIONS_MAX: u64 = 52_000;

/// Beside the key and the pseudo-headers: about what browsers and proxies send.
const HEADERS: [(&str, &str); 8] = [
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    ),
    ("accept", "application/json, text/plain, */*"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.8,de;q=0.5"),
    ("x-forwarded-for", "203.0.113.77"),
    ("x-forwarded-proto", "https"),
    ("x-request-id", "4d1f9a9e-8f3e-4f5a-9f0d-5b2f6e0c7a11"),
    (
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
];

#[test]
fn a_warm_request_takes_few_instructions() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.ask(&key(1));
        let authorization = format!("ApiKey {}", key(1));
        let mut headers = HEADERS.to_vec();
        headers.push(("authorization", &authorization));
        gateway.vm(0, 0).spent.clear();
        gateway.ask_with(&headers).subject();
        let spent = &gateway.vm(0, 0).spent;
        let took = spent["proxy_on_request_headers"];
        assert!(took <= INSTRUCTIONS_MAX, "{profile:?}: {spent:?}");
    }
}

/// Two signatures, 3,800,000 each, by a table of the curve that is computed once a start:
/// without it they took 13,100,000. A slice of bcrypt takes about 9,300,000, and no step may
/// hold the worker for longer.
const REFRESH_INSTRUCTIONS_MAX: u64 = 9_000_000;

#[test]
fn a_refresh_holds_the_worker_for_no_longer_than_a_slice() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.ask(&key(1)).subject();
        gateway.pass(301_000);
        gateway.vm(0, 0).spent.clear();
        gateway.ask(&key(1)).subject();
        assert_eq!(gateway.count(Asked::Grant), 2, "{profile:?}: a refresh");
        let spent = &gateway.vm(0, 0).spent;
        let most = spent.values().max();
        let most = most.copied().unwrap_or_default();
        let signed = most > REFRESH_INSTRUCTIONS_MAX / 3;
        assert!(
            signed && most <= REFRESH_INSTRUCTIONS_MAX,
            "{profile:?}: {spent:?}"
        );
    }
}
