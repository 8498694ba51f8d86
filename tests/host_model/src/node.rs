//! The shared state of one node's workers: the profile of the host, its clock, its shared
//! data, and a record of all that the filter told it.
//!
//! Time is virtual and the random source is a generator with a seed, or worse: nothing here
//! differs from one run to the next.

use std::cell::RefCell;
use std::rc::Rc;

use apikeys_core::clock::UnixMillis;

use super::abi::Pairs;
use super::shared_data::{Kind, SharedData};

pub use test_kit::keys::START;

/// The modelled host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Kong,
    Envoy,
}

pub const BOTH: [Profile; 2] = [Profile::Kong, Profile::Envoy];

/// The bytes that `random_get` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Random {
    /// Always the same byte.
    Constant(u8),
    /// A generator with this state.
    Seeded(u64),
    Fails,
}

impl Random {
    pub fn fill(&mut self, bytes: &mut [u8]) -> bool {
        match self {
            Self::Constant(byte) => bytes.fill(*byte),
            Self::Seeded(state) => {
                for byte in bytes {
                    *state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    *byte = state.to_be_bytes()[0];
                }
            }
            Self::Fails => return false,
        }
        true
    }
}

/// A counter, gauge or histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    pub kind: i32,
    pub name: String,
    pub value: i64,
}

/// A filter's callout, to any upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub upstream: String,
    pub headers: Pairs,
    pub body: Vec<u8>,
    pub timeout_ms: u32,
}

pub type SharedNode = Rc<RefCell<Node>>;

pub struct Node {
    pub profile: Profile,
    /// The clock's time; none when reading it is an error.
    pub clock: Option<UnixMillis>,
    pub shared: SharedData,
    pub random: Random,
    /// WASI variables, or on Kong nginx variables.
    pub variables: Vec<(String, String)>,
    /// Upstreams that the host knows; on Kong any `host:port`.
    pub clusters: Vec<String>,
    /// The address that all requests come from; without one each has its own.
    pub address: Option<String>,
    /// The host refuses so many of the next callouts.
    pub refuses_callouts: u32,
    pub logs: Vec<String>,
    pub metrics: Vec<Metric>,
    /// Calls of the filter to the metrics' functions.
    pub metric_calls: u32,
    /// Kong's version; none if the host does not tell it.
    pub kong_version: Option<&'static str>,
    /// The filter's name in Envoy's configuration.
    pub root_id: String,
    pub properties_asked: Vec<Vec<u8>>,
    /// Paths and values, in their order.
    pub properties_set: Vec<(Vec<u8>, Vec<u8>)>,
    pub sent: Vec<Sent>,
    /// How often a root context used shared data while it handled an answer.
    pub shared_in_root_answers: u32,
    next_id: u32,
}

impl Node {
    pub fn new(profile: Profile) -> Self {
        let kind = match profile {
            Profile::Kong => Kind::Kong {
                zone_bytes: Some(16 << 20),
            },
            Profile::Envoy => Kind::Envoy,
        };
        Self {
            profile,
            clock: Some(START),
            shared: SharedData::new(kind),
            random: Random::Seeded(1),
            variables: Vec::new(),
            clusters: vec!["keycloak".to_owned(), "yield".to_owned()],
            address: None,
            refuses_callouts: 0,
            logs: Vec::new(),
            metrics: Vec::new(),
            metric_calls: 0,
            kong_version: Some("3.9.1"),
            root_id: String::new(),
            properties_asked: Vec::new(),
            properties_set: Vec::new(),
            sent: Vec::new(),
            shared_in_root_answers: 0,
            next_id: 0,
        }
    }

    /// The address of a request: Envoy gives a port as well, nginx's `$remote_addr` has none.
    pub fn address(&self, request_id: &[u8]) -> Vec<u8> {
        let own = || {
            let id = String::from_utf8_lossy(request_id);
            let number = u32::from_str_radix(id.get(24..).unwrap_or_default(), 16);
            let number = number.unwrap_or_default();
            format!("2001:db8:{:x}:{:x}::1", number >> 16, number & 0xffff)
        };
        let address = self.address.clone().unwrap_or_else(own);
        match self.profile {
            Profile::Kong => address.into_bytes(),
            Profile::Envoy if address.contains(':') => format!("[{address}]:1234").into_bytes(),
            Profile::Envoy => format!("{address}:1234").into_bytes(),
        }
    }

    /// Whether the host has metrics: older releases of Kong have the functions too, but there
    /// they end the filter.
    pub fn has_metrics(&self) -> bool {
        let is_new = |version: &str| version.starts_with("3.9") || version.starts_with("3.10");
        self.profile == Profile::Envoy || self.kong_version.is_some_and(is_new)
    }

    /// Whether this is a Kong that lets a request go on when one of its callouts fails (K11).
    pub fn goes_on_after_failures(&self) -> bool {
        let is_so = |version: &str| version.starts_with("3.8");
        self.profile == Profile::Kong && self.kong_version.is_some_and(is_so)
    }

    /// An id for a request, a context or a callout.
    pub fn next_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    pub fn log(&mut self, line: String) {
        self.logs.push(line);
    }
}
