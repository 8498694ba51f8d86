//! The clients' requests and the administrators' edits, drawn before a run begins or as it
//! goes; and the faults that come by themselves.

use apikeys_core::api_key::record::{Field, index_value, key_value};
use apikeys_core::clock::UnixMillis;

use super::dice::Dice;
use super::faults::Fault;
use super::keycloak::{EventFate, User};
use super::keys::{self, KEYS};
use super::request::{Address, Credential, Form, Request};
use super::setup::{LIMITS, NETWORKS, give, owners, set};
use super::world::{Event, World};

/// The keys of a flood: more than a worker looks up at once, and more than may wait for a turn.
const FLOOD: u64 = 300;

/// A flood takes more of a run's time than all else.
const CROWDS: [Crowd; 5] = [
    Crowd::OneKey,
    Crowd::OneKey,
    Crowd::ManySecrets,
    Crowd::ManySecrets,
    Crowd::ManyUnknown,
];

#[derive(Clone, Copy)]
enum Crowd {
    OneKey,
    ManySecrets,
    /// Keys that nobody has, each from an address of its own.
    ManyUnknown,
}

/// The requests of one moment: some, most with the same key, at any node and worker.
pub fn burst(world: &mut World) -> Vec<Request> {
    let dice = &mut world.dice;
    // A few keys are used often, and most of them seldom.
    let key = dice.below(KEYS).min(dice.below(KEYS));
    // Seldom a crowd: with one key, or with many secrets for one id.
    let crowd = dice.chance(0.01).then(|| dice.pick(&CROWDS));
    let size = match crowd {
        None => dice.pick(&[1, 1, 1, 2, 5]),
        Some(Crowd::OneKey | Crowd::ManySecrets) => 80,
        Some(Crowd::ManyUnknown) => FLOOD,
    };
    // A flood goes to one worker, and while it lasts nobody can be sure of a turn.
    let flooded = matches!(crowd, Some(Crowd::ManyUnknown)).then(|| place(world));
    if flooded.is_some() {
        world.calm_since = world.calm_since.map(|since| since.max(world.now));
    }
    (0..size)
        .map(|at| {
            let (node, worker, route) = flooded.unwrap_or_else(|| place(world));
            let dice = &mut world.dice;
            let credential = match crowd {
                None => credential(dice, key),
                Some(Crowd::OneKey) => Credential::Key(key),
                Some(Crowd::ManySecrets) => Credential::WrongSecret(key, at),
                Some(Crowd::ManyUnknown) => Credential::Unknown(1000 + at),
            };
            let form = dice.pick(&Form::ALL);
            let after = dice.pick(&[1, 10, 100, 1000]);
            let hangs_up = world.faults.hits(Fault::HangUp, dice);
            let id = world.next_request();
            Request {
                id,
                node,
                worker,
                route,
                credential,
                form,
                from: address(world, id, flooded.is_some()),
                hangs_up_after: hangs_up.then_some(after),
            }
        })
        .collect()
}

/// Any node, one of its workers, and a route.
fn place(world: &mut World) -> (usize, usize, usize) {
    let dice = &mut world.dice;
    let node = dice.below(world.nodes.len());
    let worker = dice.below(world.nodes[node].workers.len());
    (node, worker, dice.below(world.routes.len()))
}

fn address(world: &mut World, id: u64, flood: bool) -> Address {
    match world.dice.below(4) {
        _ if flood => Address::Own(id),
        0 => Address::Own(id),
        1 => Address::Untold,
        number => Address::Shared(number as u8),
    }
}

fn credential(dice: &mut Dice, key: usize) -> Credential {
    let (other, secret) = (dice.below(KEYS), dice.range(1, 3));
    match dice.below(21) {
        0..13 => Credential::Key(key),
        13 => Credential::WrongSecret(key, secret),
        14 => Credential::Unknown(secret),
        15 => Credential::Malformed,
        16 => Credential::Bearer,
        17 if other != key => Credential::Two(key, other),
        18 => Credential::InCookieAlone(key),
        19 if other != key => Credential::AndAnother(key, other),
        _ => Credential::Nothing,
    }
}

