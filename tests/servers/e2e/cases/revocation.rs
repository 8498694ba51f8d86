//! An administrator's changes in Keycloak, and how soon the gateway acts on them.
//!
//! Only the poll of admin events can act so soon: the TTL is longer than any trial.

use std::time::Duration;

use serde_json::{Value, json};

use crate::faults::{Endpoint, Fault};
use crate::gateway::{Gateway, Spec};
use crate::owner::{Key, Owner, Record, unique_name};
use crate::wait;
use crate::world::{Case, Host, Need, World};

/// The time for a poll each second to be in force, and an allowance for a busy machine: far
/// below the TTL.
const IN_FORCE: Duration = Duration::from_secs(2 + 8);
/// The deadline for the log to report good polls again: no promise, only a limit for reading
/// the log. A poll with a lost call holds the lease for three time-outs and two seconds.
const TOLD: Duration = Duration::from_secs(30);

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("revocation::a_removed_key_is_refused", removed),
        Case::new("revocation::a_disabled_owner_is_refused", disabled),
        Case::new("revocation::a_deleted_owner_is_refused", deleted),
        Case::new("revocation::an_unlinked_owner_is_refused", unlinked),
        Case::new(
            "revocation::a_key_that_is_switched_off_is_refused_until_it_is_on_again",
            switched_off,
        ),
        Case::new("revocation::a_new_limit_is_in_force", new_limit),
        Case::new("revocation::a_role_given_is_in_the_next_token", role_given),
        Case::new("revocation::a_role_in_a_role_is_in_it", role_in_a_role),
        Case::new("revocation::a_group_left_takes_its_role_along", group_left),
        Case::new("revocation::another_owner_stays_cached", another_stays),
        Case::new("revocation::one_worker_polls_for_all", one_polls),
        Case::new("revocation::events_that_are_off_are_told_of", events_off),
        Case::new("revocation::polls_that_fail_are_told_of", failing),
        Case::new("revocation::events_too_large_to_read_hide_none", too_large),
        Case::new(
            "revocation::events_too_large_to_read_drop_the_caches_once",
            too_large_again,
        )
        .not_on(
            &[Host::Kong],
            "at one call a tick a poll has no time to ask for so many events one by one, so each \
             drops the caches",
        ),
        Case::new(
            "revocation::a_role_taken_in_the_console_is_that_owners",
            role_taken_in_the_console,
        ),
    ]
    .into_iter()
    .map(|case| case.needs(Need::OwnGateway))
    .collect()
}

fn spec() -> Spec {
    Spec::default()
        .field("revocation_poll_seconds", 1)
        .field("cache_ttl_seconds", 3600)
        .audited()
        .workers(2)
}

/// The log lines about good polls.
fn told_good(gateway: &Gateway<'_>) -> Vec<String> {
    gateway.log.lines(&["admin events are polled"])
}

/// A gateway after its first poll, which drops everything.
fn polling(world: &World) -> Gateway<'_> {
    let gateway = world.start_gateway_awake(&spec());
    gateway.log.expect(&["admin events are polled"]);
    gateway
}

/// Makes each worker remember the owner's token.
#[track_caller]
fn warm(gateway: &Gateway<'_>, key: &Key) {
    let before = gateway.uses_by_worker(&[&key.id]);
    wait::until("each worker knows the key", Duration::from_secs(30), || {
        gateway.target.orders(&key.text).orders();
        let now = gateway.uses_by_worker(&[&key.id]);
        let more =
            |(worker, uses): (&String, &usize)| *uses >= before.get(worker).unwrap_or(&0) + 3;
        let both = now.len() == gateway.workers && now.iter().all(more);
        both.then_some(()).ok_or(format!("{now:?}"))
    });
}

/// Waits for the key's refusal, and then asks often enough to meet both workers.
#[track_caller]
fn refused(gateway: &Gateway<'_>, key: &Key) {
    wait::until("the key is refused", IN_FORCE, || {
        let answer = gateway.target.orders(&key.text);
        match answer.status {
            401 => Ok(answer.invalid_api_key()),
            _ => Err(answer.describe()),
        }
    });
    wait::until("each worker refuses it", Duration::from_secs(1), || {
        let statuses: Vec<u16> = (0..10)
            .map(|_| gateway.target.orders(&key.text).status)
            .collect();
        let all = statuses.iter().all(|status| *status == 401);
        all.then_some(()).ok_or(format!("{statuses:?}"))
    });
}

