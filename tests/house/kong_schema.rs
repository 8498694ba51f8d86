//! Holds the meta file that Kong reads, above all its JSON Schema: it must accept valid
//! configurations and refuse the others.
//!
//! Kong 3.9 checks a filter's configuration with a Draft 4 validator of its own
//! (lua-resty-ljsonschema) that applies no defaults and, in its message, quotes a value that fails
//! a `pattern`. A configuration that the schema lets through and the filter refuses is a 500 at
//! request time, so most cases here are put to the filter's own reader as well.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use apikeys_core::config::Config;
use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

/// The fields that mode manage has beside the others.
const MANAGE_FIELDS: [&str; 6] = [
    "management_client_id",
    "management_signing_key",
    "management_signing_key_property",
    "admin_role",
    "audience",
    "cors_origins",
];

/// The keywords of Draft 4; the validator would ignore any other in silence.
const KEYWORDS: [&str; 28] = [
    "anyOf",
    "$schema",
    "title",
    "description",
    "default",
    "type",
    "enum",
    "properties",
    "additionalProperties",
    "patternProperties",
    "required",
    "dependencies",
    "minProperties",
    "maxProperties",
    "items",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minimum",
    "maximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "allOf",
    "oneOf",
    "not",
];

// --- the file itself ---------------------------------------------------------

#[test]
fn is_a_valid_draft_4_schema() {
    let schema = schema();
    assert_eq!(
        schema["$schema"], "http://json-schema.org/draft-04/schema#",
        "Kong refuses any other draft"
    );
    if let Err(fault) = jsonschema::draft4::meta::validate(&schema) {
        panic!("not a Draft 4 schema: {fault}");
    }
}

#[test]
fn holds_the_schema_and_the_labels_of_metrics_alone() {
    let meta = meta();
    let keys: Vec<&String> = meta.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["config_schema", "metrics"]);
}

#[test]
fn has_metrics_of_the_form_without_which_kong_does_not_start() {
    // FILTER_META_SCHEMA of Kong's kong/runloop/wasm.lua, which has the schema above beside it.
    let form = jsonschema::options().with_draft(Draft::Draft4);
    let form = form.build(&json!({
        "type": "object",
        "required": ["label_patterns"],
        "properties": {
            "label_patterns": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["label", "pattern"],
                    "properties": {
                        "label": { "type": "string" },
                        "pattern": { "type": "string" },
                    },
                },
            },
        },
    }));
    if let Err(fault) = form.unwrap().validate(&meta()["metrics"]) {
        panic!("{fault} at {}", fault.instance_path());
    }
}

#[test]
fn uses_only_keywords_that_draft_4_knows() {
    fn walk(schema: &Map<String, Value>, at: &str) {
        for (keyword, value) in schema {
            assert!(
                KEYWORDS.contains(&keyword.as_str()),
                "{at}: {keyword} is no keyword of Draft 4"
            );
            match (keyword.as_str(), value) {
                ("properties" | "patternProperties" | "dependencies", Value::Object(named)) => {
                    for (name, schema) in named {
                        if let Value::Object(schema) = schema {
                            walk(schema, &format!("{at}/{keyword}/{name}"));
                        }
                    }
                }
                ("allOf" | "oneOf", Value::Array(schemas)) => {
                    for schema in schemas {
                        walk(schema.as_object().unwrap(), &format!("{at}/{keyword}"));
                    }
                }
                ("items" | "not", Value::Object(schema)) => {
                    walk(schema, &format!("{at}/{keyword}"))
                }
                _ => {}
            }
        }
    }
    walk(schema().as_object().unwrap(), "");
}

#[test]
fn accepts_its_own_defaults() {
    let mut config = minimal();
    for (field, schema) in properties() {
        // These belong to the other mode, which has a case of its own.
        if MANAGE_FIELDS.contains(&field.as_str()) {
            continue;
        }
        if let Some(default) = schema.get("default") {
            config[&field] = default.clone();
        }
    }
    accepts(&config);
}

#[test]
fn quotes_no_secret_in_a_refusal() {
    for secret in ["signing_key", "management_signing_key", "index_key"] {
        for keyword in ["pattern", "enum", "format"] {
            assert!(
                properties()[secret].get(keyword).is_none(),
                "Kong's validator writes the value of {secret} to its log when {keyword} fails"
            );
        }
    }
}

