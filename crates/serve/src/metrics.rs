//! The metrics in Prometheus' text format 0.0.4, under the core's names.

use std::fmt::Write;
use std::sync::Arc;

use apikeys_core::metrics::catalog::{COUNTED, Family, GAUGES, Kind};
use apikeys_core::metrics::{self, Metrics};
use apikeys_native::background;

use crate::log;
use crate::service::Route;

/// All metrics, one per line.
pub(crate) fn text<'a>(metrics: &Metrics, routes: impl Iterator<Item = &'a Arc<Route>>) -> String {
    let mut text = String::with_capacity(32 * 1024);
    let counters: Vec<f64> = metrics.values().collect();
    write_families(&mut text, &COUNTED, &metrics::names(), &counters);
    let gauges = gauges(routes);
    write_families(&mut text, &GAUGES, &metrics::gauges::names(), &gauges);
    let dropped = log::dropped();
    let _ = write!(
        text,
        "# TYPE apikey_log_lines_dropped_total counter\napikey_log_lines_dropped_total {dropped}\n"
    );
    text
}

/// The values of the gauges, `NaN` for unknown ones.
fn gauges<'a>(routes: impl Iterator<Item = &'a Arc<Route>>) -> Vec<f64> {
    let mut values = vec![f64::NAN; metrics::gauges::names().len()];
    for (at, value) in background::gauges(routes).iter() {
        if let Some(place) = values.get_mut(at) {
            *place = value as f64;
        }
    }
    values
}

/// Writes families with their values. Values come in the order of the names, and `NaN` is left out.
fn write_families(text: &mut String, families: &[Family], names: &[String], values: &[f64]) {
    let mut pairs = names.iter().zip(values);
    for family in families {
        let _ = writeln!(text, "# TYPE {} {}", family.name, family.kind.word());
        for (name, value) in pairs.by_ref().take(family.names().len()) {
            if !value.is_nan() {
                let _ = writeln!(text, "{} {value}", sample(name, family));
            }
        }
    }
}

/// Turns a host's metric name into a sample's name: `a__b_c` becomes `a{b="c"}`.
fn sample(name: &str, family: &Family) -> String {
    let mut parts = name.split("__");
    let mut sample = parts.next().unwrap_or_default().to_owned();
    let label = |part: &str| {
        let is_bucket = matches!(family.kind, Kind::Histogram(_)) && part.starts_with("le_");
        let known = family.labels.iter().map(|(label, _)| *label);
        let mut known = known.chain(is_bucket.then_some("le"));
        let (label, value) = known.find_map(|label| {
            let value = part.strip_prefix(label)?.strip_prefix('_')?;
            Some((label, value))
        })?;
        let value = if value == "inf" { "+Inf" } else { value };
        Some(format!("{label}=\"{value}\""))
    };
    let labels: Vec<String> = parts.filter_map(label).collect();
    if !labels.is_empty() {
        sample.push('{');
        sample.push_str(&labels.join(","));
        sample.push('}');
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use apikeys_core::exchange::Source;

    #[test]
    fn each_counter_is_a_sample_with_its_labels() {
        let mut metrics = Metrics::default();
        metrics.exchanged(Source::FirstUse);
        metrics.slice_took(300);
        let text = text(&metrics, std::iter::empty());
        for line in [
            "# TYPE apikey_exchanges_total counter",
            "apikey_exchanges_total{source=\"first_use\"} 1",
            "apikey_exchanges_total{source=\"l1\"} 0",
            "apikey_callouts_total{endpoint=\"service_token\",result=\"client_error\"} 0",
            "# TYPE apikey_bcrypt_slice_duration_seconds histogram",
            "apikey_bcrypt_slice_duration_seconds_bucket{le=\"25e-5\"} 0",
            "apikey_bcrypt_slice_duration_seconds_bucket{le=\"5e-4\"} 1",
            "apikey_bcrypt_slice_duration_seconds_bucket{le=\"+Inf\"} 1",
            "apikey_bcrypt_slice_duration_seconds_sum 0.0003",
            "apikey_bcrypt_slice_duration_seconds_count 1",
            "apikey_bcrypt_queue_length 0",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} in\n{text}");
        }
        assert!(!text.contains("apikey_last_good_poll_timestamp_seconds 1"));
    }
}
