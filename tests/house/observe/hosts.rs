//! The ways of Kong and Envoy from a metric's name at the host to its labels in Prometheus.
//!
//! Kong: `kong/plugins/prometheus/wasmx.lua`, one text in 3.9.0 to 3.9.3, and the meta file beside the
//! wasm. A metric's key is `pw:<filter>:<name>`. Each pattern is searched from the end of the match
//! before it on, so patterns must stand in the order that labels have in names. The first group is cut
//! off the name and must end where the match ends; the second is the label's value.
//!
//! Envoy: `stats_config.stats_tags`. Each pattern is searched in the whole name; the first group is cut
//! out, the second is the label's value. It shows `wasmcustom.apikey_x` as `apikey_x`.

use std::collections::BTreeMap;
use std::fmt::Write;

use regex::Regex;

/// A name and its labels, in the host's order.
pub(crate) type Series = (String, Vec<(String, String)>);

/// Labels and where they are in a name.
pub(crate) struct Patterns(Vec<(String, Regex)>);

impl Patterns {
    pub(crate) fn new(patterns: &[(String, String)]) -> Self {
        let patterns = patterns.iter().map(|(label, pattern)| {
            let pattern = Regex::new(pattern).unwrap_or_else(|fault| panic!("{label}: {fault}"));
            (label.clone(), pattern)
        });
        Self(patterns.collect())
    }

    /// A filter's metric as Kong exports it.
    pub(crate) fn on_kong(&self, metric: &str) -> Series {
        let key = format!("pw:apikey_jwt_exchange:{metric}");
        let (mut name_ends, mut from, mut labels) = (key.len(), 0, Vec::new());
        for (label, pattern) in &self.0 {
            let Some(found) = pattern.captures_at(&key, from) else {
                continue;
            };
            from = found.get_match().end();
            name_ends = name_ends.min(from - found[1].len());
            labels.push((label.clone(), found[2].to_owned()));
        }
        (key[..name_ends].replace(':', "_"), labels)
    }

    /// The same as Envoy exports it.
    pub(crate) fn on_envoy(&self, metric: &str) -> Series {
        let whole = format!("wasmcustom.{metric}");
        let (mut cut, mut labels) = (Vec::new(), Vec::new());
        for (label, pattern) in &self.0 {
            if let Some(found) = pattern.captures(&whole) {
                cut.push(found.get(1).expect("a group").range());
                labels.push((label.clone(), found[2].to_owned()));
            }
        }
        let left = whole.char_indices();
        let left = left.filter(|(at, _)| !cut.iter().any(|range| range.contains(at)));
        let name: String = left.map(|(_, c)| c).collect();
        let name = name.strip_prefix("wasmcustom.").expect("a filter's metric");
        (name.to_owned(), labels)
    }

    /// All that Kong shows of metrics of these names and kinds, each with the value 1.
    pub(crate) fn kong_scrape(&self, metrics: &[(String, &str)]) -> String {
        let mut families: BTreeMap<String, (&str, String)> = BTreeMap::new();
        for (metric, kind) in metrics {
            let (name, labels) = self.on_kong(metric);
            let labels = labels
                .iter()
                .map(|(label, value)| format!(r#"{label}="{value}""#));
            let labels = labels.collect::<Vec<_>>().join(",");
            let labels = match labels.is_empty() {
                true => labels,
                false => format!("{{{labels}}}"),
            };
            let (_, lines) = families
                .entry(name.clone())
                .or_insert_with(|| (kind, String::new()));
            let _ = writeln!(lines, "{name}{labels} 1");
        }
        let mut text = String::new();
        for (name, (kind, lines)) in families {
            let _ = write!(text, "# HELP {name}\n# TYPE {name} {kind}\n{lines}");
        }
        text
    }
}
