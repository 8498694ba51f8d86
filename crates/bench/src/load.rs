//! Load, from wrk (closed loop: as many requests as possible) and oha (open loop: so
//! many requests a second, each timed from the moment when it was due).

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::bench::Bench;
use crate::secrets::redact;
use crate::stack::project;
use crate::targets::PEER_KEY;

/// Keys to send, as a file that only its owner can read.
pub(crate) struct Keys(PathBuf);

impl Keys {
    /// Writes these keys.
    pub(crate) fn new<'a>(bench: &Bench, keys: impl IntoIterator<Item = &'a str>) -> Self {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = bench.stack.run_dir.join(format!("keys-{number}"));
        let mut options = fs::OpenOptions::new();
        let file = options.create(true).write(true).truncate(true).mode(0o600);
        let file = file.open(&path).expect("a file of keys");
        let mut file = std::io::BufWriter::new(file);
        for key in keys {
            writeln!(file, "{key}").expect("a file of keys");
        }
        file.flush().expect("a file of keys");
        Self(path)
    }
}

/// The order of the keys.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    Turn,
    Random,
}

/// The end of a closed loop.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Seconds(u32),
    Requests(u64),
}

/// The result of a closed loop.
pub(crate) struct Closed {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
}

/// As many requests as possible, over so many connections.
#[track_caller]
pub(crate) fn closed(
    port: u16,
    keys: &Keys,
    order: Order,
    connections: u32,
    until: Until,
) -> Closed {
    closed_at((port, "/orders"), keys, order, connections, until)
}

/// The same at another path.
#[track_caller]
pub(crate) fn closed_at(
    (port, path): (u16, &str),
    keys: &Keys,
    order: Order,
    connections: u32,
    until: Until,
) -> Closed {
    let mut wrk = Command::new(program("WRK"));
    let seconds = match until {
        Until::Seconds(seconds) => seconds,
        // Its script ends it before.
        Until::Requests(_) => 900,
    };
    wrk.args(["--threads", "1", "--timeout", "30s", "--script"])
        .arg(format!("{}/crates/bench/wrk.lua", project()))
        .args(["--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s")])
        .arg(format!("http://127.0.0.1:{port}{path}"))
        .env("BENCH_PATH", path)
        .env("BENCH_KEYS", &keys.0)
        .env("BENCH_PEER_KEY", PEER_KEY)
        .env(
            "BENCH_ORDER",
            if matches!(order, Order::Random) {
                "random"
            } else {
                "turn"
            },
        );
    if let Until::Requests(requests) = until {
        wrk.env("BENCH_REQUESTS", requests.to_string());
    }
    let said = output_of_wrk(&mut wrk);
    let line = said.lines().find(|line| line.starts_with('{'));
    let line = line.unwrap_or_else(|| panic!("wrk: {}", redact(&said)));
    let figures: Value = serde_json::from_str(line).expect("JSON");
    let number = |name: &str| figures[name].as_f64().expect("a number");
    assert!(
        number("failed") == 0.0 && number("requests") > 0.0,
        "wrk: {figures}"
    );
    Closed {
        requests: number("requests"),
        per_second: number("requests") / number("seconds"),
    }
}

/// The latencies of an open loop, in microseconds.
pub(crate) struct Open {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// So many requests a second for so long: each is sent on time, whether earlier ones are
/// answered or not. The listener adds their key.
#[track_caller]
pub(crate) fn open(port: u16, per_second: f64, connections: u32, time: Duration) -> Open {
    let mut oha = Command::new(program("OHA"));
    oha.args([
        "--no-tui",
        "--output-format",
        "json",
        "--latency-correction",
    ])
    .args(["-c", &connections.to_string()])
    .args(["--worker-threads", "1", "-w"])
    .args([
        "-q",
        &format!("{per_second:.0}"),
        "-z",
        &format!("{}ms", time.as_millis()),
    ])
    .args(["-H", &format!("x-peer-key: {PEER_KEY}")])
    .arg(format!("http://127.0.0.1:{port}/orders"));
    let said = output(&mut oha);
    let figures: Value = serde_json::from_str(&said).expect("JSON of oha's");
    let statuses = figures["statusCodeDistribution"].as_object();
    let statuses: Vec<&String> = statuses.into_iter().flat_map(|all| all.keys()).collect();
    assert_eq!(statuses, ["200"], "oha: {}", redact(&said));
    let percentile = |name: &str| {
        let seconds = figures["latencyPercentiles"][name].as_f64();
        seconds.expect("a percentile") * 1e6
    };
    Open {
        p50: percentile("p50"),
        p99: percentile("p99"),
    }
}

/// Runs wrk, and ends it once its script reports the last request: its threads stop by
/// themselves then, but wrk sleeps until its duration is over.
fn output_of_wrk(command: &mut Command) -> String {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut wrk = command.spawn().expect("wrk");
    let mut said = String::new();
    let lines = BufReader::new(wrk.stdout.take().expect("its output")).lines();
    for line in lines.map_while(Result::ok) {
        if line == "enough" {
            let mut kill = Command::new("kill");
            let told = kill.args(["-INT", &wrk.id().to_string()]).status();
            assert!(told.is_ok_and(|status| status.success()), "kill");
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = wrk.wait().expect("wrk ends");
    assert!(status.success(), "wrk: {status}: {}", redact(&said));
    said
}

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("a program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}", redact(&said));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The path of a program that scripts/bench.sh has fetched.
pub(crate) fn program(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run make bench"))
}
