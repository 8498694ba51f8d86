//! The HTTP context of the management API: one request and its answer.
//!
//! The hosts give the body in different ways. Envoy gives it while the head is held back, but
//! only if the filter's `allow_on_headers_stop_iteration` is true. Otherwise Envoy never gives
//! it, so a request that waits for its body also waits for a yield. Kong gives the body only to a
//! filter that lets the head go on, and before anything is sent to a service, except for a body
//! that turns out empty.
//!
//! Credentials are taken out of head and body before the request waits: a host that lets the
//! request go on by mistake sends none of them to a service.

use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, BufferType, MapType, Status};
use zeroize::{Zeroize, Zeroizing};

use super::audit;
use super::callout::Callout;
use super::gateway::{Answered, Gateway};
use super::identity::take_unread_claims;
use super::metrics;
use super::request_id::RequestId;
use super::route::Route;
use super::system;
use super::wiping::{wiping, wiping_head};
use super::workers::with_env;
use apikeys_core::exchange::credentials::{AUTHORIZATION, Headers};
use apikeys_core::machine::{Effect, Event};
use apikeys_core::manage::body::BODY_BYTES_MAX;
use apikeys_core::manage::problem::Problem;
use apikeys_core::manage::{self, Manage, ManageEnv, Output, RequestHead};
use apikeys_core::trace::TraceContext;

/// The filter of one management request.
pub(super) struct ManageFilter {
    route: Rc<Route>,
    manage: Manage,
    callout: Callout,
    /// The request waits for its body.
    reading: bool,
    trace: Option<TraceContext>,
    /// The request was answered, perhaps after it was held.
    answered: Option<Answered>,
    request_id: RequestId,
}

impl ManageFilter {
    pub(super) fn new(route: Rc<Route>) -> Self {
        Self {
            route,
            manage: Manage::new(),
            callout: Callout::default(),
            reading: false,
            trace: None,
            answered: None,
            request_id: RequestId::default(),
        }
    }

    fn head_came(&mut self, count: usize, end_of_stream: bool) -> Action {
        let gateway = Gateway::here();
        if gateway.is_answered() {
            return Action::Continue;
        }
        if !self.route.config.enabled {
            return match take_unread_claims(count) {
                Ok(()) => Action::Continue,
                Err(_) => self.unavailable(),
            };
        }
        if !gateway.is_supported() {
            return self.unavailable();
        }
        metrics::request_came();
        if !gateway.shows_headers(count) {
            log::log!(
                gateway.info(),
                "request_id={} refused: {count} headers are more than can be looked through",
                self.request_id
            );
            return self.refuse(&Problem::too_many_headers());
        }
        let Ok(mut headers) = hostcalls::get_map_bytes(MapType::HttpRequestHeaders) else {
            return self.unavailable();
        };
        if self.take_credentials(&headers).is_err() {
            return self.unavailable();
        }
        self.request_id = RequestId::of(&self.route.config, &headers);
        self.trace = audit::trace(&self.route.config, &headers);
        let pseudo = |name: &str| {
            let value = headers.iter().find(|(found, _)| found == name);
            value
                .and_then(|(_, value)| String::from_utf8(value.clone()).ok())
                .unwrap_or_default()
        };
        let (method, path) = (pseudo(":method"), pseudo(":path"));
        // Kong never reports that a stream ends with its head: the announced length tells.
        let announced = headers.iter().any(|(name, value)| {
            (name.eq_ignore_ascii_case("content-length") && value != b"0")
                || name.eq_ignore_ascii_case("transfer-encoding")
        });
        let body_follows = match gateway {
            Gateway::Kong => announced,
            Gateway::Envoy => !end_of_stream,
        };
        let head = RequestHead {
            method: &method,
            path: &path,
            headers: &headers,
            body_follows,
        };
        let action = self.step(|manage, env| manage.begin(head, env));
        for (_, value) in &mut headers {
            value.zeroize();
        }
        action
    }

    fn body_came(&mut self, body_bytes: usize, end_of_stream: bool) -> Action {
        if !self.reading {
            // The answer is given, or on its way.
            return Action::Pause;
        }
        if body_bytes > BODY_BYTES_MAX {
            self.reading = false;
            self.callout.forget();
            return self.step(|manage, env| manage.read_body(None, env));
        }
        if !end_of_stream && Gateway::here() == Gateway::Envoy {
            return Action::Pause;
        }
        self.reading = false;
        self.callout.forget();
        // On Kong there is none if the body did not fit client_body_buffer_size.
        let body = match body_bytes {
            0 => Some(Vec::new()),
            _ => hostcalls::get_buffer(BufferType::HttpRequestBody, 0, body_bytes)
                .ok()
                .flatten(),
        };
        // The body may hold a key.
        let body = body.map(Zeroizing::new);
        if body_bytes > 0 && body.is_some() {
            let kind = BufferType::HttpRequestBody;
            // Not an empty body: nginx sends no buffer of size zero.
            if hostcalls::set_buffer(kind, 0, body_bytes, b" ").is_err() {
                return self.unavailable();
            }
        }
        let body = body.as_ref().map(|body| body.as_slice());
        self.step(|manage, env| manage.read_body(body, env))
    }

    /// Tells the machine an event and performs its output.
    fn step(
        &mut self,
        mut act: impl FnMut(&mut Manage, &mut ManageEnv<'_, '_>) -> Output,
    ) -> Action {
        match self.ask(&mut act) {
            Some(Output::Respond(answer)) => self.respond(&answer),
            Some(Output::ReadBody { timeout_ms }) => self.read_body(timeout_ms),
            Some(Output::Await(effect)) => self.wait(&effect),
            None => self.unavailable(),
        }
    }

