//! Keycloak is gone for a while, or one of its nodes is: the keys served meanwhile, the pauses
//! between calls to it, and the gateway's way back.

use apikeys_core::background::Background;
use apikeys_core::exchange::{Output, Source};
use apikeys_core::machine::Effect;
use apikeys_core::rejection::{Reason, Rejection};
use serde_json::{Value, json};

use super::client::{Client, plain_owner};
use super::keycloak::{Reply, User, sha256_of};
use super::world::{Ended, START, World, id_of, key, subject};

const DOWN: Result<Reply, &str> = Err("refused");

fn world(changes: &Value) -> World {
    let users = (1..=60).map(|number| plain_owner(&format!("user-{number}"), number));
    let mut world = World::with(users.collect(), changes);
    world.keycloak.token_life_seconds = 7200;
    world
}

fn with_stale(seconds: u64) -> World {
    world(&json!({ "stale_if_error_seconds": seconds }))
}

/// Sends a key while Keycloak answers so; gives the number of calls to it.
fn request(world: &mut World, number: u8, answer: &Result<Reply, &'static str>) -> (Ended, u32) {
    let mut calls = 0;
    let ended = world.request_with(&[("x-api-key", &key(number))], |_, _| {
        calls += 1;
        answer.clone()
    });
    (ended, calls)
}

/// The first key is served with its cached token, since Keycloak is gone.
#[track_caller]
fn expect_stale(world: &mut World) {
    let forward = request(world, 1, &DOWN).0.forwarded();
    assert_eq!(forward.source, Source::Stale);
}

fn status(status: u16) -> Result<Reply, &'static str> {
    Ok((status, b"{}".to_vec()))
}

/// Requests with keys that are new here, until the breaker opens; gives the number of calls.
fn fail_until_open(world: &mut World, answer: &Result<Reply, &'static str>) -> u32 {
    let mut sent = 0;
    for number in 2..60 {
        let (ended, calls) = request(world, number, answer);
        let (rejection, reason) = ended.rejected();
        assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
        sent += calls;
        if reason == Reason::BreakerOpen {
            assert!(world.worker.is_breaker_open());
            return sent;
        }
        world.now = world.now.plus_ms(200);
    }
    panic!("never left alone");
}

#[test]
fn what_one_node_of_keycloak_does_not_answer_another_is_asked() {
    for fault in [DOWN, status(502), status(503), status(504)] {
        let mut world = world(&Value::Null);
        // Every other call goes to the node that is gone.
        for number in 1..=20 {
            world.now = world.now.plus_ms(100);
            let ended = world.request_with(&[("x-api-key", &key(number))], |call, reply| {
                if call % 2 == 0 {
                    fault.clone()
                } else {
                    Ok(reply)
                }
            });
            assert_eq!(subject(&ended.forwarded()), format!("user-{number}"));
        }
        assert!(!world.worker.is_breaker_open());
    }
}

#[test]
fn a_call_is_made_three_times_and_not_more() {
    let mut world = world(&Value::Null);
    let (ended, calls) = request(&mut world, 1, &DOWN);
    assert_eq!(ended.rejected().0, Rejection::IdentityProviderUnavailable);
    assert_eq!(calls, 3);
    // Keycloak's own answers would be the same from another node.
    for code in [400, 401, 403, 429, 500] {
        let (ended, calls) = request(&mut world, 1, &status(code));
        assert_eq!(ended.rejected().0, Rejection::IdentityProviderUnavailable);
        assert_eq!(calls, 1, "{code}");
    }
}

#[test]
fn each_try_signs_anew_since_keycloak_takes_an_assertion_once() {
    let mut world = world(&Value::Null);
    let mut client = Client::send(&mut world, 1);
    let form = |client: &Client| match &client.output {
        Output::Await(Effect::Call { call, .. }) => call.form.clone().unwrap(),
        other => panic!("{other:?}"),
    };
    let first = form(&client);
    client.fail(&mut world);
    client.answer(&mut world);
    assert_ne!(form(&client), first);
    client.answer_until(&mut world, Client::is_granting);
    let first = form(&client);
    client.fail(&mut world);
    client.answer(&mut world);
    assert!(client.is_granting());
    assert_ne!(form(&client), first);
    client.answer_until(&mut world, Client::is_over);
    assert!(matches!(client.output, Output::Forward(_)));
}

