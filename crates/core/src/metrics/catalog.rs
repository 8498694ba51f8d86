//! The metrics: names, kinds, labels and buckets. `tests/house/generated.rs` writes the table in
//! `docs/metrics.md` from here.
//!
//! proxy-wasm knows a metric by its name alone, so each label is a part of the name:
//! `apikey_exchanges_total__source_l1`. Both hosts take labels out of names by regular
//! expressions: Envoy's `stats_tags` (`deploy/envoy/envoy.yaml`), Kong's `label_patterns` (the
//! filter's meta file). Kong exports the rest of a name as it is, and Prometheus refuses the
//! whole scrape for one dot in it, so no name has a dot. Two underscores begin a label; no
//! family, label or value has two in a row.
//!
//! A histogram is a counter for each bucket, which both hosts add up over their workers.
//! Kong 3.9 exports a native one with powers of two for buckets, under a name that Prometheus
//! takes for no histogram; and each value would be a call to the host.

use crate::keycloak::Endpoint;

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Lengths of time; the upper ends of its buckets, in microseconds.
    Histogram(&'static [u64]),
    /// Goes up and down.
    Gauge(Across),
}

impl Kind {
    /// As Prometheus names it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Histogram(_) => "histogram",
            Self::Gauge(_) => "gauge",
        }
    }
}

/// How the workers' values become the value of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Across {
    /// Their sum.
    Sum,
    /// The largest.
    Largest,
    /// The smallest.
    Smallest,
}

/// A label and the values that it may have.
pub type Label = (&'static str, &'static [&'static str]);

/// Metrics of one name.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// As Prometheus has it.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [Label],
}

/// The origins of a token: those of [`Source`](crate::exchange::Source).
const SOURCES: &[&str] = &["l1", "l2", "refresh", "first_use", "stale"];
/// The codes of [`Rejection::ALL`](crate::rejection::Rejection::ALL).
const CODES: &[&str] = &[
    "missing_credentials",
    "invalid_api_key",
    "ambiguous_credentials",
    "throttled",
    "identity_provider_unavailable",
    "overloaded",
    "rate_limited",
    "address_not_allowed",
];
const ENDPOINTS: &[&str] = &[
    "service_token",
    "lookup",
    "grant",
    "jwks",
    "scopes",
    "owner",
    "events",
    "change",
    "discovery",
    "user_profile",
];
const WAYS: &[&str] = &["warm", "waited", "refresh", "cold", "first_use", "stale"];
const RESULTS: &[&str] = &["ok", "client_error", "server_error", "failed"];
/// Those of [`Check::ALL`](crate::background::self_check::Check::ALL).
const CHECKS: &[&str] = &[
    "service_token",
    "roles",
    "issuer",
    "clock",
    "events",
    "user_profile",
];

const EXCHANGE_US: &[u64] = &[
    50, 100, 250, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000,
];
const ANSWER_US: &[u64] = &[
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
];
/// The ends above 10 ms are for the module and the service, where a slice is a whole verification.
const SLICE_US: &[u64] = &[
    250, 500, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 50_000, 100_000, 250_000, 1_000_000,
];

pub(super) const EXCHANGES: usize = 0;
pub(super) const REFUSALS: usize = 1;
pub(super) const PASSES: usize = 2;
pub(super) const CALLOUTS: usize = 3;
pub(super) const EXCHANGE_SECONDS: usize = 4;
pub(super) const ANSWER_SECONDS: usize = 5;
pub(super) const SLICE_SECONDS: usize = 6;
pub(super) const REVOCATIONS: usize = 7;
pub(super) const RENEWALS: usize = 8;
pub(super) const LOST_BUCKETS: usize = 9;

/// The counters and histograms, in the order of the constants above.
pub const COUNTED: [Family; 10] = [
    Family {
        name: "apikey_exchanges_total",
        kind: Kind::Counter,
        labels: &[("source", SOURCES)],
    },
    Family {
        name: "apikey_refusals_total",
        kind: Kind::Counter,
        labels: &[("code", CODES)],
    },
    Family {
        name: "apikey_passes_total",
        kind: Kind::Counter,
        labels: &[("why", &["no_key", "fallback"])],
    },
    Family {
        name: "apikey_callouts_total",
        kind: Kind::Counter,
        labels: &[("endpoint", ENDPOINTS), ("result", RESULTS)],
    },
    Family {
        name: "apikey_exchange_duration_seconds",
        kind: Kind::Histogram(EXCHANGE_US),
        labels: &[("way", WAYS)],
    },
    Family {
        name: "apikey_callout_duration_seconds",
        kind: Kind::Histogram(ANSWER_US),
        labels: &[("endpoint", ENDPOINTS)],
    },
    Family {
        name: "apikey_bcrypt_slice_duration_seconds",
        kind: Kind::Histogram(SLICE_US),
        labels: &[],
    },
    Family {
        name: "apikey_revocations_total",
        kind: Kind::Counter,
        labels: &[("of", &["owner", "everybody"])],
    },
    Family {
        name: "apikey_renewals_total",
        kind: Kind::Counter,
        labels: &[("result", &["renewed", "failed"])],
    },
    Family {
        name: "apikey_rate_limit_buckets_lost_total",
        kind: Kind::Counter,
        labels: &[],
    },
];

/// The gauges, in the order of [`Gauges`](super::gauges::Gauges).
pub const GAUGES: [Family; 7] = [
    Family {
        name: "apikey_bcrypt_queue_length",
        kind: Kind::Gauge(Across::Sum),
        labels: &[],
    },
    Family {
        name: "apikey_exchanges_pending",
        kind: Kind::Gauge(Across::Sum),
        labels: &[],
    },
    Family {
        name: "apikey_cache_entries",
        kind: Kind::Gauge(Across::Sum),
        labels: &[("cache", &["tokens", "verified", "refused"])],
    },
    Family {
        name: "apikey_renewals_waiting",
        kind: Kind::Gauge(Across::Sum),
        labels: &[],
    },
    Family {
        name: "apikey_last_good_poll_timestamp_seconds",
        kind: Kind::Gauge(Across::Smallest),
        labels: &[],
    },
    Family {
        name: "apikey_self_check_state",
        kind: Kind::Gauge(Across::Largest),
        labels: &[("check", CHECKS)],
    },
    Family {
        name: "apikey_breakers_open",
        kind: Kind::Gauge(Across::Sum),
        labels: &[],
    },
];

/// The place of an endpoint among the values of its label.
pub(super) const fn endpoint(endpoint: Endpoint) -> usize {
    match endpoint {
        Endpoint::ServiceToken => 0,
        Endpoint::Lookup => 1,
        Endpoint::Grant => 2,
        Endpoint::Jwks => 3,
        Endpoint::Scopes => 4,
        Endpoint::Owner => 5,
        Endpoint::Events => 6,
        Endpoint::Change => 7,
        Endpoint::Discovery => 8,
        Endpoint::UserProfile => 9,
    }
}

impl Family {
    /// The number of combinations of its labels.
    pub(super) fn combinations(&self) -> usize {
        self.labels.iter().map(|(_, values)| values.len()).product()
    }

    /// The number of host metrics that each combination takes.
    pub(super) const fn width(&self) -> usize {
        match self.kind {
            // The buckets, the one without an end, sum, count.
            Kind::Histogram(ends) => ends.len() + 3,
            Kind::Counter | Kind::Gauge(_) => 1,
        }
    }

    /// The names of all its metrics at the host, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut labelled = vec![String::new()];
        for (label, values) in self.labels {
            labelled = labelled
                .iter()
                .flat_map(|so_far| {
                    values
                        .iter()
                        .map(move |value| [so_far, "__", label, "_", value].concat())
                })
                .collect();
        }
        let mut names = Vec::with_capacity(labelled.len() * self.width());
        for labels in labelled {
            match self.kind {
                Kind::Counter | Kind::Gauge(_) => names.push([self.name, &labels].concat()),
                Kind::Histogram(ends) => {
                    let ends = ends.iter().map(|end| seconds(*end));
                    for end in ends.chain(["inf".to_owned()]) {
                        names.push([self.name, "_bucket", &labels, "__le_", &end].concat());
                    }
                    names.push([self.name, "_sum", &labels].concat());
                    names.push([self.name, "_count", &labels].concat());
                }
            }
        }
        names
    }
}

