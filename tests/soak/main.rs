//! The soak: a real gateway and a real Keycloak under load, while keys die and Keycloak
//! is paused, killed and cut off from its database.
//!
//! ```text
//! make soak MINUTES=30
//! SOAK_SEED=7 SOAK_MINUTES=3 cargo test --features e2e --test soak
//! ```
//!
//! It sees what a client sees, and what it did itself: which key it ended when
//! ([`truth`]), and what each request was answered ([`load`]). From that alone it judges
//! ([`report`]): no request with a dead key is exchanged later than the bound, no answer
//! is another owner's, none is missing, a good key is never refused, all is well again
//! after an outage without a restart of the gateway, and its memory stays flat.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    reason = "a test may read the clock, and fails by panicking; it uses part of the suite's helpers"
)]

#[path = "../e2e/client.rs"]
mod client;
#[path = "../e2e/expect.rs"]
mod expect;
#[path = "../e2e/faults.rs"]
mod faults;
#[path = "../e2e/gateway.rs"]
mod gateway;
#[path = "../e2e/keycloak.rs"]
mod keycloak;
#[path = "../e2e/log.rs"]
mod log;
#[path = "../e2e/owner.rs"]
mod owner;
#[path = "../e2e/secrets.rs"]
mod secrets;
#[path = "../e2e/stack.rs"]
mod stack;
#[path = "../e2e/wait.rs"]
mod wait;

mod chaos;
mod load;
mod report;
mod truth;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use chaos::Chaos;
use gateway::{Gateway, Spec};
use keycloak::Admin;
use report::Report;
use stack::Stack;
use truth::Truth;

/// How long a token is reused.
const TTL_SECONDS: u64 = 20;
/// How often the gateway asks Keycloak what has changed.
const POLL_SECONDS: u64 = 1;

fn main() -> ExitCode {
    let minutes: f64 = variable("SOAK_MINUTES", 3.0);
    let seed: u64 = variable("SOAK_SEED", wait::now_ms());
    println!("soak: {minutes} minutes, SOAK_SEED={seed}");
    let stack = Stack::start();
    let demo = stack.demo_env();
    let admin = Admin::new(
        &demo["KEYCLOAK_URL"],
        &demo["REALM"],
        &demo["KEYCLOAK_ADMIN_USER"],
        &demo["KEYCLOAK_ADMIN_PASSWORD"],
    );
    let spec = Spec::default()
        .field("cache_ttl_seconds", TTL_SECONDS)
        .field("negative_ttl_seconds", 2)
        .field("revocation_poll_seconds", POLL_SECONDS)
        .field("throttle_failures_per_minute", 0)
        .field("callout_timeout_ms", 1500)
        .workers(2);
    let gateway = Gateway::start(&stack, &spec);
    let truth = Truth::new(&admin, &mut ChaCha8Rng::seed_from_u64(seed));
    let report = Report::default();
    let length = Duration::from_secs_f64(minutes * 60.0);
    let end_ms = wait::now_ms() + u64::try_from(length.as_millis()).unwrap();
    thread::scope(|scope| {
        for worker in 0..load::CLIENTS {
            let random = ChaCha8Rng::seed_from_u64(seed ^ (worker + 1));
            let (truth, report, target) = (&truth, &report, &gateway.target);
            scope.spawn(move || load::run(target, truth, report, random, end_ms));
        }
        let mut chaos = Chaos::new(&stack, &admin, &truth, &report, seed);
        scope.spawn(move || chaos.run(end_ms));
        let (report, gateway) = (&report, &gateway);
        scope.spawn(move || report.watch_memory(gateway, end_ms));
    });
    let faults = report.judge(&truth);
    report.print(minutes);
    report.print_delays(&truth);
    drop(gateway);
    stack.stop(!faults.is_empty());
    for fault in &faults {
        println!("FAILED: {}", secrets::redact(fault));
    }
    // The line that says how it went, as test runners write it.
    println!(
        "\n{} passed, {} failed",
        report::CLAIMS.len() - faults.len().min(report::CLAIMS.len()),
        faults.len()
    );
    if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("to run it again: SOAK_SEED={seed} SOAK_MINUTES={minutes}");
        ExitCode::FAILURE
    }
}

fn variable<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number")),
        _ => default,
    }
}
