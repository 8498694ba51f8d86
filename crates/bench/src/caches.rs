//! The caches as they fill: the cost of a hundred thousand keys in memory and in speed,
//! and whether memory still grows once all are known.

use std::fs;

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::load::{Keys, Order, Until, closed};
use crate::owner::Key;
use crate::report::{Curve, Report, median};
use crate::shares;
use crate::stand_in::StandIn;
use crate::targets::{Filter, Targets};
use crate::virtual_node::L1_ENTRIES;

/// Numbers of cached keys, measured in this order.
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// All requests together, the first use of each key among them.
const REQUESTS: f64 = 1_000_000.0;
const ROUNDS: usize = 5;
const SECONDS: u32 = 1;
const CONNECTIONS: u32 = 16;
/// Requests with as many keys, under the default sizes: keys push each other out.
const PUSHING: [u64; 2] = [11_000, 6_000];
const MEGABYTE: f64 = 1024.0 * 1024.0;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let keys = shares::keys(SIZES[SIZES.len() - 1]);
    let stand_in = StandIn::start(bench, &keys);
    report.fact("token_bytes", &[stand_in.token_bytes as f64]);
    let sizes = [("l1_entries", keys.len()), ("l2_slots", 65_536)];
    let targets = start(bench, &stand_in, sizes);
    grow(bench, &targets, &keys, report);
    drop(targets);
    // Each share has the default's part of worker memory.
    let sizes = [
        ("l1_entries", L1_ENTRIES / shares::SHARES),
        ("l2_slots", 4_096),
    ];
    let targets = start(bench, &stand_in, sizes);
    push_out(bench, &targets, &keys, report);
}

