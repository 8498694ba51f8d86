//! Refusals count for the address that they come from.

use std::net::Ipv4Addr;

use crate::client::{Request, Target};
use crate::gateway::Spec;
use crate::owner::Key;
use crate::portal::{expect_problem, post};
use crate::world::{Case, Host, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("abuse::an_address_is_told_to_wait", told_to_wait).needs(Need::Addresses),
        Case::new(
            "abuse::presented_keys_count_for_their_address",
            presented_keys,
        )
        .needs(Need::Addresses),
        Case::new(
            "abuse::workers_of_a_gateway_count_together",
            workers_count_together,
        )
        .needs(Need::OwnGateway),
        Case::new(
            "abuse::behind_a_load_balancer_the_client_counts",
            behind_a_load_balancer,
        )
        .needs(Need::OwnGateway),
        Case::new("abuse::a_flood_of_unknown_keys", flood).needs(Need::OwnGateway),
    ]
}

/// Sends keys without an owner until the gateway answers 429; returns the number of
/// refusals before.
#[track_caller]
fn until_throttled(target: &Target, more: impl Fn(Request) -> Request) -> usize {
    for refused in 0..200 {
        let request = more(Request::orders().api_key(&Key::random().text));
        let answer = target.send(&request);
        if answer.status == 429 {
            answer.problem(429, "throttled");
            assert_eq!(answer.header("retry-after"), Some("60"));
            return refused;
        }
        answer.invalid_api_key();
    }
    panic!("never told to wait");
}

/// An address of this trial alone: those of other connections begin at 127.64.
fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, 0, last)
}

fn told_to_wait(world: &World) {
    let (owner, warm) = world.owner();
    world.gateway.orders(&warm.text).orders();
    let from = world.gateway.from(address(1));
    // The gateway forgets a few refusals meanwhile, so it takes a few more than the
    // limit.
    let refused = until_throttled(&from, |request| request);
    assert!((20..=30).contains(&refused), "{refused}");
    for _ in 0..10 {
        assert_eq!(from.orders(&warm.text).orders().subject, owner.id);
    }
    world.gateway.orders(&Key::random().text).invalid_api_key();
}

/// Good keys too, or the count would tell them from others.
fn presented_keys(world: &World) {
    let (_owner, key) = world.owner();
    let from = world.gateway.from(address(4));
    let present = |text: &str| {
        let body = serde_json::json!({"api_key": text}).to_string();
        from.send(&post("/revoke", body.as_bytes()))
    };
    assert_eq!(present(&key.text).status, 204);
    let more = (0..200).position(|_| present("no key").status == 429);
    let more = more.expect("told to wait");
    assert!((19..=30).contains(&more), "{more}");
    expect_problem(&present(&key.text), 429, "throttled");
    from.orders(&Key::random().text).problem(429, "throttled");
}

fn workers_count_together(world: &World) {
    let gateway = world.start_gateway(&Spec::default().workers(4));
    let refused = until_throttled(&gateway.target.from(address(2)), |request| request);
    assert!((20..=30).contains(&refused), "{refused}");
    let workers = match world.host {
        // Another thread tells of the refusals.
        Host::EnvoyModule => {
            let connections = gateway.connections_by_worker();
            connections.iter().filter(|count| **count > 0).count()
        }
        _ => gateway.uses_by_worker(&[r#""outcome":"refused""#]).len(),
    };
    assert!(workers > 1 || gateway.workers == 1, "{workers}");
}

/// The gateway's own setting for load balancers is enough; with `ext_authz`, `trusted_hops` repeats it.
fn behind_a_load_balancer(world: &World) {
    let gateway = world.start_gateway(&Spec::default().behind(1));
    let balancer = gateway.target.from(address(3));
    let coming_from = |client: &'static str| {
        move |request: Request| {
            request.header("x-forwarded-for", format!("203.0.113.200, {client}"))
        }
    };
    until_throttled(&balancer, coming_from("203.0.113.7"));
    let unknown = || Request::orders().api_key(&Key::random().text);
    let answer = balancer.send(&coming_from("203.0.113.8")(unknown()));
    answer.invalid_api_key();
    until_throttled(&balancer, coming_from("2001:db8:0:1::7"));
    let answer = balancer.send(&coming_from("2001:db8:0:1:2::3")(unknown()));
    answer.problem(429, "throttled");
}

/// From ever new addresses: look-ups stay within their rate, and a warm key is served
/// all the while.
fn flood(world: &World) {
    let proxy = world.proxy();
    let gateway = world.start_gateway(&Spec::default().through(&proxy));
    let (owner, warm) = world.owner();
    gateway.target.orders(&warm.text).orders();
    let before = proxy.counts().look_up;
    let started = std::time::Instant::now();
    let mut statuses = std::collections::BTreeMap::new();
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..32)
            .map(|_| {
                let target = &gateway.target;
                scope.spawn(move || {
                    let sent = (0..20).map(|_| target.orders(&Key::random().text).status);
                    sent.collect::<Vec<u16>>()
                })
            })
            .collect();
        for _ in 0..50 {
            assert_eq!(gateway.target.orders(&warm.text).orders().subject, owner.id);
        }
        for status in senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap())
        {
            *statuses.entry(status).or_insert(0) += 1;
        }
    });
    assert!(
        statuses.keys().all(|status| [401, 503].contains(status)),
        "{statuses:?}"
    );
    let lookups = proxy.counts().look_up - before;
    let most = 100 + 50 * (started.elapsed().as_secs() as usize + 2);
    assert!(
        lookups <= most,
        "{lookups} look-ups, and {most} is the most"
    );
}
