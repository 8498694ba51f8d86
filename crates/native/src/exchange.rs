//! One exchange: drives the core's machine with this process's clock, threads and connections.

use std::borrow::Cow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use apikeys_core::api_key::hash::BcryptJob;
use apikeys_core::audit::{self, Line};
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::exchange::credentials::Header;
use apikeys_core::exchange::{Env, Exchange, Forward, Output, Pass, Source, identity};
use apikeys_core::keycloak::{Endpoint, loggable};
use apikeys_core::machine::{Effect, Event};
use apikeys_core::metrics::{CallResult, Way};
use apikeys_core::rejection::{Reason, Rejection};
use apikeys_core::trace::TraceContext;
use tokio::task;

use crate::request::{Facts, Request};
use crate::route::{Route, Shared};
use crate::state::State;
use crate::{Answer, Host, Level, clock};

/// Names of headers.
pub type Names = Vec<Cow<'static, str>>;

/// The verdict on a request, for its gateway.
#[derive(Debug)]
pub enum Verdict {
    /// The gateway forwards it with a token.
    Exchanged {
        /// The value for `Authorization`.
        authorization: Arc<str>,
        /// The headers that the gateway must remove.
        remove: Names,
    },
    /// The gateway forwards it as it came, except for these headers.
    Passed {
        /// The headers that the gateway must remove.
        remove: Names,
    },
    /// The gateway refuses it with this answer.
    Refused {
        /// The status and headers of the answer.
        rejection: Rejection,
        /// The answer's body.
        body: String,
    },
}

/// The reason for a refusal after a panic.
const BROKEN: &str = "the state of the exchange is broken, and a new one follows";

/// How a gateway removes the headers that a verdict names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It removes each of them. The request has all headers of the client.
    Listed,
    /// It removes each of them, but the client may have sent headers that the request here lacks.
    ListedUnseen,
    /// It removes only the headers in its own configuration.
    Configured,
}

/// An exchange that has begun.
#[expect(
    missing_debug_implementations,
    reason = "it holds a request, and so a key"
)]
pub enum Begun<H: Host> {
    /// It ended at once.
    Ended(Ended<H>),
    /// It waits.
    Waits(Waiting<H>),
}

/// An exchange that waits.
#[expect(
    missing_debug_implementations,
    reason = "it holds a request, and so a key"
)]
pub struct Waiting<H: Host> {
    under_way: UnderWay<H>,
    effect: Effect,
    removal: Removal,
    claimed: Names,
}

/// The end of an exchange.
#[expect(
    missing_debug_implementations,
    reason = "it holds a request, and so a key"
)]
pub struct Ended<H: Host> {
    /// The verdict.
    pub verdict: Verdict,
    under_way: UnderWay<H>,
}

impl<H: Host> Ended<H> {
    /// The key's public id; none if no key was read.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.under_way.exchange.key_id()
    }

    /// Keycloak's id of the owner, if it is known.
    #[must_use]
    pub fn owner_id(&self) -> Option<&str> {
        self.under_way.exchange.owner_id()
    }

    /// The identity headers for the service behind the gateway, if the configuration sets them.
    #[must_use]
    pub fn identity(&self) -> Vec<(&'static str, String)> {
        let headers = self.under_way.identity().into_iter();
        headers
            .map(|(name, value)| (name, value.into_owned()))
            .collect()
    }

    /// The service refused the token: the key's next request gets another. `request` gives the request.
    pub fn token_refused(&mut self, request: impl FnOnce() -> Request) {
        let under_way = &mut self.under_way;
        if !under_way.exchange.has_forwarded()
            || under_way.state.is_broken()
            || !under_way.ask(None, |exchange, env| exchange.token_refused(env))
        {
            return;
        }
        let id = request().id(&under_way.route.config);
        let line = format!("request_id={id} the service answered 401: its token is dropped");
        under_way.route.host.log(Level::Info, &line);
    }
}

/// An exchange under way. If the gateway disconnects, the exchange ends and releases its claims.
struct UnderWay<H: Host> {
    route: Arc<Route<H>>,
    request: Request,
    state: State,
    exchange: Exchange,
    began: Instant,
    keycloak_us: u64,
    waited: bool,
    fetched_token: bool,
}

impl<H: Host> Drop for UnderWay<H> {
    fn drop(&mut self) {
        // In a broken state, a second panic could end the process.
        if self.exchange.is_pending() && !self.state.is_broken() {
            self.ask(None, |exchange, env| exchange.abort(env));
        }
    }
}