#[test]
fn each_try_of_a_look_up_for_a_new_key_takes_a_turn() {
    let mut world = world(&Value::Null);
    request(&mut world, 60, &status(404)).0.rejected();
    let mut clients: Vec<_> = (1..=55)
        .map(|number| Client::send(&mut world, number))
        .collect();
    let mut looked_up = 0;
    for client in &mut clients {
        client.answer_until(&mut world, Client::is_looking_up);
        looked_up += 1;
        client.fail(&mut world);
        assert!(!client.is_looking_up(), "at once");
    }
    world.now = world.now.plus_ms(25);
    for client in &mut clients {
        if !client.is_over() {
            client.answer(&mut world);
        }
        if client.is_looking_up() {
            looked_up += 1;
            client.fail(&mut world);
        }
    }
    // A hundred, and what the pause has earned.
    assert!((90..=101).contains(&looked_up), "{looked_up}");
}

#[test]
fn a_keycloak_that_does_not_answer_is_left_alone_and_asked_by_one() {
    for fault in [DOWN, status(503), status(500), status(429)] {
        let mut world = world(&Value::Null);
        let sent = fail_until_open(&mut world, &fault);
        assert!(sent <= 18, "{sent}");
        let called_at = world.now;
        let mut calls = 0;
        while world.now < called_at.plus_ms(60_000) {
            for number in 1..=10 {
                calls += request(&mut world, number, &fault).1;
            }
            world.now = world.now.plus_ms(100);
        }
        // One call in four to five seconds, and sooner at first.
        assert!((12..=18).contains(&calls), "{calls} calls in a minute");
        // Keycloak is back, and the gateway finds out within five seconds.
        let back_at = world.now;
        while world.key_request(&key(1)).rejected_by_breaker() {
            world.now = world.now.plus_ms(100);
        }
        let took = world.now.since_ms(back_at);
        assert!(took <= 5_000, "{took}");
        assert!(!world.worker.is_breaker_open());
        world.expect_source(&key(2), Source::FirstUse, "user-2");
    }
}

impl Ended {
    fn rejected_by_breaker(&self) -> bool {
        matches!(self, Self::Rejected(_, Reason::BreakerOpen))
    }
}

#[test]
fn warm_keys_go_on_while_keycloak_is_left_alone() {
    let mut world = world(&Value::Null);
    world.expect_source(&key(1), Source::FirstUse, "user-1");
    fail_until_open(&mut world, &DOWN);
    world.expect_source(&key(1), Source::L1, "user-1");
    let (_, calls) = request(&mut world, 59, &DOWN);
    assert_eq!(calls, 0);
}

#[test]
fn an_owner_for_whom_keycloak_cannot_make_a_token_takes_nothing_from_others() {
    let mut world = world(&Value::Null);
    world.expect_source(&key(2), Source::FirstUse, "user-2");
    for _ in 0..100 {
        world.now = world.now.plus_ms(1000);
        let ended = world.request_with(&[("x-api-key", &key(1))], |_, reply| match reply {
            (200, body) if !body.starts_with(b"{\"access_token") => Ok((200, body)),
            _ => status(500),
        });
        ended.rejected();
    }
    assert!(!world.worker.is_breaker_open());
    world.expect_source(&key(3), Source::FirstUse, "user-3");
}

#[test]
fn an_owner_whose_record_no_host_buffers_takes_nothing_from_others() {
    let mut world = world(&Value::Null);
    world.expect_source(&key(2), Source::FirstUse, "user-2");
    let mut calls = 0;
    for number in 0..40 {
        let (ended, sent) = request(&mut world, 1, &DOWN);
        assert_eq!(ended.rejected().0, Rejection::IdentityProviderUnavailable);
        calls += sent;
        if number % 5 == 4 {
            let (new, owner) = (number / 5 + 3, format!("user-{}", number / 5 + 3));
            world.expect_source(&key(new), Source::FirstUse, &owner);
        }
        world.now = world.now.plus_ms(300);
    }
    assert!(!world.worker.is_breaker_open());
    // As long as no other key shows that Keycloak is there, calls for that key stay few.
    for _ in 0..100 {
        calls += request(&mut world, 1, &DOWN).1;
        world.now = world.now.plus_ms(300);
    }
    assert!(calls <= 140, "{calls}");
    world.expect_source(&key(20), Source::FirstUse, "user-20");
}

