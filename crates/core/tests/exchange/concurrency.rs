//! Many requests at once in one worker: one exchange for a key, one bcrypt at a
//! time, and every claim given back.

use std::collections::VecDeque;

use apikeys_core::exchange::{Exchange, Output, PENDING_MAX, Pass, Source};
use apikeys_core::machine::{Effect, Event};
use apikeys_core::rejection::{Reason, Rejection};
use serde_json::{Value, json};

use super::client::owner;
use super::keycloak::{Calls, User};
use super::world::{START, World, headers, key, subject};

fn owners(numbers: std::ops::RangeInclusive<u8>) -> Vec<User> {
    numbers
        .map(|number| owner(&format!("user-{number}"), number))
        .collect()
}

/// Requests in flight, each with the latest output of its exchange.
struct Crowd {
    waiting: VecDeque<(u8, Exchange, Output)>,
    ended: Vec<(u8, Output)>,
    /// The time of each answer, in milliseconds.
    tick_ms: u64,
}

impl Crowd {
    fn start(world: &mut World, keys: impl Iterator<Item = u8>) -> Self {
        let mut crowd = Self {
            waiting: VecDeque::new(),
            ended: Vec::new(),
            tick_ms: 1,
        };
        for number in keys {
            let mut exchange = Exchange::new();
            let headers = headers(&[("x-api-key", &key(number))]);
            let output = world.begin(&mut exchange, &headers);
            crowd.sort_in(number, exchange, output);
        }
        crowd
    }

    fn sort_in(&mut self, number: u8, exchange: Exchange, output: Output) {
        match output {
            Output::Await(_) => {
                self.waiting.push_back((number, exchange, output));
            }
            output => {
                assert!(!exchange.is_pending());
                self.ended.push((number, output));
            }
        }
    }

    /// Answers the request that has waited longest.
    fn step(&mut self, world: &mut World, keycloak_is_up: bool) {
        let (number, mut exchange, output) = self.waiting.pop_front().unwrap();
        world.now = world.now.plus_ms(self.tick_ms);
        let output = match output {
            Output::Await(Effect::Call { call, .. }) if keycloak_is_up => {
                let (status, body) = world.keycloak.answer(&call, world.now);
                world.input(
                    &mut exchange,
                    Event::Answer {
                        status,
                        body: Some(&body),
                    },
                )
            }
            Output::Await(Effect::Call { .. }) => {
                world.input(&mut exchange, Event::Failed("reset"))
            }
            _ => world.input(
                &mut exchange,
                Event::Answer {
                    status: 204,
                    body: Some(b""),
                },
            ),
        };
        self.sort_in(number, exchange, output);
    }

    fn finish(mut self, world: &mut World) -> Vec<(u8, Output)> {
        for _ in 0..200_000 {
            if self.waiting.is_empty() {
                return self.ended;
            }
            self.step(world, true);
        }
        panic!("{} requests without an end", self.waiting.len());
    }
}

fn sources(ended: &[(u8, Output)], wanted: Source) -> usize {
    ended
        .iter()
        .filter(|(_, output)| matches!(output, Output::Forward(f) if f.source == wanted))
        .count()
}

#[test]
fn fifty_first_uses_of_one_key_verify_it_once() {
    let mut world = World::new(owners(1..=1));
    let ended = Crowd::start(&mut world, std::iter::repeat_n(1, 50)).finish(&mut world);
    assert_eq!(
        (
            sources(&ended, Source::FirstUse),
            sources(&ended, Source::L1)
        ),
        (1, 49)
    );
    assert_eq!(
        world.keycloak.calls,
        Calls {
            service_token: 1,
            lookup: 1,
            grant: 1
        }
    );
}

#[test]
fn twenty_keys_at_once_each_get_their_owners_token_with_one_service_token() {
    let mut world = World::new(owners(1..=20));
    let ended = Crowd::start(&mut world, 1..=20).finish(&mut world);
    assert_eq!(sources(&ended, Source::FirstUse), 20);
    for (number, output) in &ended {
        let Output::Forward(forward) = output else {
            panic!("{output:?}")
        };
        assert_eq!(subject(forward), format!("user-{number}"));
    }
    assert_eq!(
        world.keycloak.calls,
        Calls {
            service_token: 1,
            lookup: 20,
            grant: 20
        }
    );
}