// --- the whole object --------------------------------------------------------

#[test]
fn accepts_the_smallest_configuration() {
    accepts(&minimal());
}

#[test]
fn accepts_every_field_of_mode_exchange_at_once() {
    let mut config = minimal();
    let given = json!({
        "mode": "exchange", "enabled": false, "storage": "keycloak",
        "hash_algorithm": "sha256", "bcrypt_cost": 12, "key_prefix": "acme-live_",
        "max_keys_per_user": 3, "cache_ttl_seconds": 60, "negative_ttl_seconds": 0,
        "callout_timeout_ms": 500, "client_id": "gateway",
        "assertion_issuer": "https://gateway.invalid", "identity_provider": "keys",
        "scope": "orders profile", "headers": ["x-api-key", "authorization"],
        "on_missing_key": "reject", "fallback_until": "2026-12-31T23:59:59Z",
        "index_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "revocation_poll_seconds": 0, "throttle_failures_per_minute": 0,
        "audit_hits_per_1000": 1000,
        "clock_skew_seconds": 0, "l1_entries": 1, "l2_slots": 0
    });
    for (field, value) in given.as_object().unwrap() {
        config[field] = value.clone();
    }
    accepts(&config);
}

#[test]
fn refuses_an_unknown_field() {
    refuses("cache_ttl", json!(300));
    refuses("Realm", json!("demo"));
}

#[test]
fn refuses_what_is_no_object() {
    for value in [json!([]), json!("text"), json!(null), json!(1)] {
        assert!(!validator().is_valid(&value), "accepted {value}");
    }
}

#[test]
fn refuses_a_configuration_without_a_required_field() {
    for field in [
        "keycloak_url",
        "realm",
        "keycloak_upstream",
        "yield_upstream",
    ] {
        let mut config = minimal();
        config.as_object_mut().unwrap().remove(field);
        both_refuse(&config, field);
    }
}

#[test]
fn refuses_an_empty_text() {
    for (field, schema) in properties() {
        if schema["type"] == "string" && !MANAGE_FIELDS.contains(&field.as_str()) {
            refuses(&field, json!(""));
        }
    }
}

// --- fields that decide about each other -------------------------------------

#[test]
fn refuses_both_signing_keys_at_once() {
    let mut config = minimal();
    config["signing_key"] = json!("A".repeat(184));
    both_refuse(&config, "");
}

#[test]
fn refuses_a_configuration_without_a_signing_key() {
    let mut config = minimal();
    config
        .as_object_mut()
        .unwrap()
        .remove("signing_key_property");
    both_refuse(&config, "");
}

#[test]
fn accepts_a_signing_key_in_any_of_its_forms() {
    let body = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\
                AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAGhRANCAARrF9Hy4SxCR/i85uVjpEDy\
                dwN9gS3rM6D0oTlF2JjClk/jQuL+Gn+bjufrSnwPnhYrzjNXazFezsu2QGg3v1H1";
    for key in [
        body.to_owned(),
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"),
        format!("-----BEGIN PRIVATE KEY-----\\n{body}\\n-----END PRIVATE KEY-----"),
    ] {
        let mut config = minimal();
        config
            .as_object_mut()
            .unwrap()
            .remove("signing_key_property");
        config["signing_key"] = json!(key);
        accepts(&config);
    }
}

#[test]
fn refuses_a_signing_key_that_is_too_short_to_be_one() {
    let mut config = minimal();
    config
        .as_object_mut()
        .unwrap()
        .remove("signing_key_property");
    config["signing_key"] = json!("secret");
    both_refuse(&config, "signing_key");
}

fn managing() -> Value {
    let mut config = minimal();
    config["mode"] = json!("manage");
    config["audience"] = json!("account");
    config
}

#[test]
fn accepts_manage_fields_with_mode_manage_alone() {
    for (field, value) in [
        ("management_client_id", json!("key-manager")),
        ("management_signing_key_property", json!("env.MANAGER_KEY")),
        ("admin_role", json!("key-admins")),
        ("audience", json!("keys")),
        ("cors_origins", json!(["https://console.example.com"])),
    ] {
        let mut config = minimal();
        config[field] = value.clone();
        both_refuse(&config, "");
        config["mode"] = json!("exchange");
        both_refuse(&config, "mode");
        let mut config = managing();
        config[field] = value;
        accepts(&config);
    }
}

