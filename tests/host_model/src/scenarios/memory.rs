//! Worker memory over many requests: it grows to its bounds, and no further.

use serde_json::json;

use crate::gateway::Gateway;
use crate::keys::{key, plain_owner};
use crate::node::{BOTH, Profile};

/// The number of known keys; they take turns with unknown keys, each of which comes
/// once.
const KNOWN: u64 = 50;

fn load(gateway: &mut Gateway, requests: std::ops::Range<u64>) {
    for number in requests {
        let unknown = gateway.send_key(&key(1_000 + number));
        let known = gateway.send_key(&key(number % KNOWN));
        gateway.run();
        gateway.finish(unknown).expect_invalid();
        gateway.finish(known).subject();
    }
}

fn gateway(profile: Profile) -> Gateway {
    let users = (0..KNOWN).map(|n| plain_owner(&format!("owner-{n}"), &key(n)));
    // Small bounds are reached soon.
    let changes = json!({ "l1_entries": 500, "l2_slots": 256 });
    Gateway::with(profile, users.collect(), &changes)
}

#[test]
fn memory_stops_growing_within_twenty_thousand_requests() {
    for profile in BOTH {
        let mut gateway = gateway(profile);
        load(&mut gateway, 0..5_000);
        let early = gateway.vm(0, 0).memory_bytes();
        load(&mut gateway, 5_000..10_000);
        let late = gateway.vm(0, 0).memory_bytes();
        assert_eq!(early, late, "{profile:?}");
        assert!(late < 4 << 20, "{late} bytes");
    }
}

#[test]
fn a_client_that_hangs_up_costs_no_more_than_the_sdk_forgets() {
    // The SDK keeps the id of a callout that never gets an answer (docs/hosts.md).
    for profile in BOTH {
        let mut gateway = gateway(profile);
        load(&mut gateway, 0..100);
        let early = gateway.vm(0, 0).memory_bytes();
        let hung_up = 10_000;
        for number in 0..hung_up {
            let request = gateway.send_key(&key(100_000 + number));
            gateway.hang_up(request);
            gateway.run();
            // Fifty look-ups in a second may come to nothing.
            gateway.pass(20);
        }
        let grown = gateway.vm(0, 0).memory_bytes() - early;
        assert!(grown as u64 <= 64 * hung_up, "{grown} bytes");
    }
}

#[test]
fn refused_requests_of_every_size_leave_nothing_behind() {
    let mut gateway = gateway(Profile::Kong);
    let mut sizes = [0; 2];
    for size in &mut sizes {
        for number in 0..2_000 {
            let header = "x".repeat(1 + number % 8_000);
            let outcome = gateway.ask_with(&[("x-filler", &header)]);
            outcome.expect_refusal(401, "missing_credentials");
        }
        *size = gateway.vm(0, 0).memory_bytes();
    }
    assert_eq!(sizes[0], sizes[1]);
}
