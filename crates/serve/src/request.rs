//! A request of a client, as a gateway describes it.

use apikeys_core::audit::{REQUEST_ID_MAX, is_request_id};
use apikeys_core::config::Config;
use apikeys_core::exchange::credentials::{Headers, may_hold_key};
use apikeys_core::trace::TraceContext;

/// The head of a client's request.
pub(crate) struct Request {
    /// Its headers, names in lower case, with `:method` among them.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// The client's address, as the gateway has it.
    pub(crate) source: Option<String>,
}

impl Request {
    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        find(&self.headers, name)
    }

    /// The id that it brought, if that can be one and holds no key; else a dash.
    pub(crate) fn id(&self, config: &Config) -> String {
        let id = self.header("x-request-id").filter(|id| {
            id.len() <= REQUEST_ID_MAX
                && !may_hold_key(config, &self.headers, id)
                && is_request_id(id)
        });
        let id = id.and_then(|id| std::str::from_utf8(id).ok());
        id.unwrap_or("-").to_owned()
    }

    /// The trace that it belongs to, with no key in it.
    pub(crate) fn trace(&self, config: &Config) -> Option<TraceContext> {
        TraceContext::read(&self.headers, |state| {
            may_hold_key(config, &self.headers, state)
        })
    }
}

/// The first header of this name.
pub(crate) fn find<'a>(headers: &'a Headers, name: &str) -> Option<&'a [u8]> {
    let found = headers.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_slice())
}
