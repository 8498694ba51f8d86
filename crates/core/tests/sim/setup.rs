//! The parts of a run: nodes, routes, realms, owners and keys, drawn from its seed.

use std::sync::Arc;

use apikeys_core::api_key::record::Field;
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use serde_json::json;

use super::dice::Dice;
use super::faults::Faults;
use super::keycloak::{FakeKeycloak, User};
use super::keys::{self, KEYS};
use super::node::Node;
use super::store::Host;

/// The instant at which every run begins.
pub const START: u64 = 1_800_000_000_000;

// Made for tests, used nowhere else.
pub const SIGNING_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg53C48x8+QE4ZxcdCcxlyCnLV+M8sg0pb\
    H91S4P2ZT2GhRANCAARztE3UlgHHa978qferI/VOamSBp0DyhC9PxPKuIP3RtmK1JtiNd9Q3OD/oPT3DjRszw97Lp6VQXMRn7iqhhhHE";

/// The rate limits of keys.
pub const LIMITS: [&str; 6] = ["1/1", "1/10", "2/10", "2/60", "5/1", "10/30"];
/// The networks of keys: of all shared addresses, of one, of all others, and of nobody.
pub const NETWORKS: [&str; 4] = [
    "192.0.2.0/24",
    "192.0.2.2/32 2001:db8::/32",
    "2001:db8::/32",
    "10.0.0.0/8",
];

/// A route with the filter on it.
pub struct Route {
    pub realm: usize,
    pub config: Arc<Config>,
}

/// A realm, and the instant from which Keycloak answers for it again.
pub struct Realm {
    pub keycloak: FakeKeycloak,
    pub down_until: u64,
    pub role_back_at: u64,
    /// The latest instant at which the gateway's account lost its role.
    pub role_lost_at: u64,
    /// The end of each key that is ever held in it.
    pub ends: Vec<u64>,
}

/// The choices that the seed makes before the run begins.
pub struct Setup {
    pub faults: Faults,
    pub nodes: Vec<Node>,
    pub routes: Vec<Route>,
    pub realms: Vec<Realm>,
    /// The time for which clients send.
    pub length_ms: u64,
    pub requests: u64,
    pub happenings: u64,
}

impl Setup {
    pub fn drawn(dice: &mut Dice, faults_named: &str) -> Self {
        let faults = Faults::drawn(dice)
            .with(faults_named)
            .unwrap_or_else(|why| panic!("{why}"));
        let length_ms = dice.pick(&[20_000, 90_000, 400_000]);
        let realm_count = dice.range(1, 2) as usize;
        let realms = (0..realm_count)
            .map(|at| realm(dice, at, length_ms))
            .collect();
        let route_count = dice.range(1, 3) as usize;
        let routes: Vec<Route> = (0..route_count)
            .map(|at| {
                let realm = at % realm_count;
                let config = config(dice, realm, length_ms);
                Route { realm, config }
            })
            .collect();
        let skew_ms = routes
            .iter()
            .map(|route| route.config.clock_skew_ms)
            .min()
            .unwrap_or(0);
        let nodes = (0..dice.range(1, 2))
            .map(|_| {
                let host = dice.pick(&[Host::Kong, Host::Envoy]);
                let off =
                    dice.range(0, skew_ms.min(30_000)) as i64 - (skew_ms / 2).min(15_000) as i64;
                let off = if faults.is_calm() { 0 } else { off };
                let room = dice.pick(&[6, 20, 1000]);
                Node::new(host, dice.range(1, 3) as usize, route_count, room, off)
            })
            .collect();
        Self {
            faults,
            nodes,
            routes,
            realms,
            length_ms,
            requests: dice.range(15, 70),
            happenings: dice.range(5, 25),
        }
    }
}

pub fn realm_name(at: usize) -> &'static str {
    ["demo", "other"][at]
}

