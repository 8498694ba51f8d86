//! `make bench`: the cost of the filter, on real servers, side by side with the alternatives.
//!
//! ```text
//! make bench                      all of it, 19 minutes on two cores
//! make bench BENCH_GROUPS="warm cold"   these groups alone; the others' figures stay
//! make bench BENCH_GROUPS=page          none: plots and page anew from the last figures
//! ```
//!
//! It starts the stack of `make run`, with a Keycloak that keeps its data in PostgreSQL, and
//! gateways of its own beside it. Each gateway has one worker, and that worker a core to
//! itself; all other processes share the other cores ([`cores`]). Compared targets are measured
//! in turns, round by round.
//!
//! `E2E_RUN_DIR` names the run folder of a `make run` that is up, and the bench uses that
//! stack: quick, while you make one part faster.
//!
//! Writes `crates/bench/results.json` and the plots beside it. It reports a missed bound and
//! does not fail: a busy machine must not turn anything red.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a bench reads the clock, fails by panicking, and counts less than 2^53"
)]

mod bare;
mod bench;
mod caches;
mod capacity;
mod capacity_check;
mod cold;
mod cores;
mod hit_rate;
mod load;
mod lull;
mod module;
mod plots;
mod rates;
mod report;
mod serve;
mod service;
mod shares;
mod stand_in;
mod store;
mod targets;
mod warm;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use apikeys_bench::{capacity_model, page, traffic, virtual_node};
use bench::Bench;
use hit_rate::Simulation;
use report::Report;
use suites::{client, database, faults, gateway, keycloak, owner, secrets, stack, wait};

type Group = (&'static str, fn(&Bench, &mut Report));

/// In this order: the store is filled after all measurements that need a small one, and the
/// simulations run beside the parts that are not timed.
const GROUPS: [Group; 8] = [
    ("warm", warm::measure),
    ("serve", serve::measure),
    ("module", module::measure),
    ("cold", cold::measure),
    ("capacity", capacity::measure),
    ("caches", caches::measure),
    ("store", store::measure),
    ("hit_rate", hit_rate::measure),
];

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{}", secrets::redact(&panic.to_string()));
    }));
    let asked = std::env::var("BENCH_GROUPS").unwrap_or_default();
    let asked: Vec<&str> = asked.split_whitespace().collect();
    let folder = Path::new(stack::project()).join("crates/bench");
    if asked == ["page"] {
        let results = std::fs::read(folder.join("results.json")).expect("results.json");
        let results = serde_json::from_slice(&results).expect("JSON");
        plots::draw(&results, &folder);
        show(&results);
        return ExitCode::SUCCESS;
    }
    for name in &asked {
        let known = GROUPS.iter().any(|(group, _)| group == name);
        let names = GROUPS.map(|(group, _)| group).join(", ");
        assert!(known, "there is no group '{name}': they are {names}");
    }
    let is_asked = |name| asked.is_empty() || asked.contains(&name);
    let bench = Bench::start();
    if is_asked("hit_rate") {
        bench.simulation.set(Some(Simulation::begin(&bench)));
    }
    let run = bench.run();
    let mut report = Report::default();
    let filter = Path::new(stack::project()).join("target/wasm/apikey_jwt_exchange.wasm");
    let bytes = std::fs::metadata(filter).expect("the filter").len();
    report.row("wasm_mb", &[bytes as f64 / 1e6]);
    let mut failed = Vec::new();
    for (name, measure) in GROUPS {
        if !is_asked(name) {
            continue;
        }
        println!("\n{name}");
        let began = Instant::now();
        let measured = catch_unwind(AssertUnwindSafe(|| measure(&bench, &mut report)));
        println!("    ({:.0?})", began.elapsed());
        if measured.is_err() {
            failed.push(name);
        }
        // After each group, so that a failing group loses nothing of the others.
        let results = report.write(&folder.join("results.json"), &run);
        plots::draw(&results, &folder);
        show(&results);
    }
    let missed = report.print();
    println!("\nAlso in crates/bench/results.json. Bounds missed: {missed}");
    bench.stop();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("Not measured to the end, see above: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// Makes the tables of docs/performance.md anew.
fn show(results: &serde_json::Value) {
    let file = Path::new(stack::project()).join("docs/performance.md");
    let page = std::fs::read_to_string(&file).expect("the page");
    match page::fill(&page, results) {
        Ok(page) => std::fs::write(&file, page).expect("the page"),
        // Some groups were never measured.
        Err(why) => println!("    docs/performance.md stays as it is: {why}"),
    }
}
