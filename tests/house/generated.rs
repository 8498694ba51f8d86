//! The schema that Kong reads and the tables of settings: each is written from the table in
//! `crates/core/src/config/table.rs`, and the files must hold the same.
//!
//! `GENERATE=1 cargo test --test house generated::` writes them anew.

use std::fs;
use std::path::{Path, PathBuf};

use apikeys_core::config::table::{Field, Kind, fields};
use serde_json::json;

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

// --- the files ---------------------------------------------------------------

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|fault| panic!("{path}: {fault}"))
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Holds the block of that name in a page to its text, or writes it.
#[track_caller]
fn holds_block(path: &str, name: &str, block: &str) {
    let text = read(path);
    let first = format!("<!-- generated: {name} -->\n");
    let last = "<!-- end of generated -->";
    let found = text.split_once(&first).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(last)?;
        Some(format!("{before}{first}{block}{last}{after}"))
    });
    let expected = found.unwrap_or_else(|| panic!("{path} has no lines {first}and {last}"));
    holds(path, &text, &expected);
}

#[track_caller]
fn holds(path: &str, text: &str, expected: &str) {
    if std::env::var_os("GENERATE").is_some_and(|value| !value.is_empty()) {
        fs::write(file(path), expected).unwrap();
        return;
    }
    let differs = text
        .lines()
        .zip(expected.lines())
        .find(|(is, should)| is != should);
    assert!(
        text == expected,
        "{path} is not what crates/core/src/config/table.rs says. Write it anew: GENERATE=1 cargo test --test house generated::. The first difference:\n{differs:#?}"
    );
}
