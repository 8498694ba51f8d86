//! Takes out of a request the headers in which a client claims to be a key.

use proxy_wasm::hostcalls;
use proxy_wasm::types::{MapType, Status};

use super::gateway::Gateway;
use apikeys_core::exchange::credentials::Headers;
use apikeys_core::exchange::identity;
use apikeys_core::rejection::Reason;

/// The reason for which a claim stays in a request, which must not go on.
pub(super) enum Stays {
    /// It came twice.
    Twice(Reason),
    /// The host does not take it out.
    Host,
}

impl From<Status> for Stays {
    fn from(_: Status) -> Self {
        Self::Host
    }
}

/// Takes the claims out of the request with these headers.
pub(super) fn take_claims(headers: &Headers) -> Result<(), Stays> {
    for name in identity::claims(headers).map_err(Stays::Twice)? {
        Gateway::here().take_header(name)?;
    }
    Ok(())
}

/// The same for a request with so many headers, which nobody has read. Where the host cannot show
/// as many, takes out those names that the filter itself would set.
pub(super) fn take_unread_claims(count: usize) -> Result<(), Stays> {
    if Gateway::here().shows_headers(count) {
        return take_claims(&hostcalls::get_map_bytes(MapType::HttpRequestHeaders)?);
    }
    for name in identity::NAMES {
        Gateway::here().take_header(name)?;
    }
    Ok(())
}
