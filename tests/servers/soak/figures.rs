//! The figures of a soak, as a table.

use std::collections::BTreeMap;

use crate::judge::{Answer, History, PHASES, Sent};

const MIB: f64 = 1_048_576.0;
/// The columns, in the order of [`column`].
const COLUMNS: [&str; 7] = [
    "exchanged",
    "401",
    "429",
    "503",
    "another's",
    "strange",
    "unanswered",
];

/// Prints the figures.
pub(crate) fn print(history: &History, ms: u64) {
    println!("\n{:<22}{}", "requests", history.requests.len());
    println!("{:<22}{} s", "in", ms / 1000);
    print_answers(history);
    print_latency(history);
    print_outages(history);
    print_deaths(history);
    if let (Some((warm, last)), Some(first)) = (history.warm_and_last(), history.memory.first()) {
        let mib = |bytes: u64| bytes as f64 / MIB;
        println!(
            "gateway's memory      {:.1} MiB at first, {:.1} at a third, {:.1} at the end",
            mib(*first),
            mib(warm),
            mib(last)
        );
    }
}

fn print_answers(history: &History) {
    let mut counts = [[0_u64; COLUMNS.len()]; PHASES.len()];
    for seen in &history.requests {
        counts[history.phase(seen)][column(seen.answer)] += 1;
    }
    print!("{:<22}", "keys that were");
    COLUMNS.iter().for_each(|name| print!("{name:>11}"));
    println!();
    for (phase, counts) in PHASES.iter().zip(counts) {
        print!("  {phase:<20}");
        counts.iter().for_each(|count| print!("{count:>11}"));
        println!();
    }
}

fn column(answer: Answer) -> usize {
    match answer {
        Answer::Owners => 0,
        Answer::Refused => 1,
        Answer::Throttled => 2,
        Answer::Unavailable => 3,
        Answer::AnotherOwners => 4,
        Answer::Strange(_) => 5,
        Answer::Unanswered => 6,
    }
}

fn print_latency(history: &History) {
    let took = |seen: &crate::judge::Seen| seen.ended.saturating_sub(seen.started);
    let mut latencies: Vec<u64> = history.requests.iter().map(took).collect();
    println!(
        "latency               p50 {} ms, p99 {} ms, longest {} ms",
        share(&mut latencies, 0.5),
        share(&mut latencies, 0.99),
        share(&mut latencies, 1.0)
    );
}

fn print_outages(history: &History) {
    let mut by_kind: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for outage in &history.outages {
        let lasted = outage.until.saturating_sub(outage.from);
        by_kind.entry(outage.kind).or_default().push(lasted);
    }
    for (kind, mut lasted) in by_kind {
        let (times, longest) = (lasted.len(), share(&mut lasted, 1.0));
        println!("outage                {times} of Keycloak {kind}, longest {longest} ms");
    }
    let mut recoveries = history.recoveries();
    println!(
        "  the last 503 after  p50 {} ms, at most {} ms; the bound {} ms",
        share(&mut recoveries, 0.5),
        share(&mut recoveries, 1.0),
        history.promise.recovery_ms
    );
}

fn print_deaths(history: &History) {
    let mut by_cause: BTreeMap<_, u64> = BTreeMap::new();
    for death in history.keys.iter().flatten() {
        *by_cause.entry(death.cause).or_default() += 1;
    }
    let causes: Vec<String> = by_cause
        .iter()
        .map(|(cause, count)| format!("{count} {cause:?}"))
        .collect();
    println!("keys that died        {}", causes.join(", "));
    let bounds = [history.promise.by_poll_ms(), history.promise.ttl_ms];
    let names = ["Keycloak well", "Keycloak not well"];
    for ((mut delays, bound), name) in history.delays().into_iter().zip(bounds).zip(names) {
        println!(
            "  exchanged on for    p50 {} ms, at most {} ms; {} keys, {name}, the bound {bound} ms",
            share(&mut delays, 0.5),
            share(&mut delays, 1.0),
            delays.len()
        );
    }
    let sent_dead =
        |seen: &&crate::judge::Seen| matches!(seen.sent, Sent::Key(_)) && history.phase(seen) == 2;
    let dead = history.requests.iter().filter(sent_dead);
    let late = dead.filter(|seen| seen.answer == Answer::Owners).count();
    println!("  exchanged later     {late}");
}

/// The value below which this share of the values lies.
fn share(values: &mut [u64], share: f64) -> u64 {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    // Exact enough for a figure.
    let at = (last as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(0)
}
