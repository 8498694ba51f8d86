//! Callouts: sends a call or a yield, and reads its answer.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, Status};
use zeroize::Zeroizing;

use super::gateway::Gateway;
use super::metrics::Sent;
use super::system;
use apikeys_core::config::{Config, Upstream};
use apikeys_core::keycloak::{ANSWER_BYTES_MAX, Call};
use apikeys_core::machine::{Effect, Event};
use apikeys_core::trace::TraceContext;

/// The callout that a context waits for; a context has one at a time.
#[derive(Default)]
pub(super) struct Callout {
    token: Option<u32>,
    /// The call, if the callout goes to Keycloak.
    sent: Option<Sent>,
    /// Microseconds that Keycloak took for all calls.
    pub(super) keycloak_us: u64,
}

impl Callout {
    /// Performs a machine's effect; a call becomes part of the request's trace.
    ///
    /// # Errors
    /// The reason why it could not be sent.
    pub(super) fn perform(
        &mut self,
        config: &Config,
        effect: &Effect,
        trace: Option<&TraceContext>,
    ) -> Result<(), String> {
        let sent = match effect {
            Effect::Call { call, timeout_ms } => {
                self.sent = Some(Sent::now(call.endpoint));
                send(config, call, trace, *timeout_ms)
            }
            Effect::Yield {
                wait_ms,
                timeout_ms,
            } => send_yield(config, *wait_ms, *timeout_ms),
            Effect::Compute { .. } => Err("a worker of this host computes by itself".to_owned()),
        };
        match sent {
            Ok(token) => {
                self.token = Some(token);
                Ok(())
            }
            Err(why) => {
                self.ended(None);
                Err(why)
            }
        }
    }

    /// Reads the answer that the host reports, if a callout waits for it. `of_request` is false
    /// in a root context.
    pub(super) fn read_answer(
        &mut self,
        token: u32,
        headers: usize,
        body_bytes: usize,
        of_request: bool,
    ) -> Option<Answer> {
        self.token.take_if(|waited| *waited == token)?;
        let answer = read_answer(headers, body_bytes, of_request);
        self.ended(answer.event().status());
        Some(answer)
    }

    /// Stops waiting for the answer.
    pub(super) const fn forget(&mut self) {
        self.token = None;
    }

    fn ended(&mut self, status: Option<u16>) {
        if let Some(sent) = self.sent.take() {
            self.keycloak_us = self.keycloak_us.saturating_add(sent.ended(status));
        }
    }
}

/// An answer, or the reason why there is none.
pub(super) enum Answer {
    /// The status, and the body unless it is too large. It may hold a token.
    Given {
        status: u16,
        body: Option<Zeroizing<Vec<u8>>>,
    },
    /// The host's description of the failure.
    Failed(String),
}

impl Answer {
    /// The answer as a machine takes it.
    pub(super) fn event(&self) -> Event<'_> {
        match self {
            Self::Given { status, body } => Event::Answer {
                status: *status,
                body: body.as_ref().map(|body| body.as_slice()),
            },
            Self::Failed(why) => Event::Failed(why),
        }
    }
}

/// Sends a call to Keycloak; gives the callout's token. `left_ms` is the time that its caller can
/// wait.
fn send(
    config: &Config,
    call: &Call,
    trace: Option<&TraceContext>,
    left_ms: u64,
) -> Result<u32, String> {
    let headers = call.headers(trace);
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let body = Some(call.body().as_bytes()).filter(|body| !body.is_empty());
    let target = Target {
        upstream: &config.keycloak_upstream,
        authority: &config.realm.authority,
        method: call.method,
        path: &call.path,
    };
    let timeout_ms = Gateway::here().call_timeout_ms(config, left_ms);
    target.dispatch(&headers, body, timeout_ms)
}

/// Sends a yield that ends at once, or after about `wait_ms`.
fn send_yield(config: &Config, wait_ms: Option<u64>, timeout_ms: u64) -> Result<u32, String> {
    let wait = wait_ms.map(|ms| ms.to_string());
    // Envoy's fault filter delays by this header; nginx delays by its own limit.
    let headers: Vec<_> = wait
        .as_deref()
        .map(|ms| ("x-envoy-fault-delay-request", ms))
        .into_iter()
        .collect();
    let target = Target {
        upstream: &config.yield_upstream,
        authority: "yield",
        method: "GET",
        path: if wait.is_some() { "/wait" } else { "/yield" },
    };
    target.dispatch(&headers, None, timeout_ms)
}

struct Target<'a> {
    upstream: &'a Upstream,
    authority: &'a str,
    method: &'a str,
    path: &'a str,
}

impl Target<'_> {
    fn dispatch(
        &self,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
        timeout_ms: u64,
    ) -> Result<u32, String> {
        let scheme = if self.upstream.tls { "https" } else { "http" };
        let mut all = vec![
            (":method", self.method),
            (":path", self.path),
            (":authority", self.authority),
            (":scheme", scheme),
        ];
        all.extend_from_slice(headers);
        let timeout = Duration::from_millis(timeout_ms.max(1));
        hostcalls::dispatch_http_call(&self.upstream.name, all, body, vec![], timeout).map_err(
            |status| match status {
                Status::BadArgument => "the host knows no such upstream".to_owned(),
                _ => "the host could not send it".to_owned(),
            },
        )
    }
}

fn read_answer(headers: usize, body_bytes: usize, of_request: bool) -> Answer {
    if headers == 0 {
        return Answer::Failed(failure(of_request));
    }
    let status = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status");
    let status = status
        .ok()
        .flatten()
        .and_then(|s| std::str::from_utf8(&s).ok()?.parse().ok());
    let Some(status) = status else {
        return Answer::Failed("an answer without a status".to_owned());
    };
    let body = match body_bytes {
        0 => Some(Vec::new()),
        1..=ANSWER_BYTES_MAX => {
            hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_bytes)
                .ok()
                .flatten()
        }
        _ => None,
    };
    let body = body.map(Zeroizing::new);
    Answer::Given { status, body }
}

/// The reason why a callout failed. Kong gives it in a pseudo-header to a request. On Envoy there
/// are no headers to ask, and asking is an error that the SDK answers with a panic. So it is
/// asked only within a request on Kong, which has an id there.
fn failure(of_request: bool) -> String {
    let asks =
        of_request && Gateway::here() == Gateway::Kong && system::kong_request_id().is_some();
    let said = asks.then(|| {
        hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":dispatch_status")
    });
    said.and_then(Result::ok)
        .flatten()
        .and_then(|why| String::from_utf8(why).ok())
        .unwrap_or_else(|| "no answer: unreachable, reset or timed out".to_owned())
}