#[test]
fn refuses_mode_manage_without_an_audience() {
    let mut config = managing();
    accepts(&config);
    config.as_object_mut().unwrap().remove("audience");
    both_refuse(&config, "");
}

#[test]
fn refuses_both_keys_of_the_management_client_at_once() {
    let mut config = managing();
    config["management_signing_key_property"] = json!("env.MANAGER_KEY");
    config["management_signing_key"] = json!("A".repeat(184));
    both_refuse(&config, "");
}

#[test]
fn refuses_origins_that_no_browser_sends() {
    for origins in [
        json!(["*"]),
        json!(["https://a/"]),
        json!([]),
        json!(["https://A"]),
    ] {
        let mut config = managing();
        config["cors_origins"] = origins;
        both_refuse(&config, "cors_origins");
    }
}

// --- single fields -----------------------------------------------------------

#[test]
fn holds_the_key_prefix_to_characters_that_need_no_escape() {
    for prefix in ["sk_live_", "a", "ACME-2_", "0123456789abcdef"] {
        accepts_value("key_prefix", json!(prefix));
    }
    for prefix in ["sk live_", "sk.live", "schlüssel_", "0123456789abcdef_"] {
        refuses("key_prefix", json!(prefix));
    }
}

#[test]
fn accepts_only_a_base_url_for_keycloak() {
    for url in [
        "https://login.example.com",
        "http://localhost:8080",
        "https://login.example.com/auth",
        "https://[2001:db8::1]:8443/a/b",
    ] {
        accepts_value("keycloak_url", json!(url));
    }
    for url in [
        "login.example.com",
        "ftp://login.example.com",
        "https://",
        "https:///auth",
        "https://login.example.com/",
        "https://login.example.com/auth/",
        "https://login.example.com?x=1",
        "https://login.example.com/#top",
        "https://admin:secret@login.example.com",
        "https://login.example.com/a b",
    ] {
        refuses("keycloak_url", json!(url));
    }
}

#[test]
fn accepts_only_realm_names_that_fit_a_path() {
    for realm in ["demo", "My Realm", "a.b~c_d-1", &"r".repeat(255)] {
        accepts_value("realm", json!(realm));
    }
    for realm in ["a/b", "a?b", "a%20b", " demo", "demo ", &"r".repeat(256)] {
        refuses("realm", json!(realm));
    }
}

#[test]
fn accepts_only_addresses_as_upstreams() {
    for field in ["keycloak_upstream", "yield_upstream"] {
        for upstream in [
            "127.0.0.1:8110",
            "[::1]:8110",
            "https://login.example.com:443",
        ] {
            accepts_value(field, json!(upstream));
        }
        for upstream in ["a b:80", "https://", &"u".repeat(264)] {
            refuses(field, json!(upstream));
        }
        // A path: a cluster of Envoy may hold a slash, an address on Kong may not.
        for upstream in ["127.0.0.1:8110/", "https://login.example.com/auth"] {
            let config = with(field, json!(upstream));
            assert!(!validator().is_valid(&config), "accepted {upstream}");
        }
    }
}

#[test]
fn accepts_only_a_dotted_path_as_a_property() {
    for path in ["ngx.apikey_signing_key", "env.APIKEY_SIGNING_KEY", "a.b.c"] {
        accepts_value("signing_key_property", json!(path));
    }
    for path in ["ngx", "ngx.", ".key", "ngx..key"] {
        refuses("signing_key_property", json!(path));
    }
}

#[test]
fn accepts_only_scopes_with_single_spaces_between() {
    for scope in ["orders", "orders:read profile", "a b c"] {
        accepts_value("scope", json!(scope));
    }
    for scope in [
        " orders",
        "orders ",
        "a  b",
        "a\tb",
        "a\"b",
        "a\\b",
        &"s".repeat(1025),
    ] {
        refuses("scope", json!(scope));
    }
}

