//! Work between requests: polls for revocations, self-checks and renewals.

use std::sync::{Arc, Weak};
use std::time::Duration;

use apikeys_core::audit;
use apikeys_core::background::poller::Polling;
use apikeys_core::background::self_check::{Check, Findings, Severity, State as Found};
use apikeys_core::background::{Background, Renewed};
use apikeys_core::machine::Effect;
use apikeys_core::metrics::gauges::{Gauges, OfWorker};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use crate::exchange::{Done, carry_out};
use crate::route::Route;
use crate::state::State;
use crate::{Host, Level};

const TICK: Duration = Duration::from_millis(200);
/// Sets of jobs for each route. Each set renews one token at a time.
const JOBS: usize = 8;

/// One set of background jobs of a route.
#[derive(Default)]
struct Jobs {
    background: Background,
    renewed: Renewed,
}

/// Runs a route's background jobs until the route is gone.
pub async fn work<H: Host>(route: Weak<Route<H>>) {
    let Some(mut state) = route.upgrade().map(|route| route.state()) else {
        return;
    };
    let mut jobs = new_jobs();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let Some(route) = route.upgrade() else {
            return;
        };
        let now = route.state();
        if now.is_broken() {
            continue;
        }
        if !now.is(&state) {
            // Jobs under way keep the old state until their calls end.
            (state, jobs) = (now, new_jobs());
        }
        tick(&route, &state);
        for jobs in &jobs {
            // Skips jobs that handle an answer right now: a tick never waits for them.
            let Ok(mut held) = jobs.try_lock() else {
                continue;
            };
            let effect = state.with_env(&|| None, |env, watch, _| held.background.tick(watch, env));
            tell(&route, &state, &mut held);
            drop(held);
            if let Some(effect) = effect {
                let (route, state, jobs) = (Arc::clone(&route), state.clone(), Arc::clone(jobs));
                tokio::spawn(async move { carry_on(&route, &state, &jobs, effect).await });
            }
        }
    }
}

/// Runs work again after each panic, until it ends by itself. For a process that a panic does not end.
pub async fn again<W: Future<Output = ()> + Send + 'static>(work: impl Fn() -> W) {
    while tokio::spawn(work()).await.is_err_and(|end| end.is_panic()) {
        tokio::time::sleep(TICK).await;
    }
}

fn new_jobs() -> Vec<Arc<Mutex<Jobs>>> {
    (0..JOBS).map(|_| Arc::default()).collect()
}

/// Learns of revocations, and logs how often each key was used.
fn tick<H: Host>(route: &Route<H>, state: &State) {
    let realm = &route.config.realm.name;
    let (notice, used) = state.with_env(&|| None, |env, _, _| {
        let notice = env.worker.tick(env.now, env.store);
        (notice, env.worker.take_usage(env.now, env.store))
    });
    if let Some(notice) = notice {
        route
            .host
            .log(Level::Warning, &format!("realm {realm}: {notice}"));
    }
    for used in used {
        route.host.audit(Level::Info, &audit::usage(&used, realm));
    }
    let (revoked, lost) = {
        let mut inner = state.lock();
        (
            inner.worker.take_revoked(),
            inner.worker.take_lost_buckets(),
        )
    };
    route.shared.count(|metrics| {
        metrics.revoked(revoked.owners, revoked.everybody);
        metrics.lost_buckets(lost);
    });
}

/// Carries out a set's calls, one after the other.
async fn carry_on<H: Host>(route: &Route<H>, state: &State, jobs: &Mutex<Jobs>, first: Effect) {
    let mut next = Some(first);
    while let Some(effect) = next {
        let done: Done = carry_out(route, effect, None).await;
        if state.is_broken() {
            return;
        }
        let mut held = jobs.lock().await;
        next = state.with_env(&|| None, |env, watch, _| {
            held.background.handle_event(done.event(), watch, env)
        });
        tell(route, state, &mut held);
    }
}

/// Logs news of polls and self-checks, and counts renewals.
fn tell<H: Host>(route: &Route<H>, state: &State, jobs: &mut Jobs) {
    let renewed = jobs.background.renewed();
    let before = std::mem::replace(&mut jobs.renewed, renewed);
    route
        .shared
        .count(|metrics| metrics.renewed(before, renewed));
    let (polling, findings) = {
        let mut inner = state.lock();
        (inner.watch.take_polling(), inner.watch.take_findings())
    };
    let realm = &route.config.realm.name;
    let say = |level, line: &dyn std::fmt::Display| {
        route.host.log(level, &format!("realm {realm}: {line}"));
    };
    match polling {
        Some(polling @ Polling::Good) => say(Level::Info, &polling),
        Some(polling) => say(Level::Warning, &polling),
        None => {}
    }
    let Some(findings) = findings else {
        return;
    };
    if has_passed(&findings) {
        route.passed_check();
    }
    for (severity, line) in findings.lines() {
        match severity {
            Severity::Info => say(Level::Info, &line),
            Severity::Warning => say(Level::Warning, &line),
            Severity::Error => say(Level::Error, &line),
        }
    }
}

/// The gauges of these routes together.
pub fn gauges<'a, H: Host>(routes: impl Iterator<Item = &'a Arc<Route<H>>>) -> Gauges {
    let mut all = Gauges::default();
    let mut places = 0;
    for route in routes {
        let state = route.state();
        let inner = state.lock();
        places += inner.gate.places();
        let polls = inner.worker.config.revocation_poll_ms > 0;
        let polled_at = inner.worker.cache.revocations().watched().polled_at;
        all.add_worker(OfWorker {
            sizes: inner.worker.sizes(),
            last_poll_at: polls.then_some(polled_at),
            breaker_open: inner.worker.is_breaker_open(),
            findings: inner.watch.findings(),
        });
    }
    let mut own = Gauges::default();
    own.set_queue(places);
    all.merge(&own);
    all
}

/// Whether keys can work: Keycloak gives the gateway a token with the roles that it needs.
fn has_passed(findings: &Findings) -> bool {
    [Check::ServiceToken, Check::Roles]
        .into_iter()
        .all(|check| matches!(findings.of(check), Found::Good | Found::Warning(_)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_that_panics_begins_again_until_it_ends_by_itself() {
        let begun = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&begun);
        again(move || {
            let count = Arc::clone(&count);
            async move {
                assert!(count.fetch_add(1, Ordering::Relaxed) == 2, "on purpose");
            }
        })
        .await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
