//! The capacity model against the simulation: its figure divided by the simulation's, point
//! by point.

use crate::capacity_model::Deployment;
use crate::hit_rate::{CURVE_KEYS, CURVE_TTLS, FIFTH, GROWTH_RATE, ttl_line};
use crate::report::{Curve, Report};
use crate::traffic::Usage;

/// The model's figure divided by the simulated one: 1 where both agree.
pub(crate) fn compare(report: &mut Report) {
    let over = |curve: &str, line: &str, of: &dyn Fn(f64) -> f64| {
        let points = points(report, curve, line).into_iter();
        let ratios = points.map(|(x, simulated)| (x, of(x) / simulated));
        (line.to_owned(), ratios.collect::<Vec<_>>())
    };
    let (mut refreshes, mut hits) = (Vec::new(), Vec::new());
    for ttl in CURVE_TTLS {
        let model = |rate| {
            Deployment::of_one_worker(Usage::zipf(CURVE_KEYS, rate), ttl as f64, 0.010).demand()
        };
        let line = ttl_line(ttl);
        let of = |rate| model(rate).refreshes_per_second;
        refreshes.push(over("refreshes_by_rate", &line, &of));
        hits.push(over("hit_rate_by_rate", &line, &|rate| {
            model(rate).hit_rate
        }));
    }
    let of_call = |ms| {
        Deployment::of_one_worker(FIFTH, 300.0, ms / 1000.0)
            .demand()
            .hit_rate
    };
    let by_call = vec![over("hit_rate_by_call_ms", "simulated", &of_call)];
    let of_keys = |keys| {
        let usage = Usage::zipf(keys as usize, GROWTH_RATE);
        Deployment::of_one_worker(usage, 300.0, 0.010)
            .demand()
            .hit_rate
    };
    let line = format!("{GROWTH_RATE} requests/s");
    let by_keys = vec![over("hit_rate_by_keys", &line, &of_keys)];
    let curves = [
        ("capacity_refreshes_over_simulated", "requests/s", refreshes),
        ("capacity_hit_rate_over_simulated", "requests/s", hits),
        ("capacity_hit_rate_over_simulated_by_call_ms", "ms", by_call),
        ("capacity_hit_rate_over_simulated_by_keys", "keys", by_keys),
    ];
    let mut off: f64 = 0.0;
    for (name, x, lines) in curves {
        let all = lines.iter().flat_map(|(_, points)| points);
        let largest = all.map(|(_, ratio)| (ratio - 1.0).abs());
        off = largest.fold(off, f64::max);
        report.curve(Curve {
            name,
            title: "The model over the simulation".to_owned(),
            x,
            y: "ratio",
            lines,
        });
    }
    report.fact("capacity_model_off_by_at_most_share", &[off]);
}

/// A curve's line, as this run drew it.
fn points(report: &Report, curve: &str, line: &str) -> Vec<(f64, f64)> {
    let drawn = report.curves.iter().find(|drawn| drawn.name == curve);
    let mut lines = drawn.map(|drawn| drawn.lines.iter()).into_iter().flatten();
    let found = lines.find(|(name, _)| name == line);
    let (_, points) = found.unwrap_or_else(|| panic!("no line {line} of {curve}"));
    points.clone()
}
