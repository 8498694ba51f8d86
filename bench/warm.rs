//! Warm requests: what the filter costs when the token is in the cache, beside a gateway
//! without it, with a filter that does nothing, and with Envoy's own `api_key_auth`.

use std::time::Duration;

use serde_json::json;

use crate::bench::Bench;
use crate::load::{Keys, Order, Until, closed, open};
use crate::owner::{Key, Owner, Record};
use crate::report::{Report, median};
use crate::targets::{Filter, Targets};

/// Short and many, so that what else the machine does spoils some of them and not all, and
/// those that are compared are near each other in time.
const ROUNDS: usize = 30;
const REQUESTS: u64 = 2_000;
const WINDOWS: usize = 40;
const WINDOW: Duration = Duration::from_millis(500);
const CONNECTIONS: u32 = 16;
/// Keys of the listener whose worker memory holds one: each is read from shared data.
const L2_KEYS: usize = 8;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let targets = Targets::start(
        bench,
        &[
            ("none", Filter::None),
            ("noop", Filter::Noop),
            ("host_calls", Filter::HostCalls),
            ("api_key_auth", Filter::ApiKeyAuth),
            ("l1", Filter::Exchange(vec![])),
            ("l2", Filter::Exchange(vec![("l1_entries", json!(1))])),
            (
                "audited",
                Filter::Exchange(vec![("audit_hits_per_1000", json!(1000))]),
            ),
        ],
    );
    let keys: Vec<Key> = (0..L2_KEYS).map(|_| Key::random()).collect();
    let owners: Vec<Record> = keys.iter().map(Record::sha256).collect();
    let owner = Owner::with(&bench.admin, &owners);
    let one = Keys::new(bench, [bench.key.as_str()]);
    let several = Keys::new(bench, keys.iter().map(|key| key.text.as_str()));
    let mut rates = Rates::default();
    let capacity = rates.measure(&targets, &one, &several);
    rates.report(report);
    latency(&targets, capacity / 2.0, report);
    drop(targets);
    owner.delete();
}

/// Requests a second of each listener, round by round.
#[derive(Default)]
struct Rates {
    per_second: Vec<(&'static str, Vec<f64>)>,
    /// Microseconds of a processor for each request, of the same rounds.
    processor_us: Vec<(&'static str, Vec<f64>)>,
}

impl Rates {
    /// All listeners in turn, after a round that is not counted; the no-op's median.
    fn measure(&mut self, targets: &Targets, one: &Keys, several: &Keys) -> f64 {
        let names = [
            "none",
            "noop",
            "host_calls",
            "api_key_auth",
            "l1",
            "l2",
            "audited",
        ];
        self.per_second = names.map(|name| (name, Vec::new())).into();
        self.processor_us = self.per_second.clone();
        for round in 0..=ROUNDS {
            let columns = self.per_second.iter_mut().zip(&mut self.processor_us);
            for ((name, rates), (_, processor)) in columns {
                let keys = if *name == "l2" { several } else { one };
                let until = Until::Requests(REQUESTS);
                let before = targets.processor_seconds();
                let done = closed(targets.port(name), keys, Order::Turn, CONNECTIONS, until);
                if round > 0 {
                    let spent = targets.processor_seconds() - before;
                    rates.push(done.per_second);
                    processor.push(spent * 1e6 / done.requests);
                }
            }
        }
        median(self.of("noop"))
    }

    fn of(&self, name: &str) -> &[f64] {
        let found = self.per_second.iter().find(|(known, _)| *known == name);
        &found.expect("a listener").1
    }

    /// One listener's rates over another's, round by round.
    fn over(&self, name: &str, other: &str) -> Vec<f64> {
        let pairs = self.of(name).iter().zip(self.of(other));
        pairs.map(|(ours, theirs)| ours / theirs).collect()
    }

    fn report(&self, report: &mut Report) {
        for (name, rates) in &self.per_second {
            report.fact(&format!("{name}_requests_per_second"), rates);
        }
        for (name, processor) in &self.processor_us {
            report.fact(&format!("{name}_processor_us"), processor);
        }
        report.row("warm_vs_noop", &self.over("l1", "noop"));
        report.row("warm_vs_api_key_auth", &self.over("l1", "api_key_auth"));
        report.row("warm_l2_vs_noop", &self.over("l2", "noop"));
        report.row("audited_vs_noop", &self.over("audited", "noop"));
        report.fact("noop_vs_none", &self.over("noop", "none"));
        report.fact("noop_vs_api_key_auth", &self.over("noop", "api_key_auth"));
        report.fact("host_calls_vs_noop", &self.over("host_calls", "noop"));
        report.fact("warm_vs_host_calls", &self.over("l1", "host_calls"));
    }
}

/// At a load that all can bear, in an open loop.
fn latency(targets: &Targets, per_second: f64, report: &mut Report) {
    let mut added = [vec![], vec![]];
    let mut seen = [vec![], vec![]];
    for _ in 0..WINDOWS {
        let [noop, ours] = ["noop", "l1"].map(|name| open(targets.port(name), per_second, WINDOW));
        added[0].push(ours.p50 - noop.p50);
        added[1].push(ours.p99 - noop.p99);
        seen[0].push(noop.p99);
        seen[1].push(ours.p99);
    }
    report.fact("half_load_requests_per_second", &[per_second]);
    report.fact("noop_p99_us", &seen[0]);
    report.fact("warm_p99_us", &seen[1]);
    report.fact("warm_added_p50_us", &added[0]);
    report.row("warm_added_p99_us", &added[1]);
}
