//! A client's request, as a gateway describes it over HTTP.

use apikeys_native::{Facts, Request, is_address};
use http::HeaderMap;

/// Reads a request with these headers, sent by a gateway.
pub(crate) fn read(map: &HeaderMap) -> Request {
    let pairs = map.iter();
    let headers = pairs.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    // The gateway wrote the last entry. The client may have written the entries before it.
    let forwarded = map.get_all("x-forwarded-for").into_iter().next_back();
    let last = forwarded.and_then(|value| value.as_bytes().rsplit(|byte| *byte == b',').next());
    let last = last.and_then(|address| std::str::from_utf8(address).ok());
    let source = last.map(str::trim).filter(|text| is_address(text));
    Request {
        headers: headers.collect(),
        facts: Facts {
            source: source.map(str::to_owned),
            route: None,
        },
    }
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
        read(&map).facts.source
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
