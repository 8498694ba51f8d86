//! One exchange: drives the core's machine with this process's clock, threads and connections.

use std::sync::Arc;
use std::time::Duration;

use apikeys_core::api_key::hash::{BcryptJob, ROUNDS_PER_SLICE};
use apikeys_core::audit::{self, Line};
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::exchange::{Env, Exchange, Forward, Output, Pass, Source, identity};
use apikeys_core::keycloak::{Endpoint, loggable};
use apikeys_core::machine::{Effect, Event};
use apikeys_core::metrics::Way;
use apikeys_core::rejection::{Reason, Rejection};
use apikeys_core::trace::TraceContext;
use tokio::sync::Semaphore;
use tokio::task;

use crate::clock;
use crate::keycloak::Answer;
use crate::log;
use crate::request::Request;
use crate::service::{Route, State};

/// The verdict on a request, for its gateway.
pub(crate) enum Verdict {
    /// The gateway forwards it with a token.
    Exchanged {
        /// The value for `Authorization`.
        authorization: Arc<str>,
        /// The key's public id.
        key_id: String,
        /// Keycloak's id of the owner.
        owner_id: String,
        /// The identity headers for the service behind the gateway, if the configuration sets them.
        identity: Vec<(&'static str, String)>,
        /// The headers that the gateway must remove.
        remove: Vec<String>,
    },
    /// The gateway forwards it as it came, except for these headers.
    Passed {
        /// The headers that the gateway must remove.
        remove: Vec<String>,
    },
    /// The gateway refuses it with this answer.
    Refused {
        /// The status and headers of the answer.
        rejection: Rejection,
        /// The answer's body.
        body: String,
    },
}

/// An exchange under way. If the gateway disconnects, the exchange ends and releases its claims.
struct UnderWay<'a> {
    route: &'a Route,
    request: &'a Request,
    state: State,
    exchange: Exchange,
    keycloak_us: u64,
    waited: bool,
    fetched_token: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.exchange.is_pending() {
            self.ask(|exchange, env| exchange.abort(env));
        }
    }
}

impl UnderWay<'_> {
    fn ask<T>(&mut self, act: impl FnOnce(&mut Exchange, &mut Env<'_>) -> T) -> T {
        let Self {
            request,
            state,
            exchange,
            ..
        } = self;
        let source = request.source.as_deref();
        state.with_env(source, |env, _, _| act(exchange, env))
    }
}

/// Judges a request. `removes`: the gateway removes each header that the verdict names. Otherwise it
/// removes only the headers in its own configuration.
pub(crate) async fn judge(route: &Route, request: &Request, removes: bool) -> Verdict {
    let began = clock::instant();
    if request.source.is_none() {
        route.has_no_address();
    }
    let mut under_way = UnderWay {
        route,
        request,
        state: route.state(),
        exchange: Exchange::new(),
        keycloak_us: 0,
        waited: false,
        fetched_token: false,
    };
    let claims = match identity::claims(&request.headers) {
        Ok(claims) => claims,
        Err(reason) => {
            let report = Report::of(&under_way, clock::since_us(began));
            return report.refuse(reason.rejection(), &reason.to_string());
        }
    };
    // Envoy may hold headers that it does not send here, so the three identity headers always go.
    let claimed = claims.iter().filter(|name| !identity::NAMES.contains(name));
    let names = identity::NAMES.iter().chain(claimed);
    let mut remove: Vec<String> = names.map(|name| (*name).to_owned()).collect();
    if let Some(name) = beyond_reach(&route.config, &claims, removes) {
        let report = Report::of(&under_way, clock::since_us(began));
        let reason = format!("the gateway cannot remove the header {}", loggable(name));
        return report.refuse(Rejection::AmbiguousCredentials, &reason);
    }
    if !route.config.enabled {
        return Verdict::Passed { remove };
    }
    let mut trace = None;
    let mut output = under_way.ask(|exchange, env| exchange.begin(&request.headers, env));
    while let Output::Await(effect) = output {
        if !std::mem::replace(&mut under_way.waited, true) {
            trace = request.trace(&route.config);
        }
        let done = perform(route, effect, trace.as_ref(), &mut under_way).await;
        output = under_way.ask(|exchange, env| exchange.handle_event(done.event(), env));
    }
    let report = Report::of(&under_way, clock::since_us(began));
    match output {
        Output::Forward(forward) => {
            let held: Vec<&str> = forward.remove.iter().map(String::as_str).collect();
            if let Some(name) = beyond_reach(&route.config, &held, removes) {
                let reason = Reason::KeyBeyondReach(loggable(name));
                return report.refuse(reason.rejection(), &reason.to_string());
            }
            remove.extend(held.into_iter().map(str::to_owned));
            report.forward(&forward, remove)
        }
        Output::Pass(why) => report.pass(why, remove),
        Output::Reject { rejection, reason } => report.refuse(rejection, &reason.to_string()),
        // Unreachable: the loop above ends with another output.
        Output::Await(_) => report.refuse(Rejection::IdentityProviderUnavailable, "not finished"),
    }
}

