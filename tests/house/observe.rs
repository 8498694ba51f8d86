//! Holds the way from the filter's metrics to Prometheus, and its rules, alerts and dashboard.
//!
//! A host makes labels of parts of a metric's name, by patterns that stand in Kong's meta file and
//! in Envoy's configuration. They follow from the catalog; so do the metrics that Kong shows, which
//! `scripts/observe.sh` gives to Prometheus.
//!
//! An expression with an unknown name is no error to Prometheus: it gives nothing, and an alert of
//! it never fires. So each name and each label of theirs is looked up in `docs/metrics.md`, which
//! another test holds to the code.

mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use apikeys_core::metrics::catalog::{COUNTED, Family, GAUGES, Kind};
use hosts::{Patterns, Series};
use regex::Regex;
use serde_json::Value;
use test_kit::metrics;
use test_kit::repository::read as file;

/// Before the names of the filter's metrics, on Kong.
const ON_KONG: &str = "pw_apikey_jwt_exchange_";

/// Labels that Prometheus and the exporters of `observe/` give.
const OTHERS: [&str; 3] = ["job", "instance", "le"];
/// The metrics that `deploy/observe/expiring.sh` writes, with their labels.
const EXPIRING: [(&str, &[&str]); 2] = [
    ("apikey_expiring_keys", &["realm", "within_days"]),
    ("apikey_expiring_checked_timestamp_seconds", &["realm"]),
];

/// Each series that an expression may name, with its labels.
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
        // Its labels, besides job and instance.
        let labels = ["code", "way", "endpoint"].map(str::to_owned);
        known.insert(record, labels.into_iter().collect());
    }
    known
}

fn rules() -> Vec<Value> {
    let rules: Value = serde_norway::from_str(&file("deploy/observe/rules.yml")).unwrap();
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
    let dashboard: Value = serde_json::from_str(&file("deploy/observe/dashboard.json")).unwrap();
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

/// The families of the catalog.
fn families() -> impl Iterator<Item = &'static Family> {
    COUNTED.iter().chain(&GAUGES)
}

/// The labels of a family, in their order within its names.
fn labels_of(family: &Family) -> Vec<&'static str> {
    let labels = family.labels.iter().map(|(label, _)| *label);
    match family.kind {
        Kind::Histogram(_) => labels.chain(["le"]).collect(),
        Kind::Counter | Kind::Gauge(_) => labels.collect(),
    }
}

/// All labels of the catalog; `le` is every family's last.
fn all_labels() -> Vec<&'static str> {
    let mut all = Vec::new();
    for label in families().flat_map(labels_of) {
        if label != "le" && !all.contains(&label) {
            all.push(label);
        }
    }
    all.push("le");
    all
}

/// The form of a label and its value within a name.
fn pattern(label: &str) -> String {
    format!("(__{label}_([a-z0-9-]+(?:_[a-z0-9-]+)*))")
}

/// The members `label` and `pattern` of each item of a list.
fn patterns(list: &Value, label: &str, pattern: &str) -> Vec<(String, String)> {
    let list = list.as_array().expect("a list of patterns").iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    list.map(|one| (text(&one[label]), text(&one[pattern])))
        .collect()
}

fn kongs_patterns() -> Vec<(String, String)> {
    let meta = file("kong/apikey_jwt_exchange.meta.json");
    let meta: Value = serde_json::from_str(&meta).unwrap();
    patterns(&meta["metrics"]["label_patterns"], "label", "pattern")
}

fn envoys_patterns() -> Vec<(String, String)> {
    let text = file("deploy/envoy/envoy.yaml");
    // The other parts of the file are a template, and no YAML yet.
    let (_, stats) = text.split_once("\nstats_config:\n").expect("stats_config");
    let (stats, _) = stats.split_once("\n\n").expect("a next part");
    let stats: Value = serde_norway::from_str(stats).unwrap();
    patterns(&stats["stats_tags"], "tag_name", "regex")
}

/// Each metric of the hosts with its kind there; a histogram is several counters.
fn metrics_of_hosts() -> Vec<(String, &'static str)> {
    let of_family = |family: &Family| {
        let kind = match family.kind {
            Kind::Counter | Kind::Histogram(_) => "counter",
            Kind::Gauge(_) => "gauge",
        };
        let names = family.names().into_iter();
        names.map(move |name| (name, kind)).collect::<Vec<_>>()
    };
    families().flat_map(of_family).collect()
}

