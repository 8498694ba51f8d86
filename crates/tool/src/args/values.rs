//! Single values of arguments, each refused where it cannot be right.

use anyhow::{Result, anyhow, bail, ensure};
use apikeys_core::api_key::terms::{AllowedAddresses, RateLimit, is_printable};
use apikeys_core::config::{check_realm_name, defaults};

/// Parses an absolute http(s) URL, without a slash at its end. Refuses the parts that a base
/// URL cannot have.
pub(super) fn base_url(text: &str) -> Result<String> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or_else(|| anyhow!("must begin with https:// or http://"))?;
    let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
    ensure!(!host.is_empty(), "names no host");
    ensure!(
        !host.contains('@'),
        "must hold no user name: see --admin-user"
    );
    ensure!(
        text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['?', '#', '\\']),
        "must be a plain address such as https://id.example.com"
    );
    Ok(text.trim_end_matches('/').to_owned())
}

/// Whether nobody can read the traffic on the way: https, or this machine.
pub(super) fn is_private(base_url: &str) -> bool {
    let Some(rest) = base_url.strip_prefix("http://") else {
        return true;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

pub(super) fn realm(text: &str) -> Result<String> {
    check_realm_name(text).map_err(|rule| anyhow!(rule))?;
    if text == "master" {
        bail!(
            "is Keycloak's realm of administrators: a key of theirs would manage every realm. \
             Use a realm of your own"
        );
    }
    Ok(text.to_owned())
}

/// Parses the administrator's realm: any name that fits in a path, since no filter works for it.
pub(super) fn admin_realm(text: &str) -> Result<String> {
    let allowed = !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\\']);
    ensure!(
        allowed && !text.chars().any(char::is_control),
        "is no name of a realm"
    );
    Ok(text.to_owned())
}

pub(super) fn object_name(text: &str) -> Result<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ensure!(
        (1..=100).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != "..",
        "must be 1 to 100 letters, digits, '-', '_' and '.'"
    );
    Ok(text.to_owned())
}

pub(super) fn issuer(text: &str) -> Result<String> {
    let host = text.strip_prefix("https://").unwrap_or_default();
    ensure!(
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic()),
        "must be an https URL such as {}: Keycloak takes no other issuer",
        defaults::ASSERTION_ISSUER
    );
    Ok(text.to_owned())
}

/// A text for people, without the spaces at its ends.
pub(crate) fn words(argument: &str, text: &str, chars_max: usize) -> Result<String> {
    let text = text.trim();
    ensure!(
        is_printable(text, chars_max),
        "{argument} must be 1 to {chars_max} characters that can be seen"
    );
    Ok(text.to_owned())
}

pub(super) fn rate_limit(text: &str) -> Result<RateLimit> {
    RateLimit::parse(text).ok_or_else(|| {
        anyhow!("must be requests/seconds, as 100/60: 1 to 1000000 requests, 1 to 86400 seconds")
    })
}

/// One network.
pub(super) fn network(text: &str) -> Result<String> {
    ensure!(
        !text.contains(' ') && AllowedAddresses::parse(text).is_some(),
        "must be a network, as 192.0.2.0/24 or 2001:db8::/32, or an address"
    );
    Ok(text.to_owned())
}

/// The longest grace of a rotated key, in seconds: seven days.
const GRACE_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// A length of time in seconds, from a number of them or one of a unit.
pub(super) fn grace(text: &str) -> Result<u64> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 24 * 3600)];
    let of_a_unit = units
        .into_iter()
        .find_map(|(letter, seconds)| Some((text.strip_suffix(letter)?, seconds)));
    let (number, seconds) = of_a_unit.unwrap_or((text, 1));
    let grace = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds));
    match grace {
        Some(grace) if grace <= GRACE_SECONDS_MAX => Ok(grace),
        Some(_) => bail!("must be at most 7d"),
        None => bail!("must be seconds, or as 90s, 15m, 24h, 7d"),
    }
}
