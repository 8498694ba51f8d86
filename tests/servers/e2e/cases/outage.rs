//! Trials with a stopped Keycloak.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::client::Request;
use crate::owner::Key;
use crate::wait;
use crate::world::{Case, Need, World};

/// By then the stack's gateway has polled: it does so every five seconds.
const POLLED: Duration = Duration::from_secs(7);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        stopped("outage::a_known_key_is_answered_from_the_cache", known),
        stopped("outage::a_bearer_jwt_passes", bearer_jwt),
        stopped("outage::a_cold_key_is_503_within_the_deadline", cold),
        stopped("outage::a_malformed_key_is_401_still", malformed),
        // Independent of the trials before it: stops Keycloak itself if none did.
        stopped("outage::a_cold_key_works_once_keycloak_is_back", recovery),
    ]
}

fn stopped(name: &str, run: fn(&World, &Outage)) -> Case {
    let with_outage = move |world: &'static World| {
        let outage = OUTAGE.get_or_init(|| Outage::prepare(world));
        world.stop_keycloak();
        run(world, outage);
    };
    Case::new(name, with_outage).needs(Need::StoppedKeycloak)
}

/// Prepared while Keycloak still answers.
struct Outage {
    warm: Key,
    warm_owner: String,
    cold: Key,
    cold_owner: String,
    token: String,
}

static OUTAGE: OnceLock<Outage> = OnceLock::new();

impl Outage {
    fn prepare(world: &World) -> Self {
        let (warm_owner, warm) = world.owner();
        let (cold_owner, cold) = world.owner();
        // Earlier changes are polled within seconds, and drop tokens.
        let (mut token, mut since) = (String::new(), Instant::now());
        wait::until("its token is kept", Duration::from_secs(60), || {
            let now = world.gateway.orders(&warm.text).orders().token;
            if now != token {
                (token, since) = (now, Instant::now());
            }
            let kept = since.elapsed();
            (kept > POLLED).then_some(()).ok_or(format!("for {kept:?}"))
        });
        Self {
            warm,
            warm_owner: warm_owner.id,
            cold,
            cold_owner: cold_owner.id,
            token: world.keycloak.password_token("demo-cli", "bob", "bob"),
        }
    }
}

fn known(world: &World, outage: &Outage) {
    // More than one worker may answer.
    for _ in 0..10 {
        let orders = world.gateway.orders(&outage.warm.text).orders();
        assert_eq!(orders.subject, outage.warm_owner);
    }
}

fn bearer_jwt(world: &World, outage: &Outage) {
    let request = Request::orders().bearer(&outage.token);
    assert_eq!(world.gateway.send(&request).orders().username, "bob");
}

fn cold(world: &World, outage: &Outage) {
    for key in [&outage.cold, &Key::random()] {
        let answer = world.gateway.orders(&key.text);
        let request_id = answer.unavailable();
        world.expect_logged(&request_id, r#""code":"identity_provider_unavailable""#);
        // Twice the time-out of a callout is 4 s; the rest is for a slow machine.
        assert!(answer.took < Duration::from_secs(8), "{:?}", answer.took);
    }
}

fn malformed(world: &World, outage: &Outage) {
    world
        .gateway
        .orders(&outage.cold.mistyped())
        .invalid_api_key();
}

fn recovery(world: &World, outage: &Outage) {
    world.gateway.orders(&outage.cold.text).unavailable();
    world.start_keycloak();
    // A Keycloak that has just started may answer later than a callout waits.
    wait::until("the key works", Duration::from_secs(60), || {
        let answer = world.gateway.orders(&outage.cold.text);
        if answer.status == 503 {
            return Err(answer.describe());
        }
        assert_eq!(answer.orders().subject, outage.cold_owner);
        Ok(())
    });
}
