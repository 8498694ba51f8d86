//! Tokens that are renewed while no request waits, and tokens that a service refuses.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::client::Request;
use crate::gateway::{Gateway, Spec};
use crate::owner::Key;
use crate::wait;
use crate::world::{Case, Host, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("renewals::a_busy_key_sees_no_cold_request", busy),
        Case::new(
            "renewals::a_token_that_the_service_refuses_is_dropped",
            refused,
        )
        .not_on(
            &Host::SERVED,
            "apikeys serve does not see the answers of the service behind the gateway",
        ),
    ]
    .into_iter()
    .map(|case| case.needs(Need::OwnGateway))
    .collect()
}

fn spec(world: &World) -> Spec {
    Spec::default()
        .field("revocation_poll_seconds", 0)
        .serving(world.echo())
}

/// The number of requests with this key that no cache answered.
fn exchanges(gateway: &Gateway<'_>, key: &Key) -> usize {
    let id = format!(r#""key_id":"{}""#, key.id);
    gateway.log.lines(&["exchanged", &id]).len()
}

/// The header that the service gets.
fn forwarded(gateway: &Gateway<'_>, key: &Key) -> String {
    let answer = gateway.target.orders(&key.text);
    assert_eq!(answer.status, 200, "{}", answer.describe());
    let seen = answer.json();
    let header = seen["headers"]["authorization"].as_str();
    header.expect("the header").to_owned()
}

fn busy(world: &World) {
    let gateway = world.start_gateway(&spec(world).field("cache_ttl_seconds", 15));
    let (_owner, key) = world.owner();
    let mut tokens = BTreeSet::new();
    wait::until(
        "its token is another, twice",
        Duration::from_secs(60),
        || {
            tokens.insert(forwarded(&gateway, &key));
            (tokens.len() == 3)
                .then_some(())
                .ok_or(format!("{} tokens", tokens.len()))
        },
    );
    assert_eq!(exchanges(&gateway, &key), 1, "only the first was cold");
}

fn refused(world: &World) {
    let gateway = world.start_gateway(&spec(world));
    let (_owner, key) = world.owner();
    let first = forwarded(&gateway, &key);
    assert_eq!(forwarded(&gateway, &key), first);
    let refuse = Request::root().at("/refuse").api_key(&key.text);
    for _ in 0..3 {
        assert_eq!(gateway.target.send(&refuse).status, 401);
    }
    let dropped = ["the service answered 401: its token is dropped"];
    gateway.log.expect(&dropped);
    let second = forwarded(&gateway, &key);
    assert_ne!(second, first, "it is fetched anew");
    for _ in 0..3 {
        assert_eq!(gateway.target.send(&refuse).status, 401);
    }
    assert_eq!(forwarded(&gateway, &key), second, "once a minute");
    assert_eq!(exchanges(&gateway, &key), 2);
    assert_eq!(gateway.log.lines(&dropped).len(), 1);
}
