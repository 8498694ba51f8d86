//! The management API over HTTP: drives the core's machine for each request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use apikeys_core::machine::Event;
use apikeys_core::manage::body::BODY_BYTES_MAX;
use apikeys_core::manage::problem::Problem;
use apikeys_core::manage::{Answer, Manage, ManageEnv, Output, RequestHead};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use zeroize::Zeroizing;

use crate::exchange::carry_out;
use crate::listen::Body;
use crate::request::Request;
use crate::service::{Route, State};

/// A management request under way. If the client disconnects, it ends and releases its claims.
struct UnderWay<'a> {
    route: &'a Route,
    request: &'a Request,
    state: State,
    manage: Manage,
}

impl UnderWay<'_> {
    /// Runs a step of the machine. Returns none if the route is not the management API's.
    fn ask<T>(&mut self, act: impl FnOnce(&mut Manage, &mut ManageEnv<'_, '_>) -> T) -> Option<T> {
        let Self {
            request,
            state,
            manage,
            ..
        } = self;
        let source = request.source.as_deref();
        state.with_env(source, |exchange, _, manager| {
            let manager = manager?;
            Some(act(manage, &mut ManageEnv { exchange, manager }))
        })
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.manage.is_pending() {
            self.ask(|manage, env| manage.abort(env));
        }
    }
}

/// Answers a client.
pub(crate) async fn answer(
    route: Arc<Route>,
    asked: http::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, mut body) = asked.into_parts();
    let request = Request::read(&parts.headers, route.shared.trusted_hops);
    let path = parts.uri.path_and_query();
    let head = RequestHead {
        method: parts.method.as_str(),
        path: path.map_or("/", |path| path.as_str()),
        headers: &request.headers,
        body_follows: !body.is_end_stream(),
    };
    let trace = request.trace(&route.config);
    let mut under_way = UnderWay {
        route: &route,
        request: &request,
        state: route.state(),
        manage: Manage::new(),
    };
    let mut output = under_way.ask(|manage, env| manage.begin(head, env));
    loop {
        output = match output {
            Some(Output::Respond(answer)) => {
                report(&under_way, &answer);
                let body = answer.body(&request.id(&route.config));
                let bytes = body.map(|body| Bytes::copy_from_slice(body.as_bytes()));
                return Ok(respond(
                    answer.status,
                    answer
                        .headers
                        .iter()
                        .map(|(name, value)| (*name, value.as_str())),
                    bytes.unwrap_or_default(),
                ));
            }
            Some(Output::ReadBody { timeout_ms }) => {
                let read = Limited::new(&mut body, BODY_BYTES_MAX).collect();
                match tokio::time::timeout(Duration::from_millis(timeout_ms), read).await {
                    // The body may hold a key.
                    Ok(Ok(bytes)) => {
                        let bytes = Zeroizing::new(bytes.to_bytes().to_vec());
                        under_way.ask(|manage, env| manage.read_body(Some(&bytes), env))
                    }
                    Ok(Err(_)) => under_way.ask(|manage, env| manage.read_body(None, env)),
                    Err(_) => under_way.ask(|manage, env| manage.handle_event(Event::TURN, env)),
                }
            }
            Some(Output::Await(effect)) => {
                let done = carry_out(&route, effect, trace.as_ref()).await;
                under_way.ask(|manage, env| manage.handle_event(done.event(), env))
            }
            None => {
                let problem = Problem::unavailable();
                let headers = problem.headers(&route.config.realm.name);
                let body = problem.body(&request.id(&route.config));
                return Ok(respond(
                    problem.code.status(),
                    headers.iter().map(|(name, value)| (*name, value.as_str())),
                    Bytes::from(body),
                ));
            }
        };
    }
}

fn report(under_way: &UnderWay<'_>, answer: &Answer) {
    let request_id = under_way.request.id(&under_way.route.config);
    let line = under_way.manage.report().line(&request_id, answer);
    match answer.status {
        500.. => tracing::warn!("{line}"),
        _ => tracing::info!("{line}"),
    }
}

fn respond<'a>(
    status: u16,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: Bytes,
) -> Response<Body> {
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    for (name, value) in headers {
        let name = http::HeaderName::try_from(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}