/// The users that a realm has; the same names are other users in another realm.
pub fn owners(realm: usize) -> Vec<String> {
    let names = ["alice", "bob", "carol", "service-account-etl"];
    names.iter().map(|name| format!("{name}-{realm}")).collect()
}

fn realm(dice: &mut Dice, at: usize, length_ms: u64) -> Realm {
    let mut users: Vec<User> = owners(at).iter().map(|id| User::new(id)).collect();
    let ends: Vec<u64> = (0..KEYS)
        .map(|_| {
            let after = dice.pick(&[length_ms / 2, length_ms * 3 / 4, 86_400_000, 864_000_000]);
            (START + after) / 1000 * 1000
        })
        .collect();
    for (number, &end) in ends.iter().enumerate() {
        if dice.chance(0.8) {
            let owner = dice.below(users.len());
            let hash = dice.pick(&keys::HASHES);
            give(&mut users[owner], number, hash, end);
            for (field, values, chance) in [
                (Field::RateLimit, &LIMITS[..], 0.4),
                (Field::AllowedAddresses, &NETWORKS[..], 0.15),
                (Field::Disabled, &["true"][..], 0.1),
            ] {
                let value = dice.pick(values);
                set(
                    &mut users[owner],
                    number,
                    field,
                    dice.chance(chance).then_some(value),
                );
            }
        }
    }
    let mut keycloak = FakeKeycloak::of_realm(realm_name(at), users);
    keycloak.management_roles.push("view-events");
    keycloak.token_life_seconds = dice.pick(&[5, 60, 300]);
    Realm {
        keycloak,
        down_until: 0,
        role_back_at: u64::MAX,
        role_lost_at: 0,
        ends,
    }
}

/// Stores the key of this number on a user.
pub fn give(user: &mut User, number: usize, hash: usize, end: u64) {
    let key = &keys::ALL[number];
    let holder = std::mem::replace(user, User::new(""));
    *user = holder.with_key(&key.id, &key.hashes[hash], UnixMillis(end));
}

/// Sets a fact about the key of this number on a user, or takes it away.
pub fn set(user: &mut User, number: usize, field: Field, value: Option<&str>) {
    let attribute = field.attribute(&keys::ALL[number].id);
    match value {
        Some(value) => user.attributes.insert(attribute, vec![value.to_owned()]),
        None => user.attributes.remove(&attribute),
    };
}

fn config(dice: &mut Dice, realm: usize, length_ms: u64) -> Arc<Config> {
    let mut config = json!({
        "keycloak_url": "https://login.example.com",
        "realm": realm_name(realm),
        "keycloak_upstream": "keycloak",
        "yield_upstream": "yield",
        "signing_key": SIGNING_KEY,
        "cache_ttl_seconds": dice.pick(&[1, 5, 30, 300]),
        "negative_ttl_seconds": dice.pick(&[0, 1, 10, 30]),
        "throttle_failures_per_minute": dice.pick(&[0, 2, 20]),
        "callout_timeout_ms": dice.pick(&[300, 1000, 2000]),
        "clock_skew_seconds": dice.pick(&[0, 5, 30]),
        "l1_entries": dice.pick(&[1, 4, 100]),
        "l2_slots": dice.pick(&[0, 4, 16, 64]),
        "revocation_poll_seconds": dice.pick(&[0, 2, 5, 30]),
        "on_missing_key": dice.pick(&["bearer", "pass", "reject"]),
    });
    // Mostly off, as by default.
    config["stale_if_error_seconds"] = json!(dice.pick(&[0, 0, 10, 60]));
    let (falls_back, scoped) = (dice.chance(0.3), dice.chance(0.3));
    if falls_back {
        let until = UnixMillis(START + length_ms / 2);
        config["fallback_until"] = json!(until.to_rfc3339());
    }
    if scoped {
        config["scope"] = json!("orders");
    }
    Arc::new(Config::from_json(config.to_string().as_bytes()).unwrap())
}
