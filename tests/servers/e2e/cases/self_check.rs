//! Mismatches between a gateway and its realm: logged at its start, without a request.

use std::time::Duration;

use serde_json::{Value, json};

use super::configuration::{RoleTaken, foreign_pem};
use crate::gateway::{Gateway, Spec};
use crate::wait;
use crate::world::{Case, Need, World};

/// The time between two checks while something is bad, and an allowance for a busy machine.
const MENDED_SEEN: Duration = Duration::from_secs(30 + 15);

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("self_check::a_gateway_that_fits_says_so_once", fits),
        Case::new("self_check::a_foreign_signing_key_is_told_of", foreign_key),
        Case::new("self_check::missing_roles_are_told_of", missing_roles),
        Case::new("self_check::needless_roles_are_told_of", needless_role),
        Case::new("self_check::another_issuer_is_told_of", issuer),
        Case::new("self_check::events_that_are_off_are_told_of", events_off),
        Case::new(
            "self_check::a_profile_is_told_of_until_it_is_mended",
            profile,
        ),
    ]
    .into_iter()
    .map(|case| case.needs(Need::OwnGateway))
    .collect()
}

fn spec() -> Spec {
    Spec::default()
        .field("revocation_poll_seconds", 1)
        .workers(2)
}

/// A part of the realm with some changes; dropping this undoes them.
pub(super) struct Changed<'a> {
    world: &'a World,
    path: &'static str,
    before: Value,
}

impl<'a> Changed<'a> {
    pub(super) fn new(
        world: &'a World,
        path: &'static str,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let before = world.keycloak.get(path);
        let mut after = before.clone();
        change(&mut after);
        world.keycloak.must("PUT", path, Some(&after));
        Self {
            world,
            path,
            before,
        }
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        let admin = &self.world.keycloak;
        admin.call("PUT", self.path, Some(&self.before));
    }
}

/// The marks of a line's level. Kong hides informative lines, so they are warnings there.
const INFO: &[&str] = &["[info]", "[warn]", r#""level":"INFO""#];
const WARNING: &[&str] = &["[warning]", "[warn]", r#""level":"WARN""#];
const ERROR: &[&str] = &["[error]", r#""level":"ERROR""#];

/// A gateway without requests logs this, at this level.
#[track_caller]
fn told<'a>(world: &'a World, spec: &Spec, level: &[&str], words: &[&str]) -> Gateway<'a> {
    let gateway = world.start_gateway_awake(spec);
    let line = gateway.log.expect(&[&["self-check: "], words].concat());
    assert!(level.iter().any(|mark| line.contains(mark)), "{line}");
    gateway
}

/// The exchange filter's lines that say that all is well.
fn well(gateway: &Gateway<'_>) -> Vec<String> {
    let all = "self-check: all is well: service_token, roles, issuer, clock, events, user_profile";
    let mut lines = gateway.log.lines(&[all]);
    // Envoy runs the management API's filter as well; its lines have its name.
    lines.retain(|line| !line.contains("apikey_management"));
    lines
}

fn fits(world: &World) {
    let gateway = told(world, &spec(), INFO, &["all is well"]);
    gateway.target.orders(&world.api_key).orders();
    wait::until("it is told", Duration::from_secs(10), || {
        let told = well(&gateway);
        (told.len() == 1).then_some(()).ok_or(format!("{told:?}"))
    });
}

fn foreign_key(world: &World) {
    let spec = spec().signing_key(&foreign_pem());
    let words = ["service_token: no key can be exchanged", "invalid_client"];
    told(world, &spec, ERROR, &words);
}

fn missing_roles(world: &World) {
    for (role, words) in [
        ("view-users", "roles: no key can be exchanged"),
        ("view-events", "roles: revocations take cache_ttl_seconds"),
    ] {
        let taken = RoleTaken::take_role(world, &[role], &[]);
        told(world, &spec(), ERROR, &[words, role]);
        drop(taken);
    }
}

fn needless_role(world: &World) {
    let given = RoleTaken::take_role(world, &[], &["manage-users"]);
    let words = ["does not need: manage-users;"];
    told(world, &spec(), WARNING, &words);
    drop(given);
}

fn issuer(world: &World) {
    let spec = spec().field("keycloak_url", "http://login.invalid");
    let names = format!("issuer: the realm names issuer {}", world.keycloak.issuer());
    told(
        world,
        &spec,
        ERROR,
        &[&names, "http://login.invalid/realms"],
    );
}

fn events_off(world: &World) {
    let off = Changed::new(world, "events/config", |events| {
        events["adminEventsEnabled"] = json!(false);
    });
    told(
        world,
        &spec(),
        ERROR,
        &["events: the realm keeps no admin events"],
    );
    drop(off);
}

fn profile(world: &World) {
    for (policy, words) in [
        (
            json!("ENABLED"),
            "user_profile: ANY USER CAN MAKE HIMSELF KEYS",
        ),
        (json!("ADMIN_VIEW"), "user_profile: keys cannot be written"),
    ] {
        let changed = Changed::new(world, "users/profile", |profile| {
            profile["unmanagedAttributePolicy"] = policy;
        });
        let gateway = told(world, &spec(), ERROR, &[words]);
        drop(changed);
        wait::until("it is told that it is mended", MENDED_SEEN, || {
            let told = well(&gateway);
            (told.len() == 1).then_some(()).ok_or(format!("{told:?}"))
        });
    }
}
