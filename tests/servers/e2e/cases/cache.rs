//! The filter's memory of a key, and how long it lasts.

use std::thread;
use std::time::Duration;

use crate::client::Request;
use crate::faults::Proxy;
use crate::gateway::Spec;
use crate::owner::{Key, Record};
use crate::wait::{self, now_ms, now_seconds};
use crate::world::{Case, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("cache::a_known_key_costs_no_call", no_call),
        Case::new("cache::an_unknown_key_is_asked_for_once", unknown_once),
        Case::new("cache::a_worker_learns_from_another", shared),
        Case::new("cache::a_refresh_verifies_nothing_again", refresh),
        Case::new("cache::a_revoked_key_is_refused_after_the_ttl", revoked),
        Case::new("cache::a_cached_key_is_refused_from_its_end_on", expires),
    ]
    .into_iter()
    .map(|case| case.needs(Need::OwnGateway))
    .collect()
}

/// The look-ups and the grants of a gateway. The other calls also come from the
/// self-check, at any time.
fn calls(proxy: &Proxy) -> (usize, usize) {
    let counts = proxy.counts();
    (counts.look_up, counts.grant)
}

fn no_call(world: &World) {
    let proxy = world.proxy();
    let gateway = world.start_gateway(&Spec::default().through(&proxy));
    let (owner, key) = world.owner();
    let first = gateway.target.orders(&key.text).orders();
    for request in [
        Request::orders().api_key(&key.text),
        Request::orders().bearer(&key.text),
        Request::orders().header("X-API-Key", &key.text),
    ] {
        let again = gateway.target.send(&request).orders();
        assert_eq!(again.subject, owner.id);
        assert!(again.token == first.token, "another token");
    }
    assert_eq!(calls(&proxy), (1, 1));
}

fn unknown_once(world: &World) {
    let proxy = world.proxy();
    let gateway = world.start_gateway(&Spec::default().through(&proxy));
    let key = Key::random();
    for _ in 0..5 {
        gateway.target.orders(&key.text).invalid_api_key();
    }
    assert_eq!(calls(&proxy), (1, 0));
}

fn shared(world: &World) {
    let proxy = world.proxy();
    let spec = Spec::default().workers(2).audited().through(&proxy);
    let gateway = world.start_gateway(&spec);
    let (owner, key) = world.owner();
    gateway.target.orders(&key.text).orders();
    wait::until("each worker had requests", Duration::from_secs(30), || {
        let orders = gateway.target.orders(&key.text).orders();
        assert_eq!(orders.subject, owner.id);
        let by_worker = gateway.uses_by_worker(&[&key.id]);
        let both =
            by_worker.len() == gateway.workers && by_worker.values().all(|count| *count >= 3);
        both.then_some(()).ok_or(format!("{by_worker:?}"))
    });
    assert_eq!(calls(&proxy), (1, 1));
}

fn refresh(world: &World) {
    let proxy = world.proxy();
    let spec = Spec::default()
        .field("cache_ttl_seconds", 1)
        .through(&proxy);
    let gateway = world.start_gateway(&spec);
    let key = Key::random();
    world.owner_of(&[Record::bcrypt(&key, "2b", 10)]);
    let id = format!(r#""key_id":"{}""#, key.id);
    // A key in constant use may be renewed ahead of its end each time.
    wait::until("a request fetches it anew", Duration::from_secs(30), || {
        gateway.target.orders(&key.text).orders();
        thread::sleep(Duration::from_millis(1100));
        let refreshed = gateway.log.lines(&[&id, r#""source":"refresh""#]);
        refreshed.first().map(drop).ok_or("no such line".to_owned())
    });
    assert!(proxy.counts().grant >= 2, "{:?}", proxy.counts());
    assert_eq!(
        gateway.log.lines(&[&id, r#""source":"first_use""#]).len(),
        1
    );
    // One for each of its two filters, and one for the self-check of each.
    assert!(proxy.counts().service_token <= 4, "{:?}", proxy.counts());
}

/// Refused, by a gateway that caches tokens for a second.
fn refused_after_the_ttl(world: &World, key: &Key, change: impl FnOnce()) {
    let gateway = world.start_gateway(&Spec::default().field("cache_ttl_seconds", 1));
    gateway.target.orders(&key.text).orders();
    change();
    wait::until("the key is refused", Duration::from_secs(10), || {
        let answer = gateway.target.orders(&key.text);
        match answer.status {
            401 => Ok(answer.invalid_api_key()),
            _ => Err(answer.describe()),
        }
    });
}

fn revoked(world: &World) {
    let (owner, key) = world.owner();
    refused_after_the_ttl(world, &key, || owner.set_records(&[]));
}

fn expires(world: &World) {
    let proxy = world.proxy();
    // The filter drops a token earlier by the skew, which is longer than this key
    // lives.
    let spec = Spec::default()
        .field("clock_skew_seconds", 0)
        .through(&proxy);
    let gateway = world.start_gateway(&spec);
    let key = Key::random();
    let ends_at = now_seconds() + 8;
    world.owner_of(&[Record::sha256(&key).expiring_at(ends_at)]);
    gateway.target.orders(&key.text).orders();
    gateway.target.orders(&key.text).orders();
    assert_eq!(calls(&proxy), (1, 1), "it was not cached");
    wait::until("the key is refused", Duration::from_secs(20), || {
        let sent_at = now_ms();
        let answer = gateway.target.orders(&key.text);
        if answer.status == 401 {
            return Ok(answer.invalid_api_key());
        }
        answer.orders();
        assert!(sent_at <= ends_at * 1000, "accepted after its end");
        Err(answer.describe())
    });
    assert!(now_ms() >= ends_at * 1000, "refused before its end");
}
