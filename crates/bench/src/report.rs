//! The measured figures: rows with their bounds, curves, and single facts; on the
//! terminal and in `results.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

/// The required side of a bound.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// No bound: the figure is only reported.
    Reported,
}

/// A row: its key in results.json, its title, its bound.
struct Promise {
    key: &'static str,
    what: &'static str,
    bound: Bound,
}

const fn row(key: &'static str, what: &'static str, bound: Bound) -> Promise {
    Promise { key, what, bound }
}

const PROMISES: [Promise; 35] = [
    row(
        "warm_vs_host_calls",
        "warm requests/s over those of the same host calls alone",
        Bound::AtLeast(0.95),
    ),
    row(
        "warm_vs_noop",
        "warm requests/s over a no-op Wasm filter's",
        Bound::Reported,
    ),
    row(
        "warm_vs_api_key_auth",
        "over Envoy's api_key_auth, which exchanges nothing",
        Bound::Reported,
    ),
    row(
        "warm_added_p99_us",
        "p99 added to the no-op's, at half its capacity",
        Bound::AtMost(300.0),
    ),
    row(
        "warm_l2_vs_noop",
        "over the no-op's, each entry out of shared data",
        Bound::Reported,
    ),
    row(
        "refresh_vs_roundtrips",
        "a refresh over its two calls made bare",
        Bound::AtMost(1.15),
    ),
    row(
        "first_use_vs_native_bcrypt",
        "a first use (cost 10) over native bcrypt and the two calls",
        Bound::AtMost(1.6),
    ),
    row(
        "stall_p99_ratio",
        "warm p99 beside 50 cold keys over warm p99 alone",
        Bound::AtMost(3.0),
    ),
    row(
        "slice_max_ms",
        "the longest that a slice held the worker",
        Bound::AtMost(2.0),
    ),
    row(
        "lookup_300k_vs_1k",
        "a look-up at 300,000 keys over one at 1,000, PostgreSQL",
        Bound::AtMost(1.3),
    ),
    row(
        "hit_rate_zipf",
        "10,000 keys, Zipf 1.0, TTL 300 s, an hour of virtual time",
        Bound::AtLeast(0.99),
    ),
    row(
        "keycloak_calls_per_1k_requests",
        "calls to Keycloak in the same hour",
        Bound::Reported,
    ),
    row(
        "rss_growth_1m_requests_mb",
        "memory after 1,000,000 requests less that after 100,000",
        Bound::AtMost(8.0),
    ),
    row("wasm_mb", "the filter's size", Bound::AtMost(1.5)),
    row(
        "startup_ms",
        "from Envoy's start to ready, with the filter",
        Bound::Reported,
    ),
    row(
        "reference_scan_vs_lookup",
        "the seed's scan of all hashes over ours, 1,000 owners",
        Bound::Reported,
    ),
    row(
        "audited_vs_noop",
        "over the no-op's, each hit in the audit log",
        Bound::Reported,
    ),
    row(
        "module_vs_api_key_auth",
        "warm, over Envoy's api_key_auth, which exchanges nothing",
        Bound::AtLeast(0.92),
    ),
    row(
        "module_vs_header_mutation",
        "over Envoy's header_mutation that sets a header of a token's size",
        Bound::AtLeast(0.95),
    ),
    row(
        "module_vs_noop_wasm",
        "over a no-op Wasm filter",
        Bound::AtLeast(1.0),
    ),
    row(
        "module_100k_keys_vs_1k",
        "warm with 100,000 keys in use, over warm with 1,000",
        Bound::AtLeast(0.97),
    ),
    row(
        "module_first_use_vs_bcrypt",
        "a first use (cost 10) over native bcrypt and the two calls",
        Bound::AtMost(1.15),
    ),
    row(
        "module_stall_p99_ratio",
        "warm p99 beside 50 first uses over warm p99 alone",
        Bound::AtMost(1.5),
    ),
    row(
        "module_startup_vs_none",
        "from Envoy's start to ready, over an Envoy without it",
        Bound::AtMost(1.2),
    ),
    row(
        "module_rss_mb",
        "resident memory of an Envoy with it, after a first request",
        Bound::Reported,
    ),
    row(
        "serve_vs_constant",
        "warm forward auth over the same server's constant answer",
        Bound::AtLeast(0.85),
    ),
    row(
        "serve_added_p99_us",
        "p99 added to that answer's, behind nginx, at half capacity",
        Bound::AtMost(300.0),
    ),
    row(
        "serve_nginx_vs_constant",
        "nginx asking it over a socket, over nginx asking for a constant answer",
        Bound::AtLeast(0.9),
    ),
    row(
        "serve_cores",
        "warm requests/s of two cores over those of one, the load beside it",
        Bound::Reported,
    ),
    row(
        "serve_refresh_vs_roundtrips",
        "a refresh over its two calls made bare",
        Bound::AtMost(1.1),
    ),
    row(
        "serve_first_use_vs_bcrypt",
        "a first use (cost 10) over native bcrypt and the two calls",
        Bound::AtMost(1.25),
    ),
    row(
        "serve_ext_authz_vs_filter",
        "Envoy asking it over gRPC on the worker's core, over the Wasm filter",
        Bound::Reported,
    ),
    row(
        "serve_ext_authz_vs_api_key_auth",
        "the same, over Envoy's api_key_auth, which exchanges nothing",
        Bound::Reported,
    ),
    row(
        "serve_rss_100k_keys_mb",
        "resident memory with 100,000 keys in the cache",
        Bound::Reported,
    ),
    row(
        "serve_rss_growth_1m_requests_mb",
        "that after 1,000,000 requests less that after 100,000",
        Bound::AtMost(8.0),
    ),
];

