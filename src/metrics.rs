//! Tells the host the metrics, on ticks.
//!
//! Kong before 3.9 has proxy-wasm's metrics as functions that end the filter, so the gateway must
//! be known to take them before any is told. A wrong call for a metric's kind ends the filter as
//! well: counters are incremented, gauges recorded.

use std::cell::RefCell;
use std::time::Instant;

use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

use super::gateway::Gateway;
use super::shared_store::HostStore;
use super::workers::{holder, with_machine};
use apikeys_core::background::Watch;
use apikeys_core::clock::UnixMillis;
use apikeys_core::exchange::Worker;
use apikeys_core::keycloak::Endpoint;
use apikeys_core::metrics::gauges::{self, Gauges, Member, OfWorker};
use apikeys_core::metrics::{self, CallResult, Metrics};
use apikeys_core::store::slots::SharedStore;

/// Times one of so many requests, until it must wait: reading the clock twice for each would cost
/// more than counting it.
const TIMED_OF: u32 = 16;

thread_local! {
    static TELLER: RefCell<Teller> = RefCell::new(Teller::default());
}

/// The metrics that the host is told.
#[derive(Default)]
struct Teller {
    metrics: Metrics,
    member: Option<Member>,
    host: Host,
    /// Requests since the last timed one.
    untimed: u32,
}

/// The state of the host's metrics.
#[derive(Default)]
enum Host {
    /// Unknown.
    #[default]
    Unknown,
    /// It takes metrics.
    Takes,
    /// The host has assigned these ids: those of the counters, those of the gauges.
    Knows(Vec<u32>, Vec<u32>),
    /// It has none.
    Refuses,
}

/// Counts something.
pub(super) fn count(act: impl FnOnce(&mut Metrics)) {
    TELLER.with_borrow_mut(|teller| act(&mut teller.metrics));
}

/// A request came: gives the instant, if this request is timed.
pub(super) fn request_came() -> Option<Instant> {
    TELLER.with_borrow_mut(|teller| {
        teller.untimed += 1;
        (teller.untimed % TIMED_OF == 1).then(now)
    })
}

/// The instant, by a clock that is never set.
#[expect(clippy::disallowed_methods, reason = "the shell reads the clock")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Microseconds since then.
pub(super) fn since(then: Instant) -> u64 {
    let took = now().saturating_duration_since(then).as_micros();
    u64::try_from(took).unwrap_or(u64::MAX)
}

/// A callout to Keycloak that was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    endpoint: Endpoint,
    at: Instant,
}

impl Sent {
    pub(super) fn now(endpoint: Endpoint) -> Self {
        let at = now();
        Self { endpoint, at }
    }

    /// Its answer came, or none: counts it, and gives the microseconds that it took.
    pub(super) fn ended(self, status: Option<u16>) -> u64 {
        let took = since(self.at);
        count(|metrics| {
            let result = status.map_or(CallResult::Failed, CallResult::of_status);
            metrics.called(self.endpoint, result);
            if status.is_some() {
                metrics.answer_took(self.endpoint, took);
            }
        });
        took
    }
}

/// Tells the host the changes.
pub(super) fn tick(now: UnixMillis) {
    TELLER.with_borrow_mut(|teller| {
        if matches!(teller.host, Host::Unknown) && Gateway::here().takes_metrics() {
            teller.host = Host::Takes;
        }
        let seen = teller.look(now);
        teller.define();
        let Host::Knows(counters, gauges) = &teller.host else {
            return;
        };
        // If the host does not take a value, the value is lost.
        teller.metrics.grown(|at, by| {
            if let (Some(id), Ok(by)) = (counters.get(at), i64::try_from(by)) {
                let _ = hostcalls::increment_metric(*id, by);
            }
        });
        for (at, value) in seen.iter().flat_map(Gauges::iter) {
            if let Some(id) = gauges.get(at) {
                let _ = hostcalls::record_metric(*id, value);
            }
        }
    });
}

impl Teller {
    /// The node's gauges, if this machine tells them and it is time.
    fn look(&mut self, now: UnixMillis) -> Option<Gauges> {
        if self.member.is_none() {
            self.member = holder().map(Member::new);
        }
        let member = self.member.as_mut()?;
        if !member.is_due(now) {
            return None;
        }
        let (mut own, mut shares) = (Gauges::default(), false);
        with_machine(|gate, worker| match worker {
            None => own.set_queue(gate.places()),
            Some((worker, watch)) => {
                own.add_worker(of_worker(worker, watch));
                let counts = worker.take_revoked();
                self.metrics.revoked(counts.owners, counts.everybody);
                self.metrics.lost_buckets(worker.take_lost_buckets());
                shares |= worker.config.l2_slots > 0;
            }
        });
        let mut store = HostStore;
        let store = shares.then_some(&mut store as &mut dyn SharedStore);
        let tells = matches!(self.host, Host::Takes | Host::Knows(..));
        let shown = member.show(&own, tells, now, store);
        if shown.host_takes_metrics && matches!(self.host, Host::Unknown) {
            self.host = Host::Takes;
        }
        shown.tell
    }

    /// Makes the metrics known to the host, once.
    fn define(&mut self) {
        if !matches!(self.host, Host::Takes) {
            return;
        }
        let define = |kind: MetricType, names: Vec<String>| {
            let ids = names
                .iter()
                .map(|name| hostcalls::define_metric(kind, name));
            ids.collect::<Result<Vec<_>, _>>()
        };
        let counters = define(MetricType::Counter, metrics::names());
        let gauges = define(MetricType::Gauge, gauges::names());
        self.host = match (counters, gauges) {
            (Ok(counters), Ok(gauges)) => Host::Knows(counters, gauges),
            _ => Host::Refuses,
        };
    }
}

fn of_worker<'a>(worker: &Worker, watch: &'a Watch) -> OfWorker<'a> {
    let polls = worker.config.revocation_poll_ms > 0;
    let polled_at = worker.cache.revocations().watched().polled_at;
    OfWorker {
        sizes: worker.sizes(),
        last_poll_at: polls.then_some(polled_at),
        breaker_open: worker.is_breaker_open(),
        findings: watch.findings(),
    }
}