/// Asks the gateway for its facts about the request.
pub type AskFacts<'a> = &'a dyn Fn() -> Facts;

impl<H: Host> UnderWay<H> {
    fn ask<T>(
        &mut self,
        late: Option<AskFacts<'_>>,
        act: impl FnOnce(&mut Exchange, &mut Env<'_>) -> T,
    ) -> T {
        let Self {
            request,
            state,
            exchange,
            ..
        } = self;
        let source = || {
            let known = request.facts.source.clone();
            let asked = || late.and_then(|ask| ask().source);
            known.or_else(asked).map(String::into_bytes)
        };
        state.with_env(&source, |env, _, _| act(exchange, env))
    }

    fn identity(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        match self.route.config.identity_headers {
            true => self.exchange.identity(),
            false => Vec::new(),
        }
    }
}

/// Begins to judge a request with these headers, the client's `:method` among them. `facts` asks for the
/// gateway's facts about it. A warm request is judged by the headers as they are lent; any other has them
/// copied.
pub fn begin<H: Host>(
    route: &Arc<Route<H>>,
    headers: &[impl Header],
    removal: Removal,
    facts: AskFacts<'_>,
) -> Begun<H> {
    let copy = || Request {
        headers: headers
            .iter()
            .map(|header| (header.name().to_owned(), header.value().to_vec()))
            .collect(),
        facts: facts(),
    };
    let mut under_way = UnderWay {
        route: Arc::clone(route),
        request: Request::default(),
        state: route.state(),
        exchange: Exchange::new(),
        began: clock::instant(),
        keycloak_us: 0,
        waited: false,
        fetched_token: false,
    };
    if under_way.state.is_broken() {
        under_way.request = copy();
        return Begun::Ended(under_way.refuse(Rejection::IdentityProviderUnavailable, BROKEN));
    }
    let claims = match identity::claims(headers) {
        Ok(claims) => claims,
        Err(reason) => {
            under_way.request = copy();
            return Begun::Ended(under_way.refuse(reason.rejection(), &reason.to_string()));
        }
    };
    let mut claimed: Names = Vec::new();
    if removal != Removal::Listed {
        claimed.extend(identity::NAMES.map(Cow::Borrowed));
    }
    for name in claims {
        if !claimed.iter().any(|known| known == name) {
            claimed.push(Cow::Owned(name.to_owned()));
        }
    }
    if let Some(name) = beyond_reach(&route.config, &claimed, removal) {
        let reason = format!("the gateway cannot remove the header {}", loggable(name));
        under_way.request = copy();
        return Begun::Ended(under_way.refuse(Rejection::AmbiguousCredentials, &reason));
    }
    if !route.config.enabled {
        let verdict = Verdict::Passed { remove: claimed };
        return Begun::Ended(Ended { verdict, under_way });
    }
    let output = under_way.ask(Some(facts), |exchange, env| exchange.begin(headers, env));
    match output {
        Output::Await(effect) => {
            under_way.request = copy();
            Begun::Waits(Waiting {
                under_way,
                effect,
                removal,
                claimed,
            })
        }
        output => Begun::Ended(under_way.end(output, removal, claimed, Some(&copy))),
    }
}

/// Judges a request.
pub async fn judge<H: Host>(
    route: &Arc<Route<H>>,
    request: &Request,
    removal: Removal,
) -> Ended<H> {
    let begun = begin(route, &request.headers, removal, &|| request.facts.clone());
    begun.ended().await
}

impl<H: Host> Begun<H> {
    /// Waits for the verdict, if there is none yet.
    pub async fn ended(self) -> Ended<H> {
        match self {
            Self::Ended(ended) => ended,
            Self::Waits(waiting) => waiting.finish().await,
        }
    }
}

impl<H: Host> Waiting<H> {
    /// Waits for the verdict.
    pub async fn finish(self) -> Ended<H> {
        let Self {
            mut under_way,
            effect,
            removal,
            claimed,
        } = self;
        under_way.waited = true;
        let trace = under_way.request.trace(&under_way.route.config);
        let mut output = Output::Await(effect);
        while let Output::Await(effect) = output {
            let done = under_way.perform(effect, trace.as_ref()).await;
            if under_way.state.is_broken() {
                return under_way.refuse(Rejection::IdentityProviderUnavailable, BROKEN);
            }
            output = under_way.ask(None, |exchange, env| {
                exchange.handle_event(done.event(), env)
            });
        }
        under_way.end(output, removal, claimed, None)
    }
}

/// The first of these headers that the gateway does not remove.
fn beyond_reach<'a>(
    config: &Config,
    names: &'a [impl AsRef<str>],
    removal: Removal,
) -> Option<&'a str> {
    if removal != Removal::Configured {
        return None;
    }
    let is_known = |name: &&str| {
        let same = |known: &str| known.eq_ignore_ascii_case(name);
        config.headers.iter().any(|known| same(known)) || identity::NAMES.into_iter().any(same)
    };
    names.iter().map(AsRef::as_ref).find(|name| !is_known(name))
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

