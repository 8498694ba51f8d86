//! The HTTP context: one request and its exchange.

use std::rc::Rc;
use std::time::Instant;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, MapType, Status};

use super::audit::Known;
use super::callout::Callout;
use super::gateway::{Answered, Gateway};
use super::identity::{Stays, take_claims, take_unread_claims};
use super::metrics;
use super::request_id::RequestId;
use super::route::Route;
use super::system;
use super::wiping::{wiping, wiping_head};
use super::workers::with_env;
use apikeys_core::audit::{self, Line};
use apikeys_core::clock::UnixMillis;
use apikeys_core::exchange::credentials::Headers;
use apikeys_core::exchange::{Env, Exchange, Forward, Output, Pass, Source};
use apikeys_core::keycloak::Endpoint;
use apikeys_core::machine::{Effect, Event};
use apikeys_core::metrics::Way;
use apikeys_core::rejection::{Reason, Rejection};

/// The reason for a refusal where the host lacks something that an exchange needs: the log names
/// it.
const NO_HOST: &str = "the host lacks what an exchange takes";
/// The reason for a refusal on a gateway that is too old: an error line gives its version.
const TOO_OLD: &str = "this release of Kong is not supported";
/// The reason for a refusal when the filter has no configuration.
const NO_CONFIGURATION: &str = "the filter's configuration was refused";

/// The filter of one request.
pub(super) struct HttpFilter {
    route: Option<Rc<Route>>,
    exchange: Exchange,
    /// The callout under way.
    callout: Callout,
    /// The request is held until the exchange ends.
    paused: bool,
    /// The headers that held the key. They are taken out of the request before it is held: a host
    /// that lets it go on by mistake (Kong, after a trap) then sends neither key nor token.
    taken: Vec<(String, Vec<u8>)>,
    /// The request was answered after it was held.
    answered: Option<Answered>,
    request_id: RequestId,
    /// When it came, or when it began to wait; none for a request that is not timed.
    came_at: Option<Instant>,
    /// The gateway's own token was fetched for it.
    fetched_token: bool,
    /// The host's facts for the audit log; none as long as a cache may answer the request.
    known: Option<Known>,
}

impl HttpFilter {
    pub(super) fn new(route: Option<Rc<Route>>) -> Self {
        Self {
            route,
            exchange: Exchange::new(),
            callout: Callout::default(),
            paused: false,
            taken: Vec::new(),
            answered: None,
            request_id: RequestId::default(),
            came_at: None,
            fetched_token: false,
            known: None,
        }
    }

    fn head_came(&mut self, count: usize) -> Action {
        if Gateway::here().is_answered() {
            return Action::Continue;
        }
        let Some(route) = self.route.clone() else {
            return self.reject(Rejection::IdentityProviderUnavailable, NO_CONFIGURATION);
        };
        if !route.config.enabled {
            return match take_unread_claims(count) {
                Ok(()) => Action::Continue,
                Err(stays) => self.claimed(&stays),
            };
        }
        if !Gateway::here().is_supported() {
            return self.reject(Rejection::IdentityProviderUnavailable, TOO_OLD);
        }
        self.came_at = metrics::request_came();
        if !Gateway::here().shows_headers(count) {
            self.known = Some(Known::ask(&route.config, &[]));
            let reason = Reason::TooManyHeaders.to_string();
            return self.reject(Rejection::AmbiguousCredentials, &reason);
        }
        let Ok(headers) = hostcalls::get_map_bytes(MapType::HttpRequestHeaders) else {
            return self.reject(Rejection::IdentityProviderUnavailable, NO_HOST);
        };
        self.request_id = RequestId::of(&route.config, &headers);
        match take_claims(&headers) {
            Ok(()) => self.begin(&headers),
            Err(stays) => {
                self.known = Some(Known::ask(&route.config, &headers));
                self.claimed(&stays)
            }
        }
    }

    /// Refuses a request that claims an identity, where the claim cannot be taken out.
    fn claimed(&mut self, stays: &Stays) -> Action {
        match stays {
            Stays::Twice(reason) => self.reject(reason.rejection(), &reason.to_string()),
            Stays::Host => self.reject(Rejection::IdentityProviderUnavailable, NO_HOST),
        }
    }

    /// Begins the exchange of a request with these headers.
    fn begin(&mut self, headers: &Headers) -> Action {
        let Some(output) = self.ask(|exchange, env| exchange.begin(headers, env)) else {
            return self.reject(Rejection::IdentityProviderUnavailable, NO_HOST);
        };
        if let Some(route) = &self.route
            && self.is_audited(&output)
        {
            self.known = Some(Known::ask(&route.config, headers));
        }
        if matches!(output, Output::Await(_)) && self.take_credentials(headers).is_err() {
            return self.reject(Rejection::IdentityProviderUnavailable, NO_HOST);
        }
        self.obey(output)
    }