#[test]
fn accepts_only_a_list_of_lower_case_header_names() {
    accepts_value("headers", json!(["authorization"]));
    accepts_value(
        "headers",
        json!(["x-a", "x-b", "x-c", "x-d", "x-e", "x-f", "x-g", "x-h"]),
    );
    accepts_value("headers", json!(["x!#$%&'*+.^_|~-9"]));
    for headers in [
        json!([]),
        json!("authorization"),
        json!(["X-API-Key"]),
        json!(["x api key"]),
        json!([""]),
        json!([1]),
        json!(["x-api-key", "x-api-key"]),
        json!(["a", "b", "c", "d", "e", "f", "g", "h", "i"]),
        json!(["x".repeat(65)]),
        json!(["host"]),
        json!(["authorization", "content-length"]),
    ] {
        refuses("headers", headers);
    }
}

#[test]
fn accepts_only_an_rfc_3339_instant() {
    for instant in [
        "2026-12-31T23:59:59Z",
        "2026-12-31T23:59:59.123Z",
        "2026-12-31T23:59:59+02:00",
    ] {
        accepts_value("fallback_until", json!(instant));
    }
    for instant in [
        "2026-12-31",
        "2026-12-31T23:59:59",
        "31.12.2026",
        "2026-13-01T00:00:00Z",
        "2026-12-32T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-12-31T24:00:00Z",
        "tomorrow",
    ] {
        refuses("fallback_until", json!(instant));
    }
}

#[test]
fn accepts_only_base64_of_32_bytes_as_the_index_key() {
    accepts_value(
        "index_key",
        json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    );
    accepts_value(
        "index_key",
        json!("/+9/+9/+9/+9/+9/+9/+9/+9/+9/+9/+9/+9/+9/+98="),
    );
    for key in [
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA A=",
        "c2hvcnQ=",
    ] {
        refuses("index_key", json!(key));
    }
}

// --- the example that Kong loads ---------------------------------------------

#[test]
fn the_example_configures_a_route_in_each_form() {
    let text = fs::read_to_string(kong().join("kong.yml")).unwrap();
    let configs = filters(&text);
    let forms: Vec<&str> = configs.iter().map(|(form, _)| form.as_str()).collect();
    assert_eq!(forms, ["filter_chains", "plugins", "filter_chains"]);
}

#[test]
fn the_example_is_accepted() {
    let text = fs::read_to_string(kong().join("kong.yml")).unwrap();
    for (_, config) in filters(&text) {
        accepts(&config);
    }
}

#[test]
fn the_example_says_the_same_in_both_forms() {
    let text = fs::read_to_string(kong().join("kong.yml")).unwrap();
    let mut configs = filters(&text);
    for (_, config) in &mut configs {
        // A default that only one of them spells out.
        config.as_object_mut().unwrap().remove("on_missing_key");
    }
    assert_eq!(configs[0].1, configs[1].1);
}

#[test]
fn the_example_takes_the_variables_of_the_seed() {
    let rendered = render(&[
        ("API_KEY_ENABLED", "false"),
        ("API_KEY_STORAGE", "keycloak"),
        ("API_KEY_HASH_ALGORITHM", "sha256"),
        ("API_KEY_PREFIX", "acme_"),
        ("API_KEY_MAX_PER_USER", "7"),
        ("API_KEY_EXCHANGE_CACHE_TTL", "60"),
        ("KEYCLOAK_URL", "https://login.example.com/auth"),
        ("REALM", "shop"),
    ])
    .unwrap();
    let configs = filters(&rendered);
    assert_eq!(configs.len(), 3);
    for (form, config) in configs {
        accepts(&config);
        for (field, value) in [
            ("enabled", json!(false)),
            ("storage", json!("keycloak")),
            ("hash_algorithm", json!("sha256")),
            ("key_prefix", json!("acme_")),
            ("max_keys_per_user", json!(7)),
            ("cache_ttl_seconds", json!(60)),
            ("keycloak_url", json!("https://login.example.com/auth")),
            ("realm", json!("shop")),
        ] {
            assert_eq!(config[field], value, "{field} under {form}");
        }
    }
}