fn change_refuses<'a>(world: &'a World, change: impl FnOnce(&Owner<'a>)) {
    let gateway = polling(world);
    let (owner, key) = world.owner();
    warm(&gateway, &key);
    change(&owner);
    refused(&gateway, &key);
}

fn removed(world: &World) {
    change_refuses(world, |owner| owner.set_records(&[]));
}

fn disabled(world: &World) {
    change_refuses(world, Owner::disable);
}

fn deleted(world: &World) {
    change_refuses(world, Owner::delete);
}

fn unlinked(world: &World) {
    change_refuses(world, Owner::unlink);
}

fn switched_off(world: &World) {
    let gateway = polling(world);
    let key = Key::random();
    let record = Record::sha256(&key);
    let owner = world.owner_of(std::slice::from_ref(&record));
    warm(&gateway, &key);
    owner.set_records(&[record.clone().with("disabled", "true")]);
    refused(&gateway, &key);
    gateway.log.expect(&[&key.id, "key disabled"]);
    owner.set_records(&[record]);
    served_again(&gateway, &key);
}

fn new_limit(world: &World) {
    let gateway = polling(world);
    let key = Key::random();
    let record = Record::sha256(&key);
    let owner = world.owner_of(std::slice::from_ref(&record));
    warm(&gateway, &key);
    owner.set_records(&[record.clone().with("rateLimit", "1/86400")]);
    wait::until("the key is limited", IN_FORCE, || {
        let answer = gateway.target.orders(&key.text);
        match answer.status {
            429 => Ok(answer.problem(429, "rate_limited")),
            _ => Err(answer.describe()),
        }
    });
    owner.set_records(&[record]);
    served_again(&gateway, &key);
}

/// Waits for the key's service.
#[track_caller]
fn served_again(gateway: &Gateway<'_>, key: &Key) {
    wait::until("the key is served", IN_FORCE, || {
        let answer = gateway.target.orders(&key.text);
        let served = (answer.status == 200).then_some(());
        served.ok_or_else(|| answer.describe())
    });
}

/// Makes a realm role; returns Keycloak's representation of it.
fn new_role(world: &World) -> Value {
    let name = unique_name("role");
    let admin = &world.keycloak;
    admin.must("POST", "roles", Some(&json!({ "name": name })));
    admin.get(&format!("roles/{name}"))
}

/// Whether the token that the service gets names the role.
fn has_role(gateway: &Gateway<'_>, key: &Key, role: &Value) -> bool {
    let orders = gateway.target.orders(&key.text).orders();
    let roles = orders.claims["realm_access"]["roles"].as_array().cloned();
    roles.unwrap_or_default().contains(&role["name"])
}

#[track_caller]
fn until_role(gateway: &Gateway<'_>, key: &Key, role: &Value, there: bool) {
    wait::until("the token's roles follow", IN_FORCE, || {
        let found = has_role(gateway, key, role);
        (found == there).then_some(()).ok_or(format!("{found}"))
    });
}

fn role_given(world: &World) {
    let gateway = polling(world);
    let (owner, key) = world.owner();
    warm(&gateway, &key);
    let role = new_role(world);
    let path = format!("users/{}/role-mappings/realm", owner.id);
    world.keycloak.must("POST", &path, Some(&json!([role])));
    until_role(&gateway, &key, &role, true);
    warm(&gateway, &key);
    world.keycloak.must("DELETE", &path, Some(&json!([role])));
    until_role(&gateway, &key, &role, false);
}

fn role_in_a_role(world: &World) {
    let gateway = polling(world);
    let (owner, key) = world.owner();
    let (outer, inner) = (new_role(world), new_role(world));
    let path = format!("users/{}/role-mappings/realm", owner.id);
    world.keycloak.must("POST", &path, Some(&json!([outer])));
    until_role(&gateway, &key, &outer, true);
    warm(&gateway, &key);
    let name = outer["name"].as_str().unwrap();
    let path = format!("roles/{name}/composites");
    world.keycloak.must("POST", &path, Some(&json!([inner])));
    until_role(&gateway, &key, &inner, true);
}

