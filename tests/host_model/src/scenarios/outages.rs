//! Every failure of Keycloak, or of the way to it, at each step of an exchange.

use crate::flights::{Asked, Fate};
use crate::gateway::{Gateway, Outcome};
use crate::keys::{key, owner, plain_owner};
use crate::node::{BOTH, Profile};

const CALLS: [Asked; 4] = [
    Asked::ServiceToken,
    Asked::Lookup,
    Asked::Grant,
    Asked::Yield,
];

/// How often a hanging Keycloak is asked: on Envoy the host gives up after two seconds and
/// the second try has less, on Kong the loopback server gives up after 1.7 seconds.
const fn times_out(profile: Profile) -> u32 {
    match profile {
        Profile::Envoy => 2,
        Profile::Kong => 3,
    }
}

/// A wrong answer that has a status is a scenario of the kit.
#[test]
fn a_callout_without_an_answer_or_a_status_is_a_503_and_the_next_request_is_served() {
    for profile in BOTH {
        for asked in CALLS {
            for fate in [Fate::TimesOut, Fate::Late(60_000), Fate::NoStatus] {
                let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
                let bad = fate.clone();
                let tries = match (asked, &fate) {
                    // A turn is not asked for again.
                    (Asked::Yield, _) => 1,
                    (_, Fate::NoStatus) => 3,
                    // As often as there is time for.
                    _ => times_out(profile),
                };
                gateway.fate = Box::new(move |now, count| match now == asked && count < tries {
                    true => bad.clone(),
                    false => Fate::Answered,
                });
                let (status, _) = gateway.ask(&key(1)).refusal();
                assert_eq!(status, 503, "{asked:?} {fate:?}");
                // Three tries that hang open the circuit, for as long as this at the most.
                gateway.pass(4_000);
                assert_eq!(gateway.ask(&key(1)).subject(), "alice");
            }
        }
    }
}

#[test]
fn in_an_outage_one_asks_and_asks_again_for_all_that_wait() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.fate = Box::new(|asked, _| match asked {
            Asked::Yield | Asked::Wait => Fate::Answered,
            _ => Fate::TimesOut,
        });
        let requests: Vec<_> = (0..50).map(|_| gateway.send_key(&key(1))).collect();
        gateway.run();
        for request in requests {
            gateway.finish(request).expect_unavailable();
        }
        let asked = u32::try_from(gateway.count(Asked::ServiceToken)).unwrap();
        assert_eq!(asked, times_out(profile));
    }
}

#[test]
fn a_callout_that_the_host_does_not_send_is_a_503() {
    for profile in BOTH {
        for sent in 0..6 {
            let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
            let request = gateway.send_key(&key(1));
            for _ in 0..sent {
                gateway.step();
            }
            // Neither the call nor the wait before it is repeated.
            gateway.node.borrow_mut().refuses_callouts = 2;
            let outcome = gateway.finish(request);
            if gateway.node.borrow().refuses_callouts < 2 {
                assert_eq!(outcome.refusal().0, 503, "after {sent}");
            }
            gateway.node.borrow_mut().refuses_callouts = 0;
            assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        }
    }
}

#[test]
fn no_bad_answer_is_ever_forwarded_or_repeated_to_the_client() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![plain_owner("alice", &key(1))]);
        let body = b"{\"error\":\"invalid_grant\",\"error_description\":\"a marked text\"}";
        gateway.fate = Box::new(|asked, _| match asked {
            Asked::Grant => Fate::Status(400, body.to_vec()),
            _ => Fate::Answered,
        });
        let Outcome::Answered(answer) = gateway.ask(&key(1)) else {
            panic!("it is refused");
        };
        let text = String::from_utf8(answer.body).unwrap();
        assert!(!text.contains("marked"), "{text}");
    }
}

#[test]
fn an_answer_that_comes_after_the_deadline_changes_nothing() {
    let mut gateway = Gateway::new(Profile::Envoy, vec![plain_owner("alice", &key(1))]);
    gateway.fate = Box::new(|_, _| Fate::Late(1_999));
    let began = gateway.now();
    let (status, _) = gateway.ask(&key(1)).refusal();
    assert_eq!(status, 503);
    assert!(
        gateway.now().since_ms(began) <= 4_000,
        "twice the callout's time"
    );
}