/// The series of a family in Prometheus, in the order of its names at the host. The upper ends of
/// buckets stay in microseconds.
fn series(family: &Family) -> Vec<Series> {
    let mut combinations = vec![Vec::new()];
    for (label, values) in family.labels {
        let with = |so_far: &Vec<(String, String)>, value: &str| {
            let mut labels = so_far.clone();
            labels.push(((*label).to_owned(), value.to_owned()));
            labels
        };
        combinations = combinations
            .iter()
            .flat_map(|so_far| values.iter().map(move |value| with(so_far, value)))
            .collect();
    }
    let Kind::Histogram(ends) = family.kind else {
        let name = family.name.to_owned();
        return combinations
            .into_iter()
            .map(|labels| (name.clone(), labels))
            .collect();
    };
    let ends = ends.iter().map(u64::to_string).chain(["inf".to_owned()]);
    let ends: Vec<String> = ends.collect();
    let mut series = Vec::new();
    for labels in combinations {
        for end in &ends {
            let mut labels = labels.clone();
            labels.push(("le".to_owned(), end.clone()));
            series.push((format!("{}_bucket", family.name), labels));
        }
        series.push((format!("{}_sum", family.name), labels.clone()));
        series.push((format!("{}_count", family.name), labels));
    }
    series
}

/// The same with the upper ends converted from Prometheus' seconds to microseconds.
fn read(series: Series) -> Series {
    let (name, mut labels) = series;
    for (label, value) in &mut labels {
        if label == "le" && value != "inf" {
            let seconds: f64 = value.parse().expect("a number");
            *value = format!("{:.0}", seconds * 1e6);
        }
    }
    (name, labels)
}

#[test]
fn the_patterns_of_both_hosts_are_those_of_the_catalogs_labels() {
    let labels = all_labels();
    for family in families() {
        let places = labels_of(family).into_iter().map(|label| {
            let at = labels.iter().position(|known| *known == label);
            at.expect("a known label")
        });
        // Kong looks for a label behind the one before it.
        assert!(places.is_sorted(), "{}", family.name);
    }
    let kongs = labels
        .iter()
        .map(|label| ((*label).to_owned(), pattern(label)));
    assert_eq!(kongs_patterns(), kongs.collect::<Vec<_>>());
    let envoys = labels.iter().map(|label| {
        // A `__code_x` of another module is not ours.
        let pattern = [r"^wasmcustom\.apikey_.*?", &pattern(label)].concat();
        ((*label).to_owned(), pattern)
    });
    assert_eq!(envoys_patterns(), envoys.collect::<Vec<_>>());
}

#[test]
fn both_hosts_show_each_metric_with_its_familys_name_and_labels() {
    let (kong, envoy) = (kongs_patterns(), envoys_patterns());
    let (kong, envoy) = (Patterns::new(&kong), Patterns::new(&envoy));
    for family in families() {
        let (names, expected) = (family.names(), series(family));
        assert_eq!(names.len(), expected.len());
        for (metric, expected) in names.iter().zip(expected) {
            let (name, labels) = expected.clone();
            let on_kong = (format!("{ON_KONG}{name}"), labels);
            assert_eq!(read(kong.on_kong(metric)), on_kong, "{metric}");
            assert_eq!(read(envoy.on_envoy(metric)), expected, "{metric}");
        }
    }
}

#[test]
fn kong_shows_names_and_labels_that_prometheus_takes() {
    let patterns = Patterns::new(&kongs_patterns());
    let name_is = Regex::new("^[a-zA-Z_:][a-zA-Z0-9_:]*$").unwrap();
    let label_is = Regex::new("^[a-zA-Z_][a-zA-Z0-9_]*$").unwrap();
    for (metric, _) in metrics_of_hosts() {
        let (name, labels) = patterns.on_kong(&metric);
        assert!(name_is.is_match(&name), "{name}");
        for (label, value) in labels {
            assert!(label_is.is_match(&label), "{label} of {name}");
            assert!(!value.contains(['"', '\\', '\n']), "{value} of {name}");
        }
    }
}

#[test]
fn what_prometheus_is_given_to_read_is_what_kong_shows() {
    let shown = Patterns::new(&kongs_patterns()).kong_scrape(&metrics_of_hosts());
    let kept = "tests/observe/kong.prom";
    if file(kept) != shown {
        let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kong.prom");
        fs::write(&fresh, shown).unwrap();
        panic!("metrics have changed: copy {} to {kept}", fresh.display());
    }
}

#[test]
fn every_expression_names_series_and_labels_that_exist() {
    let known = known();
    // Words of PromQL and Grafana.
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
    let dashboard = file("deploy/observe/dashboard.json");
    for name in metrics::listed()
        .keys()
        .filter(|name| *name != "apikey_exchanges_total")
    {
        assert!(dashboard.contains(name.as_str()), "{name}");
    }
}

#[test]
fn every_alert_says_what_to_do_and_is_tested() {
    let tests = file("deploy/observe/rules.test.yml");
    for rule in rules().iter().filter(|rule| rule["alert"].is_string()) {
        let name = rule["alert"].as_str().unwrap();
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].is_string(), "{name}: {text}");
        }
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name}");
    }
}