fn group_left(world: &World) {
    let gateway = polling(world);
    let (owner, key) = world.owner();
    let (admin, role) = (&world.keycloak, new_role(world));
    let group = json!({ "name": unique_name("group") });
    let group = admin.must("POST", "groups", Some(&group)).created_id;
    let group = group.expect("the id of the group");
    let path = format!("groups/{group}/role-mappings/realm");
    admin.must("POST", &path, Some(&json!([role])));
    let membership = format!("users/{}/groups/{group}", owner.id);
    admin.must("PUT", &membership, Some(&json!({})));
    until_role(&gateway, &key, &role, true);
    warm(&gateway, &key);
    admin.must("DELETE", &membership, None);
    until_role(&gateway, &key, &role, false);
}

fn another_stays(world: &World) {
    let gateway = polling(world);
    let (_, other) = world.owner();
    let [(first, first_key), (second, second_key)] = [world.owner(), world.owner()];
    for key in [&first_key, &second_key] {
        warm(&gateway, key);
    }
    first.disable();
    refused(&gateway, &first_key);
    // The links of all three are changes as well; by then the poll has seen them.
    let kept = wait::until("the other's token is kept", IN_FORCE, || {
        let token = gateway.target.orders(&other.text).orders().token;
        warm(&gateway, &other);
        let again = gateway.target.orders(&other.text).orders().token;
        (token == again).then_some(token).ok_or("another".into())
    });
    second.disable();
    refused(&gateway, &second_key);
    let again = gateway.target.orders(&other.text).orders().token;
    assert!(again == kept, "it was dropped too");
}

fn one_polls(world: &World) {
    let proxy = world.proxy();
    let gateway = world.start_gateway_awake(&spec().through(&proxy));
    gateway.log.expect(&["admin events are polled"]);
    wait::until("some polls", Duration::from_secs(30), || {
        let counts = proxy.counts();
        // The events, and the setting that turns them on.
        (counts.other >= 10)
            .then_some(())
            .ok_or(format!("{counts:?}"))
    });
    let told = told_good(&gateway);
    assert_eq!(told.len(), 1, "{told:?}");
}

/// Turns the realm's admin events on or off.
fn set_events(world: &World, on: bool) {
    let mut config = world.keycloak.get("events/config");
    config["adminEventsEnabled"] = json!(on);
    world.keycloak.must("PUT", "events/config", Some(&config));
}

/// Turns them on again on every way out of a trial.
struct EventsOn<'a>(&'a World);

impl Drop for EventsOn<'_> {
    fn drop(&mut self) {
        set_events(self.0, true);
    }
}

fn events_off(world: &World) {
    let gateway = polling(world);
    let (owner, key) = world.owner();
    warm(&gateway, &key);
    let on = EventsOn(world);
    set_events(world, false);
    // The line of the poll, and not that of a self-check, which may look at the realm sooner.
    gateway
        .log
        .expect(&["the realm keeps no admin events: what is revoked"]);
    warm(&gateway, &key);
    owner.disable();
    drop(on);
    // The change meanwhile is in no event, and the gateway acts on it all the same.
    refused(&gateway, &key);
    wait::until("they are polled again", TOLD, || {
        let told = told_good(&gateway);
        (told.len() == 2).then_some(()).ok_or(format!("{told:?}"))
    });
}

fn failing(world: &World) {
    let proxy = world.proxy();
    let gateway = world.start_gateway_awake(&spec().through(&proxy));
    gateway.log.expect(&["admin events are polled"]);
    let key = Key::random();
    let owner = world.owner_of(&[Record::sha256(&key)]);
    proxy.set(Endpoint::Other, Fault::answer("403 Forbidden", &[], "{}"));
    gateway.log.expect(&["cannot be polled", "view-events"]);
    // No earlier: a poll that sees the owner's own creation drops the owner's cached tokens.
    warm(&gateway, &key);
    owner.disable();
    gateway.target.orders(&key.text).orders();
    proxy.lift();
    // The change while polls failed was not forgotten.
    refused(&gateway, &key);
    wait::until("they are polled again", TOLD, || {
        let told = told_good(&gateway);
        (told.len() == 2).then_some(()).ok_or(format!("{told:?}"))
    });
}

