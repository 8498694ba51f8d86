//! The figures of docs/performance.md: each table between two marks is made from
//! results.json, by `make bench`, and `crates/bench/tests/performance.rs` holds the page to it.

use std::fmt::Write;

use serde_json::Value;

const BEGIN: &str = "<!-- bench: ";
const END: &str = "<!-- bench end -->";

/// The page with its tables made anew.
///
/// # Errors
/// A mark without an end, or with a name that is not in the results.
pub fn fill(page: &str, results: &Value) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (asked, after) = after.split_once(" -->\n").ok_or("a mark without its end")?;
        let (_, after) = after
            .split_once(END)
            .ok_or_else(|| format!("the table of '{asked}' has no end"))?;
        let table = table(asked, results)?;
        write!(filled, "{before}{BEGIN}{asked} -->\n{table}{END}").map_err(|e| e.to_string())?;
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// `rows`, `facts NAME...` or `curve NAME`.
fn table(asked: &str, results: &Value) -> Result<String, String> {
    let mut words = asked.split(' ');
    let kind = words.next().unwrap_or_default();
    match kind {
        "rows" => rows(words, results),
        "facts" => facts(words, results),
        "curve" => curve(words.next().unwrap_or_default(), results),
        _ => Err(format!("no table is called '{kind}'")),
    }
}

fn rows<'a>(keys: impl Iterator<Item = &'a str>, results: &Value) -> Result<String, String> {
    let mut table =
        "| Row | What | Median | Least to most | Bound | |\n|---|---|---|---|---|---|\n".to_owned();
    for key in keys {
        let row = &results["rows"][key];
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        let met = match row["met"].as_bool() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let line = format!(
            "| `{key}` | {} | {} | {} to {} | {} | {met} |\n",
            text("what"),
            number(&row["median"], key)?,
            number(&row["least"], key)?,
            number(&row["most"], key)?,
            text("bound").replace(">=", "≥").replace("<=", "≤"),
        );
        table.push_str(&line);
    }
    Ok(table)
}

fn facts<'a>(names: impl Iterator<Item = &'a str>, results: &Value) -> Result<String, String> {
    let mut table = "| Figure | Median | Least to most |\n|---|---|---|\n".to_owned();
    for name in names {
        let fact = &results["facts"][name];
        let line = format!(
            "| `{name}` | {} | {} to {} |\n",
            number(&fact["median"], name)?,
            number(&fact["least"], name)?,
            number(&fact["most"], name)?,
        );
        table.push_str(&line);
    }
    Ok(table)
}

/// A row for each size, a column for each line.
fn curve(name: &str, results: &Value) -> Result<String, String> {
    let curve = &results["curves"][name];
    let lines = curve["lines"].as_object();
    let lines = lines.ok_or_else(|| format!("there is no curve '{name}'"))?;
    let x = curve["x"].as_str().unwrap_or_default();
    let mut sizes: Vec<f64> = Vec::new();
    let points = lines.values().filter_map(Value::as_array).flatten();
    for size in points.filter_map(|point| point.get(0)?.as_f64()) {
        if !sizes.contains(&size) {
            sizes.push(size);
        }
    }
    sizes.sort_by(f64::total_cmp);
    let mut table = format!("| {x} |");
    for line in lines.keys() {
        table.push_str(&format!(" {line} |"));
    }
    table.push_str(&format!("\n|---|{}\n", "---|".repeat(lines.len())));
    for size in sizes {
        table.push_str(&format!("| {size} |"));
        for points in lines.values().filter_map(Value::as_array) {
            let at = |point: &&Value| point.get(0).and_then(Value::as_f64) == Some(size);
            let value = points.iter().find(at).and_then(|point| point.get(1));
            let value = value.and_then(Value::as_f64);
            table.push_str(&value.map_or_else(|| " |".to_owned(), |value| format!(" {value} |")));
        }
        table.push('\n');
    }
    Ok(table)
}

fn number(value: &Value, of: &str) -> Result<String, String> {
    let number = value.as_f64();
    let number = number.ok_or_else(|| format!("results.json has no '{of}': make bench"))?;
    Ok(number.to_string())
}
