//! Holds promises that stand in several places to one wording.
//!
//! The pages, the examples and the code tell of the same answers and options. An example that drifts from
//! the code is worse than none, so each is read here and compared with the code itself. Tables are
//! written from the code: `tests/house/generated.rs`.

use std::collections::BTreeSet;

use apikeys_core::config::Config;
use apikeys_core::config::table::fields;
use apikeys_core::rejection::Rejection;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonschema::{Draft, Validator};
use p256::pkcs8::EncodePrivateKey;
use regex::Regex;
use serde_json::{Value, json};
use test_kit::markdown::blocks;
use test_kit::repository::read as file;

// --- the configuration -------------------------------------------------------

#[test]
fn the_examples_take_the_variables_of_the_table_of_fields() {
    let kong = file("kong/kong.yml");
    let envoy = file("deploy/envoy/envoy.yaml");
    let fields = fields();
    let variables = fields
        .iter()
        .filter_map(|field| Some((field.about.variable?, field.name)));
    assert_eq!(variables.clone().count(), 6, "the seed's variables");
    for (variable, field) in variables {
        let taken = kong.lines().filter(|line| {
            line.trim_start().starts_with(&format!("{field}:"))
                && line.split("# takes ").nth(1).is_some_and(|names| {
                    names
                        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                        .next()
                        == Some(variable)
                })
        });
        assert_eq!(
            taken.count(),
            3,
            "{variable} in each use of the filter in kong/kong.yml"
        );
        assert!(
            envoy.lines().any(|line| {
                line.contains(&format!("\"{field}\":"))
                    && line.contains(&format!("${{{variable}}}"))
            }),
            "{variable} in deploy/envoy/envoy.yaml"
        );
    }
}

// --- the examples ------------------------------------------------------------