    /// Goes on with the outcome of the latest effect.
    fn go_on(&mut self, event: Event<'_>) -> Action {
        match self.ask(|exchange, env| exchange.handle_event(event, env)) {
            Some(output) => self.obey(output),
            None => self.reject(Rejection::IdentityProviderUnavailable, NO_HOST),
        }
    }

    /// Performs the exchange's output.
    fn obey(&mut self, output: Output) -> Action {
        let effect = match output {
            Output::Pass(why) => return self.pass(why),
            Output::Forward(forward) => return self.forward(&forward),
            Output::Reject { rejection, reason } => {
                return self.reject(rejection, &reason.to_string());
            }
            Output::Await(effect) => effect,
        };
        if let Effect::Call { call, .. } = &effect {
            self.fetched_token |= call.endpoint == Endpoint::ServiceToken;
        }
        let trace = self.known.as_ref().and_then(|known| known.trace.as_ref());
        let sent = match &self.route {
            Some(route) => self.callout.perform(&route.config, &effect, trace),
            None => Err("no configuration".to_owned()),
        };
        match sent {
            Ok(()) => {
                self.paused = true;
                self.came_at.get_or_insert_with(metrics::now);
                Action::Pause
            }
            // Ends within one more step: the exchange never repeats a failed callout.
            Err(why) => self.go_on(Event::Failed(&why)),
        }
    }

