//! Owners with a record that cannot be written or read: a final refusal is told as such,
//! nothing half-made stays, and their keys can be ended.

use serde_json::json;

use super::keycloak::{User, sha256_of};
use super::keys::{id_of, key};
use super::request::{KEYS, Request};
use super::told::Told;
use super::world::{START, World};

/// The user profile's answer (26.7.5); `params` can hold private data.
const WORDS: &str = r#"{"errors":[
    {"field":"phone","errorMessage":"error-pattern-no-match","params":["phone","PRIVATE"]},
    {"field":"dept","errorMessage":"error-user-attribute-required","params":["dept"]}]}"#;

/// Alice and bob hold a key each; alice's record is one that Keycloak refuses.
fn world() -> World {
    let ends_at = START.plus_ms(30 * 86_400_000);
    let with_key = |name: &str, number| {
        let key = key(number);
        User::new(name).with_key(id_of(&key), &sha256_of(&key), ends_at)
    };
    let mut alice = with_key("alice", 1);
    alice.refused = Some(WORDS);
    World::new(vec![alice, with_key("bob", 2)])
}

fn id() -> String {
    id_of(&key(1)).to_owned()
}

/// Makes alice's record too large to be read, or small again.
fn picture(world: &mut World, bytes: usize) {
    let alice = world.keycloak.user("alice");
    alice.refused = None;
    let picture = vec!["x".repeat(bytes)];
    alice.attributes.insert("picture".to_owned(), picture);
}

#[track_caller]
fn expect_final(told: &Told) -> String {
    let detail = told.refused(409, "owner_record_unusable");
    assert_eq!(told.header("retry-after"), None, "it is of no use");
    detail
}

#[test]
fn a_write_that_keycloak_refuses_for_good_is_no_503_and_not_tried_again() {
    let mut world = world();
    let token = world.token("alice");
    for request in [
        Request::revoke(&token, &id()),
        Request::rotate(&token, &id(), &json!({})),
        Request::create(&token, &json!({ "name": "n" })),
    ] {
        world.keycloak.asked.clear();
        let told = world.ask(&request);
        let detail = expect_final(&told);
        for words in ["phone", "dept", "all=true"] {
            assert!(detail.contains(words), "{detail}");
        }
        let logged = told.reason.unwrap();
        assert!(
            logged.contains("Keycloak answered 400 (phone: error-pattern-no-match; dept:"),
            "{logged}"
        );
        assert!(!detail.contains("PRIVATE") && !logged.contains("PRIVATE"));
        assert_eq!(world.keycloak.asked["write"], 1);
        assert_eq!(world.keycloak.user("alice").key_ids(), [id()]);
        assert!(world.keycloak.user("alice").is_linked());
        world.expect_nothing_held();
        world.expect_no_lock();
    }
}

#[test]
fn a_first_key_that_keycloak_refuses_leaves_no_link() {
    let mut world = world();
    let alice = world.keycloak.user("alice");
    alice.remove_key(&id());
    alice.unlink();
    let token = world.token("alice");
    expect_final(&world.ask(&Request::create(&token, &json!({ "name": "n" }))));
    assert!(!world.keycloak.user("alice").is_linked());
    world.expect_no_lock();
}

#[test]
fn all_keys_of_an_owner_whom_keycloak_refuses_end_and_their_records_once_it_is_corrected() {
    let mut world = world();
    let gateway = world.add_gateway(0);
    world.exchange(gateway, &key(1)).unwrap();
    let token = world.token("alice");
    let told = world.ask(&Request::revoke_all(&token));
    let body = told.expect(200);
    assert_eq!(body["records_kept"], true);
    let detail = body["detail"].as_str().unwrap();
    assert!(
        detail.contains("phone") && detail.contains("work again"),
        "{detail}"
    );
    assert!(told.reason.unwrap().contains("error-pattern-no-match"));
    // From the cache of this very gateway as well.
    assert_eq!(world.exchange(gateway, &key(1)), Err("invalid_api_key"));
    assert!(world.exchange(gateway, &key(2)).is_ok(), "bob's goes on");
    world.expect_no_lock();
    // The owner does not link itself again.
    world.keycloak.user("alice").refused = None;
    let create = Request::create(&token, &json!({ "name": "n" }));
    world.ask(&create).refused(409, "owner_not_eligible");
    let body = world.ask(&Request::revoke_all(&token)).expect(200);
    assert_eq!(body, json!({ "records_kept": false }));
    assert!(world.keycloak.user("alice").key_ids().is_empty());
    world.ask(&create).expect(201);
    assert_eq!(world.exchange(gateway, &key(1)), Err("invalid_api_key"));
}

#[test]
fn an_owner_who_is_too_large_to_be_read_can_be_rid_of_all_keys() {
    let mut world = world();
    picture(&mut world, 140_000);
    let token = world.token("alice");
    for request in [
        Request::list(&token),
        Request::show(&token, &id()),
        Request::revoke(&token, &id()),
    ] {
        let detail = expect_final(&world.ask(&request));
        assert!(detail.contains("all=true"), "{detail}");
    }
    let body = world.ask(&Request::revoke_all(&token)).expect(200);
    assert_eq!(body["records_kept"], true);
    assert!(!world.keycloak.user("alice").is_linked());
    assert_eq!(world.keycloak.user("alice").key_ids(), [id()]);
    picture(&mut world, 1);
    let gateway = world.add_gateway(0);
    assert_eq!(world.exchange(gateway, &key(1)), Err("invalid_api_key"));
    let body = world.ask(&Request::revoke_all(&token)).expect(200);
    assert_eq!(body["records_kept"], false);
    world.expect_no_lock();
}

#[test]
fn all_keys_end_for_who_says_so_alone() {
    let mut world = world();
    world.keycloak.user("alice").refused = None;
    let alice = world.token("alice");
    for path in [
        KEYS.to_owned(),
        format!("{KEYS}?all=1"),
        format!("{KEYS}?all"),
    ] {
        let told = world.ask(&Request::new("DELETE", &path).bearer(&alice));
        told.refused(400, "invalid_request");
    }
    let slash = format!("{KEYS}/?all=true");
    let told = world.ask(&Request::new("DELETE", &slash).bearer(&alice));
    told.refused(404, "not_found");
    let bob = Request::revoke_all(&world.token("bob"));
    let told = world.ask(&bob.for_user("alice"));
    told.refused(403, "forbidden");
    assert_eq!(world.keycloak.user("alice").key_ids(), [id()]);
    let operator = Request::revoke_all(&world.admin());
    let told = world.ask(&operator.for_user("alice"));
    assert_eq!(told.expect(200), json!({ "records_kept": false }));
    assert!(world.keycloak.user("alice").key_ids().is_empty());
    assert_eq!(world.keycloak.user("bob").key_ids().len(), 1);
}
