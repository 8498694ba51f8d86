//! The terms of a key: its rate limit, its networks, its name, its environment and its labels.
//!
//! They are stored beside the hash in Keycloak, and beside each cached token, so that they hold for
//! cached tokens too. Each is optional. Except for a name, an unreadable value refuses the key.

use core::fmt;
use core::net::IpAddr;

use ipnet::IpNet;

/// The most requests of a limit.
pub const RATE_LIMIT_REQUESTS_MAX: u32 = 1_000_000;
/// The longest time of a limit: a day.
pub const RATE_LIMIT_SECONDS_MAX: u32 = 86_400;
/// The most networks of a key.
pub const NETWORKS_MAX: usize = 16;

/// A key's rate limit, as in `100/60`: a token bucket that holds 100 requests, and earns them all
/// within 60 seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// The requests that the bucket holds; 1 to [`RATE_LIMIT_REQUESTS_MAX`].
    pub requests: u32,
    /// Seconds in which an empty bucket is full again; 1 to [`RATE_LIMIT_SECONDS_MAX`].
    pub seconds: u32,
}

impl RateLimit {
    /// Reads `<requests>/<seconds>`, two numbers of digits only. None for any other text, and for
    /// numbers out of bounds.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str, max: u32| {
            let digits = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
            let number = digits.then(|| text.parse::<u32>().ok())??;
            (number <= max).then_some(number)
        };
        let (requests, seconds) = text.split_once('/')?;
        Some(Self {
            requests: number(requests, RATE_LIMIT_REQUESTS_MAX)?,
            seconds: number(seconds, RATE_LIMIT_SECONDS_MAX)?,
        })
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.requests, self.seconds)
    }
}

/// The networks that a key may come from, in CIDR notation (RFC 4632; RFC 4291, 2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedAddresses(Vec<IpNet>);

impl AllowedAddresses {
    /// Reads 1 to [`NETWORKS_MAX`] networks with single spaces between. An address without a
    /// prefix length is a network of one. None for any other text. An IPv4 network mapped into IPv6
    /// is refused: write it as IPv4.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let network = |text: &str| {
            let network = text
                .parse::<IpNet>()
                .ok()
                .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
            let mapped = matches!(network, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some());
            (!mapped).then(|| network.trunc())
        };
        let networks = text.split(' ').take(NETWORKS_MAX + 1).map(network);
        let networks = networks.collect::<Option<Vec<_>>>()?;
        (networks.len() <= NETWORKS_MAX).then_some(Self(networks))
    }

    /// Whether a request may come from here.
    #[must_use]
    pub fn allow(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Display for AllowedAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, network) in self.0.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{network}")?;
        }
        Ok(())
    }
}

/// The most characters of a key's name, and of its environment.
pub const NAME_CHARS_MAX: usize = 100;
/// The most characters of a key's labels.
pub const LABELS_CHARS_MAX: usize = 255;

/// Whether a text can be the name of a key, its environment or its labels: at most so many
/// characters, and all printable. It is shown in tables and logs, so invisible characters and those
/// that turn the writing direction are not allowed.
#[must_use]
pub fn is_printable(text: &str, chars_max: usize) -> bool {
    let unseen = |c: char| {
        c.is_control()
            || matches!(
                c,
                '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            )
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
            || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    (1..=chars_max).contains(&text.chars().count()) && !text.chars().any(unseen)
}

/// The facts of a key that apply to each of its requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// Its name for people.
    pub name: Option<String>,
    /// Free text for the place of its use, as `live`. Decides nothing.
    pub environment: Option<String>,
    /// Free text, as `team=pay`. Decides nothing.
    pub labels: Option<String>,
    /// Its rate limit.
    pub rate_limit: Option<RateLimit>,
    /// The networks that it may come from; none means all.
    pub allowed_addresses: Option<AllowedAddresses>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_limit_is_two_numbers_in_bounds() {
        let limit = RateLimit::parse("100/60").unwrap();
        assert_eq!((limit.requests, limit.seconds), (100, 60));
        assert_eq!(limit.to_string(), "100/60");
        for text in ["1/1", "1000000/86400"] {
            assert_eq!(RateLimit::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "/",
            "100",
            "100/",
            "/60",
            "0/60",
            "100/0",
            "1000001/60",
            "100/86401",
            "-1/60",
            "+1/60",
            "1.5/60",
            "100/60/1",
            " 100/60",
            "100 / 60",
            "0100/60",
            "99999999999/1",
            "1e3/1",
        ] {
            assert_eq!(RateLimit::parse(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_networks_and_an_address_alone_is_a_network_of_one() {
        let allowed = AllowedAddresses::parse("10.1.2.3/8 192.0.2.7 2001:db8::1/32 ::1").unwrap();
        assert_eq!(
            allowed.to_string(),
            "10.0.0.0/8 192.0.2.7/32 2001:db8::/32 ::1/128"
        );
        let allows = |text: &str| allowed.allow(text.parse().unwrap());
        for inside in [
            "10.0.0.0",
            "10.255.255.255",
            "192.0.2.7",
            "::ffff:10.1.1.1",
            "2001:db8:ffff::",
            "::1",
        ] {
            assert!(allows(inside), "{inside}");
        }
        for outside in [
            "9.255.255.255",
            "11.0.0.0",
            "192.0.2.8",
            "2001:db9::",
            "::2",
            "::a00:1",
        ] {
            assert!(!allows(outside), "{outside}");
        }
    }

    #[test]
    fn addresses_that_cannot_be_read_are_none() {
        let many = ["10.0.0.0/8"; NETWORKS_MAX].join(" ");
        assert!(AllowedAddresses::parse(&many).is_some());
        let too_many = format!("{many} 10.0.0.0/8");
        for text in [
            "",
            " ",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/8,::1",
            "10.0.0.0/8  ::1",
            " ::1",
            "::1 ",
            "localhost",
            "10.0.0.0/-1",
            "::ffff:10.0.0.0/104",
            "2001:db8::/129",
            too_many.as_str(),
        ] {
            assert_eq!(AllowedAddresses::parse(text), None, "{text}");
        }
    }
}
