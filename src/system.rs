//! Time, unique bytes and properties, as the host gives them.

use std::time::UNIX_EPOCH;

use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;

use apikeys_core::clock::UnixMillis;

/// The host's wall clock; none when it gives no time after 1970.
pub(super) fn now() -> Option<UnixMillis> {
    let since = hostcalls::get_current_time()
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()?;
    // Not as_millis: its 128 bits would be a cost of each request.
    let whole = since.as_secs().checked_mul(1000)?;
    let ms = whole.checked_add(u64::from(since.subsec_millis()))?;
    (ms > 0).then_some(UnixMillis(ms))
}

/// Bytes that no other request has; ask only within a request. Not secret, and no secret may be
/// drawn from them: on Kong the random source is nginx's own, which is not cryptographic, and its
/// request id makes them differ between workers.
pub(super) fn nonce() -> Vec<u8> {
    let mut bytes = random_bytes();
    bytes.extend(kong_request_id().unwrap_or_default());
    bytes
}

/// The host's random bytes alone, for a root context: there Kong answers a question for a
/// request's id with an error line.
pub(super) fn random_bytes() -> Vec<u8> {
    let mut bytes = vec![0_u8; 16];
    // On a failure the zeros stay; the caller adds time and a counter.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

/// The address that the request comes from, as the host has it: on Envoy after its
/// `xff_num_trusted_hops`, on Kong after `trusted_ips` (nginx's `$remote_addr`).
pub(super) fn source_address() -> Option<Vec<u8>> {
    hostcalls::get_property(vec!["source", "address"])
        .ok()
        .flatten()
}

/// The status of the current response.
pub(super) fn response_status() -> Option<u16> {
    let status = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, ":status");
    let status = status.ok().flatten()?;
    std::str::from_utf8(&status).ok()?.parse().ok()
}

/// Kong's id of the request, as in `X-Kong-Request-Id`; none on Envoy. Ask only within a request.
pub(super) fn kong_request_id() -> Option<Vec<u8>> {
    ["kong_request_id", "request_id"]
        .into_iter()
        .find_map(|name| {
            let id = hostcalls::get_property(vec!["ngx", name]);
            id.ok().flatten().filter(|id| !id.is_empty())
        })
}

/// A property of the host as text. A path that begins with `env` names a WASI
/// environment variable.
pub(super) fn property(path: &[String]) -> Option<String> {
    if let [first, name] = path
        && first == "env"
    {
        return std::env::var(name).ok().filter(|value| !value.is_empty());
    }
    let path = path.iter().map(String::as_str).collect();
    let value = hostcalls::get_property(path).ok().flatten()?;
    String::from_utf8(value)
        .ok()
        .filter(|value| !value.is_empty())
}
