//! Envoy's module: warm requests beside Envoy's own filters and the Wasm filter, keys that are not warm,
//! and its start.

use serde_json::json;

use crate::bare::Bare;
use crate::bench::Bench;
use crate::cold::{STALL_ROUNDS, Stalls, ask, bcrypt_record, first_uses, ready_after};
use crate::load::{Keys, Order, Until, closed};
use crate::owner::{Key, Record};
use crate::rates::{Load, Rates, ratios};
use crate::report::Report;
use crate::stand_in::StandIn;
use crate::targets::{Filter, Targets};

/// Enough that opening connections is a small part of a turn.
const REQUESTS: u64 = 2_000;
/// Keys in use.
const MANY: usize = 100_000;
const FEW: usize = 1_000;
const CONNECTIONS: u32 = 16;
/// Of the figure that has no bound.
const SHARED_ROUNDS: usize = 3;
/// A start takes so little time that single ones differ much.
const STARTS: usize = 11;
const MEGABYTE: f64 = 1024.0 * 1024.0;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    warm(bench, report);
    keys_in_use(bench, report);
    first_use(bench, report);
    stall(bench, report);
    start(bench, report);
}

/// One key, at all listeners of one Envoy in turn.
fn warm(bench: &Bench, report: &mut Report) {
    let listeners = [
        ("none", Filter::None),
        ("api_key_auth", Filter::ApiKeyAuth),
        ("header_mutation", Filter::HeaderMutation),
        ("noop_module", Filter::NoopModule),
        ("module_calls", Filter::ModuleCalls),
        ("module", Filter::Module(vec![])),
        ("noop_wasm", Filter::Noop),
        ("wasm", Filter::Exchange(vec![])),
    ];
    let targets = Targets::start(bench, &listeners);
    let one = Keys::new(bench, [bench.key.as_str()]);
    let loads = listeners.iter().map(|(name, _)| Load::new(name, &one));
    let loads: Vec<Load<'_>> = loads.collect();
    let rates = Rates::measure(&targets, &loads, REQUESTS);
    rates.report("beside_module_", report);
    let over = |other| rates.worker_over("module", other);
    report.row("module_vs_api_key_auth", &over("api_key_auth"));
    report.row("module_vs_header_mutation", &over("header_mutation"));
    report.row("module_vs_noop_wasm", &over("noop_wasm"));
    report.fact("module_vs_wasm", &over("wasm"));
    report.fact("module_vs_its_calls", &over("module_calls"));
    for (fact, name, other) in [
        ("noop_module_vs_api_key_auth", "noop_module", "api_key_auth"),
        ("module_calls_vs_noop_module", "module_calls", "noop_module"),
    ] {
        report.fact(fact, &rates.worker_over(name, other));
    }
}

/// Many keys at random, and a few of them, in turn at the same listener. All tokens are in its memory.
fn keys_in_use(bench: &Bench, report: &mut Report) {
    let keys: Vec<Key> = (0..MANY).map(|_| Key::random()).collect();
    let stand_in = StandIn::start(bench, &keys);
    let fields = vec![
        ("cache_ttl_seconds", json!(3600)),
        ("l1_entries", json!(MANY)),
        ("l2_slots", json!(65_536)),
    ];
    let listeners = [
        ("module", Filter::Module(fields)),
        ("noop_module", Filter::NoopModule),
    ];
    let targets = Targets::start_before(bench, &listeners, &[stand_in.address]);
    let texts = |keys: &[Key]| Keys::new(bench, keys.iter().map(|key| key.text.as_str()));
    let (many, few) = (texts(&keys), texts(&keys[..FEW]));
    let before = targets.gateway.memory("VmRSS:");
    let until = Until::Requests(MANY as u64);
    let port = targets.port("module");
    let done = closed(port, &many, Order::Turn, CONNECTIONS, until);
    report.fact("module_first_uses_per_second", &[done.per_second]);
    let grown = (targets.gateway.memory("VmRSS:") - before) as f64;
    report.fact("module_100k_keys_mb", &[grown / MEGABYTE]);
    let load = |name, listener, keys| Load {
        name,
        listener,
        keys,
        order: Order::Random,
    };
    let loads = [
        load("100k", "module", &many),
        load("1k", "module", &few),
        load("noop_100k", "noop_module", &many),
        load("noop_1k", "noop_module", &few),
    ];
    let rates = Rates::measure(&targets, &loads, REQUESTS);
    rates.report("module_keys_", report);
    let (ours, noop) = (
        rates.worker_over("100k", "1k"),
        rates.worker_over("noop_100k", "noop_1k"),
    );
    report.fact("noop_module_100k_keys_vs_1k", &noop);
    report.row("module_100k_keys_vs_1k", &ours);
}

fn first_use(bench: &Bench, report: &mut Report) {
    let targets = Targets::start(bench, &[("module", Filter::Module(vec![]))]);
    let mut gateway = targets.target("module").connect();
    // Gets the gateway's own token first.
    ask(&mut gateway, &bench.key);
    let mut bare = Bare::new(bench);
    let (ours, _, ratios) = first_uses(bench, &mut bare, |key| ask(&mut gateway, key));
    report.fact("module_first_use_ms", &ours);
    report.row("module_first_use_vs_bcrypt", &ratios);
}

/// Warm requests during first uses: bcrypt on the load's core, bcrypt on the worker's core, and keys
/// without bcrypt, whose first use is the calls alone.
fn stall(bench: &Bench, report: &mut Report) {
    let filter = Filter::Module(vec![]);
    let stalls = Stalls::measure(bench, &filter, bcrypt_record, STALL_ROUNDS, |_| {});
    report.fact("module_stall_alone_p99_us", &stalls.alone_us);
    report.fact("module_stall_beside_p99_us", &stalls.beside_us);
    report.fact("module_stall_cold_keys_s", &stalls.cold_keys_s);
    report.fact("module_stall_refused", &stalls.refused);
    report.row("module_stall_p99_ratio", &stalls.ratios());
    let calls = Stalls::measure(bench, &filter, Record::sha256, STALL_ROUNDS, |_| {});
    report.fact("module_stall_without_bcrypt_p99_ratio", &calls.ratios());
    let shared = Stalls::measure(bench, &filter, bcrypt_record, SHARED_ROUNDS, |pid| {
        bench.cores.give_module_gateways_core(pid);
    });
    report.fact("module_stall_shared_core_p99_ratio", &shared.ratios());
}

/// The time until Envoy serves, and its memory after a first request.
fn start(bench: &Bench, report: &mut Report) {
    let filters = [
        Filter::None,
        Filter::Module(vec![]),
        Filter::Exchange(vec![]),
    ];
    let mut ready = filters.each_ref().map(|_| Vec::new());
    let mut memory = filters.each_ref().map(|_| Vec::new());
    for _ in 0..STARTS {
        for (at, filter) in filters.iter().enumerate() {
            let targets = Targets::start(bench, &[("exchange", filter.clone())]);
            ready[at].push(ready_after(&targets));
            ask(&mut targets.target("exchange").connect(), &bench.key);
            memory[at].push(targets.gateway.memory("VmRSS:") as f64 / MEGABYTE);
        }
    }
    let [none, ours, _] = &ready;
    report.fact("startup_none_ms", none);
    report.fact("module_startup_ms", ours);
    report.row("module_startup_vs_none", &ratios(ours, none));
    let [none, ours, wasm] = &memory;
    report.fact("rss_none_mb", none);
    report.fact("rss_wasm_mb", wasm);
    report.row("module_rss_mb", ours);
}
