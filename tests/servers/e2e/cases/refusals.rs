//! Bad keys: one answer for all of them, and the reason in the log.

use serde_json::{Value, json};

use crate::client::{Request, Response};
use crate::owner::{Key, Record};
use crate::wait::now_seconds;
use crate::world::{Case, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("refusals::a_wrong_secret", wrong_secret),
        Case::new(
            "refusals::a_wrong_secret_of_a_bcrypt_record",
            wrong_secret_bcrypt,
        ),
        Case::new("refusals::an_unknown_id", unknown_id),
        Case::new("refusals::an_expired_key", expired),
        Case::new("refusals::a_disabled_owner", disabled),
        Case::new("refusals::an_owner_who_must_act_first", required_action),
        Case::new("refusals::an_unlinked_owner", unlinked),
        Case::new("refusals::a_deleted_owner", deleted),
        Case::new("refusals::two_owners_of_one_index_value", two_owners),
        Case::new("refusals::a_record_in_upper_case", stored_upper_case),
        Case::new(
            "refusals::a_bcrypt_cost_of_15_which_is_not_computed",
            cost_15,
        ),
    ]
}

/// All that a client can see of an answer, except the parts that differ from request to
/// request.
fn seen_by_client(answer: &Response) -> (u16, Vec<(String, String)>, Value) {
    let mut headers = answer.headers.clone();
    let varies = |name: &str| {
        [
            "date",
            "content-length",
            "x-request-id",
            "x-kong-request-id",
        ]
        .contains(&name)
            || name.contains("latency")
            || name.contains("upstream-service-time")
    };
    headers.retain(|(name, _)| !varies(name));
    headers.sort();
    let mut body = answer.json();
    body["request_id"] = json!("-");
    (answer.status, headers, body)
}

/// Refused with the one answer; the log alone knows why.
#[track_caller]
fn refused(world: &World, key: &str, reason: &str) {
    let answer = world.gateway.orders(key);
    let request_id = answer.invalid_api_key();
    let reference = world.gateway.send(&Request::orders().api_key("sk_live_"));
    assert_eq!(seen_by_client(&answer), seen_by_client(&reference));
    world.expect_logged(&request_id, reason);
}

fn wrong_secret(world: &World) {
    let (_, key) = world.owner();
    refused(world, &Key::with_id(&key.id).text, "wrong secret");
    // The right key still works.
    world.gateway.orders(&key.text).orders();
}

fn wrong_secret_bcrypt(world: &World) {
    let key = Key::random();
    world.owner_of(&[Record::bcrypt(&key, "2b", 10)]);
    refused(world, &Key::with_id(&key.id).text, "wrong secret");
    world.gateway.orders(&key.text).orders();
}

fn unknown_id(world: &World) {
    refused(world, &Key::random().text, "unknown key");
}

fn expired(world: &World) {
    refused(world, &world.expired_api_key, "expired");
    let key = Key::random();
    world.owner_of(&[Record::sha256(&key).expiring_at(now_seconds() - 1)]);
    refused(world, &key.text, "expired");
}

fn disabled(world: &World) {
    let (owner, key) = world.owner();
    owner.disable();
    refused(world, &key.text, "disabled");
}

fn required_action(world: &World) {
    let (owner, key) = world.owner();
    world.keycloak.edit_user(&owner.id, |user| {
        user["requiredActions"] = json!(["UPDATE_PASSWORD"]);
    });
    refused(world, &key.text, "required action");
}

fn unlinked(world: &World) {
    let (owner, key) = world.owner();
    owner.unlink();
    refused(world, &key.text, "owner unlinked");
}

fn deleted(world: &World) {
    let (owner, key) = world.owner();
    owner.delete();
    refused(world, &key.text, "unknown key");
}

fn two_owners(world: &World) {
    let key = Key::random();
    world.owner_of(&[Record::sha256(&key)]);
    world.owner_of(&[Record::sha256(&Key::with_id(&key.id))]);
    refused(world, &key.text, "more than one user");
}

fn stored_upper_case(world: &World) {
    let key = Key::random();
    let mut record = Record::sha256(&key);
    // Keycloak's search ignores case, and finds it.
    record.id = key.id.to_uppercase();
    world.owner_of(&[record]);
    refused(world, &key.text, "the owner holds no key of this id");
}

fn cost_15(world: &World) {
    let key = Key::random();
    let mut record = Record::bcrypt(&key, "2b", 4);
    record.hash = record.hash.replacen("$04$", "$15$", 1);
    world.owner_of(&[record]);
    refused(world, &key.text, "cost");
}
