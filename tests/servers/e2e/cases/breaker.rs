//! A node of Keycloak is gone, or all of them are: calls that are repeated, calls that are
//! left out, and requests that are served meanwhile.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::faults::{Endpoint, Fault, Proxy};
use crate::gateway::Spec;
use crate::owner::{Key, Owner, Record};
use crate::wait;
use crate::world::{Case, Need, World};

/// An open circuit lets a call through after at most five seconds.
const BACK: Duration = Duration::from_secs(5 + 15);

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("breaker::where_nobody_is_the_other_node_is_asked", nobody),
        Case::new("breaker::what_one_node_drops_the_other_is_asked", dropped),
        Case::new(
            "breaker::a_node_that_dies_under_load_fails_no_request",
            dies,
        ),
        Case::new("breaker::a_dead_keycloak_is_left_alone", left_alone),
        Case::new("breaker::a_token_past_its_ttl_is_used_if_allowed", stale),
        Case::new("breaker::no_stale_token_after_a_refusal", stale_refused),
    ]
    .into_iter()
    .map(|case| case.needs(Need::OwnGateway))
    .collect()
}

/// Fails each call in this way.
fn fail_all(proxy: &Proxy, fault: &Fault) {
    for endpoint in [Endpoint::ServiceToken, Endpoint::LookUp, Endpoint::Grant] {
        proxy.set(endpoint, fault.clone());
    }
}

fn calls(proxy: &Proxy) -> usize {
    let counts = proxy.counts();
    counts.service_token + counts.look_up + counts.grant
}

/// Owners, each with a key that is new to every gateway.
fn owners(world: &World, count: usize) -> Vec<(Owner<'_>, Key)> {
    (0..count)
        .map(|_| {
            let key = Key::random();
            (world.owner_of(&[Record::sha256(&key)]), key)
        })
        .collect()
}

fn nobody(world: &World) {
    let proxy = world.proxy();
    // Bound and released: nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = free.local_addr().unwrap();
    drop(free);
    let spec = Spec::default().through_address(gone).through(&proxy);
    let gateway = world.start_gateway(&spec);
    for (owner, key) in owners(world, 12) {
        assert_eq!(gateway.target.orders(&key.text).orders().subject, owner.id);
    }
}

fn dropped(world: &World) {
    let (good, bad) = (world.proxy(), world.proxy());
    fail_all(&bad, &Fault::Close);
    let spec = Spec::default().through(&bad).through(&good);
    let gateway = world.start_gateway(&spec);
    for (owner, key) in owners(world, 12) {
        assert_eq!(gateway.target.orders(&key.text).orders().subject, owner.id);
    }
    assert!(calls(&bad) > 0, "the node was never asked");
}

fn dies(world: &World) {
    let (one, other) = (world.proxy(), world.proxy());
    let spec = Spec::default()
        .field("cache_ttl_seconds", 1)
        .through(&one)
        .through(&other);
    let gateway = world.start_gateway(&spec);
    let owners = owners(world, 8);
    let (over, dead) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let clients: Vec<_> = owners
            .iter()
            .map(|(owner, key)| {
                let (target, over, dead) = (&gateway.target, &over, &dead);
                scope.spawn(move || {
                    let mut served = 0;
                    while !over.load(Ordering::Relaxed) {
                        let answer = target.orders(&key.text);
                        assert_eq!(answer.status, 200, "{}", answer.describe());
                        assert_eq!(answer.orders().subject, owner.id);
                        served += usize::from(dead.load(Ordering::Relaxed));
                    }
                    served
                })
            })
            .collect();
        wait::until("both nodes are asked", Duration::from_secs(30), || {
            let asked = (calls(&one), calls(&other));
            (asked.0 >= 10 && asked.1 >= 10)
                .then_some(())
                .ok_or(format!("{asked:?}"))
        });
        fail_all(&one, &Fault::Close);
        dead.store(true, Ordering::Relaxed);
        let before = (calls(&one), calls(&other));
        // A failed client ends the wait early.
        wait::until("the other does the work", Duration::from_secs(60), || {
            let asked = (calls(&one) - before.0, calls(&other) - before.1);
            let done = asked.0 >= 2 && asked.1 >= 60 || clients.iter().any(|c| c.is_finished());
            done.then_some(()).ok_or(format!("{asked:?}"))
        });
        over.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().expect("each request was served") > 0);
        }
    });
}

