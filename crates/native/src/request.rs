//! A client's request, as a gateway describes it.

use apikeys_core::audit::{REQUEST_ID_MAX, is_request_id};
use apikeys_core::config::Config;
use apikeys_core::exchange::credentials::may_hold_key;
use apikeys_core::exchange::throttle::parse_address;
use apikeys_core::trace::TraceContext;

/// The head of a client's request.
#[derive(Default)]
pub struct Request {
    /// The headers, with names in lower case. `:method` is one of them.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The gateway's other facts about it.
    pub facts: Facts,
}

/// A gateway's facts about a request. Where it takes time to ask for them, they are asked for only when
/// a decision or a line of the audit log needs them.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// The client's address.
    pub source: Option<String>,
    /// The name of the route in the gateway.
    pub route: Option<String>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The headers may hold a key.
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

impl Request {
    /// The first header of this name.
    fn header(&self, wanted: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_slice())
    }

    /// The request's own id, if it is valid and holds no key; otherwise a dash.
    #[must_use]
    pub fn id(&self, config: &Config) -> String {
        let id = self.header("x-request-id").filter(|id| {
            id.len() <= REQUEST_ID_MAX
                && !may_hold_key(config, &self.headers, id)
                && is_request_id(id)
        });
        let id = id.and_then(|id| std::str::from_utf8(id).ok());
        id.unwrap_or("-").to_owned()
    }

    /// The request's trace context, without any key in it.
    #[must_use]
    pub fn trace(&self, config: &Config) -> Option<TraceContext> {
        TraceContext::read(&self.headers, |state| {
            may_hold_key(config, &self.headers, state)
        })
    }
}

/// Whether the core accepts this text as an address.
#[must_use]
pub fn is_address(text: &str) -> bool {
    parse_address(text.as_bytes()).is_some()
}
