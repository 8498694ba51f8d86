//! Any fault at any step: one answer, nothing held, and a true word about the change.

use std::sync::LazyLock;

use apikeys_core::api_key::record::Field;
use apikeys_core::machine::{Effect, Event};
use apikeys_core::manage::{Manage, Output};
use serde_json::json;

use super::client::Client;
use super::keycloak::{User, bcrypt_of, sha256_of};
use super::keys::{id_of, key};
use super::request::Request;
use super::told::Told;
use super::world::{START, World};

/// By then a lock that nobody gave back has been broken.
const STALE_MS: u64 = 46_000;

/// The fate of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is done, and the answer is lost.
    AnswerLost,
    /// It never comes to Keycloak.
    CallLost,
    /// It is done, and the answer is this all the same.
    Done(u16, &'static str),
    /// It is not done, and this is the answer.
    Refused(u16, &'static str),
    /// It is done, and the answer is larger than the limit.
    Huge,
}

const FAULTS: [Fault; 12] = [
    Fault::AnswerLost,
    Fault::CallLost,
    Fault::Huge,
    Fault::Done(500, ""),
    Fault::Done(200, "<html>ok</html>"),
    Fault::Done(200, ""),
    Fault::Refused(500, "{\"error\":\"unknown_error\"}"),
    Fault::Refused(502, "<html>Bad Gateway</html>"),
    Fault::Refused(200, "[{\"id\":7}]"),
    Fault::Refused(404, "{}"),
    Fault::Refused(400, "{\"error\":\"invalid_request\"}"),
    Fault::Refused(302, ""),
];

/// Alice holds key 1 under bcrypt; bob holds key 2.
fn world() -> World {
    static HASH: LazyLock<String> = LazyLock::new(|| bcrypt_of(&key(1)));
    let ends_at = START.plus_ms(30 * 86_400_000);
    let users = vec![
        User::new("alice").with_key(id_of(&key(1)), &HASH, ends_at),
        User::new("bob").with_key(id_of(&key(2)), &sha256_of(&key(2)), ends_at),
    ];
    World::new(users)
}

/// A request of each kind for alice's keys.
fn requests(world: &World) -> Vec<Request> {
    let token = world.token("alice");
    let id = key(1)[8..20].to_owned();
    let new = json!({ "name": "n", "scopes": ["orders:read"] });
    vec![
        Request::create(&token, &new),
        Request::rotate(&token, &id, &json!({ "grace_seconds": 0 })),
        Request::revoke(&token, &id),
        Request::show(&token, &id),
        Request::list(&token),
        Request::validate(&key(1)),
        Request::revoke_all(&token),
        Request::update(&token, &id, &json!({ "labels": "team=pay" })),
    ]
}

/// Takes a request to its end, with a fault at the call of this number.
fn with_fault(world: &mut World, request: &Request, number: usize, fault: Fault) -> (Told, usize) {
    let mut client = Client::send(world, request);
    let mut calls = 0;
    for _ in 0..2_000 {
        if client.is_over() {
            return (client.told(), calls);
        }
        world.pass(client.takes_ms());
        let is_call = !["body", "turn", "wait"].contains(&client.waits_for());
        calls += usize::from(is_call);
        if is_call && calls - 1 == number {
            strike(world, &mut client, fault);
        } else {
            client.answer(world);
        }
    }
    panic!("no end: {fault:?} at {number}");
}

fn strike(world: &mut World, client: &mut Client, fault: Fault) {
    let Output::Await(Effect::Call { call, .. }) = &client.output else {
        panic!("no call: {:?}", client.output);
    };
    let call = call.clone();
    let (status, body) = match fault {
        Fault::CallLost | Fault::Refused(..) => (0, Vec::new()),
        _ => world.keycloak.answer(&call, world.now),
    };
    match fault {
        Fault::AnswerLost | Fault::CallLost => client.fail(world),
        Fault::Done(status, text) if body.is_empty() && text.is_empty() => {
            client.reply(world, status, b"");
        }
        Fault::Done(status, text) | Fault::Refused(status, text) => {
            client.reply(world, status, text.as_bytes());
        }
        Fault::Huge => client.input(world, Event::Answer { status, body: None }),
    }
}

/// The answer's word about alice's keys is true, and all is well again after a while.
fn expect_truth(world: &mut World, told: &Told, place: &str) {
    world.expect_nothing_held();
    let ids = world.keycloak.user("alice").key_ids();
    let old = id_of(&key(1)).to_owned();
    let labels = Field::Labels.attribute(&old);
    let is_changed = world
        .keycloak
        .user("alice")
        .attributes
        .contains_key(&labels);
    let code = told.body()["code"].as_str().unwrap_or("").to_owned();
    match (told.request.method.as_str(), told.status) {
        ("POST", 201) => {
            let (id, made) = told.made();
            assert!(ids.contains(&id), "{place}: told, and not there");
            assert_eq!(
                ids.contains(&old),
                !told.request.path.ends_with("/rotate"),
                "{place}"
            );
            let gateway = world.add_gateway(0);
            let exchanged = world.exchange(gateway, &made);
            assert!(exchanged.is_ok(), "{place}: {exchanged:?}");
        }
        ("PATCH", 200) => assert!(is_changed, "{place}: told, and not so"),
        ("DELETE", 204) => assert_eq!(ids, [""; 0], "{place}"),
        ("DELETE", 200) => {
            let kept = told.body()["records_kept"].as_bool().unwrap();
            assert!(kept || ids.is_empty(), "{place}");
            assert!(!world.keycloak.user("alice").is_linked(), "{place}");
            let gateway = world.add_gateway(0);
            assert!(world.exchange(gateway, &key(1)).is_err(), "{place}");
        }
        (_, 503) if code == "outcome_unknown" => {}
        // So Keycloak said.
        (_, 404) if code == "user_not_found" => {}
        (_, 400..) => {
            assert_eq!(ids, [old], "{place}: {} {code}", told.status);
            assert!(!is_changed, "{place}: {} {code}", told.status);
        }
        _ => {}
    }
    world.pass(STALE_MS);
    let token = world.token("alice");
    if told.request.path.ends_with("all=true") {
        let ended = world.ask(&Request::revoke_all(&token)).expect(200);
        assert_eq!(ended["records_kept"], false, "{place}");
    }
    let again = world.ask(&Request::create(&token, &json!({ "name": "again" })));
    assert_eq!(again.status, 201, "{place}: {:?}", again.reason);
    world.expect_nothing_held();
    world.expect_no_lock();
}

#[test]
fn a_fault_at_any_call_is_one_answer_that_is_true() {
    for kind in 0..8 {
        for fault in FAULTS {
            for number in 0.. {
                let mut world = world();
                let request = requests(&world).swap_remove(kind);
                let (told, calls) = with_fault(&mut world, &request, number, fault);
                let place = format!("{} {}: {fault:?} at {number}", request.method, request.path);
                if number >= calls {
                    assert!(told.status < 300, "{place}: {:?}", told.reason);
                    assert!(calls >= 3, "{place}");
                    break;
                }
                expect_truth(&mut world, &told, &place);
            }
        }
    }
}

#[test]
fn two_faults_in_a_row_are_no_worse() {
    for kind in [0, 1, 2, 6, 7] {
        for first in [Fault::AnswerLost, Fault::Refused(500, "")] {
            for number in 0..12 {
                let mut world = world();
                let request = requests(&world).swap_remove(kind);
                let mut client = Client::send(&mut world, &request);
                let mut calls = 0;
                while !client.is_over() {
                    world.pass(client.takes_ms());
                    if ["body", "turn", "wait"].contains(&client.waits_for()) {
                        client.answer(&mut world);
                        continue;
                    }
                    if (number..number + 2).contains(&calls) {
                        strike(&mut world, &mut client, first);
                    } else {
                        client.answer(&mut world);
                    }
                    calls += 1;
                    assert!(calls < 1_000, "no end");
                }
                let place = format!("{kind} {first:?} at {number}");
                expect_truth(&mut world, &client.told(), &place);
            }
        }
    }
}

#[test]
fn a_client_that_hangs_up_at_any_step_gives_everything_back() {
    for kind in 0..8 {
        for number in 0.. {
            let mut world = world();
            let request = requests(&world).swap_remove(kind);
            let mut client = Client::send(&mut world, &request);
            for _ in 0..number {
                if !client.is_over() {
                    world.pass(client.takes_ms());
                    client.answer(&mut world);
                }
            }
            if client.is_over() {
                assert!(number > 3);
                break;
            }
            client.hang_up(&mut world);
            world.expect_nothing_held();
            // Nobody else waits for the result of its fetch.
            let token = world.token("bob");
            let told = world.ask(&Request::create(&token, &json!({ "name": "n" })));
            assert_eq!(told.status, 201, "{kind} {number}: {:?}", told.reason);
            world.pass(STALE_MS);
            let token = world.token("alice");
            if kind == 6 {
                world.ask(&Request::revoke_all(&token)).expect(200);
            }
            let told = world.ask(&Request::create(&token, &json!({ "name": "n" })));
            assert_eq!(told.status, 201, "{kind} {number}: {:?}", told.reason);
            world.expect_nothing_held();
        }
    }
}

#[test]
fn a_host_that_lends_no_turn_is_a_503_or_no_matter() {
    for kind in 0..8 {
        for number in 0.. {
            let mut world = world();
            let request = requests(&world).swap_remove(kind);
            let mut client = Client::send(&mut world, &request);
            let mut turns = 0;
            while !client.is_over() {
                world.pass(client.takes_ms());
                let is_turn = ["turn", "wait"].contains(&client.waits_for());
                turns += usize::from(is_turn);
                if is_turn && turns - 1 == number {
                    client.reply(&mut world, 503, b"");
                } else {
                    client.answer(&mut world);
                }
            }
            let told = client.told();
            if number >= turns {
                break;
            }
            let fine = told.status < 300;
            assert!(
                fine || told.refused(503, "overloaded").is_empty(),
                "{kind} {number}"
            );
            expect_truth(&mut world, &told, &format!("{kind} {number}"));
        }
    }
}

/// A new key is told this once: later work for other workers must not lose it.
#[test]
fn what_is_made_is_told_even_where_the_host_lends_no_turn() {
    for kind in [1, 2] {
        for failed in [true, false] {
            let mut world = world();
            let request = requests(&world).swap_remove(kind);
            let mut client = Client::send(&mut world, &request);
            client.answer_until(&mut world, "unlock");
            client.answer(&mut world);
            if kind == 1 {
                assert_eq!(client.waits_for(), "look-up");
                client.answer(&mut world);
            }
            assert_eq!(client.waits_for(), "wait");
            match failed {
                true => client.fail(&mut world),
                false => client.reply(&mut world, 503, b""),
            }
            assert!([201, 204].contains(&client.told().status));
            world.expect_nothing_held();
        }
    }
}

#[test]
fn a_request_ends_however_keycloak_dawdles() {
    for kind in 0..8 {
        let mut world = world();
        let request = requests(&world).swap_remove(kind);
        let mut client = Client::send(&mut world, &request);
        let began = world.now;
        while !client.is_over() {
            let is_call = !["body", "turn", "wait"].contains(&client.waits_for());
            let takes = if is_call { 1_990 } else { client.takes_ms() };
            assert!(client.waits_for() == "body" || takes <= client.timeout_ms());
            world.pass(takes);
            client.answer(&mut world);
            assert!(world.now.since_ms(began) < 60_000, "{kind}: no end");
        }
        world.expect_nothing_held();
    }
}

#[test]
fn a_clock_that_is_set_back_or_ahead_at_any_step_holds_nobody_up() {
    for kind in 0..8 {
        for step_ms in [-3_600_000_i64, -30_000, 30_000, 3_600_000] {
            for number in (0..).step_by(3) {
                let mut world = world();
                // A longer life, so that the caller's token does not end the request.
                let mut request = requests(&world).swap_remove(kind);
                let mut claims = world.claims("alice");
                claims["iat"] = json!(world.now.as_seconds() - 7_200);
                claims["exp"] = json!(world.now.as_seconds() + 7_200);
                let token = super::keycloak::RealmKey::Es256.sign(&claims);
                if request
                    .headers
                    .iter()
                    .any(|(name, _)| name == "authorization")
                {
                    request = request.replace("authorization", &format!("Bearer {token}"));
                }
                let mut client = Client::send(&mut world, &request);
                let (mut steps, mut took_ms) = (0, 0);
                while !client.is_over() {
                    if steps == number {
                        world.now = match step_ms {
                            back @ ..0 => world.now.minus_ms(back.unsigned_abs()),
                            ahead => world.now.plus_ms(ahead.unsigned_abs()),
                        };
                    }
                    let takes = client.takes_ms();
                    world.pass(takes);
                    took_ms += takes;
                    client.answer(&mut world);
                    steps += 1;
                    assert!(
                        took_ms < 60_000 && steps < 5_000,
                        "{kind} {step_ms} {number}"
                    );
                }
                world.expect_nothing_held();
                if steps <= number {
                    break;
                }
            }
        }
    }
}

#[test]
fn an_input_after_the_end_is_an_answer_and_no_panic() {
    let mut world = world();
    let request = Request::list(&world.token("alice"));
    let mut client = Client::send(&mut world, &request);
    client.answer_until(&mut world, "nothing");
    client.fail(&mut world);
    client.told().refused(503, "identity_provider_unavailable");
    client.body(&mut world, Some(b"{}"));
    client.told().refused(503, "identity_provider_unavailable");
    client.hang_up(&mut world);
    world.expect_nothing_held();
}

/// An input before the head is answered all the same.
#[test]
fn a_first_input_that_is_no_head_is_an_answer_and_no_panic() {
    let mut world = world();
    let failed = world.input(0, &mut Manage::new(), Event::Failed("x"));
    assert!(matches!(failed, Output::Respond(_)));
    let no_body = world.body(0, &mut Manage::new(), None);
    assert!(matches!(no_body, Output::Respond(_)));
    world.expect_nothing_held();
}
