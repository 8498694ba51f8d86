//! Chooses the proxy of a call as curl does.
//!
//! The library would use one variable for all addresses. Here `http_proxy` is for `http://`
//! addresses, `https_proxy` for `https://` ones and `all_proxy` for both, and hosts in
//! `no_proxy` are called without a proxy. A lower-case variable counts before the same one in
//! capital letters. `HTTP_PROXY` is ignored: a web server sets it from a request's header.

use std::net::IpAddr;

use ureq::http::Uri;
use ureq::{Proxy, ProxyProtocol};

use crate::admin_error::AdminError;

/// A proxy, and its name in messages: without user and password.
pub(crate) struct Chosen {
    pub(crate) proxy: Proxy,
    pub(crate) shown: String,
}

/// Chooses by the environment's variables.
pub(crate) fn choose(
    url: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Chosen>, AdminError> {
    let Ok(url) = url.parse::<Uri>() else {
        return Ok(None);
    };
    let names: &[&'static str] = match url.scheme_str() {
        Some("https") => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        _ => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    let set = names
        .iter()
        .find_map(|name| Some((*name, variable(name)?)))
        .filter(|(_, value)| !value.is_empty());
    let Some((name, value)) = set else {
        return Ok(None);
    };
    let no_proxy = variable("no_proxy").or_else(|| variable("NO_PROXY"));
    if is_listed(
        url.host().unwrap_or_default(),
        &no_proxy.unwrap_or_default(),
    ) {
        return Ok(None);
    }
    let proxy = Proxy::new(&value).map_err(|_| AdminError::Proxy { name })?;
    let (protocol, host, port) = (proxy.protocol(), proxy.host(), proxy.port());
    if !matches!(protocol, ProxyProtocol::Http | ProxyProtocol::Https) {
        return Err(AdminError::Proxy { name });
    }
    let protocol = protocol.to_string().to_lowercase();
    let shown = format!("{protocol}://{host}:{port} of {name}");
    Ok(Some(Chosen { proxy, shown }))
}

/// Whether a `no_proxy` list covers the host. Its entries are names, each with all names
/// below it, addresses and networks; a lone `*` covers every host.
fn is_listed(host: &str, list: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let address = host.parse::<IpAddr>().ok();
    let host = host.strip_suffix('.').unwrap_or(host).to_lowercase();
    list.trim() == "*"
        || list
            .split([',', ' ', '\t'])
            .filter(|entry| !entry.is_empty())
            .any(|entry| match address {
                Some(address) => covers(entry, address),
                None => is_or_holds(entry, &host),
            })
}

fn is_or_holds(domain: &str, host: &str) -> bool {
    let domain = domain.strip_prefix('.').unwrap_or(domain).to_lowercase();
    let domain = domain.strip_suffix('.').unwrap_or(&domain);
    match host.strip_suffix(domain) {
        Some(below) => !domain.is_empty() && (below.is_empty() || below.ends_with('.')),
        None => false,
    }
}

/// Whether an address, or a network in CIDR notation, covers this address.
fn covers(entry: &str, address: IpAddr) -> bool {
    let (network, length) = match entry.split_once('/') {
        Some((network, length)) => (network, length.parse::<u32>().ok()),
        None => (entry, Some(if address.is_ipv4() { 32 } else { 128 })),
    };
    let Some(length) = length else {
        return false;
    };
    match (network.trim_matches(['[', ']']).parse(), address) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(address)) => {
            let differing = u32::from(network) ^ u32::from(address);
            length <= 32 && differing.leading_zeros() >= length
        }
        (Ok(IpAddr::V6(network)), IpAddr::V6(address)) => {
            let differing = u128::from(network) ^ u128::from(address);
            length <= 128 && differing.leading_zeros() >= length
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(url: &str, environment: &[(&str, &str)]) -> Result<Option<String>, AdminError> {
        let variable = |name: &str| {
            let set = environment.iter().find(|(known, _)| *known == name)?;
            Some(set.1.to_owned())
        };
        Ok(choose(url, variable)?.map(|chosen| chosen.shown))
    }

    #[test]
    fn each_scheme_has_its_proxy_and_lower_case_counts_first() {
        let both = [("https_proxy", "http://s:1"), ("http_proxy", "http://p:2")];
        let all = [("ALL_PROXY", "http://a:3")];
        for (url, environment, proxy) in [
            (
                "https://id.example.com",
                &both[..],
                Some("http://s:1 of https_proxy"),
            ),
            (
                "http://id.example.com",
                &both,
                Some("http://p:2 of http_proxy"),
            ),
            (
                "http://id.example.com",
                &all,
                Some("http://a:3 of ALL_PROXY"),
            ),
            ("http://id.example.com", &[("HTTPS_PROXY", "s:1")], None),
            ("http://id.example.com", &[("HTTP_PROXY", "p:1")], None),
            ("https://id.example.com", &[("http_proxy", "p:1")], None),
            (
                "https://id.example.com",
                &[("HTTPS_PROXY", "s:1")],
                Some("http://s:1 of HTTPS_PROXY"),
            ),
            (
                "https://id.example.com",
                &[("HTTPS_PROXY", "t:1"), ("https_proxy", "s:1")],
                Some("http://s:1 of https_proxy"),
            ),
            (
                "https://id.example.com",
                &[("HTTPS_PROXY", "t:1"), ("https_proxy", "")],
                None,
            ),
            ("https://id.example.com", &[], None),
        ] {
            let found = chosen(url, environment).unwrap();
            assert_eq!(found.as_deref(), proxy, "{url} {environment:?}");
        }
    }

    #[test]
    fn what_no_proxy_lists_is_called_without_one() {
        for (host, list, is_listed) in [
            ("id.example.com", "example.com", true),
            ("id.example.com", ".example.com", true),
            ("id.example.com", "ID.EXAMPLE.COM.", true),
            ("id.example.com", "other.com, example.com", true),
            ("id.example.com", "other.com example.com", true),
            ("id.example.com", "*", true),
            ("id.example.com", "xample.com", false),
            ("id.example.com", "id.example.com.org", false),
            ("id.example.com", "", false),
            ("id.example.com", ".", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.0.0.0/8", true),
            ("10.1.2.3", "192.168.0.0/16,10.1.2.0/30", true),
            ("10.1.2.3", "10.1.2.0/31", false),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("10.1.2.3", "0.0.0.0/0", true),
            ("10.1.2.3", "10.0.0.0/33", false),
            ("10.1.2.3", "10.0.0.0/x", false),
            ("10.1.2.3", "2.3", false),
            ("[fd00::7]", "fd00::/8", true),
            ("[fd00::7]", "[fd00::7]", true),
            ("[fd00::7]", "fe00::/8,10.0.0.0/8", false),
        ] {
            let environment = [("all_proxy", "http://p:1"), ("NO_PROXY", list)];
            let found = chosen(&format!("https://{host}:8443/auth"), &environment).unwrap();
            assert_eq!(found.is_none(), is_listed, "{host} {list}");
        }
        let environment = [
            ("all_proxy", "http://p:1"),
            ("no_proxy", "other.com"),
            ("NO_PROXY", "example.com"),
        ];
        let found = chosen("https://id.example.com", &environment).unwrap();
        assert!(found.is_some(), "lower case counts first");
    }

    #[test]
    fn a_proxy_is_shown_without_its_password_and_one_that_cannot_be_used_by_its_variable() {
        let environment = [("https_proxy", "http://user:hunter2@proxy.example.com")];
        let found = chosen("https://id.example.com", &environment).unwrap();
        assert_eq!(found.unwrap(), "http://proxy.example.com:80 of https_proxy");
        for wrong in ["socks5://user:hunter2@p:1", "http://", "user:hunter2@"] {
            let environment = [("https_proxy", wrong)];
            let error = chosen("https://id.example.com", &environment).unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(
                told.contains("https_proxy") && !told.contains("hunter2"),
                "{told}"
            );
        }
    }
}