#[test]
fn who_finds_out_and_hangs_up_leaves_it_to_the_next() {
    let mut world = world(&Value::Null);
    fail_until_open(&mut world, &DOWN);
    world.now = world.now.plus_ms(5_000);
    let mut first = Client::send(&mut world, 1);
    assert!(matches!(first.output, Output::Await(Effect::Call { .. })));
    assert_eq!(request(&mut world, 2, &DOWN).1, 0);
    world.abort(&mut first.exchange);
    world.expect_source(&key(2), Source::FirstUse, "user-2");
}

#[test]
fn after_an_outage_known_keys_are_asked_for_in_turn() {
    let mut world = world(&json!({ "cache_ttl_seconds": 10 }));
    for number in 1..=55 {
        world.key_request(&key(number)).forwarded();
    }
    world.now = world.now.plus_ms(20_000);
    // Keys that are not otherwise in use find that Keycloak is gone.
    for number in 0..20 {
        request(&mut world, 56 + number % 5, &DOWN).0.rejected();
        world.now = world.now.plus_ms(100);
    }
    assert!(world.worker.is_breaker_open());
    world.now = world.now.plus_ms(5_000);
    world.expect_source(&key(60), Source::FirstUse, "user-60");
    let mut clients: Vec<_> = (1..=55)
        .map(|number| Client::send(&mut world, number))
        .collect();
    let at_once = clients
        .iter()
        .filter(|client| client.is_looking_up())
        .count();
    assert!((48..=50).contains(&at_once), "{at_once}");
    world.now = world.now.plus_ms(100);
    for client in &mut clients {
        client.answer_until(&mut world, Client::is_over);
        assert!(
            matches!(client.output, Output::Forward(_)),
            "{:?}",
            client.output
        );
    }
}

#[test]
fn a_token_past_its_ttl_is_used_while_keycloak_cannot_be_asked_if_that_is_allowed() {
    for fault in [DOWN, status(500), status(503), status(429)] {
        let mut world = with_stale(600);
        world.expect_source(&key(1), Source::FirstUse, "user-1");
        world.now = START.plus_ms(890_000);
        let forward = request(&mut world, 1, &fault).0.forwarded();
        assert_eq!(
            (forward.source, subject(&forward).as_str()),
            (Source::Stale, "user-1")
        );
        // Another worker of the node finds it in shared data.
        world.next_worker();
        let forward = request(&mut world, 1, &fault).0.forwarded();
        assert_eq!(forward.source, Source::Stale);
        world.now = START.plus_ms(900_100);
        request(&mut world, 1, &fault).0.rejected();
        world.now = world.now.plus_ms(5_000);
        world.expect_source(&key(1), Source::Refresh, "user-1");
    }
}

#[test]
fn without_leave_no_token_is_used_past_its_ttl() {
    let mut world = world(&Value::Null);
    world.expect_source(&key(1), Source::FirstUse, "user-1");
    world.now = START.plus_ms(301_000);
    request(&mut world, 1, &DOWN).0.rejected();
}

#[test]
fn what_is_no_outage_lets_no_token_be_used_past_its_ttl() {
    for code in [200, 400, 401, 403, 404] {
        let mut world = with_stale(600);
        world.expect_source(&key(1), Source::FirstUse, "user-1");
        world.now = START.plus_ms(301_000);
        request(&mut world, 1, &status(code)).0.rejected();
    }
}

#[test]
fn a_stale_token_is_used_neither_past_its_own_end_nor_past_its_keys() {
    let mut world = with_stale(86_400);
    world.keycloak.token_life_seconds = 400;
    world.expect_source(&key(1), Source::FirstUse, "user-1");
    world.now = START.plus_ms(369_000);
    expect_stale(&mut world);
    world.now = START.plus_ms(371_000);
    request(&mut world, 1, &DOWN).0.rejected();

    let owner =
        User::new("eve").with_key(id_of(&key(1)), &sha256_of(&key(1)), START.plus_ms(500_000));
    let mut world = World::with(vec![owner], &json!({ "stale_if_error_seconds": 86_400 }));
    world.keycloak.token_life_seconds = 7200;
    world.expect_source(&key(1), Source::FirstUse, "eve");
    world.now = START.plus_ms(460_000);
    expect_stale(&mut world);
    world.now = START.plus_ms(500_000);
    request(&mut world, 1, &DOWN).0.rejected();
}