/// Microseconds as seconds, the shortest number without a dot: `25e-4`.
fn seconds(microseconds: u64) -> String {
    let (mut digits, mut exponent) = (microseconds, -6);
    while exponent < 0 && digits.is_multiple_of(10) {
        digits /= 10;
        exponent += 1;
    }
    match exponent {
        0 => digits.to_string(),
        _ => format!("{digits}e{exponent}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::background::self_check::Check;
    use crate::rejection::Rejection;

    fn all_names() -> Vec<String> {
        COUNTED
            .iter()
            .chain(&GAUGES)
            .flat_map(Family::names)
            .collect()
    }

    #[test]
    fn the_values_of_labels_are_those_of_the_core() {
        assert_eq!(CODES, Rejection::ALL.map(Rejection::code));
        assert_eq!(CHECKS, Check::ALL.map(Check::name));
        assert_eq!(ENDPOINTS[endpoint(Endpoint::Lookup)], "lookup");
        assert_eq!(ENDPOINTS[endpoint(Endpoint::UserProfile)], "user_profile");
    }

    #[test]
    fn names_have_no_dots_and_labels_begin_with_two_underscores() {
        let names = all_names();
        for name in &names {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
            assert!(
                name.starts_with("apikey_") && name.chars().all(plain),
                "{name}"
            );
            // Kong puts `pw:apikey_jwt_exchange:` before it and takes 256 characters.
            assert!(name.len() < 200, "{name}");
        }
        for name in [
            "apikey_callouts_total__endpoint_service_token__result_ok",
            "apikey_exchange_duration_seconds_bucket__way_warm__le_25e-5",
            "apikey_exchange_duration_seconds_bucket__way_warm__le_5e-3",
            "apikey_exchange_duration_seconds_bucket__way_warm__le_1",
            "apikey_exchange_duration_seconds_bucket__way_warm__le_25e-1",
            "apikey_exchange_duration_seconds_bucket__way_warm__le_inf",
            "apikey_exchange_duration_seconds_sum__way_warm",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
    }

    #[test]
    fn an_upper_end_is_the_same_number_of_seconds_without_a_dot() {
        let ends = [EXCHANGE_US, ANSWER_US, SLICE_US].concat();
        for end in ends.into_iter().chain([1, 10_000_000, 123_456_789]) {
            let read: f64 = seconds(end).parse().unwrap();
            assert_eq!(read, end as f64 / 1e6, "{end}");
        }
        assert_eq!(seconds(10_000_000), "10");
        assert_eq!(seconds(123_456_789), "123456789e-6");
    }

    #[test]
    fn no_two_names_are_one_to_kong() {
        // It knows a metric by the CRC-32 of its name.
        let names = all_names();
        let of_kong = |name: &String| format!("pw:apikey_jwt_exchange:{name}");
        let crcs: HashSet<u32> = names
            .iter()
            .map(|name| crc32fast::hash(of_kong(name).as_bytes()))
            .collect();
        assert_eq!(crcs.len(), names.len());
        assert!(names.len() < 400, "{}", names.len());
    }
}
