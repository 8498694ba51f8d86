//! Twenty thousand owners of one key each.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::database::Stored;
use crate::expect::REALM;
use crate::owner::{Key, Owner, Record};
use crate::tool;
use crate::world::{World, number};

/// The first one, one in the middle, and the last one.
struct Many {
    owners: [Stored; 3],
    count: u64,
}

fn many(world: &World) -> &'static Many {
    static MANY: OnceLock<Many> = OnceLock::new();
    MANY.get_or_init(|| {
        let count = number("WRITES_OWNERS", 20_000);
        let began = Instant::now();
        let realm = REALM.get().expect("a realm");
        let stored = world
            .database
            .add_owners(realm, count, &[0, count / 2, count - 1]);
        println!(
            "\n    {count} owners were written in {:.1?}",
            began.elapsed()
        );
        let owners = <[Stored; 3]>::try_from(stored);
        let owners = owners.unwrap_or_else(|_| panic!("three of the owners"));
        Many { owners, count }
    })
}

/// The median time of a look-up by index.
fn look_up_time(world: &World, id: &str, owner_id: &str) -> Duration {
    let path = format!("users?briefRepresentation=false&max=2&q=apiKeyIndex%3A{id:.<288}");
    let mut times: Vec<Duration> = (0..60)
        .map(|_| {
            let began = Instant::now();
            let found = world.keycloak.get(&path);
            assert_eq!(found[0]["id"], json!(owner_id), "{id}");
            assert_eq!(found.as_array().map(Vec::len), Some(1));
            began.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

pub(crate) fn found(world: &'static World) {
    let key = Key::random();
    let owner = Owner::with(&world.keycloak, &[Record::sha256(&key)]);
    let few = look_up_time(world, &key.id, &owner.id);
    let many = many(world);
    let [first, middle, last] = &many.owners;
    let times = [first, middle, last].map(|owner| look_up_time(world, &owner.key.id, &owner.id));
    println!(
        "    a look-up takes {few:.1?} among few, {times:.1?} among {}",
        many.count
    );
}

pub(crate) fn exchanged(world: &'static World) {
    let [_, _, last] = &many(world).owners;
    for gateway in &world.gateways {
        let began = Instant::now();
        let orders = gateway.orders(&last.key.text).orders();
        assert_eq!(orders.subject, last.id);
        assert_eq!(orders.username, last.username);
        println!(
            "    the last one's key is exchanged in {:.1?}",
            began.elapsed()
        );
    }
}

pub(crate) fn managed(world: &'static World) {
    let [_, _, last] = &many(world).owners;
    let owner = ["--owner", last.username.as_str(), "--output", "json"];
    let run = |arguments: &[&str]| {
        let (status, document) = tool::run(world, &[arguments, &owner].concat()).unwrap();
        assert_eq!(status, 0, "{arguments:?}");
        document
    };
    let ids = || -> Vec<String> {
        let listed = run(&["list"]);
        let keys = listed["keys"].as_array().expect("keys").iter();
        keys.map(|key| key["key_id"].as_str().expect("an id").to_owned())
            .collect()
    };
    assert_eq!(ids(), std::slice::from_ref(&last.key.id));
    let made = run(&["create", "--name", "Another", "--hash-algorithm", "sha256"]);
    let (id, key) = (made["key_id"].as_str(), made["api_key"].as_str());
    let (id, key) = (id.expect("an id"), key.expect("a key"));
    assert_eq!(ids(), [id.to_owned(), last.key.id.clone()]);
    let orders = world.gateways[0].orders(key).orders();
    assert_eq!(orders.subject, last.id);
    run(&["revoke", id]);
    assert_eq!(ids(), std::slice::from_ref(&last.key.id));
}

pub(crate) fn reindexed(world: &'static World) {
    let many = many(world);
    let [_, middle, _] = &many.owners;
    world.keycloak.edit_user(&middle.id, |user| {
        user["attributes"]["apiKeyIndex"] = json!([]);
    });
    let began = Instant::now();
    let (status, document) = tool::run(world, &["reindex", "--all", "--output", "json"]).unwrap();
    println!(
        "    {} owners were gone through in {:.1?}",
        many.count,
        began.elapsed()
    );
    assert_eq!(status, 0, "{document}");
    let expected = json!([{
        "owner": middle.username, "indexed": [middle.key.id], "linked": false, "problems": [],
    }]);
    assert_eq!(document["owners"], expected);
    let orders = world.gateways[1].orders(&middle.key.text).orders();
    assert_eq!(orders.subject, middle.id);
}

pub(crate) fn looked_at(world: &'static World) {
    let many = many(world);
    let began = Instant::now();
    let (status, document) = tool::run(world, &["doctor", "--output", "json"]).unwrap();
    println!(
        "    {} owners were looked at in {:.1?}",
        many.count,
        began.elapsed()
    );
    let of_many = |finding: &&Value| finding.to_string().contains("many-");
    let findings = document["findings"].as_array().expect("findings");
    assert_eq!(findings.iter().find(of_many), None);
    assert!(document["looked_at"]["keys"].as_u64() >= Some(many.count));
    // Warnings about the demo's own keys are allowed.
    assert!([0, 4].contains(&status), "{document}");
}