#[test]
fn a_stale_token_is_not_used_after_a_revocation_that_was_seen() {
    // By the events.
    let mut world = with_stale(600);
    world.expect_source(&key(1), Source::FirstUse, "user-1");
    world.now = START.plus_ms(301_000);
    let (worker, shared) = (&mut world.worker, &mut world.shared);
    worker.revoke_owner("user-1", world.now, shared).unwrap();
    request(&mut world, 1, &DOWN).0.rejected();
    // By a refusal, in another worker and past its negative TTL.
    let mut world = with_stale(600);
    world.expect_source(&key(1), Source::FirstUse, "user-1");
    let first = std::mem::replace(
        &mut world.worker,
        super::keys::new_worker(&world.config, b"another worker"),
    );
    world.now = START.plus_ms(301_000);
    world.keycloak.users[0].attributes.remove("apiKeys");
    world.key_request(&key(1)).rejected();
    world.now = START.plus_ms(340_000);
    request(&mut world, 1, &DOWN).0.rejected();
    world.worker = first;
    world.worker.tick(world.now, &mut world.shared);
    request(&mut world, 1, &DOWN).0.rejected();
}

#[test]
fn a_stale_token_that_the_service_refused_is_not_used_again() {
    let mut world = with_stale(600);
    world.expect_source(&key(1), Source::FirstUse, "user-1");
    let client = Client::send(&mut world, 1);
    assert!(world.with_env(|env| client.exchange.token_refused(env)));
    world.now = START.plus_ms(301_000);
    request(&mut world, 1, &DOWN).0.rejected();
}

#[test]
fn a_clock_that_was_set_back_lets_no_stale_token_be_used() {
    let mut world = with_stale(600);
    world.expect_source(&key(1), Source::FirstUse, "user-1");
    world.now = START.plus_ms(301_000);
    expect_stale(&mut world);
    world.now = START.minus_ms(60_000);
    request(&mut world, 1, &DOWN).0.rejected();
}

#[test]
fn nothing_is_renewed_while_keycloak_is_left_alone() {
    let (mut world, mut background) = (world(&Value::Null), Background::default());
    world.expect_source(&key(1), Source::FirstUse, "user-1");
    world.now = START.plus_ms(280_000);
    world.expect_source(&key(1), Source::L1, "user-1");
    fail_until_open(&mut world, &DOWN);
    let before = world.keycloak.calls.grant;
    world.tick(&mut background);
    assert_eq!(world.keycloak.calls.grant, before);
    world.now = world.now.plus_ms(5_000);
    world.expect_source(&key(50), Source::FirstUse, "user-50");
    world.tick(&mut background);
    assert_eq!(background.renewed().done, 1);
}

#[test]
fn a_token_lasts_for_as_long_as_it_may_be_used() {
    let life = |world: &mut World| {
        let mut client = Client::send(world, 1);
        client.answer_until(world, Client::is_granting);
        let Output::Await(Effect::Call { call, .. }) = &client.output else {
            panic!("{:?}", client.output)
        };
        let form = call.form.as_deref().unwrap();
        let assertion = form
            .split('&')
            .find_map(|pair| pair.strip_prefix("assertion="));
        super::keycloak::claims(assertion.unwrap())["exp"]
            .as_u64()
            .unwrap()
            - START.as_seconds()
    };
    assert_eq!(life(&mut world(&Value::Null)), 360);
    assert_eq!(life(&mut with_stale(600)), 960);
}

#[test]
fn where_turns_are_not_given_either_what_keycloak_did_is_told() {
    let mut world = world(&Value::Null);
    let mut client = Client::send(&mut world, 1);
    client.fail(&mut world);
    client.fail(&mut world);
    let (rejection, reason) = client.rejected();
    assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
    assert!(matches!(reason, Reason::Callout { .. }), "{reason}");
}
