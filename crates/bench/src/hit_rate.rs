//! The share of requests that find their token in the cache, and the load of the others on
//! Keycloak: an hour in virtual time, and how both change with the use of the keys and their
//! number.
//!
//! Real servers would take the hour, and a Keycloak with as many keys. Only the surroundings
//! of the core are made up ([`crate::virtual_node`]); a run with the same seed is the same
//! run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use crate::bench::Bench;
use crate::capacity_check;
use crate::capacity_model::hit_rate_without_renewals;
use crate::report::{Curve, Report};
use crate::traffic::Usage;
use crate::virtual_node::{Hash, Run, Scenario, run};

const TTL_SECONDS: u64 = 300;

/// The row: an hour from empty caches, on one node of one worker with default settings. The
/// beginning of the hour is reported apart from the rest.
const HOUR: Scenario = Scenario {
    usage: Usage::zipf(10_000, 3000.0),
    workers: 1,
    cache_ttl_seconds: TTL_SECONDS,
    l1_entries: None,
    l2_slots: None,
    call_ms: 10,
    keycloak_at_once: None,
    hash: Hash::Sha256,
    known: false,
    warm_up_seconds: 600,
    seconds: 3000,
    seed: 1,
};

/// The keys of the curves, fewer than the row's so that there can be many points: ten times
/// the keys with ten times the requests give much the same curve.
pub(crate) const CURVE_KEYS: usize = 1000;
const CURVE_RATES: [f64; 5] = [3.0, 10.0, 30.0, 100.0, 300.0];
pub(crate) const CURVE_TTLS: [u64; 3] = [60, 300, 900];
/// Low, so that a million keys do not take most of the bench's time.
pub(crate) const GROWTH_RATE: f64 = 100.0;
const GROWTH_KEYS: [usize; 4] = [1_000_000, 100_000, 10_000, 1000];
/// A fifth of the row's keys and requests.
pub(crate) const FIFTH: Usage = Usage::zipf(2000, 600.0);
const CALL_MS: [u64; 4] = [10, 50, 100, 200];

/// Four rounds of a token in steady use.
const fn steady(usage: Usage, ttl_seconds: u64) -> Scenario {
    Scenario::steady(usage, ttl_seconds, 4)
}

/// All simulated scenarios, each at its point of a curve.
struct Scenarios {
    by_rate: [[(f64, Scenario); CURVE_RATES.len()]; CURVE_TTLS.len()],
    by_keys: [(f64, Scenario); GROWTH_KEYS.len()],
    by_call: [(f64, Scenario); CALL_MS.len()],
    crowds: [(&'static str, Scenario); 3],
}

impl Scenarios {
    fn new() -> Self {
        let of_keys = |keys| steady(Usage::zipf(keys, GROWTH_RATE), TTL_SECONDS);
        let of_call = |call_ms| Scenario {
            call_ms,
            ..steady(FIFTH, TTL_SECONDS)
        };
        Self {
            by_rate: CURVE_TTLS.map(|ttl| {
                CURVE_RATES.map(|rate| (rate, steady(Usage::zipf(CURVE_KEYS, rate), ttl)))
            }),
            by_keys: GROWTH_KEYS.map(|keys| (keys as f64, of_keys(keys))),
            by_call: CALL_MS.map(|call_ms| (call_ms as f64, of_call(call_ms))),
            crowds: crowds(),
        }
    }

    /// The longest scenarios first.
    fn in_order(&self) -> Vec<Scenario> {
        let mut all = vec![HOUR];
        all.extend(self.by_keys.iter().map(|(_, scenario)| *scenario));
        all.extend(self.crowds.iter().map(|(_, scenario)| *scenario));
        all.extend(self.by_call.iter().map(|(_, scenario)| *scenario));
        all.extend(self.by_rate.iter().flatten().map(|(_, scenario)| *scenario));
        all
    }
}

/// Independent runs, on a thread for each core.
pub(crate) struct Simulation {
    threads: Vec<JoinHandle<()>>,
    done: Receiver<(usize, Run)>,
}

impl Simulation {
    /// Begins all of them. They go on in each lull: their time is virtual, so other work does
    /// not change their results, and alone they would take more than a minute.
    pub(crate) fn begin(bench: &Bench) -> Self {
        let scenarios = Arc::new(Scenarios::new().in_order());
        let next = Arc::new(AtomicUsize::new(0));
        let (sender, done) = mpsc::channel();
        let threads = (0..bench.cores.count()).map(|_| {
            let (scenarios, next, sender) = (scenarios.clone(), next.clone(), sender.clone());
            bench.lull.spawn(bench.cores, move |lull| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scenario) = scenarios.get(at) else {
                        break;
                    };
                    let ran = run(scenario, &|| lull.wait());
                    sender.send((at, ran)).expect("someone waits");
                }
            })
        });
        Self {
            threads: threads.collect(),
            done,
        }
    }

    /// Waits for all of them; returns them in the scenarios' order.
    fn wait(self, bench: &Bench) -> Vec<Run> {
        bench.lull.during(|| {
            for thread in self.threads {
                thread.join().expect("each comes to its end");
            }
        });
        let mut runs: Vec<(usize, Run)> = self.done.iter().collect();
        runs.sort_by_key(|(at, _)| *at);
        runs.into_iter().map(|(_, run)| run).collect()
    }
}

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let simulation = bench
        .simulation
        .take()
        .expect("begun, where it is asked for");
    let mut runs = simulation.wait(bench).into_iter();
    let mut next = || runs.next().expect("a run for each scenario");
    let Scenarios {
        by_rate,
        by_keys,
        by_call,
        crowds,
    } = Scenarios::new();
    report_hour(&next(), report);
    let growth = by_keys.map(|(keys, _)| (keys, next()));
    report_growth(&growth, report);
    for (name, _) in crowds {
        let run = next().counted;
        report.fact(&format!("{name}_hit_rate_share"), &[run.hit_rate()]);
        report.fact(
            &format!("{name}_calls_per_1k_requests"),
            &[run.calls_per_1k_requests()],
        );
        let refused = run.refused as f64 / run.requests as f64;
        report.fact(&format!("{name}_refused_share"), &[refused]);
    }
    let by_call = by_call.map(|(call_ms, _)| (call_ms, next().counted.hit_rate()));
    report.curve(Curve {
        name: "hit_rate_by_call_ms",
        title: format!(
            "Hit rate, {} keys, {} requests/s, one worker",
            FIFTH.keys, FIFTH.requests_per_second
        ),
        x: "what a call to Keycloak takes, ms",
        y: "hit rate",
        lines: vec![("simulated".to_owned(), by_call.to_vec())],
    });
    let by_rate = by_rate.map(|line| line.map(|(rate, _)| (rate, next().counted)));
    let lines = |of: &dyn Fn(&crate::virtual_node::Outcome) -> f64| {
        let all = CURVE_TTLS.iter().zip(&by_rate);
        let line = all.map(|(ttl, line)| {
            let points = line.iter().map(|(rate, outcome)| (*rate, of(outcome)));
            (ttl_line(*ttl), points.collect())
        });
        line.collect()
    };
    report.curve(Curve {
        name: "hit_rate_by_rate",
        title: format!("Hit rate, {CURVE_KEYS} keys, Zipf 1.0"),
        x: "requests/s",
        y: "hit rate",
        lines: lines(&|outcome| outcome.hit_rate()),
    });
    report.curve(Curve {
        name: "refreshes_by_rate",
        title: format!("Look-ups and as many grants, {CURVE_KEYS} keys, Zipf 1.0"),
        x: "requests/s",
        y: "grants/s",
        lines: lines(&|outcome| outcome.grants_per_second()),
    });
    capacity_check::compare(report);
}