fn left_alone(world: &World) {
    let proxy = world.proxy();
    let gateway = world.start_gateway(&Spec::default().through(&proxy));
    let (warm, cold) = (owners(world, 1), owners(world, 1));
    gateway.target.orders(&warm[0].1.text).orders();
    fail_all(&proxy, &Fault::Close);
    wait::until("it is left alone", Duration::from_secs(30), || {
        let request_id = gateway.target.orders(&Key::random().text).unavailable();
        let left = gateway.log.lines(&[&request_id, "left alone for a moment"]);
        left.first().map(drop).ok_or("it is not".to_owned())
    });
    // Many requests, few calls: only one probe at a time.
    let before = calls(&proxy);
    for _ in 0..200 {
        gateway.target.orders(&Key::random().text).unavailable();
    }
    let called = calls(&proxy) - before;
    assert!(called <= 10, "{called} calls for 200 requests");
    let answer = gateway.target.orders(&warm[0].1.text);
    assert_eq!(answer.orders().subject, warm[0].0.id);
    proxy.lift();
    let (owner, key) = &cold[0];
    wait::until("it is back", BACK, || {
        let answer = gateway.target.orders(&key.text);
        if answer.status != 200 {
            return Err(answer.describe());
        }
        assert_eq!(answer.orders().subject, owner.id);
        Ok(())
    });
}

fn stale_spec(proxy: &Proxy) -> Spec {
    Spec::default()
        .field("cache_ttl_seconds", 1)
        .field("negative_ttl_seconds", 1)
        .field("stale_if_error_seconds", 200)
        .through(proxy)
}

fn stale(world: &World) {
    let proxy = world.proxy();
    let gateway = world.start_gateway(&stale_spec(&proxy));
    let (owner, key) = world.owner();
    gateway.target.orders(&key.text).orders();
    fail_all(&proxy, &Fault::Close);
    let used = || gateway.log.lines(&[&key.id, r#""source":"stale""#]).len();
    let send = || {
        let orders = gateway.target.orders(&key.text).orders();
        assert_eq!(orders.subject, owner.id);
    };
    wait::until("a token past its TTL is used", BACK, || {
        send();
        (used() > 0).then_some(()).ok_or("not yet".to_owned())
    });
    // A request that makes no call is in the audit log as well: no cache answered it.
    wait::until("Keycloak is left alone", BACK, || {
        let before = calls(&proxy);
        send();
        (calls(&proxy) == before)
            .then_some(())
            .ok_or("it is called".to_owned())
    });
    let before = used();
    send();
    wait::until("the log tells of it", Duration::from_secs(5), || {
        let now = used();
        (now > before).then_some(()).ok_or(format!("{now} lines"))
    });
    gateway.target.orders(&Key::random().text).unavailable();
    proxy.lift();
    wait::until("Keycloak is asked again", BACK, || {
        let orders = gateway.target.orders(&key.text).orders();
        assert_eq!(orders.subject, owner.id);
        let fresh = gateway.log.lines(&[&key.id, r#""source":"refresh""#]);
        fresh.first().map(drop).ok_or("not yet".to_owned())
    });
}

fn stale_refused(world: &World) {
    let proxy = world.proxy();
    let gateway = world.start_gateway(&stale_spec(&proxy));
    let (owner, key) = world.owner();
    gateway.target.orders(&key.text).orders();
    owner.set_records(&[]);
    wait::until("the key is refused", Duration::from_secs(30), || {
        let answer = gateway.target.orders(&key.text);
        match answer.status {
            401 => Ok(()),
            _ => Err(answer.describe()),
        }
    });
    fail_all(&proxy, &Fault::Close);
    // 401 while the refusal is remembered, then 503 because Keycloak is gone.
    wait::until("the refusal is forgotten", BACK, || {
        let answer = gateway.target.orders(&key.text);
        assert!(matches!(answer.status, 401 | 503), "{}", answer.describe());
        (answer.status == 503).then_some(()).ok_or("401".to_owned())
    });
    for _ in 0..20 {
        gateway.target.orders(&key.text).unavailable();
    }
}
