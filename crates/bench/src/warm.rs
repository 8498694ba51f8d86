//! Warm requests: the cost of the filter when the token is in the cache, beside a gateway
//! without it, with a filter that does nothing, and with Envoy's own `api_key_auth`.

use std::time::Duration;

use serde_json::json;

use crate::bench::Bench;
use crate::load::{Keys, Order, Until, closed, open};
use crate::owner::{Key, Owner, Record};
use crate::report::{Report, median};
use crate::targets::{Filter, Targets};

/// The best turn of a round counts: other work of the machine can only slow a turn down. Turns
/// are short and many, so that such work spoils some of them and not all.
const ROUNDS: usize = 6;
const TURNS: usize = 12;
const REQUESTS: u64 = 500;
const CONNECTIONS: u32 = 16;
/// Windows of a round of latency; the quietest window counts.
const WINDOWS: usize = 14;
const WINDOW: Duration = Duration::from_millis(250);
/// Few, so that opening them is less than a hundredth of a window's requests, and more than
/// are busy at half of a worker's capacity.
const OPEN_CONNECTIONS: u32 = 8;
/// Keys of the listener with room for one in worker memory: each is read from shared data.
const L2_KEYS: usize = 8;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let mut listeners = filters();
    listeners.push(("noop_again", Filter::Noop));
    let targets = Targets::start(bench, &listeners);
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

/// The compared filters, each with a listener.
fn filters() -> Vec<(&'static str, Filter)> {
    let exchange = |field| Filter::Exchange(vec![field]);
    vec![
        ("none", Filter::None),
        ("noop", Filter::Noop),
        ("host_calls", Filter::HostCalls),
        ("l2_host_calls", Filter::L2HostCalls),
        ("api_key_auth", Filter::ApiKeyAuth),
        ("l1", Filter::Exchange(vec![])),
        ("l2", exchange(("l1_entries", json!(1)))),
        ("audited", exchange(("audit_hits_per_1000", json!(1000)))),
    ]
}

/// Requests a second of each listener, round by round.
#[derive(Default)]
struct Rates {
    per_second: Vec<(&'static str, Vec<f64>)>,
    /// Microseconds of a processor for each request, of the same rounds.
    processor_us: Vec<(&'static str, Vec<f64>)>,
}

impl Rates {
    /// All listeners in turn, after one uncounted request to each. Returns the rate of the
    /// no-op, by all of its turns and not its best ones.
    fn measure(&mut self, targets: &Targets, one: &Keys, several: &Keys) -> f64 {
        let names = filters().into_iter().map(|(name, _)| name);
        let turn = |name: &str| {
            let keys = if name == "l2" { several } else { one };
            let until = Until::Requests(REQUESTS);
            let before = targets.processor_seconds();
            let done = closed(targets.port(name), keys, Order::Turn, CONNECTIONS, until);
            let spent = targets.processor_seconds() - before;
            (done.per_second, spent * 1e6 / done.requests)
        };
        self.per_second = names.map(|name| (name, Vec::new())).collect();
        self.processor_us = self.per_second.clone();
        for (name, _) in &self.per_second {
            turn(name);
        }
        let mut noop = Vec::new();
        for _ in 0..ROUNDS {
            let mut best = vec![(0.0_f64, f64::MAX); self.per_second.len()];
            for _ in 0..TURNS {
                for ((name, _), best) in self.per_second.iter().zip(&mut best) {
                    let (per_second, processor) = turn(name);
                    *best = (best.0.max(per_second), best.1.min(processor));
                    if *name == "noop" {
                        noop.push(per_second);
                    }
                }
            }
            let columns = self.per_second.iter_mut().zip(&mut self.processor_us);
            for (((_, rates), (_, processor)), best) in columns.zip(best) {
                rates.push(best.0);
                processor.push(best.1);
            }
        }
        median(&noop)
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
        report.fact("l2_host_calls_vs_noop", &self.over("l2_host_calls", "noop"));
        report.fact("l2_vs_host_calls", &self.over("l2", "l2_host_calls"));
    }
}

/// At a load that all can bear, in an open loop. Two listeners have the same filter: the
/// difference between them is the error of these figures.
fn latency(targets: &Targets, per_second: f64, report: &mut Report) {
    let names = ["noop", "l1", "noop_again", "host_calls"];
    let (mut p50, mut p99) = (names.map(|_| vec![]), names.map(|_| vec![]));
    for _ in 0..ROUNDS {
        let mut quietest = names.map(|_| (f64::MAX, f64::MAX));
        for window in 0..WINDOWS {
            // There and back, so that no listener always follows the same neighbour.
            let mut order: Vec<_> = names.iter().zip(&mut quietest).collect();
            if window % 2 == 1 {
                order.reverse();
            }
            for (name, least) in order {
                let seen = open(targets.port(name), per_second, OPEN_CONNECTIONS, WINDOW);
                *least = (least.0.min(seen.p50), least.1.min(seen.p99));
            }
        }
        for (at, (least_p50, least_p99)) in quietest.into_iter().enumerate() {
            p50[at].push(least_p50);
            p99[at].push(least_p99);
        }
    }
    let over = |of: &[Vec<f64>], name: usize| -> Vec<f64> {
        let pairs = of[name].iter().zip(&of[0]);
        pairs.map(|(one, noop)| one - noop).collect()
    };
    report.fact("half_load_requests_per_second", &[per_second]);
    report.fact("noop_p99_us", &p99[0]);
    report.fact("warm_p99_us", &p99[1]);
    report.fact("noop_again_added_p99_us", &over(&p99, 2));
    report.fact("host_calls_added_p99_us", &over(&p99, 3));
    report.fact("warm_added_p50_us", &over(&p50, 1));
    report.row("warm_added_p99_us", &over(&p99, 1));
}
