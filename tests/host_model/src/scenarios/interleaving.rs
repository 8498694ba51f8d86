//! Many requests at once, and clients that go away.

use crate::flights::Asked;
use crate::gateway::Gateway;
use crate::keys::{key, other_secret, owner, plain_owner};
use crate::node::BOTH;

#[test]
fn many_first_uses_at_once_each_get_their_own_owner() {
    for profile in BOTH {
        let names: Vec<String> = (0..24).map(|n| format!("owner-{n}")).collect();
        let users = names.iter().zip(0..).map(|(name, n)| owner(name, &key(n)));
        let mut gateway = Gateway::new(profile, users.collect());
        let second = gateway.add_worker();
        let mut requests = Vec::new();
        for n in 0..24 {
            for worker in [0, second] {
                let headers = crate::abi::pairs(&[("x-api-key", &key(n))]);
                requests.push((n, gateway.send(worker, 0, &headers)));
            }
        }
        gateway.run();
        for (n, request) in requests {
            let subject = gateway.finish(request).subject();
            assert_eq!(subject, names[usize::try_from(n).unwrap()]);
        }
    }
}

#[test]
fn wrong_and_right_secrets_of_one_id_at_once_are_told_apart() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let wrong: Vec<_> = (0..8)
            .map(|n| gateway.send_key(&other_secret(&key(1), n)))
            .collect();
        let right = gateway.send_key(&key(1));
        gateway.run();
        assert_eq!(gateway.finish(right).subject(), "alice");
        for request in wrong {
            gateway.finish(request).expect_invalid();
        }
    }
}

#[test]
fn a_client_that_goes_away_at_any_step_hands_everything_on() {
    for profile in BOTH {
        for steps in 0..12 {
            let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
            let leader = gateway.send_key(&key(1));
            let followers: Vec<_> = (0..3).map(|_| gateway.send_key(&key(1))).collect();
            for _ in 0..steps {
                gateway.step();
            }
            if gateway.requests[leader].outcome.is_none() {
                gateway.hang_up(leader);
            }
            gateway.run();
            for follower in followers {
                assert_eq!(gateway.finish(follower).subject(), "alice", "after {steps}");
            }
            assert_eq!(gateway.ask(&key(1)).subject(), "alice");
        }
    }
}

#[test]
fn clients_that_all_go_away_leave_room_for_the_next() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        for _ in 0..3 {
            // As many keys as are looked up at once, and more requests with the same
            // keys.
            let keys = (0..1024).map(|n| key(100 + n % 60));
            let requests: Vec<_> = keys.map(|key| gateway.send_key(&key)).collect();
            // The worker is full of pending requests.
            gateway.ask_full(&key(5000));
            for request in requests {
                gateway.hang_up(request);
            }
        }
        assert_eq!(gateway.ask(&key(1)).subject(), "alice");
    }
}

#[test]
fn warm_requests_are_served_while_one_is_verified() {
    for profile in BOTH {
        let users = vec![owner("alice", &key(1)), plain_owner("bob", &key(2))];
        let mut gateway = Gateway::new(profile, users);
        gateway.ask(&key(2));
        let cold = gateway.send_key(&key(1));
        while gateway.flights.waits_for(cold) != Some(Asked::Yield) {
            assert!(gateway.step(), "it comes to its bcrypt");
        }
        let warm = gateway.send_key(&key(2));
        assert_eq!(
            gateway.requests[warm].outcome.as_ref().unwrap().subject(),
            "bob"
        );
        assert_eq!(gateway.finish(cold).subject(), "alice");
    }
}
