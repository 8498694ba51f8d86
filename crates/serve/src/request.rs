//! A client's request, as a gateway describes it over HTTP.

use apikeys_native::{Facts, Request, is_address};
use http::{HeaderMap, HeaderValue};

/// The header that proxies extend by the address of their peer.
pub(crate) const FORWARDED_FOR: &str = "x-forwarded-for";

/// Reads a request with these headers, sent by a gateway. `trusted_hops`: see [`forwarded_for`].
pub(crate) fn read(map: &HeaderMap, trusted_hops: usize) -> Request {
    let pairs = map.iter();
    let headers = pairs.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    Request {
        headers: headers.collect(),
        facts: facts(map, trusted_hops),
    }
}

/// The facts in these headers.
pub(crate) fn facts(map: &HeaderMap, trusted_hops: usize) -> Facts {
    let forwarded = map.get_all(FORWARDED_FOR).into_iter();
    Facts {
        source: forwarded_for(forwarded.map(HeaderValue::as_bytes), trusted_hops),
        route: None,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn source(values: &[&'static str], trusted_hops: usize) -> Option<String> {
        let mut map = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            map.append(FORWARDED_FOR, value);
        }
        read(&map, trusted_hops).facts.source
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
