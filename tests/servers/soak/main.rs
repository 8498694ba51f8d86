//! The soak: a real gateway and a real Keycloak under load, while keys die and Keycloak is
//! paused, killed and cut off from its database.
//!
//! ```text
//! make soak MINUTES=30
//! SOAK_SEED=7 SOAK_MINUTES=3 scripts/with-postgres.sh cargo test -p suites --test soak
//! GATEWAY=nginx make soak
//! ```
//!
//! It knows only its clients' view and its own actions: the end of each key, and the answer
//! to each request ([`record`]). From that alone it is judged ([`judge`], which
//! `tests/servers/soak_judge.rs` tries on made-up histories).
//!
//! `SOAK_BREAK` proves on the real thing that it can fail: with `no_poll` the gateway is not
//! told of revocations and is judged as if it were.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may read the clock, and fails by panicking"
)]

mod chaos;
mod figures;
mod judge;
mod load;
mod record;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use suites::{client, gateway, keycloak, owner, secrets, stack, wait};

use chaos::Chaos;
use gateway::{Gateway, Spec};
use judge::{Failure, Promise, RULES};
use keycloak::Admin;
use record::Record;
use stack::Stack;

/// The time that a token is reused.
const TTL_SECONDS: u64 = 8;
/// The interval at which the gateway polls Keycloak for changes.
const POLL_SECONDS: u64 = 1;
/// The largest difference between clocks; here all use one clock.
const SKEW_MS: u64 = 2000;
/// The time after an outage in which calls to Keycloak may still fail.
const RECOVERY_MS: u64 = 8000;
const CALLOUT_MS: u64 = 1500;
const FAILURES_PER_MINUTE: u64 = 20;
const WORKERS: usize = 2;
/// Printed failures of each rule; all are counted.
const PRINTED: usize = 8;

const PROMISE: Promise = Promise {
    poll_ms: POLL_SECONDS * 1000,
    ttl_ms: TTL_SECONDS * 1000,
    recovery_ms: RECOVERY_MS,
    // Twice a callout, and as much again for bcrypt and the machine.
    answer_ms: 4 * CALLOUT_MS,
    failures_per_minute: FAILURES_PER_MINUTE,
    workers: WORKERS as u64,
    growth_bytes: 12 * 1024 * 1024,
};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        if !load::QUIET.get() {
            eprintln!("{}", secrets::redact(&panic.to_string()));
        }
    }));
    let minutes: f64 = variable("SOAK_MINUTES", 3.0);
    let seed: u64 = variable("SOAK_SEED", wait::now_ms());
    let is_polled = match std::env::var("SOAK_BREAK").as_deref() {
        Ok("no_poll") => false,
        Ok("") | Err(_) => true,
        Ok(other) => panic!("SOAK_BREAK is '{other}': set it to no_poll, or leave it out"),
    };
    println!("soak: {minutes} minutes, SOAK_SEED={seed}");
    let stack = Stack::start();
    let demo = stack.demo_env();
    let admin = Admin::new(
        &demo["KEYCLOAK_URL"],
        &demo["REALM"],
        &demo["KEYCLOAK_ADMIN_USER"],
        &demo["KEYCLOAK_ADMIN_PASSWORD"],
    );
    let gateway = Gateway::start(&stack, &spec(is_polled));
    let record = Record::default();
    let mut chaos = Chaos::new(&stack, &admin, &record, &gateway.target, seed);
    let length = Duration::from_secs_f64(minutes * 60.0);
    let started = wait::now_ms();
    let end_ms = started + u64::try_from(length.as_millis()).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        // Stops the senders on every way out: nothing else ends them.
        let ending = Ending(over);
        let (record, target) = (&record, &gateway.target);
        let random = |worker| ChaCha8Rng::seed_from_u64(seed ^ worker);
        for worker in 1..=load::CLIENTS {
            scope.spawn(move || load::run(target, record, random(worker), over));
        }
        scope.spawn(move || load::flood(target, record, random(99), over));
        let gateway = &gateway;
        scope.spawn(move || watch_memory(gateway, record, over));
        chaos.run(end_ms, scope);
        drop(ending);
    });
    let history = record.history(started, PROMISE);
    let mut failures = history.judge();
    failures.extend(history.judge_happened(&chaos::OUTAGES, &chaos::CAUSES));
    figures::print(&history, wait::now_ms() - started);
    drop(gateway);
    stack.stop(!failures.is_empty());
    tell(&failures, seed, minutes)
}

/// The gateway under test.
fn spec(is_polled: bool) -> Spec {
    Spec::default()
        .field("cache_ttl_seconds", TTL_SECONDS)
        .field("negative_ttl_seconds", 2)
        .field(
            "revocation_poll_seconds",
            POLL_SECONDS * u64::from(is_polled),
        )
        .field("throttle_failures_per_minute", FAILURES_PER_MINUTE)
        .field("clock_skew_seconds", SKEW_MS / 1000)
        .field("callout_timeout_ms", CALLOUT_MS)
        .workers(WORKERS)
}

/// Prints the broken rules, and a summary of the run.
fn tell(failures: &[Failure], seed: u64, minutes: f64) -> ExitCode {
    for (rule, _) in RULES {
        let of_rule = failures.iter().filter(|failure| failure.rule == rule);
        of_rule
            .take(PRINTED)
            .for_each(|failure| println!("FAILED: {failure}"));
    }
    let is_broken = |rule| failures.iter().any(|failure| failure.rule == rule);
    let broken = RULES.iter().filter(|(rule, _)| is_broken(*rule)).count();
    // The summary, in the form of test runners.
    println!("\n{} passed, {broken} failed", RULES.len() - broken);
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("{} failures in all", failures.len());
        println!("to run it again: SOAK_SEED={seed} make soak MINUTES={minutes}");
        ExitCode::FAILURE
    }
}

/// Marks the run as over when it is dropped.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Samples the gateway's memory until the end.
fn watch_memory(gateway: &Gateway<'_>, record: &Record, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        record.memory(gateway.memory("VmRSS:"));
        thread::sleep(Duration::from_secs(2));
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
