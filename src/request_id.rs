//! The id that finds a request in the logs.

use std::cell::OnceCell;
use std::fmt;

use super::system;
use apikeys_core::audit::{REQUEST_ID_MAX, is_request_id};
use apikeys_core::config::Config;
use apikeys_core::exchange::credentials::{Headers, may_hold_key};

/// The value of the header that gateways agree on, if that can be an id; else Kong's own; else a
/// dash. Most requests have no line in the log, so it is read only when it is first needed. It is
/// read once, because nginx may make up another one each time.
#[derive(Default)]
pub(super) struct RequestId {
    header: Option<Vec<u8>>,
    read: OnceCell<String>,
}

impl RequestId {
    /// The id of the request with these headers. On Kong the header is the client's own, and may
    /// hold a key, which would go into the log.
    pub(super) fn of(config: &Config, headers: &Headers) -> Self {
        let mut named = headers.iter();
        let header = named
            .find(|(name, _)| name.eq_ignore_ascii_case("x-request-id"))
            .map(|(_, id)| id)
            .filter(|id| id.len() <= REQUEST_ID_MAX && !may_hold_key(config, headers, id));
        Self {
            header: header.cloned(),
            read: OnceCell::new(),
        }
    }

    pub(super) fn text(&self) -> &str {
        self.read.get_or_init(|| {
            let header = self.header.clone().filter(|id| is_request_id(id));
            let id = header.or_else(|| system::kong_request_id().filter(|id| is_request_id(id)));
            id.and_then(|id| String::from_utf8(id).ok())
                .unwrap_or_else(|| "-".to_owned())
        })
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
