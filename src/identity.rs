//! Takes out of a request the headers in which a client claims to be a key.

use proxy_wasm::hostcalls;
use proxy_wasm::types::{MapType, Status};

use super::gateway::Gateway;
use apikeys_core::exchange::credentials::Headers;
use apikeys_core::exchange::identity;
use apikeys_core::rejection::Reason;

/// The reason why a claim stays in a request. The request must not go on.
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

/// Takes the claims out of a request whose `count` headers were not read yet. If the host cannot
/// show so many, takes out the three names that the filter itself sets.
pub(super) fn take_unread_claims(count: usize) -> Result<(), Stays> {
    if Gateway::here().shows_headers(count) {
        return take_claims(&hostcalls::get_map_bytes(MapType::HttpRequestHeaders)?);
    }
    for name in identity::NAMES {
        Gateway::here().take_header(name)?;
    }
    Ok(())
}