/// Sets whether events hold the changed representation.
fn set_details(world: &World, on: bool) {
    let mut config = world.keycloak.get("events/config");
    config["adminEventsDetailsEnabled"] = json!(on);
    world.keycloak.must("PUT", "events/config", Some(&config));
}

/// Turns the details off again on every way out of a trial.
struct DetailsOff<'a>(&'a World);

impl Drop for DetailsOff<'_> {
    fn drop(&mut self) {
        set_details(self.0, false);
        // Otherwise the polls of the next trials would meet these events too.
        self.0.keycloak.call("DELETE", "admin-events", None);
    }
}

/// A page of them is larger than Envoy's buffer, and each alone is larger than the filter's
/// limit.
const LARGE_EVENTS: usize = 41;

/// Makes so many events; events keep their details until this is dropped.
fn large_events(world: &World) -> DetailsOff<'_> {
    let admin = &world.keycloak;
    let large = json!({ "picture": vec!["x".repeat(1000); 146] });
    let large = admin.create_user(&unique_name("large"), &large);
    let off = DetailsOff(world);
    set_details(world, true);
    let path = format!("users/{large}");
    let whole = admin.get(&path);
    for _ in 0..LARGE_EVENTS {
        admin.must("PUT", &path, Some(&whole));
    }
    off
}

fn too_large(world: &World) {
    let gateway = polling(world);
    let (owner, key) = world.owner();
    warm(&gateway, &key);
    let _off = large_events(world);
    owner.set_records(&[]);
    refused(&gateway, &key);
    gateway
        .log
        .expect(&["not all of them can be read", "adminEventsDetailsEnabled"]);
    assert!(gateway.log.lines(&["cannot be polled"]).is_empty());
}

/// Each of them counts once: later polls meet them again, and the caches are kept.
fn too_large_again(world: &World) {
    let proxy = world.proxy();
    let gateway = world.start_gateway_awake(&spec().through(&proxy));
    gateway.log.expect(&["admin events are polled"]);
    let (owner, key) = world.owner();
    let (_, other) = world.owner();
    warm(&gateway, &key);
    let _off = large_events(world);
    // When this end is seen, all of those events are seen too.
    owner.disable();
    refused(&gateway, &key);
    gateway.log.expect(&["not all of them can be read"]);
    let kept = wait::until("the other's token is kept", IN_FORCE, || {
        let token = gateway.target.orders(&other.text).orders().token;
        warm(&gateway, &other);
        let again = gateway.target.orders(&other.text).orders().token;
        (token == again).then_some(token).ok_or("another".into())
    });
    let before = proxy.counts().other;
    wait::until("they are polled again", Duration::from_secs(60), || {
        let polled = proxy.counts().other - before;
        // One by one each time.
        (polled > 5 * LARGE_EVENTS)
            .then_some(())
            .ok_or(format!("{polled}"))
    });
    let again = gateway.target.orders(&other.text).orders().token;
    assert!(again == kept, "it was dropped");
}

fn role_taken_in_the_console(world: &World) {
    let gateway = polling(world);
    let (owner, key) = world.owner();
    let (_, other) = world.owner();
    let (admin, role) = (&world.keycloak, new_role(world));
    let path = format!("users/{}/role-mappings/realm", owner.id);
    admin.must("POST", &path, Some(&json!([role])));
    until_role(&gateway, &key, &role, true);
    warm(&gateway, &key);
    // The links of all three are changes as well; by then the poll has seen them.
    let (third, third_key) = world.owner();
    warm(&gateway, &third_key);
    third.disable();
    refused(&gateway, &third_key);
    let kept = wait::until("the other's token is kept", IN_FORCE, || {
        let token = gateway.target.orders(&other.text).orders().token;
        warm(&gateway, &other);
        let again = gateway.target.orders(&other.text).orders().token;
        (token == again).then_some(token).ok_or("another".into())
    });
    // The call of the console of 26.7.3 and later.
    let path = format!("ui-ext/role-mapping-delete/users/{}", owner.id);
    admin.must("POST", &path, Some(&json!([{ "roleId": role["id"] }])));
    until_role(&gateway, &key, &role, false);
    let again = gateway.target.orders(&other.text).orders().token;
    assert!(again == kept, "it was dropped too");
}