/// One thing that happens beside the requests: an edit, or a fault.
pub fn happen(world: &mut World) {
    if world.dice.chance(0.6) {
        edit(world);
    }
    for fault in [
        Fault::ClockForwards,
        Fault::ClockBackwards,
        Fault::WorkerCrash,
        Fault::NodeRestart,
        Fault::Eviction,
        Fault::ForeignWrite,
        Fault::Outage,
        Fault::TokensRevoked,
        Fault::RoleLost,
    ] {
        if world.faults.hits(fault, &mut world.dice) {
            strike(world, fault);
        }
    }
}

/// An administrator changes something in a realm.
fn edit(world: &mut World) {
    let at = world.dice.below(world.realms.len());
    let fate = event_fate(world);
    let (dice, now) = (&mut world.dice, UnixMillis(world.now));
    let realm = &mut world.realms[at];
    let (number, action, hash) = (dice.below(KEYS), dice.below(18), dice.pick(&keys::HASHES));
    let grace = dice.pick(&[0, 2_000, 30_000]);
    let (limit, networks) = (dice.pick(&LIMITS), dice.pick(&NETWORKS));
    let off_ms = dice.pick(&[3_000, 10_000, 25_000]);
    let (limit, networks) = (
        dice.chance(0.8).then_some(limit),
        dice.chance(0.7).then_some(networks),
    );
    let (names, key) = (owners(at), &keys::ALL[number]);
    let end = realm.ends[number];
    let holder = holder(&realm.keycloak.users, number);
    let any = names[dice.below(names.len())].clone();
    let keycloak = &mut realm.keycloak;
    let changed = [holder.clone(), Some(any.clone())];
    let what = match (action, holder) {
        (0, Some(owner)) => {
            keycloak.edit(&owner, now, fate, |user| user.remove_key(&key.id));
            format!("revokes key {number} of {owner}")
        }
        (1, _) => {
            keycloak.edit(&any, now, fate, |user| user.enabled = false);
            format!("disables {any}")
        }
        (2, _) => {
            keycloak.edit(&any, now, fate, |user| user.enabled = true);
            format!("enables {any}")
        }
        (3, _) => {
            keycloak.edit(&any, now, fate, |user| match user.is_linked() {
                true => user.unlink(),
                false => user.link(),
            });
            format!("links or unlinks {any}")
        }
        (4, _) if keycloak.delete(&any, now, fate).is_some() => format!("deletes {any}"),
        (4, _) => {
            keycloak.create(User::new(&any), now, fate);
            format!("creates {any}")
        }
        (5, Some(owner)) => {
            let value = key_value(&key.id, &key.hashes[hash]);
            let mark = format!("key:{}:", key.id);
            keycloak.edit(&owner, now, fate, |user| {
                let values = user.attributes.entry("apiKeys".into()).or_default();
                values.retain(|value| !value.starts_with(&mark));
                values.push(value);
            });
            format!("hashes key {number} anew")
        }
        (6, Some(owner)) => {
            keycloak.edit(&owner, now, fate, |user| user.remove_key(&key.id));
            keycloak.edit(&any, now, fate, |user| give(user, number, hash, end));
            format!("moves key {number} from {owner} to {any}")
        }
        (7, Some(owner)) => {
            let until = now.plus_ms(grace);
            let attribute = Field::GraceUntil.attribute(&key.id);
            keycloak.edit(&owner, now, fate, |user| {
                user.attributes.insert(attribute, vec![until.to_rfc3339()]);
            });
            world.look_again_at(until.as_seconds() * 1000, at);
            format!("ends key {number} in {grace} ms")
        }
        (8, Some(owner)) if owner != any => {
            keycloak.edit(&any, now, fate, |user| {
                let values = user.attributes.entry("apiKeyIndex".into()).or_default();
                values.push(index_value(&key.id));
            });
            format!("gives the index of key {number} to {any} as well")
        }
        (9..=11, Some(owner)) => {
            keycloak.edit(&owner, now, fate, |user| {
                set(user, number, Field::Disabled, Some("true"))
            });
            let on = Event::SwitchOn {
                realm: at,
                key: number,
            };
            world.push(world.now + off_ms, on);
            format!("switches key {number} of {owner} off")
        }
        (12..=15, Some(owner)) => {
            keycloak.edit(&owner, now, fate, |user| {
                set(user, number, Field::RateLimit, limit)
            });
            format!("limits key {number} of {owner} to {limit:?}")
        }
        (16.., Some(owner)) => {
            let field = Field::AllowedAddresses;
            keycloak.edit(&owner, now, fate, |user| set(user, number, field, networks));
            format!("binds key {number} of {owner} to {networks:?}")
        }
        (_, None) => {
            keycloak.edit(&any, now, fate, |user| give(user, number, hash, end));
            format!("gives key {number} to {any}")
        }
        _ => "thinks about it".to_owned(),
    };
    world.note(format_args!("an administrator of realm {at} {what}"));
    world.look(at);
    if action >= 9 {
        try_key(world, at, number);
    }
    for owner in changed.into_iter().flatten() {
        if world.dice.chance(0.3) {
            world.tell(at, &owner);
        }
    }
}

