//! A key that is presented ends, and any other text is answered alike.

use std::collections::BTreeSet;

use apikeys_core::api_key::hash::{ROUNDS_PER_SLICE, StoredHash};
use apikeys_core::api_key::record::Field;
use apikeys_core::exchange::Source;
use serde_json::json;

use super::checksum::summed;
use super::client::Client;
use super::keycloak::{User, bcrypt_of, sha256_of};
use super::keys::{id_of, key, plain_owner, plain_owner_with};
use super::request::Request;
use super::told::Told;
use super::world::{START, World};

/// Requests of an address in a minute, by default.
const LIMIT: usize = 20;

/// Alice holds key 1 under SHA-256, bob key 2 under bcrypt.
fn users() -> Vec<User> {
    let bob = User::new("bob").with_key(
        id_of(&key(2)),
        &bcrypt_of(&key(2)),
        START.plus_ms(86_400_000),
    );
    vec![plain_owner("alice", 1), bob]
}

/// The id of a key with another secret.
fn wrong_secret(number: u8) -> String {
    summed(&format!(
        "sk_live_{}_{}",
        id_of(&key(number)),
        "x".repeat(32)
    ))
}

/// All that a client sees of an answer.
fn seen(told: &Told) -> String {
    format!("{} {:?} {:?}", told.status, told.headers, told.text)
}

#[track_caller]
fn expect_ended(world: &mut World, owner: &str) {
    assert_eq!(world.keycloak.user(owner).key_ids(), [""; 0], "{owner}");
}

