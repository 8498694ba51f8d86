//! One request of the management API: drives the core's machine.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apikeys_core::machine::Event;
use apikeys_core::manage::problem::Problem;
use apikeys_core::manage::{Answer, Manage, ManageEnv, Output, RequestHead, SETTLE_MS};
use zeroize::Zeroizing;

use crate::exchange::carry_out;
use crate::request::Request;
use crate::route::Route;
use crate::state::State;
use crate::{Host, Level};

/// The answer to a client of the management API.
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
    /// Its body. It may hold a key.
    pub body: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answered({})", self.status)
    }
}

/// A management request under way. If the client disconnects, it ends and releases its claims.
struct UnderWay<'a, H: Host> {
    route: &'a Route<H>,
    request: &'a Request,
    state: State,
    manage: Manage,
}

impl<H: Host> UnderWay<'_, H> {
    /// Runs a step of the machine. Returns none if the route is not the management API's, or if its
    /// state is broken.
    fn ask<T>(&mut self, act: impl FnOnce(&mut Manage, &mut ManageEnv<'_, '_>) -> T) -> Option<T> {
        let Self {
            request,
            state,
            manage,
            ..
        } = self;
        if state.is_broken() {
            return None;
        }
        let source = || request.facts.source.clone().map(String::into_bytes);
        state.with_env(&source, |exchange, _, manager| {
            let manager = manager?;
            Some(act(manage, &mut ManageEnv { exchange, manager }))
        })
    }

    /// If the signing key changed during this request, all routes now have a new state and a new memory. The
    /// request's revocation reached only the old ones. So this ends all tokens in the new memory.
    async fn revoke_in_new_state(&self) {
        let state = self.route.state();
        if !self.manage.has_revoked() || state.is(&self.state) || state.is_broken() {
            return;
        }
        state.with_env(&|| None, |env, _, _| {
            let revocations = env.worker.cache.revocations_mut();
            // Without shared data, each worker learns of the change by its own polls.
            let _ = revocations.revoke_all(env.now, env.store);
        });
        tokio::time::sleep(Duration::from_millis(SETTLE_MS)).await;
    }
}

impl<H: Host> Drop for UnderWay<'_, H> {
    fn drop(&mut self) {
        if self.manage.is_pending() {
            self.ask(|manage, env| manage.abort(env));
        }
    }
}

/// Answers a request with this method and this path (with its query). `body` reads the body, and gives
/// none if it is too large; without one, the request has no body.
pub async fn answer<H: Host>(
    route: Arc<Route<H>>,
    request: &Request,
    method: &str,
    path: &str,
    body: Option<impl Future<Output = Option<Zeroizing<Vec<u8>>>>>,
) -> Answered {
    let head = RequestHead {
        method,
        path,
        headers: &request.headers,
        body_follows: body.is_some(),
    };
    let trace = request.trace(&route.config);
    let mut under_way = UnderWay {
        route: &route,
        request,
        state: route.state(),
        manage: Manage::new(),
    };
    let mut body = body;
    let mut output = under_way.ask(|manage, env| manage.begin(head, env));
    loop {
        output = match output {
            Some(Output::Respond(answer)) => {
                under_way.revoke_in_new_state().await;
                report(&under_way, &answer);
                let body = answer.body(&request.id(&route.config));
                let bytes = body.map(|body| body.as_bytes().to_vec());
                return Answered {
                    status: answer.status,
                    body: Zeroizing::new(bytes.unwrap_or_default()),
                    headers: answer.headers,
                };
            }
            Some(Output::ReadBody { timeout_ms }) => {
                let limit = Duration::from_millis(timeout_ms);
                let read = async {
                    match body.take() {
                        Some(body) => body.await,
                        None => Some(Zeroizing::default()),
                    }
                };
                match tokio::time::timeout(limit, read).await {
                    Ok(bytes) => {
                        let bytes = bytes.as_ref().map(|bytes| bytes.as_slice());
                        under_way.ask(|manage, env| manage.read_body(bytes, env))
                    }
                    Err(_) => under_way.ask(|manage, env| manage.handle_event(Event::TURN, env)),
                }
            }
            Some(Output::Await(effect)) => {
                let done = carry_out(&route, effect, trace.as_ref()).await;
                under_way.ask(|manage, env| manage.handle_event(done.event(), env))
            }
            None => {
                let problem = Problem::unavailable();
                let body = problem.body(&request.id(&route.config));
                let mut headers = problem.headers(&route.config.realm.name);
                headers.push(("cache-control", "no-store".to_owned()));
                return Answered {
                    status: problem.code.status(),
                    headers,
                    body: Zeroizing::new(body.into_bytes()),
                };
            }
        };
    }
}

fn report<H: Host>(under_way: &UnderWay<'_, H>, answer: &Answer) {
    let request_id = under_way.request.id(&under_way.route.config);
    let line = under_way.manage.report().line(&request_id, answer);
    let level = match answer.status {
        500.. => Level::Warning,
        _ => Level::Info,
    };
    under_way.route.host.log(level, &line.to_string());
}
