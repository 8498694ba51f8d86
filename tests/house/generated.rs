//! The schema that Kong reads and the tables of the pages: each is written from the code, and the files
//! must hold the same.
//!
//! Settings are in `crates/core/src/config/table.rs`, metrics in `crates/core/src/metrics/catalog.rs`, answers
//! and reasons in `crates/core/src/rejection.rs` and `crates/core/src/manage/problem.rs`.
//! `GENERATE=1 cargo test --test house generated::` writes the files anew. A column that the code does not
//! know, as a cure, is written by hand in the page and stays with its row.

use std::fs;

use apikeys_core::config::table::{Field, Kind, fields};
use apikeys_core::manage::problem::Code;
use apikeys_core::metrics::catalog::{COUNTED, Family, GAUGES};
use apikeys_core::rejection::Rejection;
use serde_json::json;
use test_kit::markdown;
use test_kit::repository::read;

use crate::reasons;

/// The settings in the README: those that nearly every deployment sets.
const EVERYDAY: [&str; 8] = [
    "keycloak_url",
    "realm",
    "keycloak_upstream",
    "yield_upstream",
    "signing_key_property",
    "key_prefix",
    "cache_ttl_seconds",
    "on_missing_key",
];

#[test]
fn the_schema_that_kong_reads_is_the_table() {
    let path = "kong/apikey_jwt_exchange.meta.json";
    let text = read(path);
    let at = text.find("  \"metrics\": {").expect("the part of metrics");
    let expected = format!("{}{}", schema(&fields()), &text[at..]);
    holds(path, &text, &expected);
}

#[test]
fn the_page_of_settings_has_the_table() {
    let head =
        "| Field | Type | Default | Bounds | Meaning | Variable |\n|---|---|---|---|---|---|\n";
    let rows = fields().iter().map(row).collect::<String>();
    holds_block("docs/settings.md", "settings", &format!("{head}{rows}"));
}

#[test]
fn the_readme_has_the_settings_that_everyone_touches() {
    let mut block = "| Field | Default | Meaning |\n|---|---|---|\n".to_owned();
    let fields = fields();
    for name in EVERYDAY {
        let field = fields.iter().find(|field| field.name == name);
        let field = field.unwrap_or_else(|| panic!("there is no field {name}"));
        let meaning = field.about.meaning;
        block.push_str(&format!("| `{name}` | {} | {meaning} |\n", default(field)));
    }
    holds_block("README.md", "the settings that everyone touches", &block);
}

#[test]
fn the_page_of_metrics_has_those_that_are_counted() {
    let head = ["Metric", "Kind", "Unit", "Labels", "Meaning"];
    let row = |family: &Family| {
        [
            code(family.name),
            told(family.kind.word()),
            BY_HAND,
            labels(family),
            BY_HAND,
        ]
    };
    let rows = COUNTED.iter().chain(&GAUGES).map(row).collect();
    holds_table("docs/metrics.md", "metrics", head, rows);
}

#[test]
fn the_page_of_answers_has_each_with_its_status() {
    let head = ["Code", "Status", "Cause", "Cure"];
    let rows =
        Rejection::ALL.map(|answer| [code(answer.code()), told(answer.status()), BY_HAND, BY_HAND]);
    holds_table("docs/answers.md", "answers to keys", head, rows.to_vec());
    // The rest means the same there as in the first table.
    let own = Code::ALL
        .into_iter()
        .filter(|code| !matches!(code, Code::Exchange(_)));
    let rows = own.map(|answer| [code(answer.word()), told(answer.status()), BY_HAND, BY_HAND]);
    holds_table(
        "docs/answers.md",
        "answers of the management API",
        head,
        rows.collect(),
    );
}

#[test]
fn the_page_of_the_management_api_has_each_refusal_with_its_status() {
    let rows = Code::ALL.map(|answer| [code(answer.word()), told(answer.status()), BY_HAND]);
    let head = ["`code`", "Status", "When"];
    holds_table("docs/management-api.md", "refusals", head, rows.to_vec());
}

#[test]
fn the_page_of_troubleshooting_has_each_reason_of_the_log() {
    let rows = reasons::told().into_iter().map(|(text, rejections)| {
        let codes = rejections
            .iter()
            .map(|rejection| format!("`{}`", rejection.code()));
        [
            code(text),
            told(codes.collect::<Vec<_>>().join(" or ")),
            BY_HAND,
        ]
    });
    let head = ["`reason`", "Code", "Cure"];
    holds_table("docs/troubleshooting.md", "reasons", head, rows.collect());
}

// --- the schema --------------------------------------------------------------

