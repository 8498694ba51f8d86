//! Work between requests: polls for revocations, self-checks, renewals, and watching the files of
//! the signing keys.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use apikeys_core::audit;
use apikeys_core::background::poller::Polling;
use apikeys_core::background::self_check::{Check, Findings, Severity, State as Found};
use apikeys_core::background::{Background, Renewed};
use apikeys_core::machine::Effect;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use crate::exchange::{Done, carry_out};
use crate::log;
use crate::service::{KeyFiles, Route, State};

const TICK: Duration = Duration::from_millis(200);
/// The time between two reads of the signing keys' files.
const KEYS_PERIOD: Duration = Duration::from_secs(1);
/// Sets of jobs for each route. Each set renews one token at a time.
const JOBS: usize = 8;

/// One set of background jobs of a route.
#[derive(Default)]
struct Jobs {
    background: Background,
    renewed: Renewed,
}

/// Runs a route's background jobs until the process ends.
pub(crate) async fn work(route: Arc<Route>) {
    let mut state = route.state();
    let mut jobs = new_jobs();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let now = route.state();
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
            let effect = state.with_env(None, |env, watch, _| held.background.tick(watch, env));
            tell(&route, &state, &mut held);
            drop(held);
            if let Some(effect) = effect {
                let (route, state, jobs) = (Arc::clone(&route), state.clone(), Arc::clone(jobs));
                tokio::spawn(async move { carry_on(&route, &state, &jobs, effect).await });
            }
        }
    }
}

fn new_jobs() -> Vec<Arc<Mutex<Jobs>>> {
    (0..JOBS).map(|_| Arc::default()).collect()
}

/// Learns of revocations, and logs how often each key was used.
fn tick(route: &Route, state: &State) {
    let realm = &route.config.realm.name;
    let (notice, used) = state.with_env(None, |env, _, _| {
        let notice = env.worker.tick(env.now, env.store);
        (notice, env.worker.take_usage(env.now, env.store))
    });
    if let Some(notice) = notice {
        tracing::warn!("realm {realm}: {notice}");
    }
    for used in used {
        log::audit(&audit::usage(&used, realm));
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
async fn carry_on(route: &Route, state: &State, jobs: &Mutex<Jobs>, first: Effect) {
    let mut next = Some(first);
    while let Some(effect) = next {
        let done: Done = carry_out(route, effect, None).await;
        let mut held = jobs.lock().await;
        next = state.with_env(None, |env, watch, _| {
            held.background.handle_event(done.event(), watch, env)
        });
        tell(route, state, &mut held);
    }
}

/// Logs news of polls and self-checks, and counts renewals.
fn tell(route: &Route, state: &State, jobs: &mut Jobs) {
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
    match polling {
        Some(Polling::Good) => tracing::info!("realm {realm}: {}", Polling::Good),
        Some(polling) => tracing::warn!("realm {realm}: {polling}"),
        None => {}
    }
    let Some(findings) = findings else {
        return;
    };
    if has_passed(&findings) {
        route.ready.store(true, Ordering::Relaxed);
    }
    for (severity, line) in findings.lines() {
        match severity {
            Severity::Info => tracing::info!("realm {realm}: {line}"),
            Severity::Warning => tracing::warn!("realm {realm}: {line}"),
            Severity::Error => tracing::error!("realm {realm}: {line}"),
        }
    }
}

/// Whether keys can work: Keycloak gives the gateway a token with the roles that it needs.
fn has_passed(findings: &Findings) -> bool {
    [Check::ServiceToken, Check::Roles]
        .into_iter()
        .all(|check| matches!(findings.of(check), Found::Good | Found::Warning(_)))
}

/// Watches the files of the signing keys. A key that cannot be used is logged once, and the key
/// before it stays in use. `reread` asks for a check without delay.
pub(crate) async fn watch_keys(
    routes: Vec<Arc<Route>>,
    files: KeyFiles,
    reread: Arc<tokio::sync::Notify>,
) {
    let mut known = digest(&files).await;
    loop {
        tokio::select! {
            () = tokio::time::sleep(KEYS_PERIOD) => {}
            () = reread.notified() => {}
        }
        let seen = digest(&files).await;
        if seen == known {
            continue;
        }
        known = seen;
        match Route::read_keys_again(&routes) {
            Ok(true) => tracing::info!("the signing key has changed and is in use"),
            Ok(false) => {
                tracing::info!("the signing key's file has changed, and holds the key in use");
            }
            Err(fault) => tracing::error!(
                "the signing key has changed and cannot be used, so the one before stays: {fault:#}"
            ),
        }
    }
}

/// A digest of the files, to notice a change. A file that cannot be read counts as empty.
async fn digest(files: &KeyFiles) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for path in [&files.signing_key, &files.management_signing_key] {
        let bytes = tokio::fs::read(path).await.map(zeroize::Zeroizing::new);
        let bytes = bytes.unwrap_or_default();
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(&*bytes);
    }
    hasher.finalize().into()
}