#[test]
fn the_example_stays_as_it_is_without_variables() {
    let text = fs::read_to_string(kong().join("kong.yml")).unwrap();
    assert_eq!(render(&[]).unwrap(), text);
    assert_eq!(render(&[("API_KEY_PREFIX", "")]).unwrap(), text);
}

#[test]
fn a_prefix_of_digits_alone_stays_a_text() {
    let rendered = render(&[("API_KEY_PREFIX", "123")]).unwrap();
    for (_, config) in filters(&rendered) {
        assert_eq!(config["key_prefix"], json!("123"));
    }
}

#[test]
fn a_variable_cannot_write_more_than_a_value() {
    for value in ["a\"b", "a\nmode: manage", "a b", "a;b", "a#b", "${x}"] {
        let fault = render(&[("API_KEY_PREFIX", value)]).unwrap_err();
        assert!(fault.contains("API_KEY_PREFIX"), "{fault}");
        assert!(!fault.contains(value), "the message repeats the value");
    }
}

// --- how the cases are put ---------------------------------------------------

fn kong() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kong")
}

fn meta() -> Value {
    let text = fs::read_to_string(kong().join("apikey_jwt_exchange.meta.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn schema() -> Value {
    meta()["config_schema"].take()
}

fn properties() -> Map<String, Value> {
    schema()["properties"].as_object().unwrap().clone()
}

fn validator() -> Validator {
    jsonschema::options()
        .with_draft(Draft::Draft4)
        .should_validate_formats(true)
        .build(&schema())
        .unwrap()
}

/// The least that is valid.
fn minimal() -> Value {
    json!({
        "keycloak_url": "https://login.example.com",
        "realm": "demo",
        "keycloak_upstream": "127.0.0.1:8110",
        "yield_upstream": "127.0.0.1:8110",
        "signing_key_property": "ngx.apikey_signing_key",
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut config = minimal();
    config[field] = value;
    config
}

/// Accepted by the schema, and by the filter as well.
fn accepts(config: &Value) {
    if let Err(fault) = validator().validate(config) {
        panic!(
            "the schema refuses {config}: {fault} at {}",
            fault.instance_path()
        );
    }
    if let Err(fault) = Config::from_json(config.to_string().as_bytes()) {
        panic!("the filter refuses what the schema accepts, {config}: {fault}");
    }
}

fn accepts_value(field: &str, value: Value) {
    accepts(&with(field, value));
}

/// Refused by the schema because of that field, and by the filter as well.
fn refuses(field: &str, value: Value) {
    both_refuse(&with(field, value), field);
}

fn both_refuse(config: &Value, field: &str) {
    let validator = validator();
    let faults: Vec<String> = validator
        .iter_errors(config)
        .map(|fault| format!("{} {fault}", fault.instance_path()))
        .collect();
    assert!(!faults.is_empty(), "the schema accepts {config}");
    assert!(
        faults.iter().any(|fault| fault.contains(field)),
        "the schema refuses {config} for another reason: {faults:?}"
    );
    assert!(
        Config::from_json(config.to_string().as_bytes()).is_err(),
        "the filter accepts what the schema refuses: {config}"
    );
}

/// The configurations of this filter in a declarative configuration, each with the
/// form it stands in.
fn filters(yaml: &str) -> Vec<(String, Value)> {
    fn walk(value: &Value, form: &str, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, form, found)),
            Value::Object(fields) => {
                if fields.get("name") == Some(&json!("apikey_jwt_exchange")) {
                    found.push((form.to_owned(), fields["config"].clone()));
                }
                for (name, value) in fields {
                    let form = match name.as_str() {
                        "filter_chains" | "plugins" => name,
                        _ => form,
                    };
                    walk(value, form, found);
                }
            }
            _ => {}
        }
    }
    let document: Value = serde_norway::from_str(yaml).unwrap();
    assert_eq!(document["_format_version"], "3.0");
    let mut found = Vec::new();
    walk(&document["services"], "", &mut found);
    found
}

/// kong.yml as `kong/render.sh` writes it with these variables alone.
fn render(variables: &[(&str, &str)]) -> Result<String, String> {
    let output = Command::new("bash")
        .arg(kong().join("render.sh"))
        .arg(kong().join("kong.yml"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(variables.iter().copied())
        .output()
        .expect("bash runs; install it");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}