/// The meta file up to its part of metrics.
fn schema(fields: &[Field]) -> String {
    let quoted = |names: Vec<&str>| {
        let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        names.join(", ")
    };
    let names = |of: &dyn Fn(&Field) -> bool| {
        quoted(
            fields
                .iter()
                .filter(|field| of(field))
                .map(|field| field.name)
                .collect(),
        )
    };
    let required = names(&|field| matches!(field.kind, Kind::Text { required: true, .. }));
    let one_of: String = fields
        .iter()
        .filter(|field| field.about.or.is_some())
        .map(|field| format!("      {{ \"required\": [\"{}\"] }},\n", field.name))
        .collect();
    let dependencies: String = fields
        .iter()
        .filter(|field| field.mode_manage)
        .map(|field| format!("      \"{}\": {MODE_MANAGE},\n", field.name))
        .collect();
    let properties: Vec<String> = fields.iter().map(property).collect();
    format!(
        r#"{{
  "config_schema": {{
    "$schema": "http://json-schema.org/draft-04/schema#",
    "title": "apikey_jwt_exchange",
    "description": "Exchanges an API key for a Keycloak JWT of the key's owner. Defaults are applied by the filter; Kong's validator only checks.",
    "type": "object",
    "additionalProperties": false,
    "required": [{required}],
    "oneOf": [
{}
    ],
    "not": {{ "required": ["management_signing_key", "management_signing_key_property"] }},
    "dependencies": {{
{dependencies}      "mode": {{
        "anyOf": [
          {{ "properties": {{ "mode": {{ "enum": ["exchange"] }} }} }},
          {{ "required": ["audience"] }}
        ]
      }}
    }},
    "properties": {{
{}
    }}
  }},
"#,
        one_of.trim_end_matches(",\n"),
        properties.join(",\n"),
    )
}

const MODE_MANAGE: &str =
    r#"{ "required": ["mode"], "properties": { "mode": { "enum": ["manage"] } } }"#;

/// A field's schema.
fn property(field: &Field) -> String {
    let mut members = vec![format!(
        "\"description\": {}",
        json!(plain(field.about.meaning))
    )];
    let mut say =
        |name: &str, value: serde_json::Value| members.push(format!("\"{name}\": {value}"));
    match &field.kind {
        Kind::Boolean { .. } => say("type", json!("boolean")),
        Kind::Integer {
            least, most, step, ..
        } => {
            say("type", json!("integer"));
            say("minimum", json!(least));
            say("maximum", json!(most));
            if *step > 1 {
                say("multipleOf", json!(step));
            }
        }
        Kind::Choice(choices) => {
            say("type", json!("string"));
            say("enum", json!(choices));
        }
        Kind::Text { most, .. } => {
            say("type", json!("string"));
            say("minLength", json!(field.about.shortest));
            say("maxLength", json!(most));
        }
        Kind::List { most, .. } => {
            say("type", json!("array"));
            say("minItems", json!(1));
            say("maxItems", json!(most));
            say("uniqueItems", json!(true));
        }
    }
    match &field.kind {
        Kind::Boolean { default } => say("default", json!(default)),
        Kind::Integer { default, .. } => say("default", json!(default)),
        Kind::Choice(choices) => say("default", json!(choices[0])),
        Kind::Text {
            default: Some(default),
            ..
        } => say("default", json!(default)),
        Kind::List { default, .. } if !default.is_empty() => say("default", json!(default)),
        Kind::Text { .. } | Kind::List { .. } => {}
    }
    if let Some((_, literal)) = field.about.schema {
        members.push(literal.to_owned());
    }
    format!(
        "      \"{}\": {{\n        {}\n      }}",
        field.name,
        members.join(",\n        ")
    )
}

/// The text of a line of Markdown.
fn plain(markdown: &str) -> String {
    let mut text = markdown.replace(['`'], "").replace("**", "");
    while let Some((before, rest)) = text.split_once('[') {
        let (shown, rest) = rest.split_once("](").expect("a link's target");
        let (_, after) = rest.split_once(')').expect("a link's end");
        text = format!("{before}{shown}{after}");
    }
    text
}

// --- the pages ---------------------------------------------------------------

fn row(field: &Field) -> String {
    let kind = match field.kind {
        Kind::Boolean { .. } => "boolean",
        Kind::Integer { .. } => "integer",
        Kind::Choice(_) | Kind::Text { .. } => "text",
        Kind::List { .. } => "list",
    };
    let variable = field.about.variable.map(|name| format!("`{name}` "));
    format!(
        "| `{}` | {kind} | {} | {} | {} | {}|\n",
        field.name,
        default(field),
        bounds(field),
        field.about.meaning,
        variable.unwrap_or_default()
    )
}

