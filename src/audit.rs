//! The facts about a request that the audit log needs: asked of the host at most once, and never
//! for a request that a cache answers.

use serde_json::Value;

use super::gateway::Gateway;
use super::system;
use apikeys_core::config::Config;
use apikeys_core::exchange::Exchange;
use apikeys_core::exchange::credentials::{Headers, may_hold_key};
use apikeys_core::trace::TraceContext;

/// The host's facts about a request.
#[derive(Debug, Default)]
pub(super) struct Known {
    route: Option<String>,
    source_address: Option<String>,
    pub(super) trace: Option<TraceContext>,
}

impl Known {
    /// Asks the host. Only within the request's head does Kong answer all questions.
    pub(super) fn ask(config: &Config, headers: &Headers) -> Self {
        let source_address = system::source_address();
        Self {
            route: route(),
            source_address: source_address.and_then(|text| String::from_utf8(text).ok()),
            trace: trace(config, headers),
        }
    }

    /// The same facts with those of the exchange, as a line takes them.
    pub(super) fn request<'a>(
        &'a self,
        exchange: &'a Exchange,
        realm: &'a str,
        request_id: &'a str,
    ) -> apikeys_core::audit::Request<'a> {
        apikeys_core::audit::Request {
            key_id: exchange.key_id(),
            owner: exchange.owner_id(),
            terms: exchange.terms(),
            realm,
            route: self.route.as_deref(),
            source_address: self.source_address.as_deref(),
            request_id,
            trace_id: self.trace.as_ref().map(TraceContext::trace_id),
            duration_ms: 0,
            keycloak_ms: 0,
        }
    }
}

/// The trace of the request with these headers, with no key in it.
pub(super) fn trace(config: &Config, headers: &Headers) -> Option<TraceContext> {
    TraceContext::read(headers, |state| may_hold_key(config, headers, state))
}

/// The gateway's name of the route. Each host is asked for its own property alone: Kong
/// answers `route_name` with an error that the SDK does not take.
fn route() -> Option<String> {
    let property = |path: &[&str]| {
        let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
        system::property(&path)
    };
    if Gateway::here() == Gateway::Kong {
        let route = property(&["kong", "router", "route"])?;
        let route: Value = serde_json::from_slice(route.as_bytes()).ok()?;
        let text = |name: &str| route.get(name)?.as_str().map(str::to_owned);
        return text("name").or_else(|| text("id"));
    }
    property(&["xds", "route_name"])
}
