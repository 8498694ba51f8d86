//! The audit log, as a gateway writes it.

use std::fs;
use std::process::Command;

use regex::Regex;
use serde_json::Value;

use crate::client::Request;
use crate::gateway::{Gateway, Spec};
use crate::owner::Key;
use crate::wait;
use crate::world::{Case, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("audit::each_line_is_of_the_schema", schema),
        Case::new("audit::keycloaks_events_name_the_same_key", events),
        Case::new("audit::the_requests_of_a_key_add_up", usage),
    ]
    .into_iter()
    .map(|case| case.needs(Need::OwnGateway))
    .collect()
}

/// The audit lines so far, extracted as the docs say: the first object of a line, without
/// a quote before it except around the filter's name.
fn lines(gateway: &Gateway<'_>) -> Vec<Value> {
    let line = r#"(?m)^[^{"\n]*(?:\["[^"]*" #[0-9]+\] )?(\{"event":"exchange"[^}]*\})"#;
    let line = Regex::new(line).expect("a pattern");
    let text = gateway.log.text();
    let found = line.captures_iter(&text);
    found
        .map(|found| serde_json::from_str(&found[1]).expect("JSON"))
        .collect()
}

/// Waits for the line of a request.
#[track_caller]
fn line_of(gateway: &Gateway<'_>, key_id: &str) -> Value {
    wait::until("a line", std::time::Duration::from_secs(10), || {
        let of_key = |line: &Value| line["key_id"] == key_id;
        lines(gateway).into_iter().find(of_key).ok_or(String::new())
    })
}

fn schema(world: &World) {
    let gateway = world.start_gateway(&Spec::default().field("audit_hits_per_1000", 1000));
    let (_owner, key) = world.owner();
    for _ in 0..3 {
        assert_eq!(gateway.target.orders(&key.text).status, 200);
    }
    let unknown = Key::random();
    gateway.target.orders(&unknown.text).invalid_api_key();
    let forged = "x\",\"}{\"event\":\"exchange\",\"outcome\":\"forged\"";
    for name in ["x-api-key", "x-request-id", "traceparent", "user-agent"] {
        let request = Request::orders().header(name, forged);
        assert!((400..402).contains(&gateway.target.send(&request).status));
    }
    line_of(&gateway, &unknown.id);
    let path = test_kit::repository::path("docs/audit.schema.json");
    let schema = fs::read_to_string(path).expect("the schema");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let schema = jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("a schema");
    let lines = wait::until("all lines", std::time::Duration::from_secs(10), || {
        let lines = lines(&gateway);
        (lines.len() >= 8).then_some(lines).ok_or(String::new())
    });
    for line in &lines {
        let faults: Vec<String> = schema
            .iter_errors(line)
            .map(|fault| fault.to_string())
            .collect();
        assert!(faults.is_empty(), "{line}: {faults:?}");
    }
    let hits = lines.iter().filter(|line| line["source"] == "l1");
    assert_eq!(hits.count(), 2);
    assert!(
        lines
            .iter()
            .all(|line| line["source_address"] != Value::Null)
    );
    assert!(!gateway.log.text().contains(r#""outcome":"forged""#));
}

/// Of all workers, as the tool adds them up.
fn usage(world: &World) {
    let spec = Spec::default().field("usage", true).workers(2);
    let gateway = world.start_gateway(&spec);
    let (_owner, key) = world.owner();
    for _ in 0..20 {
        assert_eq!(gateway.target.orders(&key.text).status, 200);
    }
    gateway.target.orders(&Key::random().text).invalid_api_key();
    let log = std::env::temp_dir().join(format!("apikeys-usage-{}.log", key.id));
    let sums = || -> Value {
        fs::write(&log, gateway.log.text()).expect("a log");
        let mut tool = Command::new(crate::tool::path());
        let run = tool.args(["usage", "--output", "json", "--log"]).arg(&log);
        serde_json::from_slice(&run.output().expect("the tool").stdout).expect("JSON")
    };
    let deadline = std::time::Duration::from_secs(90);
    wait::until("the minute's lines of all workers", deadline, || {
        let told = sums();
        let outcomes = told["keys"][0]["outcomes"].as_object();
        let outcomes = outcomes.into_iter().flatten();
        let all: u64 = outcomes.filter_map(|(_, count)| count.as_u64()).sum();
        let other = &told["other"]["invalid_api_key"];
        (all == 20 && *other == 1)
            .then_some(())
            .ok_or(told.to_string())
    });
    assert_eq!(sums()["keys"][0]["key_id"], key.id);
    let _ = fs::remove_file(&log);
}

fn events(world: &World) {
    let gateway = world.start_gateway(&Spec::default());
    let (owner, key) = world.owner();
    assert_eq!(gateway.target.orders(&key.text).status, 200);
    let line = line_of(&gateway, &key.id);
    assert_eq!(line["owner"], owner.id);
    let route = match world.host.is_served() {
        true => "exchange",
        false => "orders",
    };
    assert_eq!(line["route"], route);
    let path = format!(
        "events?type=JWT_AUTHORIZATION_GRANT&user={}&max=100",
        owner.id
    );
    let events = world.keycloak.get(&path);
    let used = events
        .as_array()
        .expect("events")
        .iter()
        .filter_map(|event| {
            let id = event["details"]["client_assertion_id"].as_str()?;
            Some(id.split('.').next()?.to_owned())
        });
    assert_eq!(used.collect::<Vec<_>>(), [key.id]);
}