fn default(field: &Field) -> String {
    if let Some(other) = field.about.or {
        return format!("this or `{other}`");
    }
    match &field.kind {
        Kind::Boolean { default } => format!("`{default}`"),
        Kind::Integer { default, .. } => format!("`{default}`"),
        Kind::Choice(choices) => format!("`{}`", choices[0]),
        Kind::Text { required: true, .. } => "required".to_owned(),
        Kind::Text {
            default: Some(default),
            ..
        } => format!("`{default}`"),
        Kind::List { default, .. } if !default.is_empty() => format!("`{}`", json!(default)),
        Kind::Text { .. } | Kind::List { .. } => "none".to_owned(),
    }
}

fn bounds(field: &Field) -> String {
    match &field.kind {
        _ if field.about.schema.is_some() => field.about.schema.unwrap().0.to_owned(),
        Kind::Boolean { .. } => "`true`, `false`".to_owned(),
        Kind::Integer {
            least,
            most,
            step: 1,
            ..
        } => format!("{least} to {most}"),
        Kind::Integer {
            least, most, step, ..
        } => {
            format!("{least} to {most}, a multiple of {step}")
        }
        Kind::Choice(choices) => {
            let choices: Vec<String> = choices.iter().map(|name| format!("`{name}`")).collect();
            choices.join(", ")
        }
        Kind::Text { most, .. } => format!("{} to {most} characters", field.about.shortest),
        Kind::List { .. } => panic!("{}: what a list holds is not told", field.name),
    }
}

fn labels(family: &Family) -> Option<String> {
    let labels = family.labels.iter().map(|(label, values)| {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        format!("`{label}`: {}", values.join(", "))
    });
    let labels: Vec<String> = labels.collect();
    told(if labels.is_empty() {
        "none".to_owned()
    } else {
        labels.join("; ")
    })
}

// --- the files ---------------------------------------------------------------

/// A cell that the page alone knows.
const BY_HAND: Option<String> = None;

fn told(cell: impl ToString) -> Option<String> {
    Some(cell.to_string())
}

fn code(cell: impl std::fmt::Display) -> Option<String> {
    Some(format!("`{cell}`"))
}

/// Holds a table to the code. A cell by hand stays with the row that begins with the same cell; none is empty.
#[track_caller]
fn holds_table<const N: usize>(
    path: &str,
    name: &str,
    head: [&str; N],
    rows: Vec<[Option<String>; N]>,
) {
    let text = read(path);
    let (_, old, _) = parts(path, &text, name);
    let first_line = format!("| {} |", head.join(" | "));
    let old = markdown::table(old, &first_line);
    let mut block = format!("{first_line}\n{}|\n", "|---".repeat(N));
    let mut empty = Vec::new();
    for cells in rows {
        let first = cells[0]
            .clone()
            .expect("a row begins with a cell of the code");
        let page = old.iter().find(|row| row[0] == first);
        for (at, cell) in cells.into_iter().enumerate() {
            let cell = cell.or_else(|| page?.get(at).cloned()).unwrap_or_default();
            if cell.is_empty() {
                empty.push(format!("{}: {first}", head[at]));
            }
            block.push_str(&format!("| {cell} "));
        }
        block.push_str("|\n");
    }
    holds_block(path, name, &block);
    assert!(
        empty.is_empty(),
        "{path}: fill in by hand (git has the cells of a row that began otherwise): {empty:#?}"
    );
}

/// Holds the block of that name in a page to its text, or writes it.
#[track_caller]
fn holds_block(path: &str, name: &str, block: &str) {
    let text = read(path);
    let (before, _, after) = parts(path, &text, name);
    holds(path, &text, &format!("{before}{block}{after}"));
}

/// A page up to the block of that name, the block, and the rest.
#[track_caller]
fn parts<'a>(path: &str, text: &'a str, name: &str) -> (&'a str, &'a str, &'a str) {
    let first = format!("<!-- generated: {name} -->\n");
    let last = "<!-- end of generated -->";
    let found = text.find(&first).map(|at| at + first.len());
    let found = found.and_then(|from| Some((from, from + text[from..].find(last)?)));
    let (from, to) = found.unwrap_or_else(|| panic!("{path} has no lines {first}and {last}"));
    (&text[..from], &text[from..to], &text[to..])
}

#[track_caller]
fn holds(path: &str, text: &str, expected: &str) {
    if std::env::var_os("GENERATE").is_some_and(|value| !value.is_empty()) {
        fs::write(test_kit::repository::path(path), expected).unwrap();
        return;
    }
    let differs = text
        .lines()
        .zip(expected.lines())
        .find(|(is, should)| is != should);
    assert!(
        text == expected,
        "{path} is not what the code says. Write it anew: GENERATE=1 cargo test --test house generated::. The first difference:\n{differs:#?}"
    );
}
