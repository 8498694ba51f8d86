//! Holds rules, alerts and dashboard to the metrics that there are.
//!
//! An expression with a name that nothing has is no error to Prometheus: it gives nothing,
//! and an alert of it never fires. So each name and each label of theirs is looked up in
//! `docs/metrics.md`, which another test holds to the code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

#[path = "model/metrics.rs"]
mod metrics;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Labels that Prometheus and the exporters of `observe/` give.
const OTHERS: [&str; 3] = ["job", "instance", "le"];
/// What `observe/expiring.sh` writes, with its labels.
const EXPIRING: [(&str, &[&str]); 2] = [
    ("apikey_expiring_keys", &["realm", "within_days"]),
    ("apikey_expiring_checked_timestamp_seconds", &["realm"]),
];

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

/// Each series that may be named, with its labels.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    for (name, listed) in metrics::listed() {
        let labels: BTreeSet<String> = listed.labels.into_keys().collect();
        if listed.kind == "histogram" {
            for part in ["bucket", "sum", "count"] {
                known.insert(format!("{name}_{part}"), labels.clone());
            }
        } else {
            known.insert(name, labels);
        }
    }
    for (name, labels) in EXPIRING {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        known.insert(name.to_owned(), labels);
    }
    for (record, _) in rules().iter().filter_map(recorded) {
        // What it is by, besides job and instance.
        let labels = ["code", "way", "endpoint"].map(str::to_owned);
        known.insert(record, labels.into_iter().collect());
    }
    known
}

fn rules() -> Vec<Value> {
    let rules: Value = serde_norway::from_str(&file("observe/rules.yml")).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    groups
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

fn recorded(rule: &Value) -> Option<(String, String)> {
    let record = rule["record"].as_str()?.to_owned();
    Some((record, rule["expr"].as_str()?.to_owned()))
}

/// All expressions of the rules and of the dashboard.
fn expressions() -> Vec<String> {
    let rules = rules();
    let mut expressions: Vec<String> = rules
        .iter()
        .map(|rule| rule["expr"].as_str().unwrap().to_owned())
        .collect();
    let dashboard: Value = serde_json::from_str(&file("observe/dashboard.json")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            expressions.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"].as_str().unwrap();
        expressions.extend(query.strip_prefix("label_values(").map(str::to_owned));
    }
    expressions
}

/// The words of an expression, outside of its quoted texts.
fn words(expression: &str) -> Vec<String> {
    let bare: Vec<&str> = expression.split('"').step_by(2).collect();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    bare.join(" ")
        .split(|c| !is_word(c))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_expression_names_series_and_labels_that_exist() {
    let known = known();
    // What PromQL and Grafana bring.
    let language = [
        "sum",
        "max",
        "by",
        "on",
        "rate",
        "increase",
        "time",
        "and",
        "or",
        "unless",
        "up",
        "histogram_quantile",
        "m",
        "job",
        "instance",
    ];
    for expression in expressions() {
        let words = words(&expression);
        let series: Vec<_> = words
            .iter()
            .filter(|word| word.starts_with("apikey"))
            .collect();
        assert!(!series.is_empty(), "{expression}");
        let mut labels: BTreeSet<&str> = OTHERS.into_iter().chain(language).collect();
        for series in series {
            let of_it = known.get(series);
            let of_it = of_it.unwrap_or_else(|| panic!("no series {series}: {expression}"));
            labels.extend(of_it.iter().map(String::as_str));
        }
        for word in words.iter().filter(|word| !word.starts_with("apikey")) {
            assert!(
                labels.contains(word.as_str()),
                "no label {word}: {expression}"
            );
        }
    }
}

#[test]
fn every_value_that_an_expression_compares_a_label_with_exists() {
    let listed = metrics::listed();
    let values: BTreeSet<&String> = listed
        .values()
        .flat_map(|listed| listed.labels.values().flatten())
        .collect();
    for expression in expressions() {
        for text in expression.split('"').skip(1).step_by(2) {
            for value in text.split('|').filter(|value| !value.starts_with('$')) {
                assert!(
                    values.contains(&value.to_owned()),
                    "no {value}: {expression}"
                );
            }
        }
    }
}

#[test]
fn every_metric_that_is_documented_is_on_the_dashboard() {
    let dashboard = file("observe/dashboard.json");
    for name in metrics::listed()
        .keys()
        .filter(|name| *name != "apikey_exchanges_total")
    {
        assert!(dashboard.contains(name.as_str()), "{name}");
    }
}

#[test]
fn every_alert_says_what_to_do_and_is_tested() {
    let tests = file("observe/rules.test.yml");
    for rule in rules().iter().filter(|rule| rule["alert"].is_string()) {
        let name = rule["alert"].as_str().unwrap();
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].is_string(), "{name}: {text}");
        }
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name}");
    }
}
