//! Clocks that step, or give no time.

use apikeys_core::clock::UnixMillis;

use crate::gateway::{Gateway, Outcome};
use crate::keys::{key, owner, plain_owner};
use crate::node::BOTH;

fn set_clock(gateway: &Gateway, change: impl FnOnce(UnixMillis) -> Option<UnixMillis>) {
    let mut node = gateway.node.borrow_mut();
    node.clock = change(node.clock.unwrap_or_default());
}

#[test]
fn a_clock_that_shows_1970_refuses_and_recovers() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        let right = gateway.now();
        set_clock(&gateway, |_| Some(UnixMillis(0)));
        gateway.ask(&key(1)).expect_unavailable();
        set_clock(&gateway, |_| Some(right));
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
    }
}

#[test]
fn a_clock_that_cannot_be_asked_is_a_trap_and_no_way_through() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        gateway.ask(&key(1));
        let right = gateway.now();
        gateway.allowed.traps = true;
        set_clock(&gateway, |_| None);
        assert!(gateway.ask(&key(1)).is_crash());
        set_clock(&gateway, |_| Some(right));
        assert_eq!(
            gateway.ask(&key(1)).subject(),
            "alice",
            "the host starts it anew"
        );
    }
}

#[test]
fn a_clock_step_at_any_point_of_an_exchange_ends_in_an_answer() {
    for profile in BOTH {
        for back in [true, false] {
            for steps in 0..9 {
                let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
                let request = gateway.send_key(&key(1));
                for _ in 0..steps {
                    gateway.step();
                }
                let day = 86_400_000;
                set_clock(&gateway, |now| {
                    Some(if back {
                        now.minus_ms(day)
                    } else {
                        now.plus_ms(day)
                    })
                });
                let began = gateway.flights.time_ms;
                match gateway.finish(request) {
                    Outcome::Forwarded(_) => {}
                    refused => assert!([401, 503].contains(&refused.refusal().0)),
                }
                assert!(gateway.flights.time_ms - began < 10_000, "it hung");
            }
        }
    }
}

#[test]
fn an_entry_from_the_future_is_not_used() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        gateway.ask(&key(1));
        let asked = gateway.flights.total();
        set_clock(&gateway, |now| Some(now.minus_ms(3_600_000)));
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        assert!(gateway.flights.total() > asked);
    }
}
