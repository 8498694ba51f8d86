//! The metrics that the core counts, as Prometheus shows them.

use std::collections::{BTreeMap, BTreeSet};

use apikeys_core::metrics::catalog::{COUNTED, GAUGES};

/// A metric as `docs/metrics.md` lists it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    pub kind: String,
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// The metrics that the core counts.
pub fn listed() -> BTreeMap<String, Listed> {
    let families = COUNTED.iter().chain(&GAUGES).map(|family| {
        let labels = family.labels.iter().map(|(label, values)| {
            let values = values.iter().map(|value| (*value).to_owned());
            ((*label).to_owned(), values.collect())
        });
        let listed = Listed {
            kind: family.kind.word().to_owned(),
            labels: labels.collect(),
        };
        (family.name.to_owned(), listed)
    });
    families.collect()
}