pub(crate) async fn carry_out<H: Host>(
    route: &Route<H>,
    effect: Effect,
    trace: Option<&TraceContext>,
) -> Done {
    match effect {
        Effect::Call { call, timeout_ms } => {
            let began = clock::instant();
            let sent = route.host.call(&route.config, &call, trace, timeout_ms);
            let answer = sent.await;
            route.shared.count(|metrics| match &answer {
                Answer::Given { status, .. } => {
                    metrics.called(call.endpoint, CallResult::of_status(*status));
                    metrics.answer_took(call.endpoint, clock::since_us(began));
                }
                Answer::Failed(_) => metrics.called(call.endpoint, CallResult::Failed),
            });
            Done::Answered(answer)
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
            let computing = compute(Arc::clone(&route.shared), job, limit);
            match tokio::time::timeout(limit, computing).await {
                Ok(Some(same)) => Done::Computed(same),
                _ => Done::Answered(Answer::Failed("not computed in time".to_owned())),
            }
        }
    }
}

/// The priority of threads that compute bcrypt: about a third of another thread's time on a busy core.
const NICE: i32 = 5;

/// The rounds of bcrypt between two yields of the core: 0.15 ms. Without a yield, Linux lets a running
/// thread continue for 3 ms, whatever its priority. But on a busy core, a thread that yields gets little
/// time (4 % on Linux 6.18). So a verification stops yielding after a quarter of its time limit.
const ROUNDS: u32 = 2;

/// Runs a verification on its own thread, once a permit is free. If the caller stops waiting, the
/// verification stops after its current rounds, and then frees its permit.
async fn compute(shared: Arc<Shared>, mut job: Box<BcryptJob>, limit: Duration) -> Option<bool> {
    let permits = Arc::clone(&shared.computing);
    let permit = permits.acquire_owned().await.ok()?;
    let waiting = Arc::new(());
    let waited_for = Arc::downgrade(&waiting);
    let computing = task::spawn_blocking(move || {
        let _permit = permit;
        // Threads that serve warm requests go first. It fails where the system forbids it.
        let _ = rustix::process::setpriority_process(None, NICE);
        let began = clock::instant();
        let yields_until = began + limit / 4;
        while waited_for.strong_count() > 0 {
            if let Some(same) = job.run(ROUNDS) {
                shared.count(|metrics| metrics.slice_took(clock::since_us(began)));
                return Some(same);
            }
            if clock::instant() < yields_until {
                thread::yield_now();
            }
        }
        None
    });
    let same = computing.await.ok()?;
    drop(waiting);
    same
}

impl<H: Host> UnderWay<H> {
    async fn perform(&mut self, effect: Effect, trace: Option<&TraceContext>) -> Done {
        let is_call = match &effect {
            Effect::Call { call, .. } => {
                self.fetched_token |= call.endpoint == Endpoint::ServiceToken;
                true
            }
            _ => false,
        };
        let began = clock::instant();
        let done = carry_out(&self.route, effect, trace).await;
        if is_call {
            self.keycloak_us += clock::since_us(began);
        }
        done
    }

    /// Reports the end to the metrics and the audit log, and gives the verdict.
    fn end(
        mut self,
        output: Output,
        removal: Removal,
        claimed: Names,
        copy: Option<&dyn Fn() -> Request>,
    ) -> Ended<H> {
        let is_warm = |forward: &Forward| matches!(forward.source, Source::L1 | Source::L2);
        match output {
            Output::Forward(forward) => {
                if let Some(name) = beyond_reach(&self.route.config, &forward.remove, removal) {
                    let reason = Reason::KeyBeyondReach(loggable(name));
                    return self.refuse(reason.rejection(), &reason.to_string());
                }
                let audited = !is_warm(&forward) || self.route.samples_hit();
                if audited {
                    self.learn(copy);
                }
                self.forward(forward, claimed, audited)
            }
            Output::Pass(why) => {
                self.learn(copy);
                self.pass(why, claimed)
            }
            Output::Reject { rejection, reason } => {
                self.learn(copy);
                self.refuse(rejection, &reason.to_string())
            }
            // Unreachable: only another output ends an exchange.
            Output::Await(_) => self.refuse(Rejection::IdentityProviderUnavailable, "not finished"),
        }
    }

