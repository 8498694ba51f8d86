//! A client's request, as a gateway describes it.

use apikeys_core::audit::{REQUEST_ID_MAX, is_request_id};
use apikeys_core::config::Config;
use apikeys_core::exchange::credentials::may_hold_key;
use apikeys_core::exchange::throttle::parse_address;
use apikeys_core::trace::TraceContext;
use http::HeaderMap;

/// The head of a client's request.
pub(crate) struct Request {
    /// The headers, with names in lower case. `:method` is one of them.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// The client's address, if the gateway sent a valid one.
    pub(crate) source: Option<String>,
}

impl Request {
    /// Reads a request with these headers, sent by a gateway.
    pub(crate) fn read(map: &HeaderMap) -> Self {
        let pairs = map.iter();
        let headers =
            pairs.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        // The gateway wrote the last entry. The client may have written the entries before it.
        let forwarded = map.get_all("x-forwarded-for").into_iter().next_back();
        let last = forwarded.and_then(|value| value.as_bytes().rsplit(|byte| *byte == b',').next());
        let last = last.and_then(|address| std::str::from_utf8(address).ok());
        Self {
            headers: headers.collect(),
            source: last
                .map(str::trim)
                .filter(|text| is_address(text))
                .map(str::to_owned),
        }
    }

    /// The first header of this name.
    fn header(&self, wanted: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_slice())
    }

    /// The request's own id, if it is valid and holds no key; otherwise a dash.
    pub(crate) fn id(&self, config: &Config) -> String {
        let id = self.header("x-request-id").filter(|id| {
            id.len() <= REQUEST_ID_MAX
                && !may_hold_key(config, &self.headers, id)
                && is_request_id(id)
        });
        let id = id.and_then(|id| std::str::from_utf8(id).ok());
        id.unwrap_or("-").to_owned()
    }

    /// The request's trace context, without any key in it.
    pub(crate) fn trace(&self, config: &Config) -> Option<TraceContext> {
        TraceContext::read(&self.headers, |state| {
            may_hold_key(config, &self.headers, state)
        })
    }
}

/// Whether the core accepts this text as an address.
pub(crate) fn is_address(text: &str) -> bool {
    parse_address(text.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(values: &[&'static str]) -> Option<String> {
        let mut map = HeaderMap::new();
        for value in values {
            let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            map.append("x-forwarded-for", value);
        }
        Request::read(&map).source
    }

    #[test]
    fn the_clients_address_is_the_one_that_the_gateway_added_last() {
        assert_eq!(source(&[]), None);
        assert_eq!(source(&["192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        let claimed = "203.0.113.9, 198.51.100.1 , 192.0.2.1";
        assert_eq!(source(&[claimed]).as_deref(), Some("192.0.2.1"));
        assert_eq!(source(&["\u{ff}, 192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(source(&["192.0.2.1, unix:"]), None);
        assert_eq!(
            source(&["203.0.113.9", "192.0.2.1"]).as_deref(),
            Some("192.0.2.1")
        );
    }
}