/// The first of these headers that the gateway does not remove.
fn beyond_reach<'a>(config: &Config, names: &[&'a str], removes: bool) -> Option<&'a str> {
    let is_known = |name: &&&str| {
        let same = |known: &str| known.eq_ignore_ascii_case(name);
        config.headers.iter().any(|known| same(known)) || identity::NAMES.into_iter().any(same)
    };
    let unknown = names.iter().find(|name| !is_known(name));
    unknown.filter(|_| !removes).copied()
}

/// The outcome of an effect.
pub(crate) enum Done {
    Answered(Answer),
    Turn,
    Computed(bool),
}

impl Done {
    /// The outcome, as an event for a machine.
    pub(crate) fn event(&self) -> Event<'_> {
        match self {
            Self::Answered(answer) => answer.event(),
            Self::Turn => Event::TURN,
            Self::Computed(same) => Event::Computed(*same),
        }
    }
}

async fn perform(
    route: &Route,
    effect: Effect,
    trace: Option<&TraceContext>,
    under_way: &mut UnderWay<'_>,
) -> Done {
    let is_call = match &effect {
        Effect::Call { call, .. } => {
            under_way.fetched_token |= call.endpoint == Endpoint::ServiceToken;
            true
        }
        _ => false,
    };
    let began = clock::instant();
    let done = carry_out(route, effect, trace).await;
    if is_call {
        under_way.keycloak_us += clock::since_us(began);
    }
    done
}

pub(crate) async fn carry_out(route: &Route, effect: Effect, trace: Option<&TraceContext>) -> Done {
    match effect {
        Effect::Call { call, timeout_ms } => {
            let shared = &route.shared;
            let sent = shared.keycloak.send(
                &route.addresses,
                &route.config,
                &call,
                trace,
                timeout_ms,
                shared,
            );
            Done::Answered(sent.await)
        }
        Effect::Yield { wait_ms: None, .. } => {
            task::yield_now().await;
            Done::Turn
        }
        Effect::Yield {
            wait_ms: Some(ms), ..
        } => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Done::Turn
        }
        Effect::Compute { job, timeout_ms } => {
            let limit = Duration::from_millis(timeout_ms);
            let computing = compute(Arc::clone(&route.shared.computing), job);
            match tokio::time::timeout(limit, computing).await {
                Ok(Some(same)) => Done::Computed(same),
                _ => Done::Answered(Answer::Failed("not computed in time".to_owned())),
            }
        }
    }
}

/// Runs a verification on its own thread, once a permit is free. If the caller stops waiting, the
/// verification stops after the current slice. It holds its permit until then.
async fn compute(permits: Arc<Semaphore>, mut job: Box<BcryptJob>) -> Option<bool> {
    let permit = permits.acquire_owned().await.ok()?;
    let waiting = Arc::new(());
    let waited_for = Arc::downgrade(&waiting);
    let computing = task::spawn_blocking(move || {
        let _permit = permit;
        while waited_for.strong_count() > 0 {
            let done = job.run(ROUNDS_PER_SLICE);
            if done.is_some() {
                return done;
            }
        }
        None
    });
    let same = computing.await.ok()?;
    drop(waiting);
    same
}

/// Reports the end of an exchange to the metrics, the audit log and the gateway.
struct Report<'a, 'b> {
    under_way: &'a UnderWay<'b>,
    took_us: u64,
}

