//! A scrape of a gateway, as Prometheus reads it.

use std::collections::BTreeMap;

pub(crate) use test_kit::metrics::{Listed, listed};

/// One value.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    value: f64,
}

/// The filter's metrics, as a host shows them.
pub(crate) struct Scrape {
    /// The kind of each metric, from its `# TYPE` line.
    pub(crate) kinds: BTreeMap<String, String>,
    pub(crate) samples: Vec<Sample>,
}

impl Scrape {
    /// Reads Prometheus' text format; metrics of other origin than the filter are left
    /// out.
    pub(crate) fn read(text: &str) -> Self {
        let mut scrape = Self {
            kinds: BTreeMap::new(),
            samples: Vec::new(),
        };
        for line in text.lines() {
            // The module's names, as deploy/observe/prometheus.yml changes them.
            let line = &line.replacen("envoy_dynamicmodulescustom_", "", 1);
            if let Some(rest) = line.strip_prefix("# TYPE apikey_") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                let (name, kind) = (format!("apikey_{name}"), kind.to_owned());
                scrape.kinds.insert(name, kind);
            } else if line.starts_with("apikey_") {
                scrape.samples.push(sample(line));
            }
        }
        scrape
    }

    /// The value of a metric with exactly these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeMap<String, String> = labels
            .iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
            .collect();
        let is = |sample: &&Sample| sample.name == name && sample.labels == wanted;
        self.samples.iter().find(is).map(|sample| sample.value)
    }
}

fn sample(line: &str) -> Sample {
    let (metric, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
    let labels = labels.trim_end_matches('}').split(',');
    let labels = labels.filter_map(|label| {
        let (label, value) = label.split_once('=')?;
        Some((label.to_owned(), value.trim_matches('"').to_owned()))
    });
    Sample {
        name: name.to_owned(),
        labels: labels.collect(),
        value: value.parse().expect("a number"),
    }
}