fn start(bench: &Bench, stand_in: &StandIn, sizes: [(&'static str, usize); 2]) -> Targets {
    // No token is refreshed during the measurement.
    let mut fields = vec![("cache_ttl_seconds", json!(3600))];
    fields.extend(sizes.map(|(name, size)| (name, json!(size))));
    let listeners = [
        ("noop", Filter::Shared(Box::new(Filter::Noop))),
        ("ours", Filter::Shared(Box::new(Filter::Exchange(fields)))),
    ];
    Targets::start_before(bench, &listeners, &[stand_in.address])
}

/// Uses more and more keys; measures memory and warm requests at each size.
fn grow(bench: &Bench, targets: &Targets, keys: &[Key], report: &mut Report) {
    let texts = |keys: &[Key]| Keys::new(bench, keys.iter().map(|key| key.text.as_str()));
    let ours = targets.port("ours");
    // Each filter has started.
    first_uses(ours, &texts(&keys[..shares::SHARES]), shares::SHARES);
    let before = Memory::of(targets);
    let mut memory = vec![vec![], vec![], vec![]];
    let mut warm = [vec![], vec![]];
    let mut known = shares::SHARES;
    let mut requests = 0.0;
    let mut after_first_uses = before;
    let mut growth = Vec::new();
    for size in SIZES {
        let per_second = first_uses(ours, &texts(&keys[known..size]), size - known);
        report.fact(&format!("first_uses_to_{size}_per_second"), &[per_second]);
        known = size;
        let now = Memory::of(targets);
        for (line, megabytes) in memory.iter_mut().zip(now.more_than(before)) {
            line.push((size as f64, megabytes));
        }
        (after_first_uses, requests) = (now, size as f64);
        growth = vec![(requests, 0.0)];
        let (rates, done) = warm_rounds(targets, &texts(&keys[..size]));
        requests += done;
        let ratios = rates[1]
            .iter()
            .zip(&rates[0])
            .map(|(ours, noop)| ours / noop);
        let ratios: Vec<f64> = ratios.collect();
        report.fact(&format!("warm_vs_noop_at_{size}_keys"), &ratios);
        for (line, rates) in warm.iter_mut().zip(&rates) {
            line.push((size as f64, median(rates)));
        }
    }
    let all = texts(keys);
    let grown = |now: Memory| now.more_than(after_first_uses);
    // These requests measure memory, and no time.
    bench.lull.during(|| {
        while requests < REQUESTS {
            growth.push((requests, grown(Memory::of(targets))[0]));
            requests += closed(ours, &all, Order::Random, CONNECTIONS, Until::Seconds(10)).requests;
        }
    });
    let [resident, worker, heap] = grown(Memory::of(targets));
    growth.push((requests, resident));
    report.row("rss_growth_1m_requests_mb", &[resident]);
    report.fact("worker_memory_growth_1m_requests_mb", &[worker]);
    report.fact("envoy_heap_growth_1m_requests_mb", &[heap]);
    tell(warm, memory, growth, report);
}

fn tell(
    warm: [Vec<(f64, f64)>; 2],
    memory: Vec<Vec<(f64, f64)>>,
    growth: Vec<(f64, f64)>,
    report: &mut Report,
) {
    let lines = |names: &[&str], points: Vec<Vec<(f64, f64)>>| {
        let names = names.iter().map(|name| (*name).to_owned());
        names.zip(points).collect()
    };
    report.curve(Curve {
        name: "warm_by_keys",
        title: "Warm requests, as keys in the cache grow".to_owned(),
        x: "keys",
        y: "requests/s",
        lines: lines(&["a no-op filter", "this filter"], warm.into()),
    });
    report.curve(Curve {
        name: "memory_by_keys",
        title: "The gateway's memory, as keys in the cache grow".to_owned(),
        x: "keys",
        y: "MB",
        lines: lines(
            &[
                "resident, all of it",
                "worker memory (L1)",
                "Envoy's heap (L2)",
            ],
            memory,
        ),
    });
    report.curve(Curve {
        name: "memory_by_requests",
        title: "The gateway's memory, as requests with 100,000 keys go on".to_owned(),
        x: "requests",
        y: "MB more than after the first use of each",
        lines: lines(&["resident"], vec![growth]),
    });
}

/// Uses each of these keys once; returns the uses per second.
fn first_uses(port: u16, keys: &Keys, count: usize) -> f64 {
    let until = Until::Requests(count as u64);
    closed(port, keys, Order::Turn, CONNECTIONS, until).per_second
}

/// Requests per second of the no-op filter and of ours, round by round, and the number of
/// our requests. The first round is not counted.
fn warm_rounds(targets: &Targets, keys: &Keys) -> ([Vec<f64>; 2], f64) {
    let mut rates = [vec![], vec![]];
    let mut ours = 0.0;
    for round in 0..=ROUNDS {
        let until = Until::Seconds(SECONDS);
        for (name, rates) in ["noop", "ours"].into_iter().zip(&mut rates) {
            let port = targets.port(name);
            let done = closed(port, keys, Order::Random, CONNECTIONS, until);
            if round > 0 {
                rates.push(done.per_second);
            }
            if name == "ours" {
                ours += done.requests;
            }
        }
    }
    (rates, ours)
}

/// Ten times as many keys as worker memory holds: most requests ask Keycloak, and each
/// answer pushes another key's out.
fn push_out(bench: &Bench, targets: &Targets, keys: &[Key], report: &mut Report) {
    let keys = Keys::new(bench, keys.iter().map(|key| key.text.as_str()));
    let mut memory = Vec::new();
    for requests in PUSHING {
        let until = Until::Requests(requests);
        closed(
            targets.port("ours"),
            &keys,
            Order::Random,
            CONNECTIONS,
            until,
        );
        memory.push(Memory::of(targets));
    }
    let grown = memory[1].more_than(memory[0]);
    report.fact("rss_growth_pushed_out_mb", &[grown[0]]);
}

/// Memory of a gateway, in MB.
#[derive(Clone, Copy)]
struct Memory {
    resident: f64,
    /// Of that, the linear memory of the worker's Wasm machine.
    worker: f64,
    /// Bytes that Envoy has allocated and not given back, its shared data included.
    heap: f64,
}

impl Memory {
    fn of(targets: &Targets) -> Self {
        let gateway = &targets.gateway;
        let heap: Value = serde_json::from_str(&gateway.admin("/memory")).expect("JSON");
        let heap: f64 = heap["allocated"]
            .as_str()
            .and_then(|bytes| bytes.parse().ok())
            .expect("bytes");
        Self {
            resident: gateway.memory("VmRSS:") as f64 / MEGABYTE,
            worker: linear_memory(&gateway.pid()) / MEGABYTE,
            heap: heap / MEGABYTE,
        }
    }

    fn more_than(self, before: Self) -> [f64; 3] {
        [
            self.resident - before.resident,
            self.worker - before.worker,
            self.heap - before.heap,
        ]
    }
}

/// The resident bytes of the largest linear memory. V8 reserves gigabytes behind each, so
/// that code that runs past its end meets no other memory.
fn linear_memory(pid: &str) -> f64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("its memory");
    let mut largest = 0.0_f64;
    let (mut resident, mut end) = (0.0, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        if first == "Rss:" {
            resident = second.parse::<f64>().expect("kilobytes") * 1024.0;
        } else if let Some((from, to)) = first.split_once('-') {
            let at = |text| u64::from_str_radix(text, 16).expect("an address");
            let is_reserve = second == "---p" && at(to) - at(from) > 1 << 31;
            if is_reserve && end == at(from) {
                largest = largest.max(resident);
            }
            (resident, end) = (0.0, at(to));
        }
    }
    largest
}
