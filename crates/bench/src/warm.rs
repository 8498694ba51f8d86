//! Warm requests: the cost of the filter when the token is in the cache, beside a gateway
//! without it, with a filter that does nothing, and with Envoy's own `api_key_auth`.

use std::time::Duration;

use serde_json::json;

use crate::bench::Bench;
use crate::load::{Keys, open};
use crate::owner::{Key, Owner, Record};
use crate::rates::{Load, ROUNDS, Rates};
use crate::report::Report;
use crate::targets::{Filter, Targets};

const REQUESTS: u64 = 500;
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
    let loads = filters().into_iter().map(|(name, _)| match name {
        "l2" => Load::new(name, &several),
        _ => Load::new(name, &one),
    });
    let loads: Vec<Load<'_>> = loads.collect();
    let rates = Rates::measure(&targets, &loads, REQUESTS);
    rates.report("", report);
    compare(&rates, report);
    latency(&targets, rates.usual("noop") / 2.0, report);
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

fn compare(rates: &Rates, report: &mut Report) {
    for (row, name, other) in [
        ("warm_vs_host_calls", "l1", "host_calls"),
        ("warm_vs_noop", "l1", "noop"),
        ("warm_vs_api_key_auth", "l1", "api_key_auth"),
        ("warm_l2_vs_noop", "l2", "noop"),
        ("audited_vs_noop", "audited", "noop"),
    ] {
        report.row(row, &rates.over(name, other));
    }
    for (fact, name, other) in [
        ("noop_vs_none", "noop", "none"),
        ("noop_vs_api_key_auth", "noop", "api_key_auth"),
        ("host_calls_vs_noop", "host_calls", "noop"),
        ("l2_host_calls_vs_noop", "l2_host_calls", "noop"),
        ("l2_vs_host_calls", "l2", "l2_host_calls"),
    ] {
        report.fact(fact, &rates.over(name, other));
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