    /// Learns the request while the gateway lends it.
    fn learn(&mut self, copy: Option<&dyn Fn() -> Request>) {
        if let Some(copy) = copy {
            self.request = copy();
        }
    }

    fn forward(self, forward: Forward, claimed: Names, audited: bool) -> Ended<H> {
        let source = forward.source;
        let took_us = clock::since_us(self.began);
        self.route.shared.count(|metrics| {
            metrics.exchanged(source);
            let way = Way::of(source, self.waited, self.fetched_token);
            metrics.exchange_took(way, took_us);
        });
        if audited {
            let token_bytes = forward.authorization.len().saturating_sub("Bearer ".len());
            self.audit(Level::Info, |request, now| {
                Line::exchanged(request, source, token_bytes, now)
            });
        }
        let mut remove = claimed;
        remove.extend(forward.remove.into_iter().map(Cow::Owned));
        let set = self.identity();
        remove.retain(|name| !set.iter().any(|(known, _)| known == name));
        let verdict = Verdict::Exchanged {
            authorization: forward.authorization,
            remove,
        };
        Ended {
            verdict,
            under_way: self,
        }
    }

    fn pass(self, why: Pass, remove: Names) -> Ended<H> {
        self.route.shared.count(|metrics| metrics.passed(why));
        if why == Pass::Fallback {
            self.audit(Level::Info, |request, now| {
                Line::passed(request, "unknown key, before fallback_until", now)
            });
        }
        Ended {
            verdict: Verdict::Passed { remove },
            under_way: self,
        }
    }

    fn refuse(self, rejection: Rejection, reason: &str) -> Ended<H> {
        self.route
            .shared
            .count(|metrics| metrics.refused(rejection));
        let level = match rejection.status() {
            500.. => Level::Warning,
            _ => Level::Info,
        };
        self.audit(level, |request, now| {
            Line::refused(request, rejection.code(), reason, now)
        });
        let body = rejection.body(&self.request.id(&self.route.config));
        Ended {
            verdict: Verdict::Refused { rejection, body },
            under_way: self,
        }
    }

    fn audit(&self, level: Level, line: impl FnOnce(audit::Request<'_>, UnixMillis) -> Line) {
        let Self {
            route,
            request,
            exchange,
            ..
        } = self;
        let trace = request.trace(&route.config);
        let facts = audit::Request {
            key_id: exchange.key_id(),
            owner: exchange.owner_id(),
            terms: exchange.terms(),
            realm: &route.config.realm.name,
            route: Some(request.facts.route.as_deref().unwrap_or(&route.name)),
            source_address: request.facts.source.as_deref(),
            request_id: &request.id(&route.config),
            trace_id: trace.as_ref().map(TraceContext::trace_id),
            duration_ms: clock::since_us(self.began) / 1000,
            keycloak_ms: self.keycloak_us / 1000,
        };
        route.host.audit(level, &line(facts, clock::now()).json());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apikeys_core::api_key::hash::{StoredHash, Verification};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn job(cost: u32) -> Box<BcryptJob> {
        let hash = format!("$2b${cost:02}${}", ".".repeat(53));
        match StoredHash::parse(&hash).unwrap().verify(b"a key") {
            Verification::Computing(job) => job,
            Verification::Decided(_) => panic!("bcrypt is computed"),
        }
    }

    #[tokio::test]
    async fn verifications_that_nobody_waits_for_end_and_the_next_one_has_its_turn() {
        let shared = Arc::new(Shared::with_threads(1));
        assert_eq!(
            compute(Arc::clone(&shared), job(4), PATIENCE).await,
            Some(false)
        );
        // Run to their end one after the other, they would take more than a minute.
        for _ in 0..60 {
            let long = compute(Arc::clone(&shared), job(14), PATIENCE);
            let soon = Duration::from_millis(20);
            assert!(tokio::time::timeout(soon, long).await.is_err());
        }
        let next = compute(Arc::clone(&shared), job(4), PATIENCE);
        let next = tokio::time::timeout(PATIENCE, next).await;
        assert_eq!(next.unwrap(), Some(false));
        assert_eq!(shared.computing.available_permits(), 1);
    }
}