    /// Takes each header that held the key out of the request, and keeps it.
    fn take_credentials(&mut self, headers: &Headers) -> Result<(), Status> {
        for name in self.exchange.credential_headers() {
            let held = headers
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name));
            if let Some(held) = held {
                Gateway::here().take_header(name)?;
                self.taken.push(held.clone());
            }
        }
        Ok(())
    }

    /// Runs a step of the exchange; none where the host lacks something that the step needs.
    fn ask(&mut self, act: impl FnOnce(&mut Exchange, &mut Env<'_>) -> Output) -> Option<Output> {
        let worker = match self.route.as_ref()?.worker() {
            Ok(worker) => worker,
            Err(fault) => {
                log::error!("request_id={} no exchange: {fault}", self.request_id);
                return None;
            }
        };
        let Some(now) = system::now() else {
            log::error!(
                "request_id={} no exchange: the host gives no time",
                self.request_id
            );
            return None;
        };
        let mut worker = worker.worker.try_borrow_mut().ok()?;
        let exchange = &mut self.exchange;
        // Any callback but the first may compute a slice.
        let began = self.paused.then(metrics::now);
        let verifies = exchange.is_verifying();
        let output = with_env(now, &mut worker, |env| act(exchange, env));
        if let Some(began) = began.filter(|_| verifies || exchange.is_verifying()) {
            let took = metrics::since(began);
            metrics::count(|metrics| metrics.slice_took(took));
        }
        Some(output)
    }

    fn pass(&mut self, why: Pass) -> Action {
        for (name, value) in std::mem::take(&mut self.taken) {
            let headers = MapType::HttpRequestHeaders;
            if hostcalls::set_map_value_bytes(headers, &name, Some(&value)).is_err() {
                return self.reject(Rejection::IdentityProviderUnavailable, NO_HOST);
            }
        }
        metrics::count(|metrics| metrics.passed(why));
        if why == Pass::Fallback {
            self.audit(Gateway::here().info(), |request, now| {
                Line::passed(request, "unknown key, before fallback_until", now)
            });
        }
        self.resume()
    }

    fn forward(&mut self, forward: &Forward) -> Action {
        let headers = MapType::HttpRequestHeaders;
        let mut written =
            hostcalls::set_map_value(headers, "authorization", Some(&forward.authorization));
        // A held request has lost these headers already, and nobody needs the copies any more.
        self.taken.clear();
        if !self.paused {
            for name in &forward.remove {
                written = written.and(Gateway::here().take_header(name));
            }
        }
        if (self.route.as_ref()).is_some_and(|route| route.config.identity_headers) {
            for (name, value) in self.exchange.identity() {
                written = written.and(hostcalls::set_map_value(headers, name, Some(&value)));
                Gateway::here().tell(name, &value);
            }
        }
        if written.is_err() {
            log::error!(
                "request_id={} no exchange: the host refuses headers",
                self.request_id
            );
            return self.reject(Rejection::IdentityProviderUnavailable, NO_HOST);
        }
        let took = self.came_at.map(metrics::since);
        metrics::count(|metrics| {
            metrics.exchanged(forward.source);
            if let Some(took) = took {
                let way = Way::of(forward.source, self.paused, self.fetched_token);
                metrics.exchange_took(way, took);
            }
        });
        let source = forward.source;
        let token_bytes = forward.authorization.len().saturating_sub("Bearer ".len());
        self.audit(Gateway::here().info(), |request, now| {
            Line::exchanged(request, source, token_bytes, now)
        });
        self.resume()
    }

    fn resume(&mut self) -> Action {
        if std::mem::take(&mut self.paused) {
            // Not sent on: the request ends by the host's own time limit.
            if hostcalls::resume_http_request().is_err() {
                log::error!(
                    "request_id={} the host does not resume the request",
                    self.request_id
                );
            }
        }
        Action::Continue
    }

    /// The service refused the token: the key's next request gets another.
    fn token_refused(&self) {
        let Some(worker) = self.route.as_ref().and_then(|route| route.worker().ok()) else {
            return;
        };
        let (Some(now), Ok(mut worker)) = (system::now(), worker.worker.try_borrow_mut()) else {
            return;
        };
        if with_env(now, &mut worker, |env| self.exchange.token_refused(env)) {
            log::log!(
                Gateway::here().info(),
                "request_id={} the service answered 401: its token is dropped",
                self.request_id
            );
        }
    }

    /// Whether the audit log has a line for this output. It has one for every output, except most
    /// cache hits.
    fn is_audited(&self, output: &Output) -> bool {
        match output {
            Output::Pass(pass) => *pass == Pass::Fallback,
            Output::Forward(forward) if matches!(forward.source, Source::L1 | Source::L2) => {
                self.route.as_ref().is_some_and(|route| route.samples_hit())
            }
            _ => true,
        }
    }

    /// Writes a line of the audit log, if this request has one.
    fn audit(&self, level: log::Level, line: impl FnOnce(audit::Request<'_>, UnixMillis) -> Line) {
        let Some(known) = &self.known else {
            return;
        };
        let realm = self.route.as_ref().map(|route| &route.config.realm);
        let realm = realm.map_or("", |realm| realm.name.as_str());
        let request = audit::Request {
            duration_ms: self.came_at.map_or(0, metrics::since) / 1000,
            keycloak_ms: self.callout.keycloak_us / 1000,
            ..known.request(&self.exchange, realm, self.request_id.text())
        };
        let line = line(request, system::now().unwrap_or_default());
        log::log!(level, "{}", line.json());
    }

    fn reject(&mut self, rejection: Rejection, reason: &str) -> Action {
        let level = if rejection.status() >= 500 {
            log::Level::Warn
        } else {
            Gateway::here().info()
        };
        self.known.get_or_insert_default();
        self.audit(level, |request, now| {
            Line::refused(request, rejection.code(), reason, now)
        });
        metrics::count(|metrics| metrics.refused(rejection));
        let realm = self
            .route
            .as_ref()
            .map_or("", |route| route.config.realm.name.as_str());
        let headers = rejection.headers(realm);
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let body = rejection.body(self.request_id.text());
        let status = u32::from(rejection.status());
        if self.paused {
            self.answered = Some(Gateway::here().note_answered());
        }
        if hostcalls::send_http_response(status, headers, Some(body.as_bytes())).is_err() {
            log::error!("request_id={} the host takes no answer", self.request_id);
        }
        self.paused = false;
        Action::Pause
    }
}

impl Context for HttpFilter {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body_bytes: usize, _: usize) {
        wiping(|| {
            let answer = self.callout.read_answer(token, headers, body_bytes, true);
            if let Some(answer) = answer {
                self.go_on(answer.event());
            }
        });
    }
}

impl HttpContext for HttpFilter {
    fn on_http_request_headers(&mut self, count: usize, _: bool) -> Action {
        wiping_head(|| self.head_came(count))
    }

    // Not wiped: this callback reads no part of a key or a token.
    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if self.exchange.has_forwarded() && system::response_status() == Some(401) {
            self.token_refused();
        }
        Action::Continue
    }
}

impl Drop for HttpFilter {
    /// The request is over, perhaps before its exchange: gives back the claims of the exchange.
    fn drop(&mut self) {
        if !self.exchange.is_pending() {
            return;
        }
        let Some(worker) = self.route.as_ref().and_then(|route| route.worker().ok()) else {
            return;
        };
        let Ok(mut worker) = worker.worker.try_borrow_mut() else {
            return;
        };
        // If the clock cannot be read, only the pause after this disconnect is lost.
        let now = system::now().unwrap_or_default();
        let exchange = &mut self.exchange;
        with_env(now, &mut worker, |env| exchange.abort(env));
    }
}
