//! Metrics, as Envoy shows them to Prometheus: those of `docs/metrics.md` and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Request, Target};
use crate::gateway::{Gateway, Spec};
use crate::metrics::{Listed, Scrape, listed};
use crate::owner::{Key, Record};
use crate::stack::free_ports;
use crate::wait;
use crate::world::{Case, Host, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("metrics::what_is_listed_is_there_and_nothing_else", all),
        Case::new("metrics::they_count_what_happened", counted),
        Case::new("metrics::gauges_are_those_of_all_workers", gauges),
        Case::new("metrics::prometheus_reads_the_demo", scraped),
    ]
    .into_iter()
    .map(|case| case.needs(Need::OwnEnvoy))
    .collect()
}

fn scrape(gateway: &Gateway<'_>) -> Scrape {
    Scrape::read(&gateway.admin("/stats/prometheus"))
}

/// Waits until a metric has this value.
#[track_caller]
fn expect(gateway: &Gateway<'_>, name: &str, labels: &[(&str, &str)], value: f64) {
    let what = format!("{name} {labels:?} is {value}");
    wait::until(&what, Duration::from_secs(20), || {
        match scrape(gateway).value(name, labels) {
            Some(found) if found == value => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
}

fn all(world: &World) {
    let spec = Spec::default().field("revocation_poll_seconds", 1);
    let gateway = world.start_gateway(&spec);
    let (_owner, key) = world.owner();
    assert_eq!(gateway.target.orders(&key.text).status, 200);
    let poll = "apikey_last_good_poll_timestamp_seconds";
    wait::until("a good poll", Duration::from_secs(20), || {
        let at = scrape(&gateway).value(poll, &[]);
        at.filter(|at| *at > 1.7e9)
            .map(|_| ())
            .ok_or(format!("{at:?}"))
    });
    let scrape = scrape(&gateway);
    let mut found: BTreeMap<String, Listed> = BTreeMap::new();
    for sample in scrape.samples.iter() {
        let (name, is_part) = match sample.name.strip_suffix("_bucket") {
            Some(name) => (name, true),
            None => (sample.name.as_str(), false),
        };
        let part_of = ["_sum", "_count"]
            .iter()
            .find_map(|part| name.strip_suffix(part))
            .filter(|name| name.ends_with("_seconds"));
        let is_part = is_part || part_of.is_some();
        let name = part_of.unwrap_or(name).to_owned();
        let listed = found.entry(name.clone()).or_default();
        listed.kind = match is_part {
            true => "histogram".to_owned(),
            false => scrape.kinds[&sample.name].clone(),
        };
        if is_part {
            assert_eq!(scrape.kinds[&sample.name], "counter");
        }
        for (label, value) in &sample.labels {
            if label != "le" {
                let values = listed.labels.entry(label.clone()).or_default();
                values.insert(value.clone());
            }
        }
    }
    assert_eq!(found, listed());
    let text = format!("{:?}", scrape.samples);
    assert!(!text.contains(&key.id) && !text.contains(&key.text));
}

fn counted(world: &World) {
    let gateway = world.start_gateway(&Spec::default());
    let key = Key::random();
    let _owner = world.owner_of(&[Record::bcrypt(&key, "2b", 10)]);
    for _ in 0..20 {
        assert_eq!(gateway.target.orders(&key.text).status, 200);
    }
    let unknown = Key::random();
    let answer = gateway
        .target
        .send(&Request::orders().api_key(&unknown.text));
    assert_eq!(answer.status, 401);
    let exchanges = "apikey_exchanges_total";
    expect(&gateway, exchanges, &[("source", "l1")], 19.0);
    expect(&gateway, exchanges, &[("source", "first_use")], 1.0);
    let code = [("code", "invalid_api_key")];
    expect(&gateway, "apikey_refusals_total", &code, 1.0);
    let grants = [("endpoint", "grant"), ("result", "ok")];
    expect(&gateway, "apikey_callouts_total", &grants, 1.0);
    let scrape = scrape(&gateway);
    let value = |name: &str, labels: &[(&str, &str)]| scrape.value(name, labels).expect(name);
    let first = [("way", "first_use")];
    let duration = "apikey_exchange_duration_seconds";
    assert_eq!(value(&format!("{duration}_count"), &first), 1.0);
    let within = |le: &str| value(&format!("{duration}_bucket"), &[first[0], ("le", le)]);
    assert_eq!((within("5e-5"), within("inf")), (0.0, 1.0));
    // bcrypt of cost 10 is 1024 rounds: in Wasm some at a time, in the module all of them on a separate thread.
    let slices = value("apikey_bcrypt_slice_duration_seconds_count", &[]);
    match world.host {
        Host::EnvoyModule => assert_eq!(slices, 1.0),
        _ => assert!(slices >= 20.0, "{slices}"),
    }
    let names: BTreeSet<_> = scrape.samples.iter().map(|sample| &sample.name).collect();
    assert!(names.iter().all(|name| name.starts_with("apikey_")));
}

fn gauges(world: &World) {
    let gateway = world.start_gateway(&Spec::default().workers(2));
    let (_owner, key) = world.owner();
    let workers = || {
        let connections = gateway.connections_by_worker();
        connections.iter().filter(|count| **count > 0).count()
    };
    wait::until("both workers serve", Duration::from_secs(30), || {
        assert_eq!(gateway.target.orders(&key.text).status, 200);
        (workers() == 2).then_some(()).ok_or(String::new())
    });
    // The module's workers share one memory.
    let entries = match world.host {
        Host::EnvoyModule => 1.0,
        _ => 2.0,
    };
    let tokens = [("cache", "tokens")];
    expect(&gateway, "apikey_cache_entries", &tokens, entries);
    expect(&gateway, "apikey_exchanges_pending", &[], 0.0);
    let check = [("check", "service_token")];
    expect(&gateway, "apikey_self_check_state", &check, 1.0);
}

/// Debian's Prometheus beside the suite's stack, as `make run OBSERVE=1` starts it.
fn scraped(world: &World) {
    let (_owner, key) = world.owner();
    world.gateway.orders(&key.text).orders();
    let (stack, port) = (world.stack(), free_ports(1)[0]);
    let script = |act: &str| {
        let mut script = stack.script("prometheus.sh", &[act]);
        script.env("PROMETHEUS_PORT", port.to_string());
        let output = script.env("PROMETHEUS_INTERVAL", "1s").output();
        let output = output.expect("scripts/prometheus.sh");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
    };
    script("start");
    let ask = |path: &str| {
        let answer = Target::local(port).send(&Request::root().at(path));
        assert_eq!(answer.status, 200, "{}", answer.describe());
        answer.json()["data"].clone()
    };
    // A counter, with its label; and the result of a rule, without it.
    for (name, source) in [
        ("apikey_exchanges_total", json!("first_use")),
        ("apikey:exchanges:rate5m", Value::Null),
    ] {
        wait::until(name, Duration::from_secs(60), || {
            let data = ask(&format!("/api/v1/query?query={name}"));
            let series = data["result"].as_array().expect("a list");
            let sources = series.iter().map(|one| &one["metric"]["source"]);
            let found = sources.filter(|found| **found == source).count();
            (found == 1).then_some(()).ok_or(data.to_string())
        });
    }
    let groups = ask("/api/v1/rules")["groups"].clone();
    let rules = groups.as_array().expect("groups").iter();
    let rules: Vec<_> = rules
        .flat_map(|group| group["rules"].as_array().expect("rules"))
        .collect();
    assert!(rules.len() >= 15, "{} rules", rules.len());
    let broken = rules.iter().filter(|rule| rule["health"] == "err");
    assert_eq!(broken.collect::<Vec<_>>(), Vec::<&&Value>::new());
    script("stop");
}