#[test]
fn a_key_ends_and_every_other_text_is_answered_alike() {
    let mut users = users();
    users.push(User::new("carol").with_key(id_of(&key(3)), &sha256_of(&key(3)), START));
    users.push(plain_owner("dave", 4));
    let broken = "$argon2id$v=19$m=1".to_owned();
    let grace = User::new("grace").with_key(id_of(&key(6)), &broken, START.plus_ms(86_400_000));
    users.push(grace);
    let mut world = World::new(users);
    world.keycloak.user("dave").enabled = false;
    let typo = format!("{}0", &key(1)[..58]);
    let mut answers = BTreeSet::new();
    for (text, why) in [
        (wrong_secret(1), "wrong secret"),
        (wrong_secret(2), "wrong secret"),
        (wrong_secret(3), "wrong secret"),
        (wrong_secret(4), "wrong secret"),
        (key(9), "unknown key"),
        (key(6), "hash"),
        (typo, "malformed key"),
        (String::new(), "malformed key"),
        ("a text".to_owned(), "malformed key"),
        (format!("Bearer {}", key(1)), "malformed key"),
        (key(1), ""),
        (key(1), "unknown key"),
        (key(2), ""),
        // An administrator may prolong it, or enable its owner.
        (key(3), ""),
        (key(4), ""),
    ] {
        let told = world.ask(&Request::present(&text));
        assert_eq!(told.status, 204, "{why}: {:?}", told.reason);
        let reason = told.reason.clone().unwrap_or_default();
        assert!(
            reason.contains(why) && reason.is_empty() == why.is_empty(),
            "{why}: {reason}"
        );
        answers.insert(seen(&told));
        world.expect_nothing_held();
        world.pass(1_000);
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    for owner in ["alice", "bob", "carol", "dave"] {
        expect_ended(&mut world, owner);
        assert!(!world.keycloak.user(owner).is_linked(), "its last key");
    }
    world.expect_no_lock();
}

#[test]
fn with_the_answer_every_worker_of_the_node_refuses_the_key() {
    for number in [1, 2] {
        let mut world = World::new(users());
        let gateways = [world.add_gateway(0), world.add_gateway(0)];
        for gateway in gateways {
            world.exchange(gateway, &key(number)).unwrap();
        }
        world.ask(&Request::present(&key(number))).expect(204);
        for gateway in gateways {
            let refused = world.exchange(gateway, &key(number));
            assert_eq!(refused, Err("invalid_api_key"));
        }
    }
}

#[test]
fn the_report_names_the_key_and_its_owner_and_no_caller() {
    let mut world = World::new(users());
    let report = |world: &mut World, text: &str| {
        let mut client = Client::send(world, &Request::present(text));
        client.answer_until(world, "nothing");
        client.manage.report().clone()
    };
    let ended = report(&mut world, &key(2));
    assert_eq!(ended.operation, "revoke_by_holder");
    assert_eq!(ended.key_id.as_deref(), Some(id_of(&key(2))));
    assert_eq!((ended.owner.as_deref(), ended.caller), (Some("bob"), None));
    assert_eq!(ended.reason, None);
    let refused = report(&mut world, &wrong_secret(1));
    assert_eq!(refused.key_id.as_deref(), Some(id_of(&key(1))));
    assert_eq!((refused.owner, refused.caller), (None, None));
    assert_eq!(refused.reason.as_deref(), Some("wrong secret"));
}

#[test]
fn of_a_rotation_the_presented_key_alone_ends() {
    for first in [true, false] {
        let mut world = World::new(users());
        let token = world.token("alice");
        let grace = json!({ "grace_seconds": 600 });
        let rotate = Request::rotate(&token, id_of(&key(1)), &grace);
        let (id, newer) = world.ask(&rotate).made();
        let (presented, left) = match first {
            true => (key(1), id),
            false => (newer, id_of(&key(1)).to_owned()),
        };
        world.ask(&Request::present(&presented)).expect(204);
        assert_eq!(world.keycloak.user("alice").key_ids(), [left]);
    }
}

#[test]
fn an_imported_key_ends_as_well() {
    let imported = "an-old-key-of-the-older-system-01";
    let changes = json!({ "index_key": "aW5kZXgga2V5IG9mIHRoZSBob3N0IG1vZGVsLCAzMi4=" });
    let config = super::keys::config(&changes);
    let key = config.key_format.parse(imported.as_bytes()).unwrap();
    let ends_at = START.plus_ms(86_400_000);
    let alice = User::new("alice").with_key(key.id(), &bcrypt_of(imported), ends_at);
    let mut world = World::with(vec![alice], &changes);
    let other = "an-old-key-of-the-older-system-02";
    world.ask(&Request::present(other)).expect(204);
    assert_eq!(world.keycloak.user("alice").key_ids(), [key.id()]);
    world.ask(&Request::present(imported)).expect(204);
    expect_ended(&mut world, "alice");
}

#[test]
fn other_credentials_are_not_looked_at() {
    let mut world = World::new(users());
    let token = world.token("bob");
    for request in [
        Request::present(&wrong_secret(1)).bearer(&token),
        Request::present(&key(9)).header("x-api-key", &key(1)),
    ] {
        world.ask(&request).expect(204);
        assert_eq!(world.keycloak.user("alice").key_ids().len(), 1);
    }
    let twice = Request::present(&key(1)).bearer("nonsense").bearer(&token);
    world.ask(&twice).expect(204);
    expect_ended(&mut world, "alice");
}

#[test]
fn a_bcrypt_verification_takes_its_slices_behind_the_gate() {
    let mut world = World::new(users());
    let texts = [key(2), wrong_secret(2), key(2)];
    let mut clients = texts.map(|text| Client::send(&mut world, &Request::present(&text)));
    for client in &mut clients {
        client.answer_until(&mut world, "look-up");
    }
    for client in &mut clients {
        client.answer(&mut world);
    }
    let waits = [0, 1, 2].map(|at: usize| clients[at].waits_for());
    assert_eq!(waits, ["turn", "wait", "wait"], "one at a time");
    let mut slices = 1;
    while clients[0].waits_for() == "turn" {
        clients[0].answer(&mut world);
        slices += 1;
    }
    let stored = StoredHash::parse(&bcrypt_of(&key(2))).unwrap();
    assert_eq!(slices, stored.rounds().div_ceil(ROUNDS_PER_SLICE));
    assert_eq!(clients[0].waits_for(), "lock");
    for told in Client::finish_all(clients.into(), &mut world) {
        told.expect(204);
    }
    expect_ended(&mut world, "bob");
}

#[test]
fn a_key_that_may_live_on_is_never_answered_as_ended() {
    let unavailable = |told: Told| {
        let detail = told.refused(503, "identity_provider_unavailable");
        assert_eq!(detail, "", "nothing of the owner is told");
        seen(&told)
    };
    let refused = Some(r#"{"errors":[{"field":"phone","errorMessage":"error-pattern-no-match"}]}"#);
    let mut answers = BTreeSet::new();
    for lost in ["token", "look-up", "lock", "links", "user", "write"] {
        let mut world = World::new(users());
        let mut asked = 0;
        let told = world.ask_with(&Request::present(&key(1)), |what, reply| {
            asked += usize::from(what == lost);
            match what == lost {
                true => Err("timed out"),
                false => Ok(reply),
            }
        });
        assert!(asked > 0, "{lost}");
        match told.status {
            // The lock and the write are seen to be there, although their answers were lost.
            204 => expect_ended(&mut world, "alice"),
            _ => drop(answers.insert(unavailable(told))),
        }
    }
    let mut world = World::new(users());
    world.keycloak.user("alice").refused = refused;
    answers.insert(unavailable(world.ask(&Request::present(&key(1)))));
    let mut world = World::new(users());
    let holder = ("another".to_owned(), format!("another@{}", START.0));
    let links = &mut world.keycloak.user("alice").links;
    links.insert("api-keys-lock".into(), holder);
    answers.insert(unavailable(world.ask(&Request::present(&key(1)))));
    // An administrator may mend the record, and the key would work.
    for (field, value) in [(Field::RateLimit, "many"), (Field::ExpiresAt, "soon")] {
        let mut world = World::new(vec![plain_owner_with("alice", 1, field, value)]);
        answers.insert(unavailable(world.ask(&Request::present(&key(1)))));
    }
    let mut world = World::new(["erin", "frank"].map(|name| plain_owner(name, 5)).into());
    answers.insert(unavailable(world.ask(&Request::present(&key(5)))));
    assert_eq!(answers.len(), 1, "{answers:?}");
}

/// Without its role Keycloak finds nobody.
#[test]
fn a_manager_that_has_lost_its_role_takes_no_key_for_unknown() {
    let mut world = World::new(users());
    world.ask(&Request::present(&key(9))).expect(204);
    world.keycloak.manager_roles = vec![];
    world.pass(6_000);
    let told = world.ask(&Request::present(&key(1)));
    told.refused(503, "identity_provider_unavailable");
    assert!(told.reason.unwrap().contains("manage-users"));
    world.keycloak.manager_roles = vec!["manage-users"];
    world.pass(1_000);
    world.ask(&Request::present(&key(1))).expect(204);
    expect_ended(&mut world, "alice");
}

/// A flood of unknown keys asks for few tokens.
#[test]
fn an_unknown_key_has_the_managers_roles_looked_at_once_in_five_seconds() {
    let mut world = World::new(users());
    for _ in 0..10 {
        world.ask(&Request::present(&key(9))).expect(204);
        world.pass(1_000);
    }
    assert_eq!((world.count("look-up"), world.count("token")), (10, 2));
}

#[test]
fn a_managers_token_that_keycloak_refuses_is_fetched_anew_once() {
    let mut world = World::new(users());
    world.make("bob");
    world.keycloak.revoke_tokens();
    world.ask(&Request::present(&key(2))).expect(204);
    assert_eq!(world.count("token"), 2);
    world.keycloak.takes_no_token = true;
    let told = world.ask(&Request::present(&key(1)));
    told.refused(503, "identity_provider_unavailable");
    world.expect_nothing_held();
}

/// Presents a key or no key until the answer is to wait.
fn until_throttled(world: &mut World, text: impl Fn(usize) -> String) -> usize {
    for at in 0..1_000 {
        let told = world.ask(&Request::present(&text(at)));
        if told.status == 429 {
            told.refused(429, "throttled");
            assert_eq!(told.header("retry-after"), Some("60"));
            return at;
        }
        told.expect(204);
    }
    panic!("never told to wait");
}

#[test]
fn each_request_counts_for_its_address_and_so_good_keys_show_in_no_count() {
    for text in ["good", "bad", "malformed"] {
        let mut world = World::with(users(), &json!({ "max_keys_per_user": 20 }));
        world.address = Some("192.0.2.7:1".to_owned());
        let mut made: Vec<String> = (0..8).map(|_| world.make("bob").1).collect();
        made.push(key(1));
        let began = world.now;
        let told = until_throttled(&mut world, |at| match text {
            "good" => made.get(at).cloned().unwrap_or_else(|| key(9)),
            "bad" => key(9),
            _ => "no key".to_owned(),
        });
        // One more is earned in three seconds, and a good key's end takes time.
        let earned = world.now.since_ms(began) / 3_000;
        assert_eq!(told as u64, LIMIT as u64 + earned, "{text}");
        world
            .ask(&Request::present(&key(2)))
            .refused(429, "throttled");
        let gateway = world.add_gateway(0);
        // It counts together with the keys that the address sends through a gateway.
        assert_eq!(world.exchange(gateway, &key(9)), Err("throttled"));
        world.address = Some("192.0.2.8:1".to_owned());
        world.ask(&Request::present(&key(2))).expect(204);
        let ids = world.keycloak.user("bob").key_ids();
        assert!(!ids.contains(&id_of(&key(2)).to_owned()), "{text}");
    }
}

#[test]
fn requests_without_an_address_count_together() {
    for address in [None, Some("/run/gateway.sock".to_owned())] {
        let mut world = World::new(users());
        world.address = address;
        assert_eq!(until_throttled(&mut world, |_| "no key".to_owned()), LIMIT);
        // Requests through a gateway have no part in it.
        let gateway = world.add_gateway(0);
        let exchanged = world.exchange(gateway, &key(1));
        assert_eq!(exchanged, Ok(("alice".into(), Source::FirstUse)));
    }
}

#[test]
fn nothing_is_counted_where_it_is_switched_off_and_look_ups_are_bounded_all_the_same() {
    let changes = json!({ "throttle_failures_per_minute": 0 });
    let mut world = World::with(users(), &changes);
    world.address = Some("192.0.2.7:1".to_owned());
    for _ in 0..100 {
        world.ask(&Request::present("no key")).expect(204);
    }
    expect_look_ups_bounded(&mut world, |_| {});
}

#[test]
fn a_crowd_of_addresses_has_no_more_keys_looked_up_than_the_bound() {
    let mut world = World::new(users());
    expect_look_ups_bounded(&mut world, |world| {
        let next = world.calls.len();
        world.address = Some(format!("192.0.{}.{}:1", next / 200, next % 200));
    });
}

/// At once 20, and ten in each second: more are told to try again.
fn expect_look_ups_bounded(world: &mut World, before: impl Fn(&mut World)) {
    world.make("bob");
    let began = world.count("look-up");
    let mut waiting = Vec::new();
    let told = loop {
        before(world);
        let mut client = Client::send(world, &Request::present(&key(9)));
        client.answer(world);
        if client.is_over() {
            break client.told();
        }
        waiting.push(client);
    };
    told.refused(503, "overloaded");
    assert_eq!((waiting.len(), world.count("look-up") - began), (20, 20));
    world.pass(1_000);
    before(world);
    world.ask(&Request::present(&key(1))).expect(204);
    expect_ended(world, "alice");
    Client::finish_all(waiting, world);
}

#[test]
fn a_client_that_hangs_up_has_been_counted() {
    let mut world = World::new(users());
    world.address = Some("192.0.2.7:1".to_owned());
    for at in 0..LIMIT {
        let mut client = Client::send(&mut world, &Request::present(&key(9)));
        client.answer(&mut world);
        assert!(!client.is_over(), "{at}");
        client.hang_up(&mut world);
        world.expect_nothing_held();
    }
    let told = world.ask(&Request::present(&key(9)));
    told.refused(429, "throttled");
}

#[test]
fn a_text_of_any_length_is_answered_and_kept_nowhere() {
    let mut world = World::new(users());
    for length in [1, 72, 73, 16_000] {
        let text = "k".repeat(length);
        let mut client = Client::send(&mut world, &Request::present(&text));
        client.answer_until(&mut world, "nothing");
        client.told().expect(204);
        let said = format!("{:?} {:?}", client.manage, client.manage.report());
        assert!(length < 72 || !said.contains(&text));
    }
    assert_eq!(world.calls.len(), 0);
}