impl<'a, 'b> Report<'a, 'b> {
    const fn of(under_way: &'a UnderWay<'b>, took_us: u64) -> Self {
        Self { under_way, took_us }
    }

    fn forward(&self, forward: &Forward, mut remove: Vec<String>) -> Verdict {
        let UnderWay {
            route, exchange, ..
        } = self.under_way;
        let source = forward.source;
        route.shared.count(|metrics| {
            metrics.exchanged(source);
            let (waited, fetched) = (self.under_way.waited, self.under_way.fetched_token);
            metrics.exchange_took(Way::of(source, waited, fetched), self.took_us);
        });
        if !matches!(source, Source::L1 | Source::L2) || route.samples_hit() {
            let token_bytes = forward.authorization.len().saturating_sub("Bearer ".len());
            self.audit(|request, now| Line::exchanged(request, source, token_bytes, now));
        }
        let identity = match route.config.identity_headers {
            true => exchange.identity(),
            false => Vec::new(),
        };
        let is_set = |name: &String| identity.iter().any(|(set, _)| set == name);
        remove.retain(|name| !is_set(name));
        Verdict::Exchanged {
            authorization: Arc::clone(&forward.authorization),
            key_id: exchange.key_id().unwrap_or_default().to_owned(),
            owner_id: exchange.owner_id().unwrap_or_default().to_owned(),
            identity: identity
                .into_iter()
                .map(|(name, value)| (name, value.into_owned()))
                .collect(),
            remove,
        }
    }

    fn pass(&self, why: Pass, remove: Vec<String>) -> Verdict {
        self.under_way
            .route
            .shared
            .count(|metrics| metrics.passed(why));
        if why == Pass::Fallback {
            self.audit(|request, now| {
                Line::passed(request, "unknown key, before fallback_until", now)
            });
        }
        Verdict::Passed { remove }
    }

    fn refuse(&self, rejection: Rejection, reason: &str) -> Verdict {
        let UnderWay { route, request, .. } = self.under_way;
        route.shared.count(|metrics| metrics.refused(rejection));
        self.audit(|request, now| Line::refused(request, rejection.code(), reason, now));
        let body = rejection.body(&request.id(&route.config));
        Verdict::Refused { rejection, body }
    }

    fn audit(&self, line: impl FnOnce(audit::Request<'_>, UnixMillis) -> Line) {
        let UnderWay {
            route,
            request,
            exchange,
            ..
        } = self.under_way;
        let trace = request.trace(&route.config);
        let facts = audit::Request {
            key_id: exchange.key_id(),
            owner: exchange.owner_id(),
            terms: exchange.terms(),
            realm: &route.config.realm.name,
            route: Some(&route.name),
            source_address: request.source.as_deref(),
            request_id: &request.id(&route.config),
            trace_id: trace.as_ref().map(TraceContext::trace_id),
            duration_ms: self.took_us / 1000,
            keycloak_ms: self.under_way.keycloak_us / 1000,
        };
        log::audit(&line(facts, clock::now()).json());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apikeys_core::api_key::hash::{StoredHash, Verification};

    fn job(cost: u32) -> Box<BcryptJob> {
        let hash = format!("$2b${cost:02}${}", ".".repeat(53));
        match StoredHash::parse(&hash).unwrap().verify(b"a key") {
            Verification::Computing(job) => job,
            Verification::Decided(_) => panic!("bcrypt is computed"),
        }
    }

    #[tokio::test]
    async fn verifications_that_nobody_waits_for_end_and_the_next_one_has_its_turn() {
        let permits = Arc::new(Semaphore::new(1));
        assert_eq!(compute(Arc::clone(&permits), job(4)).await, Some(false));
        // Run to their end one after the other, they would take more than a minute.
        for _ in 0..60 {
            let long = compute(Arc::clone(&permits), job(14));
            let soon = Duration::from_millis(20);
            assert!(tokio::time::timeout(soon, long).await.is_err());
        }
        let next = compute(Arc::clone(&permits), job(4));
        let next = tokio::time::timeout(Duration::from_secs(30), next).await;
        assert_eq!(next.unwrap(), Some(false));
        assert_eq!(permits.available_permits(), 1);
    }
}