/// A key that was switched off is switched on again, if it is still there.
pub fn switch_on(world: &mut World, realm: usize, number: usize) {
    let fate = event_fate(world);
    let keycloak = &mut world.realms[realm].keycloak;
    let Some(owner) = holder(&keycloak.users, number) else {
        return;
    };
    keycloak.edit(&owner, UnixMillis(world.now), fate, |user| {
        set(user, number, Field::Disabled, None)
    });
    world.note(format_args!(
        "an administrator of realm {realm} switches key {number} of {owner} on"
    ));
    world.look(realm);
    try_key(world, realm, number);
}

/// Clients go on to use a key that was changed.
fn try_key(world: &mut World, realm: usize, key: usize) {
    let routes = (0..world.routes.len()).filter(|route| world.routes[*route].realm == realm);
    let routes: Vec<usize> = routes.collect();
    if routes.is_empty() {
        return;
    }
    for _ in 0..8 {
        let (node, worker, _) = place(world);
        let (route, after) = (world.dice.pick(&routes), world.dice.range(0, 20_000));
        let probe = Event::Probe {
            node,
            worker,
            route,
            key,
        };
        world.push(world.now + after, probe);
    }
}

fn holder(users: &[User], number: usize) -> Option<String> {
    let index = index_value(&keys::ALL[number].id);
    let mut holders = users.iter().filter(|user| {
        let values = user.attributes.get("apiKeyIndex").into_iter().flatten();
        values.into_iter().any(|value| *value == index)
    });
    holders.next().map(|user| user.id.clone())
}

fn event_fate(world: &mut World) -> EventFate {
    let late = world.dice.range(1, 60_000);
    let mut hits = |fault| world.faults.hits(fault, &mut world.dice);
    match [Fault::EventLost, Fault::EventLate, Fault::EventTwice].map(&mut hits) {
        [true, ..] => EventFate::Lost,
        [_, true, _] => EventFate::Late(late),
        [_, _, true] => EventFate::Twice,
        _ => EventFate::Shown,
    }
}

fn strike(world: &mut World, fault: Fault) {
    let now = world.now;
    let node = world.dice.below(world.nodes.len());
    let worker = world.dice.below(world.nodes[node].workers.len());
    let realm = world.dice.below(world.realms.len());
    let step = world.dice.pick(&[300, 5_000, 100_000, 86_400_000]);
    let lasts = world.dice.pick(&[100, 3_000, 30_000]);
    match fault {
        Fault::ClockForwards => world.nodes[node].set_clock(now, step),
        Fault::ClockBackwards => world.nodes[node].set_clock(now, -step),
        Fault::WorkerCrash => world.crash(node, Some(worker)),
        Fault::NodeRestart => world.crash(node, None),
        Fault::Eviction => world.nodes[node].data.evict(),
        Fault::ForeignWrite => world.nodes[node].data.write_over(&mut world.dice),
        Fault::Outage => world.realms[realm].down_until = now + lasts as u64,
        Fault::TokensRevoked => world.realms[realm].keycloak.revoke_tokens(),
        Fault::RoleLost => {
            let realm = &mut world.realms[realm];
            if realm.role_back_at == u64::MAX {
                realm.role_lost_at = now;
            }
            realm
                .keycloak
                .management_roles
                .retain(|role| *role != "view-users");
            realm.role_back_at = now + lasts as u64;
        }
        _ => {}
    }
    world.note(format_args!(
        "fault {} at node {node}, worker {worker}, realm {realm}",
        fault.name()
    ));
}