    /// Goes on with the outcome of the latest effect.
    fn go_on(&mut self, event: Event<'_>) -> Action {
        self.step(|manage, env| manage.handle_event(event, env))
    }

    fn wait(&mut self, effect: &Effect) -> Action {
        let (config, trace) = (&self.route.config, self.trace.as_ref());
        match self.callout.perform(config, effect, trace) {
            Ok(()) => Action::Pause,
            // Ends within a few steps: the machine does not repeat a failed callout for ever.
            Err(why) => self.go_on(Event::Failed(&why)),
        }
    }

    /// Takes each header that may hold a credential out of the request.
    fn take_credentials(&self, headers: &Headers) -> Result<(), Status> {
        let read = self.route.config.headers.iter().map(String::as_str);
        for name in [AUTHORIZATION].into_iter().chain(read) {
            if headers
                .iter()
                .any(|(known, _)| known.eq_ignore_ascii_case(name))
            {
                Gateway::here().take_header(name)?;
            }
        }
        Ok(())
    }

    fn read_body(&mut self, timeout_ms: u64) -> Action {
        self.reading = true;
        if Gateway::here() == Gateway::Kong {
            return Action::Continue;
        }
        self.wait(&Effect::Yield {
            wait_ms: Some(timeout_ms),
            timeout_ms: timeout_ms + 1000,
        })
    }

    /// Runs a step of the machine; none where the host lacks something that the step needs.
    fn ask(
        &mut self,
        act: &mut dyn FnMut(&mut Manage, &mut ManageEnv<'_, '_>) -> Output,
    ) -> Option<Output> {
        let (worker, manager) = match (self.route.worker(), self.route.manager()) {
            (Ok(worker), Ok(manager)) => (worker, manager),
            (Err(fault), _) | (_, Err(fault)) => {
                log::error!("request_id={} no answer: {fault}", self.request_id);
                return None;
            }
        };
        let Some(now) = system::now() else {
            log::error!(
                "request_id={} no answer: the host gives no time",
                self.request_id
            );
            return None;
        };
        let mut worker = worker.worker.try_borrow_mut().ok()?;
        let mut manager = manager.try_borrow_mut().ok()?;
        let manage = &mut self.manage;
        Some(with_env(now, &mut worker, |exchange| {
            let mut env = ManageEnv {
                exchange,
                manager: &mut manager,
            };
            act(manage, &mut env)
        }))
    }

    fn respond(&mut self, answer: &manage::Answer) -> Action {
        self.report(answer);
        let headers = answer
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let body = answer.body(self.request_id.text());
        let bytes = body.as_ref().map(|body| body.as_bytes());
        self.answered = Some(Gateway::here().note_answered());
        if hostcalls::send_http_response(u32::from(answer.status), headers, bytes).is_err() {
            log::error!("request_id={} the host takes no answer", self.request_id);
        }
        self.reading = false;
        Action::Pause
    }

    fn report(&self, answer: &manage::Answer) {
        let level = if answer.status >= 500 {
            log::Level::Warn
        } else {
            Gateway::here().info()
        };
        let line = self.manage.report().line(self.request_id.text(), answer);
        log::log!(level, "{line}");
    }

    /// Refuses the request: the host lacks something that an answer needs.
    fn unavailable(&mut self) -> Action {
        self.refuse(&Problem::unavailable())
    }

    /// Answers without the machine.
    fn refuse(&mut self, problem: &Problem) -> Action {
        let mut headers = problem.headers(&self.route.config.realm.name);
        headers.push(("cache-control", "no-store".to_owned()));
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let body = problem.body(self.request_id.text());
        let status = u32::from(problem.code.status());
        self.answered = Some(Gateway::here().note_answered());
        if hostcalls::send_http_response(status, headers, Some(body.as_bytes())).is_err() {
            log::error!("request_id={} the host takes no answer", self.request_id);
        }
        self.reading = false;
        Action::Pause
    }
}

impl Context for ManageFilter {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body_bytes: usize, _: usize) {
        wiping(|| {
            let answer = self.callout.read_answer(token, headers, body_bytes, true);
            if let Some(answer) = answer {
                self.go_on(answer.event());
            }
        });
    }
}

impl HttpContext for ManageFilter {
    fn on_http_request_headers(&mut self, count: usize, end_of_stream: bool) -> Action {
        wiping_head(|| self.head_came(count, end_of_stream))
    }

    fn on_http_request_body(&mut self, body_bytes: usize, end_of_stream: bool) -> Action {
        wiping(|| self.body_came(body_bytes, end_of_stream))
    }
}

impl Drop for ManageFilter {
    /// The request is over, perhaps before its answer: gives back its claims.
    fn drop(&mut self) {
        if !self.manage.is_pending() {
            return;
        }
        let (Ok(worker), Ok(manager)) = (self.route.worker(), self.route.manager()) else {
            return;
        };
        let (Ok(mut worker), Ok(mut manager)) =
            (worker.worker.try_borrow_mut(), manager.try_borrow_mut())
        else {
            return;
        };
        // No decision depends on the time any more.
        let now = system::now().unwrap_or_default();
        let manage = &mut self.manage;
        with_env(now, &mut worker, |exchange| {
            let mut env = ManageEnv {
                exchange,
                manager: &mut manager,
            };
            manage.abort(&mut env);
        });
    }
}
