//! What was seen, what it must have been, and the figures.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::client::Response;
use crate::gateway::Gateway;
use crate::truth::{Known, Truth};
use crate::wait::now_ms;
use crate::{POLL_SECONDS, TTL_SECONDS};

/// What is claimed of each run.
pub(crate) const CLAIMS: [&str; 7] = [
    "each request is answered",
    "each answer is one of ours, and the owner's",
    "a good key is never refused",
    "a dead key is exchanged no later than the bound",
    "good keys are served while Keycloak is well",
    "keys died, and outages were",
    "the gateway's memory stays flat",
];
/// What the measuring and the machine may take beside the bound.
const MARGIN_MS: u64 = 2_000;
/// After an outage all is well again within this time: a breaker's longest pause, and
/// what a cold Keycloak takes.
const RECOVERY_MS: u64 = 15_000;
/// What the gateway's memory may grow by once it is warm, in bytes.
const GROWTH_MAX: u64 = 12 * 1024 * 1024;

/// A time in which Keycloak was not well.
#[derive(Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) kind: &'static str,
    pub(crate) from: u64,
    pub(crate) until: u64,
}

#[derive(Default)]
struct Seen {
    statuses: BTreeMap<u16, u64>,
    latencies_ms: Vec<u64>,
    unanswered: Vec<u64>,
    unavailable: Vec<u64>,
    outages: Vec<Outage>,
    faults: Vec<String>,
    memory: Vec<u64>,
}

/// All that was seen.
#[derive(Default)]
pub(crate) struct Report(Mutex<Seen>);

impl Report {
    pub(crate) fn answered(&self, response: &Response, started: u64, ended: u64) {
        let mut seen = self.0.lock().unwrap();
        *seen.statuses.entry(response.status).or_default() += 1;
        seen.latencies_ms.push(ended.saturating_sub(started));
    }

    pub(crate) fn unanswered(&self, started: u64) {
        self.0.lock().unwrap().unanswered.push(started);
    }

    pub(crate) fn unavailable(&self, started: u64) {
        self.0.lock().unwrap().unavailable.push(started);
    }

    pub(crate) fn outage(&self, outage: Outage) {
        self.0.lock().unwrap().outages.push(outage);
    }

    pub(crate) fn fault(&self, what: String) {
        let faults = &mut self.0.lock().unwrap().faults;
        if faults.len() < 20 {
            faults.push(what);
        }
    }

    /// Looks at the gateway's memory until the end.
    pub(crate) fn watch_memory(&self, gateway: &Gateway<'_>, end_ms: u64) {
        while now_ms() < end_ms {
            let now = gateway.memory("VmRSS:");
            self.0.lock().unwrap().memory.push(now);
            thread::sleep(Duration::from_secs(2));
        }
    }

    /// What is not as it is claimed.
    pub(crate) fn judge(&self, truth: &Truth) -> Vec<String> {
        let seen = self.0.lock().unwrap();
        let mut faults = seen.faults.clone();
        if let Some(first) = seen.unanswered.first() {
            let count = seen.unanswered.len();
            faults.push(format!(
                "{count} requests were not answered, the first at {first}"
            ));
        }
        for key in truth.all() {
            let Some(dead_at) = key.dead_at else { continue };
            let bound = seen.bound_ms(&key);
            let late = key.last_exchanged.saturating_sub(dead_at);
            if late > bound {
                faults.push(format!(
                    "key {} ({}) was exchanged {late} ms after its end; the bound is {bound} ms",
                    key.id, key.cause
                ));
            }
        }
        let strange = seen.unavailable.iter().find(|&&at| !seen.is_disturbed(at));
        if let Some(at) = strange {
            faults.push(format!(
                "a good key was answered 503 at {at}, and Keycloak was well"
            ));
        }
        if seen.outages.is_empty() || seen.delays(truth).is_empty() {
            faults.push("no outage was, or no key died: the run was too short".to_owned());
        }
        if let Some(growth) = seen.growth()
            && growth > GROWTH_MAX
        {
            faults.push(format!("the gateway's memory grew by {growth} bytes"));
        }
        faults
    }

    /// The figures.
    pub(crate) fn print(&self, minutes: f64) {
        let seen = self.0.lock().unwrap();
        let total: u64 = seen.statuses.values().sum();
        println!("\nrequests            {total} in {minutes} minutes");
        for (status, count) in &seen.statuses {
            println!("  answered {status}      {count}");
        }
        println!("  unanswered        {}", seen.unanswered.len());
        let mut latencies = seen.latencies_ms.clone();
        println!(
            "latency             p50 {} ms, p99 {} ms, longest {} ms",
            share(&mut latencies, 0.5),
            share(&mut latencies, 0.99),
            share(&mut latencies, 1.0)
        );
        for outage in &seen.outages {
            let seconds = (outage.until - outage.from) / 1000;
            println!("outage              Keycloak {}, {seconds} s", outage.kind);
        }
        if let (Some(first), Some(last)) = (seen.memory.first(), seen.memory.last()) {
            let growth = seen.growth().unwrap_or(0) / 1024;
            println!(
                "gateway's memory    {} MiB at first, {} MiB at last, growth once warm {growth} KiB",
                first / 1_048_576,
                last / 1_048_576
            );
        }
    }

    /// Prints how long dead keys went on.
    pub(crate) fn print_delays(&self, truth: &Truth) {
        let seen = self.0.lock().unwrap();
        let mut delays = seen.delays(truth);
        println!(
            "keys that died      {} while Keycloak was well: exchanged on for p50 {} ms, at most {} ms",
            delays.len(),
            share(&mut delays, 0.5),
            share(&mut delays, 1.0)
        );
    }
}

impl Seen {
    /// How long a key may go on after its end. While Keycloak cannot be asked, nobody
    /// can learn of it: the TTL is the bound then.
    fn bound_ms(&self, key: &Known) -> u64 {
        let by_poll = POLL_SECONDS * 1000 + 1000 + MARGIN_MS;
        let (Some(from), Some(dead_at)) = (key.dying_at, key.dead_at) else {
            return 0;
        };
        if key.cause == "expired" {
            return 0;
        }
        let disturbed = self
            .outages
            .iter()
            .any(|outage| outage.from <= dead_at + by_poll && outage.until + RECOVERY_MS >= from);
        if disturbed {
            TTL_SECONDS * 1000 + MARGIN_MS
        } else {
            by_poll
        }
    }

    fn is_disturbed(&self, at: u64) -> bool {
        let near = |outage: &Outage| at + 3000 >= outage.from && at <= outage.until + RECOVERY_MS;
        self.outages.iter().any(near)
    }

    /// How long the keys that died while Keycloak was well were exchanged on.
    fn delays(&self, truth: &Truth) -> Vec<u64> {
        let by_poll = POLL_SECONDS * 1000 + 1000 + MARGIN_MS;
        let dead = truth.all().into_iter().filter(|key| {
            key.cause != "expired" && key.first_refused.is_some() && self.bound_ms(key) == by_poll
        });
        dead.map(|key| {
            key.last_exchanged
                .saturating_sub(key.dead_at.unwrap_or(u64::MAX))
        })
        .collect()
    }

    /// Growth from the first third of the run to its end.
    fn growth(&self) -> Option<u64> {
        let warm = self.memory.get(self.memory.len() / 3)?;
        let last = self.memory.iter().rev().take(3).min()?;
        Some(last.saturating_sub(*warm))
    }
}

/// The value below which this share of all lies.
fn share(values: &mut [u64], share: f64) -> u64 {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    // Exact enough for a figure.
    let at = (last as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(0)
}
