//! A client's request, as a gateway describes it.

use apikeys_core::audit::{REQUEST_ID_MAX, is_request_id};
use apikeys_core::config::Config;
use apikeys_core::exchange::credentials::may_hold_key;
use apikeys_core::exchange::throttle::parse_address;
use apikeys_core::trace::TraceContext;
use http::{HeaderMap, HeaderValue};

/// The header that proxies extend by the address of their peer.
pub(crate) const FORWARDED_FOR: &str = "x-forwarded-for";

/// The head of a client's request.
pub(crate) struct Request {
    /// The headers, with names in lower case. `:method` is one of them.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// The client's address, if the gateway sent a valid one where it is expected.
    pub(crate) source: Option<String>,
}

impl Request {
    /// Reads a request with these headers, sent by a gateway. `trusted_hops`: see [`forwarded_for`].
    pub(crate) fn read(map: &HeaderMap, trusted_hops: usize) -> Self {
        let pairs = map.iter();
        let headers =
            pairs.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        let forwarded = map.get_all(FORWARDED_FOR).into_iter();
        Self {
            headers: headers.collect(),
            source: forwarded_for(forwarded.map(HeaderValue::as_bytes), trusted_hops),
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

/// The client's address in these values of `X-Forwarded-For`: the entry before the last `trusted_hops`.
///
/// Each proxy adds the address of its peer at the end. So the last entry is the gateway's peer: the
/// client, or the last of `trusted_hops` load balancers, and each of those has added one more. All
/// entries before that may be the client's own words. Envoy's `xff_num_trusted_hops` has the same
/// meaning: Envoy counts before it adds its own entry (with `use_remote_address`) or adds none, and in
/// both cases sends the client's address as the entry before the last `xff_num_trusted_hops`.
///
/// None if there are fewer entries, or if that entry is no address: any other entry would be a guess.
pub(crate) fn forwarded_for<'a>(
    values: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted_hops: usize,
) -> Option<String> {
    let last_first = values.rev();
    let mut entries = last_first.flat_map(|value| value.rsplit(|byte| *byte == b','));
    let entry = entries.nth(trusted_hops)?;
    let text = std::str::from_utf8(entry).ok()?.trim();
    is_address(text).then(|| text.to_owned())
}

/// Whether the core accepts this text as an address.
pub(crate) fn is_address(text: &str) -> bool {
    parse_address(text.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(values: &[&'static str], trusted_hops: usize) -> Option<String> {
        let mut map = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            map.append(FORWARDED_FOR, value);
        }
        Request::read(&map, trusted_hops).source
    }

    #[test]
    fn the_clients_address_is_the_one_that_the_gateway_added_last() {
        assert_eq!(source(&[], 0), None);
        assert_eq!(source(&["192.0.2.1"], 0).as_deref(), Some("192.0.2.1"));
        let claimed = "203.0.113.9, 198.51.100.1 , 192.0.2.1";
        assert_eq!(source(&[claimed], 0).as_deref(), Some("192.0.2.1"));
        let claimed = "\u{ff}, 192.0.2.1";
        assert_eq!(source(&[claimed], 0).as_deref(), Some("192.0.2.1"));
        assert_eq!(source(&["192.0.2.1, unix:"], 0), None);
        let twice = ["203.0.113.9", "192.0.2.1"];
        assert_eq!(source(&twice, 0).as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn behind_load_balancers_it_is_the_one_that_the_first_of_them_added() {
        let seen = "203.0.113.9, 198.51.100.1 , 192.0.2.1";
        assert_eq!(source(&[seen], 1).as_deref(), Some("198.51.100.1"));
        assert_eq!(source(&[seen], 2).as_deref(), Some("203.0.113.9"));
        let lines = ["unix:, 203.0.113.9", "198.51.100.1, 192.0.2.1"];
        assert_eq!(source(&lines, 2).as_deref(), Some("203.0.113.9"));
        assert_eq!(source(&lines, 3), None, "no address");
        assert_eq!(source(&[seen], 3), None, "too few");
        assert_eq!(source(&["203.0.113.9,, 192.0.2.1"], 1), None, "empty");
        assert_eq!(source(&[], 1), None);
        let unsure = "203.0.113.9, 2001:db8::7, unix:";
        assert_eq!(source(&[unsure], 1).as_deref(), Some("2001:db8::7"));
    }
}
