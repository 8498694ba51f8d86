//! The audit log: one line for each refusal and for each exchange that no cache
//! answered.

use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::keys::{id_of, key, other_secret, owner, plain_owner};
use crate::node::BOTH;

/// The lines so far.
fn lines(gateway: &Gateway) -> Vec<Value> {
    let node = gateway.node.borrow();
    let lines = node.logs.iter().filter_map(|line| {
        let json = line.split_once(r#"{"event":"exchange""#)?.1;
        let json = format!(r#"{{"event":"exchange"{json}"#);
        Some(serde_json::from_str(&json).expect("a line of JSON"))
    });
    lines.collect()
}

#[test]
fn each_exchange_and_each_refusal_has_a_line_and_a_hit_has_none() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.node.borrow_mut().address = Some("192.0.2.7".to_owned());
        gateway.ask(&key(1)).subject();
        for _ in 0..50 {
            gateway.ask(&key(1)).subject();
        }
        gateway.ask(&key(2)).expect_invalid();
        gateway.ask("nonsense").expect_invalid();
        gateway
            .ask_with(&[])
            .expect_refusal(401, "missing_credentials");
        let lines = lines(&gateway);
        let outcomes: Vec<_> = lines.iter().map(|line| &line["outcome"]).collect();
        assert_eq!(outcomes, ["exchanged", "refused", "refused", "refused"]);
        let first = &lines[0];
        assert_eq!(first["source"], "first_use");
        assert_eq!(first["key_id"], id_of(&key(1)));
        assert_eq!(first["route"], "orders");
        assert_eq!(first["source_address"], "192.0.2.7");
        assert!(first["owner"].is_string());
        assert_eq!(lines[1]["reason"], "unknown key");
        assert_eq!(lines[1]["code"], "invalid_api_key");
        assert_eq!(lines[3]["reason"], "no credentials");
    }
}

#[test]
fn so_many_of_a_thousand_hits_have_a_line() {
    for profile in BOTH {
        for (per_1000, expected) in [(0, 0), (100, 20), (1000, 200)] {
            let mut gateway = Gateway::with(
                profile,
                vec![plain_owner("alice", &key(1))],
                &json!({ "audit_hits_per_1000": per_1000 }),
            );
            gateway.ask(&key(1)).subject();
            for _ in 0..200 {
                gateway.ask(&key(1)).subject();
            }
            let lines = lines(&gateway);
            let hits = lines.iter().filter(|line| line["source"] == "l1");
            assert_eq!(hits.count(), expected, "{per_1000}");
            let hits = lines.iter().filter(|line| line["source"] == "l1");
            assert!(hits.clone().all(|line| line["key_id"] == id_of(&key(1))));
            assert!(hits.clone().all(|line| line["owner"].is_string()));
        }
    }
}

#[test]
fn a_refusal_names_the_owner_where_the_key_was_found() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        gateway.ask(&other_secret(&key(1), 7)).expect_invalid();
        let lines = lines(&gateway);
        assert_eq!(lines[0]["reason"], "wrong secret");
        assert!(lines[0]["owner"].is_string());
    }
}

/// The lines with a worker's requests by key.
fn counts(gateway: &Gateway) -> Vec<Value> {
    let node = gateway.node.borrow();
    let lines = node.logs.iter().filter_map(|line| {
        let from = line.find(r#"{"event":"usage""#)?;
        Some(serde_json::from_str(&line[from..]).expect("a line of JSON"))
    });
    lines.collect()
}

#[test]
fn each_worker_counts_its_requests_and_tells_each_key_once_a_minute() {
    for profile in BOTH {
        let users = vec![plain_owner("alice", &key(1)), plain_owner("bob", &key(2))];
        let mut gateway = Gateway::with(profile, users, &json!({ "usage": true }));
        let second = gateway.add_worker();
        for _ in 0..5 {
            gateway.ask(&key(1)).subject();
        }
        gateway.ask(&key(2)).subject();
        gateway.ask(&key(3)).expect_invalid();
        gateway.ask_worker(second, &key(1)).subject();
        assert_eq!(counts(&gateway).len(), 0);
        gateway.pass_ticking(61_000);
        let lines = counts(&gateway);
        let of = |key_id: Value, name: &str| -> Vec<Value> {
            let lines = lines.iter().filter(|line| line["key_id"] == key_id);
            let counts = lines.map(|line| line[name].clone());
            counts.filter(|count| !count.is_null()).collect()
        };
        assert_eq!(lines.len(), 4, "{lines:?}");
        let alice = json!(id_of(&key(1)));
        assert_eq!(of(alice.clone(), "first_use"), [1]);
        assert_eq!(of(alice, "hit"), [4, 1]);
        assert_eq!(of(json!(id_of(&key(2))), "first_use"), [1]);
        assert_eq!(of(Value::Null, "invalid_api_key"), [1]);
        assert!(lines.iter().all(|line| line["realm"] == "demo"));
        gateway.pass_ticking(61_000);
        assert_eq!(counts(&gateway).len(), 4, "told once");
    }
}