/// The name of a TTL's line.
pub(crate) fn ttl_line(ttl_seconds: u64) -> String {
    format!("TTL {ttl_seconds} s")
}

/// Four workers, once with shared data as small for their keys as the default is for the
/// row's, and once with room for all keys; and one worker with ten times the keys that its
/// memory holds by default.
fn crowds() -> [(&'static str, Scenario); 3] {
    let crowd = |l2_slots| Scenario {
        workers: 4,
        l2_slots: Some(l2_slots),
        ..steady(FIFTH, TTL_SECONDS)
    };
    let many = Scenario {
        l1_entries: None,
        seconds: TTL_SECONDS,
        ..steady(Usage::zipf(100_000, 600.0), TTL_SECONDS)
    };
    [
        ("four_workers_l2_too_small", crowd(820)),
        ("four_workers_l2_fits", crowd(4096)),
        ("l1_too_small", many),
    ]
}

fn report_hour(run: &Run, report: &mut Report) {
    let (whole, steady) = (run.whole(), run.counted);
    report.row("hit_rate_zipf", &[whole.hit_rate()]);
    let calls = whole.calls_per_1k_requests();
    report.row("keycloak_calls_per_1k_requests", &[calls]);
    report.fact("hit_rate_zipf_steady_share", &[steady.hit_rate()]);
    let without = hit_rate_without_renewals(&HOUR.usage, TTL_SECONDS as f64);
    report.fact("hit_rate_zipf_without_renewals_share", &[without]);
    let refused = run.warm_up.refused as f64 / run.warm_up.requests as f64;
    report.fact("hit_rate_zipf_refused_first_10_min_share", &[refused]);
    let refused = steady.refused as f64 / steady.requests as f64;
    report.fact("hit_rate_zipf_refused_later_share", &[refused]);
    report.fact(
        "hit_rate_zipf_grants_per_second",
        &[steady.grants_per_second()],
    );
    let renewed = steady.renewals as f64 / steady.grants as f64;
    report.fact("hit_rate_zipf_renewed_ahead_share", &[renewed]);
}

fn report_growth(growth: &[(f64, Run)], report: &mut Report) {
    let line = |of: &dyn Fn(&Run) -> f64| {
        let mut points: Vec<(f64, f64)> =
            growth.iter().map(|(keys, run)| (*keys, of(run))).collect();
        points.reverse();
        vec![(format!("{GROWTH_RATE} requests/s"), points)]
    };
    report.curve(Curve {
        name: "hit_rate_by_keys",
        title: format!("Hit rate, Zipf 1.0, TTL {TTL_SECONDS} s"),
        x: "keys",
        y: "hit rate",
        lines: line(&|run| run.counted.hit_rate()),
    });
    report.curve(Curve {
        name: "calls_by_keys",
        title: format!("Calls to Keycloak, Zipf 1.0, TTL {TTL_SECONDS} s"),
        x: "keys",
        y: "calls for 1,000 requests",
        lines: line(&|run| run.counted.calls_per_1k_requests()),
    });
}
