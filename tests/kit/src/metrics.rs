//! Prometheus' text format, as far as hosts write it; and the list of `docs/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// A metric as the docs list it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    pub kind: String,
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// The metrics that `docs/metrics.md` lists.
pub fn listed() -> BTreeMap<String, Listed> {
    let path = crate::repository::path("docs/metrics.md");
    let text = fs::read_to_string(path).expect("docs/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `apikey_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`').to_owned();
        let labels = cells[4].split(';').filter(|label| label.contains('`'));
        let labels = labels.map(|label| {
            let mut names = label.split('`').skip(1).step_by(2).map(str::to_owned);
            (names.next().expect("a label"), names.collect())
        });
        let kind = cells[2].to_owned();
        let labels = labels.collect();
        (name, Listed { kind, labels })
    })
    .collect()
}
