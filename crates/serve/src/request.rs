//! A request of a client, as a gateway describes it.

use apikeys_core::audit::{REQUEST_ID_MAX, is_request_id};
use apikeys_core::config::Config;
use apikeys_core::exchange::credentials::may_hold_key;
use apikeys_core::trace::TraceContext;
use http::HeaderMap;

/// The head of a client's request.
pub(crate) struct Request {
    /// Its headers, names in lower case, with `:method` among them.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// The client's address, as the gateway has it.
    pub(crate) source: Option<String>,
}

impl Request {
    /// A request with these headers, which came through a gateway.
    pub(crate) fn read(map: &HeaderMap) -> Self {
        let pairs = map.iter();
        let headers =
            pairs.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        // The last entry is the gateway's own; those before it are the client's word.
        let forwarded = map.get_all("x-forwarded-for").into_iter().next_back();
        let last = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next());
        Self {
            headers: headers.collect(),
            source: last.map(|address| address.trim().to_owned()),
        }
    }

    /// The first header of this name.
    fn header(&self, wanted: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_slice())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn source(values: &[&'static str]) -> Option<String> {
        let mut map = HeaderMap::new();
        for value in values {
            map.append("x-forwarded-for", http::HeaderValue::from_static(value));
        }
        Request::read(&map).source
    }

    #[test]
    fn the_clients_address_is_the_one_that_the_gateway_added_last() {
        assert_eq!(source(&[]), None);
        assert_eq!(source(&["192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        let claimed = "203.0.113.9, 198.51.100.1 , 192.0.2.1";
        assert_eq!(source(&[claimed]).as_deref(), Some("192.0.2.1"));
        assert_eq!(
            source(&["203.0.113.9", "192.0.2.1"]).as_deref(),
            Some("192.0.2.1")
        );
    }
}