#[test]
fn fifty_requests_with_one_bad_key_ask_keycloak_once() {
    for changes in [Value::Null, json!({ "negative_ttl_seconds": 0 })] {
        let mut world = World::with(vec![], &changes);
        let ended = Crowd::start(&mut world, std::iter::repeat_n(1, 50)).finish(&mut world);
        let refused = |output: &Output| {
            matches!(
                output,
                Output::Reject {
                    rejection: Rejection::InvalidApiKey,
                    ..
                }
            )
        };
        assert!(ended.len() == 50 && ended.iter().all(|(_, output)| refused(output)));
        assert_eq!(world.keycloak.calls.lookup, 1);
    }
}

#[test]
fn fifty_requests_with_an_unknown_key_fall_back_after_the_look_ups_of_one() {
    let until = START.plus_ms(3_600_000).to_rfc3339();
    let changes = json!({ "fallback_until": until, "negative_ttl_seconds": 0 });
    let mut world = World::with(vec![], &changes);
    let ended = Crowd::start(&mut world, std::iter::repeat_n(1, 50)).finish(&mut world);
    let passed = |output: &Output| matches!(output, Output::Pass(Pass::Fallback));
    assert!(ended.len() == 50 && ended.iter().all(|(_, output)| passed(output)));
    assert_eq!(world.keycloak.calls.lookup, 2);
}

#[test]
fn a_dead_keycloak_is_asked_and_asked_again_by_one_for_all_that_wait() {
    let mut world = World::new(owners(1..=3));
    let keys = [1, 1, 1, 1, 2, 2, 3].into_iter().cycle().take(70);
    let mut crowd = Crowd::start(&mut world, keys);
    let mut callouts = 0;
    while let Some((_, _, output)) = crowd.waiting.front() {
        callouts += u32::from(matches!(output, Output::Await(Effect::Call { .. })));
        crowd.step(&mut world, false);
    }
    assert_eq!(callouts, 3);
    for (_, output) in &crowd.ended {
        let Output::Reject { rejection, .. } = output else {
            panic!("{output:?}")
        };
        assert_eq!(*rejection, Rejection::IdentityProviderUnavailable);
    }
    let ended = Crowd::start(&mut world, 1..=3).finish(&mut world);
    assert_eq!(sources(&ended, Source::FirstUse), 3);
}

#[test]
fn a_leader_that_goes_away_hands_everything_on() {
    // The leader's client hangs up at each step in turn.
    for steps in 0..12 {
        let mut world = World::new(owners(1..=2));
        let mut crowd = Crowd::start(&mut world, [1, 1, 2].into_iter());
        for _ in 0..steps * 3 {
            if !crowd.waiting.is_empty() {
                crowd.step(&mut world, true);
            }
        }
        if let Some((_, mut leader, _)) = crowd.waiting.pop_front() {
            world.abort(&mut leader);
            world.abort(&mut leader);
            assert!(!leader.is_pending());
        }
        let ended = crowd.finish(&mut world);
        let forwarded = |output: &Output| matches!(output, Output::Forward(_));
        assert!(
            ended.iter().all(|(_, output)| forwarded(output)),
            "after {steps}: {ended:?}"
        );
    }
}

#[test]
fn the_number_of_pending_requests_is_bounded_and_recovers() {
    let mut world = World::new(owners(1..=1));
    let mut crowd = Crowd::start(&mut world, std::iter::repeat_n(1, PENDING_MAX));
    let (rejection, reason) = world.key_request(&key(2)).rejected();
    assert_eq!(
        (rejection, reason),
        (Rejection::Overloaded, Reason::TooManyPending)
    );
    for (_, exchange, _) in &mut crowd.waiting {
        world.abort(exchange);
    }
    world.expect_source(&key(1), Source::FirstUse, "user-1");
}

#[test]
fn a_full_queue_is_told_at_once_and_the_others_are_served() {
    let mut world = World::new(owners(1..=100));
    let mut crowd = Crowd::start(&mut world, 1..=100);
    // The clock stands still, so that no deadline passes.
    crowd.tick_ms = 0;
    let ended = crowd.finish(&mut world);
    let overloaded = |output: &Output| {
        matches!(
            output,
            Output::Reject {
                rejection: Rejection::Overloaded,
                reason: Reason::QueueFull
            }
        )
    };
    let refused = ended
        .iter()
        .filter(|(_, output)| overloaded(output))
        .count();
    assert_eq!(sources(&ended, Source::FirstUse) + refused, 100);
    assert!((1..=35).contains(&refused), "{refused}");
}