#[test]
fn every_example_of_a_configuration_is_one() {
    let readme = file("README.md");
    let mut sources: Vec<(String, String)> = blocks(&readme, "yaml")
        .into_iter()
        .map(|block| ("README.md".to_owned(), block))
        .collect();
    for path in ["kong/kong.yml", "deploy/envoy/envoy.yaml"] {
        sources.push((path.to_owned(), substituted(&file(path))));
    }
    let mut found = Vec::new();
    for (source, text) in &sources {
        let document: Value =
            serde_norway::from_str(text).unwrap_or_else(|fault| panic!("{source}: {fault}"));
        for (form, config) in filter_configs(&document) {
            if let Err(fault) = read(&config) {
                panic!("{source}, {form}: {fault}");
            }
            if form != "envoy" {
                assert!(validator().is_valid(&config), "{source}, {form}");
            }
            found.push((source.as_str(), form));
        }
    }
    let expected = [
        ("README.md", "filter_chains"),
        ("kong/kong.yml", "filter_chains"),
        ("kong/kong.yml", "plugins"),
        ("kong/kong.yml", "filter_chains"),
        ("deploy/envoy/envoy.yaml", "envoy"),
        ("deploy/envoy/envoy.yaml", "envoy"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_example_of_envoy_bounds_what_a_client_may_send() {
    let text = substituted(&file("deploy/envoy/envoy.yaml"));
    let envoy: Value = serde_norway::from_str(&text).unwrap();
    let gateway = &envoy["static_resources"]["listeners"][0];
    assert_eq!(gateway["name"], "gateway");
    let manager = &gateway["filter_chains"][0]["filters"][0]["typed_config"];
    for (bound, value) in [
        ("request_headers_timeout", json!("10s")),
        ("stream_idle_timeout", json!("60s")),
        ("max_request_headers_kb", json!(96)),
        ("normalize_path", json!(true)),
        ("merge_slashes", json!(true)),
        ("path_with_escaped_slashes_action", json!("REJECT_REQUEST")),
        ("preserve_external_request_id", json!(false)),
        (
            "common_http_protocol_options",
            json!({ "headers_with_underscores_action": "DROP_HEADER" }),
        ),
    ] {
        assert_eq!(manager[bound], value, "{bound}");
    }
    let filters = manager["http_filters"].as_array().unwrap();
    let ours = filters
        .iter()
        .filter(|filter| filter["name"].as_str().unwrap().starts_with("apikey_"));
    // A filter that cannot run refuses.
    for filter in ours.clone() {
        let policy = &filter["typed_config"]["config"]["failure_policy"];
        assert_eq!(*policy, "FAIL_RELOAD", "{}", filter["name"]);
    }
    assert_eq!(ours.count(), 2);
    let limits = &envoy["layered_runtime"]["layers"][0]["static_layer"];
    assert_eq!(limits["http.async_response_buffer_limit"], 1_048_576);
}

/// The two examples for Envoy differ in the filter's shell alone.
#[test]
fn the_example_of_the_module_is_that_of_the_filter_without_yields() {
    let parse = |path: &str| -> Value {
        let text = substituted(&file(path));
        serde_norway::from_str(&text).unwrap_or_else(|fault| panic!("{path}: {fault}"))
    };
    let mut wasm = parse("deploy/envoy/envoy.yaml");
    let mut module = parse("deploy/envoy/module.yaml");
    for (kind, others) in [
        ("listeners", vec!["service", "yield"]),
        ("clusters", vec!["yield", "jwks", "application"]),
    ] {
        let all = wasm["static_resources"][kind].as_array_mut().unwrap();
        all.retain(|one| !others.contains(&one["name"].as_str().unwrap()));
    }
    for tag in module["stats_config"]["stats_tags"].as_array_mut().unwrap() {
        let regex = tag["regex"].as_str().unwrap();
        tag["regex"] = json!(regex.replace("^dynamicmodulescustom", "^wasmcustom"));
    }
    let filters =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    let ours = |example: &mut Value| -> Vec<Value> {
        let filters = example.pointer_mut(filters).unwrap();
        filters.as_array_mut().unwrap().drain(..2).collect()
    };
    for (wasm, module) in ours(&mut wasm).iter().zip(ours(&mut module)) {
        let name = &wasm["name"];
        assert_eq!(module["name"], *name);
        assert_eq!(module["disabled"], wasm["disabled"], "{name}");
        let fields = wasm.pointer("/typed_config/config/configuration/value");
        let mut fields: Value = serde_json::from_str(fields.unwrap().as_str().unwrap()).unwrap();
        fields.as_object_mut().unwrap().remove("yield_upstream");
        let module = &module["typed_config"];
        assert_eq!(module["filter_config"]["value"], fields, "{name}");
        let loaded = &module["dynamic_module_config"]["name"];
        assert_eq!(*loaded, "apikeys_envoy", "{name}");
    }
    assert_eq!(module, wasm);
}

/// The fields that the module's reader takes beside those of all shells.
#[test]
fn the_page_of_the_module_has_each_source_of_its_signing_key() {
    let reader = file("crates/envoy-module/src/config.rs");
    let named = |pattern: &str| -> BTreeSet<String> {
        let pattern = Regex::new(pattern).unwrap();
        let found = pattern.captures_iter(&reader);
        found.map(|found| found[1].to_owned()).collect()
    };
    let keys = named(r#"take_source\(&mut fields, "(\w+)"\)"#);
    let all = ["signing_key", "management_signing_key"].map(str::to_owned);
    assert_eq!(keys, all.into_iter().collect());
    let mut sources = named(r#"take\("(_\w+)"\)"#);
    assert!(sources.len() >= 3, "{sources:?}");
    sources.insert("_property".to_owned());
    let page = file("docs/install/envoy-module.md");
    let (_, section) = page.split_once("\n### The signing key\n").unwrap();
    let section = section.split("\n#").next().unwrap();
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `signing_key")?.split('`').next());
    assert_eq!(rows.map(str::to_owned).collect::<BTreeSet<_>>(), sources);
    assert!(section.contains("`management_`"));
}

#[test]
fn a_key_in_the_place_of_a_property_is_read_as_well() {
    let mut config = minimal();
    config
        .as_object_mut()
        .unwrap()
        .remove("signing_key_property");
    config["signing_key"] = json!(signing_key());
    both_say(&config, "signing_key", true);
}

#[test]
fn every_option_of_a_documented_command_exists() {
    let folder = format!("{}/crates/tool/src/args", env!("CARGO_MANIFEST_DIR"));
    let declared: String = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let mut seen = BTreeSet::new();
    for path in ["README.md", "CONTRIBUTING.md"] {
        let text = file(path);
        for line in text.lines().filter(|line| line.contains("apikeys ")) {
            for option in line.split_whitespace().flat_map(|word| word.split('`')) {
                if let Some(name) = option.strip_prefix("--") {
                    let name = name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
                    seen.insert(name.to_owned());
                }
            }
        }
    }
    assert!(seen.contains("signing-key-file") && seen.contains("owner"));
    for name in seen.iter().filter(|name| *name != "help") {
        let member = format!("{}:", name.replace('-', "_"));
        assert!(
            declared.contains(&member),
            "--{name} is documented, and apikeys has no such option"
        );
    }
}

// --- answers -----------------------------------------------------------------

#[test]
fn the_example_of_an_answer_is_one() {
    let page = file("docs/answers.md");
    let examples = blocks(&page, "json");
    assert_eq!(examples.len(), 1, "blocks of JSON");
    let example: Value = serde_json::from_str(&examples[0]).unwrap();
    let request_id = example["request_id"].as_str().unwrap();
    let answer = Rejection::InvalidApiKey.body(request_id);
    assert_eq!(example, serde_json::from_str::<Value>(&answer).unwrap());
    let challenge = Rejection::InvalidApiKey
        .headers("<realm>")
        .into_iter()
        .find(|(name, _)| *name == "www-authenticate")
        .unwrap()
        .1;
    assert!(page.contains(&format!("WWW-Authenticate: {challenge}")));
}

#[test]
fn the_page_of_answers_says_when_to_try_again() {
    let told: Vec<String> = Rejection::ALL
        .iter()
        // Its seconds are those until the key's next request.
        .filter(|rejection| !matches!(rejection, Rejection::RateLimited(_)))
        .filter_map(|rejection| {
            let seconds = rejection.retry_after_seconds()?;
            Some(format!("`{}` {seconds}", rejection.code()))
        })
        .collect();
    let told = format!("`Retry-After` in seconds: {}.", told.join(", "));
    let page = file("docs/answers.md").replace('\n', " ");
    assert!(page.contains(&told), "docs/answers.md does not say: {told}");
}

// --- what is read ------------------------------------------------------------

fn schema() -> Value {
    let meta: Value = serde_json::from_str(&file("kong/apikey_jwt_exchange.meta.json")).unwrap();
    meta["config_schema"].clone()
}

fn validator() -> Validator {
    jsonschema::options()
        .with_draft(Draft::Draft4)
        .should_validate_formats(true)
        .build(&schema())
        .unwrap()
}

// --- what is said of a configuration -----------------------------------------

fn minimal() -> Value {
    json!({
        "keycloak_url": "https://login.example.com",
        "realm": "demo",
        "keycloak_upstream": "127.0.0.1:8110",
        "yield_upstream": "127.0.0.1:8110",
        "signing_key_property": "ngx.apikey_signing_key",
    })
}

/// A key made here, of no use anywhere: its number is 7 32 times over.
fn signing_key() -> String {
    let key = p256::SecretKey::from_slice(&[7; 32]).unwrap();
    STANDARD.encode(key.to_pkcs8_der().unwrap().as_bytes())
}

fn read(config: &Value) -> Result<Config, apikeys_core::config::ConfigError> {
    Config::from_json(config.to_string().as_bytes())
}

/// Schema and code allow, or refuse, a configuration because of this field.
fn both_say(config: &Value, field: &str, allowed: bool) {
    let shown = &config[field];
    assert_eq!(
        validator().is_valid(config),
        allowed,
        "schema: {field} {shown}"
    );
    match read(config) {
        Ok(_) => assert!(allowed, "the code takes {field} {shown}"),
        Err(fault) => {
            assert!(!allowed, "the code refuses {field} {shown}: {fault}");
            assert_eq!(fault.field, field);
        }
    }
}

/// The configurations of this filter in a document, with the form they stand in.
fn filter_configs(document: &Value) -> Vec<(&'static str, Value)> {
    fn walk(value: &Value, form: &'static str, found: &mut Vec<(&'static str, Value)>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, form, found)),
            Value::Object(members) => {
                let name = members.get("name").and_then(Value::as_str);
                if matches!(name, Some("apikey_jwt_exchange" | "apikey_management")) {
                    if let Some(text) = value.pointer("/config/configuration/value") {
                        let text = text.as_str().expect("JSON in a text");
                        found.push(("envoy", serde_json::from_str(text).unwrap()));
                    } else if let Some(text) = value.pointer("/configuration/value") {
                        let text = text.as_str().expect("JSON in a text");
                        found.push(("envoy", serde_json::from_str(text).unwrap()));
                    } else if !form.is_empty() {
                        found.push((form, members["config"].clone()));
                    }
                }
                for (name, value) in members {
                    let form = match name.as_str() {
                        "filter_chains" if members.contains_key("paths") => "filter_chains",
                        "plugins" => "plugins",
                        _ => form,
                    };
                    walk(value, form, found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(document, "", &mut found);
    found
}

/// A template with a fitting value in the place of each variable.
fn substituted(template: &str) -> String {
    let mut text = template.to_owned();
    while let Some(at) = text.find("${") {
        let end = at + text[at..].find('}').expect("a variable ends in }");
        let value = match &text[at + 2..end] {
            "KEYCLOAK_URL" => "http://127.0.0.1:8080",
            "REALM" => "demo",
            "API_KEY_ENABLED" => "true",
            "API_KEY_STORAGE" => "keycloak",
            "API_KEY_HASH_ALGORITHM" => "bcrypt",
            "API_KEY_PREFIX" => "sk_live_",
            "API_KEY_MAX_PER_USER" => "5",
            "API_KEY_EXCHANGE_CACHE_TTL" => "300",
            name if name.ends_with("_PORT") => "8000",
            "RUN_DIR" | "WASM_FILE" => "some/path",
            name => panic!("a variable that this test has no value for: {name}"),
        };
        text.replace_range(at..=end, value);
    }
    text
}
