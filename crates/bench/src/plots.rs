//! The figures of results.json as SVG: the requests a second of each gateway, and the
//! curves.

use std::path::Path;

use plotters::prelude::*;
use serde_json::Value;

const SIZE: (u32, u32) = (760, 360);
const COLOURS: [RGBColor; 5] = [
    RGBColor(0x32, 0x74, 0xd9),
    RGBColor(0xe0, 0x75, 0x2d),
    RGBColor(0x56, 0xa6, 0x4b),
    RGBColor(0xa3, 0x52, 0xcc),
    RGBColor(0x5c, 0x6a, 0x7a),
];
/// The gateways of the first picture: the name in results.json, and the name in the
/// picture.
const GATEWAYS: [(&str, &str); 7] = [
    ("none", "no filter"),
    ("noop", "no-op Wasm"),
    ("host_calls", "its host calls alone"),
    ("api_key_auth", "api_key_auth"),
    ("l1", "ours"),
    ("l2", "ours, shared data"),
    ("audited", "ours, each audited"),
];

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Points = Vec<(f64, f64)>;

/// Draws all of it into a folder.
pub(crate) fn draw(results: &Value, folder: &Path) {
    draw_gateways(results, &folder.join("requests.svg")).expect("a plot");
    for (name, curve) in results["curves"].as_object().into_iter().flatten() {
        draw_curve(curve, &folder.join(format!("{name}.svg"))).expect("a plot");
    }
}

/// A bar for each gateway, with its smallest and largest round.
fn draw_gateways(results: &Value, file: &Path) -> Drawn {
    let bars: Vec<(&str, [f64; 3])> = GATEWAYS
        .iter()
        .filter_map(|(name, label)| {
            let fact = &results["facts"][format!("{name}_requests_per_second")];
            let figure = |name: &str| fact[name].as_f64();
            Some((
                *label,
                [figure("least")?, figure("median")?, figure("most")?],
            ))
        })
        .collect();
    if bars.is_empty() {
        return Ok(());
    }
    let top = bars.iter().map(|(_, [.., most])| *most).fold(0.0, f64::max) * 1.1;
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Requests a second, one worker", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..bars.len() as f64, 0.0..top)?;
    let label = |x: &f64| {
        let bar = bars.get(*x as usize);
        bar.map_or_else(String::new, |(label, _)| (*label).to_owned())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .x_label_formatter(&label)
        .draw()?;
    for (at, (label, [least, median, most])) in bars.iter().enumerate() {
        let x = at as f64;
        let bar = Rectangle::new([(x + 0.2, 0.0), (x + 0.8, *median)], COLOURS[0].filled());
        let reach = PathElement::new([(x + 0.5, *least), (x + 0.5, *most)], BLACK);
        let text = Text::new(
            format!("{label}: {median:.0}"),
            (x + 0.05, top * 0.04 + most),
            ("sans-serif", 11),
        );
        chart.draw_series([bar])?;
        chart.draw_series([reach])?;
        chart.draw_series([text])?;
    }
    area.present()?;
    Ok(())
}

/// Lines over a size on a logarithmic scale.
fn draw_curve(curve: &Value, file: &Path) -> Drawn {
    let lines: Vec<(&String, Points)> = curve["lines"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, points)| (name, read(points)))
        .collect();
    let all = || lines.iter().flat_map(|(_, points)| points);
    let top = all().map(|(_, y)| *y).fold(0.0, f64::max) * 1.15;
    let first = all().map(|(x, _)| *x).fold(f64::INFINITY, f64::min);
    let last = all().map(|(x, _)| *x).fold(0.0, f64::max);
    if top == 0.0 || first >= last {
        return Ok(());
    }
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |name: &str| curve[name].as_str().unwrap_or_default().to_owned();
    let mut chart = ChartBuilder::on(&area)
        .caption(text("title"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((first..last).log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc(text("x"))
        .y_desc(text("y"))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()?;
    for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        chart
            .draw_series(LineSeries::new(
                points.iter().copied(),
                colour.stroke_width(2),
            ))?
            .label(name.as_str())
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        let marks = points
            .iter()
            .map(|point| Circle::new(*point, 3, colour.filled()));
        chart.draw_series(marks)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    area.present()?;
    Ok(())
}

fn read(points: &Value) -> Points {
    let points = points.as_array().into_iter().flatten();
    let point = |point: &Value| Some((point[0].as_f64()?, point[1].as_f64()?));
    points.filter_map(point).collect()
}
