//! The gateway that runs the filter, and each difference between Kong and Envoy.
//!
//! Kong's Wasm host (`ngx_wasm_module`) is maintained no more, so its faults stay: the remedies
//! are here and in `kong/nginx-apikeys.conf`. The numbers K1 to K13 are those of
//! `tests/host_model/src/scenarios/kong_faults.rs`, where each fault traps a naive filter.

use std::cell::{Cell, RefCell};

use log::Level;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{MapType, Status};

use super::system;
use apikeys_core::config::Config;
use apikeys_core::exchange::credentials::HEADERS_MAX;

/// The first Kong with known faults that the filter survives.
const KONG_MIN: (u32, u32) = (3, 9);
/// The lowest time limit of a call on Kong: the limits of the loopback server add up to 300 ms
/// less (`kong/nginx-apikeys.conf`).
const KONG_CALL_MS_MIN: u64 = 2_000;
/// Pseudo-headers that Kong adds to its map of request headers and does not count.
const KONG_PSEUDO_HEADERS: usize = 4;

/// The gateway that runs the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gateway {
    Envoy,
    Kong,
}

thread_local! {
    /// The ids of requests that were answered while held, and are not over yet.
    static ANSWERED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    /// Detected once for each virtual machine.
    static GATEWAY: Cell<Option<Gateway>> = const { Cell::new(None) };
    /// Whether the filter supports this release of the gateway; detected at the first request.
    static SUPPORTED: Cell<Option<bool>> = const { Cell::new(None) };
}

impl Gateway {
    /// The gateway of this machine. Asks the host only at the first call: Kong numbers its root
    /// contexts 0, Envoy gives the configured name. Every other property that tells them apart is
    /// an error line or a crash in a root context of Kong's.
    pub(super) fn here() -> Self {
        GATEWAY.get().unwrap_or_else(|| {
            let root_id = hostcalls::get_property(vec!["plugin_root_id"]);
            let gateway = match root_id.ok().flatten().as_deref() {
                Some(b"0") => Self::Kong,
                _ => Self::Envoy,
            };
            GATEWAY.set(Some(gateway));
            gateway
        })
    }

    /// Whether the filter may run in this release of the gateway. Ask only within a request:
    /// elsewhere Kong does not tell its version. Older releases of Kong let a request go on when
    /// a callout fails (K11); those before 3.5 do not tell their version.
    pub(super) fn is_supported(self) -> bool {
        if self == Self::Envoy {
            return true;
        }
        SUPPORTED.get().unwrap_or_else(|| {
            let version = system::property(&["kong".to_owned(), "version".to_owned()]);
            let supported = match &version {
                Some(version) => of_version(version).is_some_and(|version| version >= KONG_MIN),
                // An Envoy with the root_id 0.
                None => system::kong_request_id().is_none(),
            };
            if !supported {
                let version = version.as_deref().unwrap_or("a release before 3.5");
                log::error!(
                    "every request is refused: this is Kong {version}, and the filter needs Kong \
                     3.9 or 3.10"
                );
            }
            SUPPORTED.set(Some(supported));
            supported
        })
    }

    /// Whether the host is known to take metrics.
    pub(super) fn takes_metrics(self) -> bool {
        self == Self::Envoy || SUPPORTED.get() == Some(true)
    }

    /// The log level for the filter's own events. Kong hides `info` by default, and nginx writes
    /// whole headers at that level (K9); a filter cannot write at `notice`.
    pub(super) const fn info(self) -> Level {
        match self {
            Self::Envoy => Level::Info,
            Self::Kong => Level::Warn,
        }
    }

    /// Whether `on_configure` may return false. Kong then lets every request of every route
    /// go on without any of its filters (K3).
    pub(super) const fn refuses_unconfigured(self) -> bool {
        matches!(self, Self::Envoy)
    }

    /// Whether a root context may act as soon as an answer comes. A callout or a trap of a root
    /// context at that moment crashes Kong's worker (K1), and shared data may trap: so there the
    /// answer waits for the next tick.
    pub(super) const fn acts_on_answers(self) -> bool {
        matches!(self, Self::Envoy)
    }

    /// Whether the map of request headers may be read when it has so many entries. Beyond 100
    /// entries Kong writes the map with wrong sizes, past the end of its memory (K6).
    pub(super) const fn shows_headers(self, count: usize) -> bool {
        match self {
            Self::Envoy => true,
            Self::Kong => count <= HEADERS_MAX - KONG_PSEUDO_HEADERS,
        }
    }

    /// The time limit of a call to Keycloak, as the host is told. Kong loses the body of a later
    /// answer to the client when a POST ran into the host's limit (K7). So the loopback server's
    /// limits, which are shorter, must come first.
    pub(super) const fn call_timeout_ms(self, config: &Config, left_ms: u64) -> u64 {
        match self {
            Self::Envoy => left_ms,
            Self::Kong if config.callout_timeout_ms < KONG_CALL_MS_MIN => KONG_CALL_MS_MIN,
            Self::Kong => config.callout_timeout_ms,
        }
    }

    /// Prepares to write a longer value over an entry of shared data; gives the version to write
    /// over. In a full zone Kong may evict that very entry to make room, and go on to use it
    /// (K12), so there it is deleted first.
    pub(super) fn make_way(self, name: &str, bytes: usize, version: u32) -> Option<u32> {
        if self == Self::Envoy {
            return Some(version);
        }
        let found = hostcalls::get_shared_data(name);
        let grows = matches!(found, Ok((Some(value), _)) if value.len() < bytes);
        if grows && hostcalls::set_shared_data(name, None, Some(version)).is_ok() {
            return None;
        }
        Some(version)
    }

    /// Notes that a held request is answered. Kong then goes on to the next filter of the chain,
    /// and a second answer is a trap that crashes the worker (K13).
    pub(super) fn note_answered(self) -> Answered {
        let id = match self {
            Self::Envoy => None,
            Self::Kong => system::kong_request_id(),
        };
        ANSWERED.with_borrow_mut(|answered| answered.extend(id.clone()));
        Answered(id)
    }

    /// Whether an earlier filter of ours in the chain has answered this request.
    pub(super) fn is_answered(self) -> bool {
        let none = ANSWERED.with_borrow(Vec::is_empty);
        !none
            && system::kong_request_id()
                .is_some_and(|id| ANSWERED.with_borrow(|answered| answered.contains(&id)))
    }

    /// Hides a header of the request from the service. Kong's proxy sends a header that was
    /// removed (K2), so there its value is set to an empty one.
    pub(super) fn take_header(self, name: &str) -> Result<(), Status> {
        let emptied = match self {
            Self::Envoy => None,
            Self::Kong => Some(""),
        };
        hostcalls::set_map_value(MapType::HttpRequestHeaders, name, emptied)
    }

    /// Tells the gateway's own logs and limits a fact about the key: `x-api-key-id` becomes Envoy's
    /// filter state `wasm.x-api-key-id`. Kong's logs read the header, and there a failure to set a
    /// property is a trap.
    pub(super) fn tell(self, name: &str, value: &str) {
        if self == Self::Envoy {
            // A log line without it is no reason to refuse the request.
            let _ = hostcalls::set_property(vec![name], Some(value.as_bytes()));
        }
    }
}

/// Remembers that a request is answered, until it is over.
pub(super) struct Answered(Option<Vec<u8>>);

impl Drop for Answered {
    fn drop(&mut self) {
        if let Some(id) = &self.0 {
            ANSWERED.with_borrow_mut(|answered| answered.retain(|known| known != id));
        }
    }
}

fn of_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