/// Median, smallest, largest, and the number of values.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
    count: usize,
}

/// Lines in one picture: figures at growing sizes.
pub(crate) struct Curve {
    /// The picture's file name, without its ending.
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    /// Each line's name and points.
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<(&'static str, Spread)>,
    facts: Map<String, Value>,
    pub(crate) curves: Vec<Curve>,
}

impl Report {
    /// Adds a row of [`PROMISES`], from its rounds.
    pub(crate) fn row(&mut self, key: &str, rounds: &[f64]) {
        let promise = PROMISES.iter().find(|promise| promise.key == key);
        let promise = promise.unwrap_or_else(|| panic!("{key} is no row"));
        let spread = spread(rounds);
        println!(
            "    {key}: {} ({} to {})",
            round(spread.median),
            round(spread.least),
            round(spread.most)
        );
        self.rows.push((promise.key, spread));
    }

    /// Adds a figure that is in no row: `name` ends in its unit.
    pub(crate) fn fact(&mut self, name: &str, rounds: &[f64]) {
        let spread = spread(rounds);
        println!("    {name}: {}", round(spread.median));
        self.facts.insert(name.to_owned(), json_of(spread));
    }

    /// Adds a curve, and its points to results.json.
    pub(crate) fn curve(&mut self, curve: Curve) {
        for (line, points) in &curve.lines {
            let points: Vec<String> = points
                .iter()
                .map(|(x, y)| format!("{x}: {}", round(*y)))
                .collect();
            println!("    {}, {line}: {}", curve.name, points.join(", "));
        }
        self.curves.push(curve);
    }

    /// Prints the table; returns the number of missed bounds.
    pub(crate) fn print(&self) -> usize {
        println!(
            "\n{:32} {:>10} {:>23} {:>9}",
            "row", "median", "spread", "bound"
        );
        let mut missed = 0;
        for promise in &PROMISES {
            let Some((_, spread)) = self.rows.iter().find(|(key, _)| *key == promise.key) else {
                continue;
            };
            let is_met = met(promise.bound, spread.median);
            missed += usize::from(is_met == Some(false));
            println!(
                "{:32} {:>10} {:>23} {:>9} {}\n    {}",
                promise.key,
                round(spread.median),
                format!("{} to {}", round(spread.least), round(spread.most)),
                bound_text(promise.bound),
                match is_met {
                    Some(true) => "met",
                    Some(false) => "MISSED",
                    None => "",
                },
                promise.what,
            );
        }
        missed
    }

    /// Writes the figures, and returns all of them. Rows and curves that this run did
    /// not measure stay as they were, so that one group can be measured again.
    pub(crate) fn write(&self, file: &Path, run: &Value) -> Value {
        let before = std::fs::read(file).ok();
        let before = before.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let mut results = before.unwrap_or_else(|| json!({}));
        for promise in &PROMISES {
            let Some((_, spread)) = self.rows.iter().find(|(key, _)| *key == promise.key) else {
                continue;
            };
            let mut row = json_of(*spread);
            row["what"] = json!(promise.what);
            row["bound"] = json!(bound_text(promise.bound));
            row["met"] = json!(met(promise.bound, spread.median));
            row["run"] = run.clone();
            results["rows"][promise.key] = row;
        }
        for (name, fact) in &self.facts {
            results["facts"][name] = fact.clone();
        }
        for curve in &self.curves {
            let lines = curve.lines.iter().map(|(name, points)| {
                let points: Vec<Value> = points
                    .iter()
                    .map(|(x, y)| json!([x, round_number(*y)]))
                    .collect();
                (name.clone(), json!(points))
            });
            results["curves"][curve.name] = json!({
                "title": curve.title, "x": curve.x, "y": curve.y,
                "lines": lines.collect::<Map<String, Value>>(),
            });
        }
        let text = serde_json::to_string_pretty(&results).expect("JSON");
        std::fs::write(file, text + "\n").expect("results.json");
        results
    }
}

/// The median of figures.
pub(crate) fn median(figures: &[f64]) -> f64 {
    spread(figures).median
}

fn spread(figures: &[f64]) -> Spread {
    assert!(!figures.is_empty(), "nothing was measured");
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    Spread {
        median: sorted[sorted.len() / 2],
        least: sorted[0],
        most: sorted[sorted.len() - 1],
        count: sorted.len(),
    }
}

fn met(bound: Bound, value: f64) -> Option<bool> {
    match bound {
        Bound::AtLeast(least) => Some(value >= least),
        Bound::AtMost(most) => Some(value <= most),
        Bound::Reported => None,
    }
}

fn bound_text(bound: Bound) -> String {
    match bound {
        Bound::AtLeast(least) => format!(">= {least}"),
        Bound::AtMost(most) => format!("<= {most}"),
        Bound::Reported => "-".to_owned(),
    }
}

fn json_of(spread: Spread) -> Value {
    json!({
        "median": round_number(spread.median), "least": round_number(spread.least),
        "most": round_number(spread.most), "rounds": spread.count,
    })
}

/// Rounds to four significant digits.
fn round_number(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    let scale = 10_f64.powi(digits.max(0));
    (value * scale).round() / scale
}

fn round(value: f64) -> String {
    round_number(value).to_string()
}
