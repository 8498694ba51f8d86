//! The ways of a request, in both hosts.

use crate::flights::Asked;
use crate::gateway::Gateway;
use crate::keys::{key, other_secret, owner};
use crate::node::BOTH;

#[test]
fn a_first_use_is_verified_in_slices_and_exchanged() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        assert_eq!(gateway.count(Asked::ServiceToken), 1);
        assert_eq!(gateway.count(Asked::Lookup), 1);
        assert_eq!(gateway.count(Asked::Grant), 1);
        assert!(
            gateway.count(Asked::Yield) >= 3,
            "bcrypt and a turn to sign"
        );
        assert!(gateway.logged("source=FirstUse"));
    }
}

#[test]
fn a_warm_request_asks_nobody() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.ask(&key(1));
        let asked = gateway.flights.total();
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        assert_eq!(gateway.flights.total(), asked);
    }
}

#[test]
fn a_wrong_secret_is_refused_and_its_neighbour_is_not() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.ask(&other_secret(&key(1), 1)).expect_invalid();
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
    }
}
