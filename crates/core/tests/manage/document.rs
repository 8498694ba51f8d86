//! The document itself: a sound OpenAPI 3.1 description that allows exactly the requests that
//! the API accepts.

use std::collections::BTreeSet;

use apikeys_core::manage::body;
use apikeys_core::manage::router;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::keycloak::User;
use super::openapi::Document;
use super::request::Request;
use super::world::World;

/// The part of OpenAPI 3.1.1 that is used here, chapter by chapter (4.8).
fn shape() -> Value {
    let text = json!({ "type": "string", "minLength": 1 });
    let closed = |properties: Value, required: &[&str]| {
        json!({
            "type": "object", "additionalProperties": false,
            "properties": properties, "required": required,
        })
    };
    let map = |of: &str| json!({ "type": "object", "additionalProperties": at(of) });
    let or_ref = |name: &str| json!({ "anyOf": [at("reference"), at(name)] });
    let list = |of: &str| json!({ "type": "array", "minItems": 1, "items": at(of) });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": "#/$defs/document",
        "$defs": {
            "text": text,
            "document": closed(json!({
                "openapi": { "const": "3.1.0" }, "info": at("info"), "servers": list("server"),
                "tags": list("tag"), "security": list("requirement"),
                "paths": {
                    "type": "object", "additionalProperties": at("path"),
                    "propertyNames": { "pattern": "^/" },
                },
                "components": at("components"),
            }), &["openapi", "info", "paths"]),
            "info": closed(json!({
                "title": text, "version": text, "description": text,
                "license": closed(json!({ "name": text, "identifier": text }), &["name"]),
            }), &["title", "version"]),
            "server": closed(json!({ "url": text, "description": text }), &["url"]),
            "tag": closed(json!({ "name": text, "description": text }), &["name"]),
            "requirement": map("scopes"),
            "scopes": { "type": "array", "items": at("text") },
            "path": closed(json!({
                "parameters": { "type": "array", "items": or_ref("parameter") },
                "get": at("operation"), "post": at("operation"), "patch": at("operation"),
                "delete": at("operation"),
            }), &[]),
            "operation": closed(json!({
                "tags": list("text"), "operationId": text, "summary": text, "description": text,
                "parameters": { "type": "array", "items": or_ref("parameter") },
                "requestBody": at("body"), "security": { "type": "array" },
                "responses": {
                    "type": "object", "minProperties": 1,
                    "propertyNames": { "pattern": "^[2-5][0-9][0-9]$" },
                    "additionalProperties": or_ref("response"),
                },
            }), &["operationId", "responses", "summary"]),
            "parameter": closed(json!({
                "name": text, "in": { "enum": ["query", "path", "header"] }, "description": text,
                "required": { "type": "boolean" }, "schema": at("schema"),
            }), &["name", "in", "schema"]),
            "body": closed(json!({
                "required": { "type": "boolean" }, "description": text, "content": map("media"),
            }), &["content"]),
            "media": closed(json!({ "schema": at("schema") }), &["schema"]),
            "header": closed(json!({
                "description": text, "required": { "type": "boolean" }, "schema": at("schema"),
            }), &["schema"]),
            "response": closed(json!({
                "description": text, "content": map("media"),
                "headers": { "type": "object", "additionalProperties": or_ref("header") },
            }), &["description"]),
            "components": closed(json!({
                "securitySchemes": map("scheme"), "parameters": map("parameter"),
                "headers": map("header"), "responses": map("response"), "schemas": map("schema"),
            }), &[]),
            "scheme": closed(json!({
                "type": { "const": "http" }, "scheme": { "const": "bearer" },
                "bearerFormat": text, "description": text,
            }), &["type", "scheme"]),
            "reference": closed(json!({ "$ref": { "type": "string", "pattern": "^#/" } }), &["$ref"]),
            "schema": { "type": ["object", "boolean"] },
        },
    })
}

fn at(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// All values under this name, wherever.
fn find<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get(name));
            members.values().for_each(|inner| find(inner, name, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| find(inner, name, found)),
        _ => {}
    }
}

#[test]
fn the_document_has_the_shape_of_openapi() {
    let document = Document::get();
    let validator = jsonschema::draft202012::new(&shape()).unwrap();
    let faults: Vec<String> = validator
        .iter_errors(&document.root)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
    for schema in document.root["components"]["schemas"]
        .as_object()
        .unwrap()
        .values()
    {
        jsonschema::draft202012::meta::validate(schema).unwrap();
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_referred_to() {
    let document = Document::get();
    let mut references = Vec::new();
    find(&document.root, "$ref", &mut references);
    let references: BTreeSet<&str> = references.iter().map(|it| it.as_str().unwrap()).collect();
    for reference in &references {
        document.resolve(&json!({ "$ref": reference }));
    }
    for kind in ["schemas", "responses", "headers", "parameters"] {
        for name in document.names(kind) {
            let pointer = format!("#/components/{kind}/{name}");
            assert!(
                references.contains(pointer.as_str()),
                "{pointer} is not used"
            );
        }
    }
}

#[test]
fn operations_have_names_of_their_own_and_say_what_their_paths_hold() {
    let document = Document::get();
    let mut names = BTreeSet::new();
    let declared = |list: &Value| -> BTreeSet<String> {
        let list = list.as_array().into_iter().flatten();
        let parameters = list.map(|it| document.resolve(it));
        parameters
            .filter(|it| it["in"] == "path")
            .map(|it| {
                assert_eq!(it["required"], true);
                it["name"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    for (_, path, id, operation) in document.operations() {
        assert!(names.insert(id.clone()), "{id} twice");
        let held: BTreeSet<String> = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(str::to_owned)
            .collect();
        let mut known = declared(&document.root["paths"][&path]["parameters"]);
        known.extend(declared(&operation["parameters"]));
        assert_eq!(known, held, "{path}");
        for scheme in operation["security"].as_array().into_iter().flatten() {
            assert!(scheme.as_object().unwrap().is_empty());
        }
    }
    let schemes = document.names("securitySchemes");
    let used = document.root["security"][0].as_object().unwrap().keys();
    assert_eq!(used.collect::<Vec<_>>(), schemes.iter().collect::<Vec<_>>());
}

#[test]
fn it_is_served_as_it_is() {
    let mut world = World::new(vec![User::new("alice")]);
    let told = world.ask(&Request::new("GET", "/gateway/api/v1/openapi.json"));
    assert_eq!(told.expect(200), Document::get().root);
}

// --- requests: the API accepts the requests that the document allows, and no others ------

fn texts() -> impl Strategy<Value = Value> {
    let pieces = prop::sample::select(vec![
        "n",
        "orders:read",
        "é",
        " ",
        "\t",
        "\n",
        "\u{0}",
        "\u{a0}",
        "\u{202e}",
        "\u{feff}",
        "\u{200b}",
        "\u{3000}",
        "\u{1f511}",
        "\u{e0041}",
        "\u{ad}",
        "\"",
        "\\",
        "~",
        "!",
        "#",
    ]);
    let some = prop::collection::vec(pieces, 0..4).prop_map(|it| json!(it.concat()));
    let long = (98_usize..103).prop_map(|length| json!("é".repeat(length)));
    prop_oneof![8 => some, 1 => long, 1 => any::<String>().prop_map(|it| json!(it))]
}

fn numbers() -> impl Strategy<Value = Value> {
    let edges = [
        -1_i64,
        0,
        1,
        7,
        365,
        36_500,
        36_501,
        604_800,
        604_801,
        i64::MAX,
    ];
    let whole = prop::sample::select(edges.to_vec());
    prop_oneof![
        4 => whole.clone().prop_map(|it| json!(it)),
        1 => whole.prop_map(|it| json!(it as f64)),
        1 => any::<f64>().prop_map(|it| json!(it)),
        1 => Just(json!(u64::MAX)),
        1 => Just(json!(1.5)),
    ]
}

fn limits() -> impl Strategy<Value = Value> {
    let number = || {
        let edges = [
            "0", "1", "9999", "10000", "86399", "86400", "86401", "999999", "1000000",
        ];
        prop_oneof![
            4 => prop::sample::select(edges.to_vec()).prop_map(str::to_owned),
            4 => "[0-9]{1,7}",
            1 => "\\PC{0,3}",
        ]
    };
    (number(), number()).prop_map(|(requests, seconds)| json!(format!("{requests}/{seconds}")))
}

fn networks() -> impl Strategy<Value = Value> {
    let network = prop::sample::select(vec![
        "10.0.0.0/8",
        "192.0.2.7",
        "::1",
        "2001:db8::/32",
        "::ffff:10.0.0.0/104",
        "10.0.0.0/33",
        "10.0.0.0/08",
        "10.0.0.0/-1",
        "::/0",
        "::1 ::2",
        "anywhere",
        "",
        " ::1",
    ]);
    prop_oneof![
        9 => prop::collection::vec(network, 0..4).prop_map(Value::from),
        1 => (15_usize..18).prop_map(|length| json!(vec!["::1"; length])),
    ]
}

/// A value for a member that takes a text, a number or a list of texts; now and then one of
/// another type.
fn member(kind: &str) -> BoxedStrategy<Value> {
    let lists = || prop::collection::vec(texts(), 0..4).prop_map(Value::from);
    let any_value = prop_oneof![
        texts(),
        numbers(),
        lists(),
        Just(Value::Null),
        Just(json!(true)),
        limits(),
        networks(),
        Just(json!({})),
        Just(json!([1])),
    ];
    match kind {
        "text" => prop_oneof![9 => texts(), 1 => any_value].boxed(),
        "number" => prop_oneof![9 => numbers(), 1 => any_value].boxed(),
        "limit" => prop_oneof![9 => limits(), 1 => any_value].boxed(),
        "networks" => prop_oneof![9 => networks(), 1 => any_value].boxed(),
        "switch" => prop_oneof![9 => any::<bool>().prop_map(Value::from), 1 => any_value].boxed(),
        _ => prop_oneof![9 => lists(), 1 => any_value].boxed(),
    }
}

const CHANGE: [(&str, &str); 6] = [
    ("name", "text"),
    ("rate_limit", "limit"),
    ("allowed_addresses", "networks"),
    ("disabled", "switch"),
    ("environment", "text"),
    ("labels", "text"),
];

const NEW_KEY: [(&str, &str); 8] = [
    ("name", "text"),
    ("expires_days", "number"),
    ("scopes", "list"),
    ("rate_limit", "limit"),
    ("allowed_addresses", "networks"),
    ("disabled", "switch"),
    ("environment", "text"),
    ("labels", "text"),
];

/// Bodies with some of these members, now and then with another, or no object at all.
fn bodies(members: &'static [(&'static str, &'static str)]) -> impl Strategy<Value = Value> {
    let given: Vec<_> = members
        .iter()
        .map(|(name, kind)| {
            let often = if *name == "name" || *name == "api_key" {
                0.95
            } else {
                0.4
            };
            prop::option::weighted(often, member(kind)).prop_map(move |value| (*name, value))
        })
        .collect();
    let other = prop::option::weighted(0.05, texts()).prop_map(|value| ("other", value));
    let object = (given, other).prop_map(|(mut given, other)| {
        given.push(other);
        let given = given.into_iter();
        let given = given.filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect())
    });
    prop_oneof![15 => object, 1 => member("list")]
}

/// Holds the two verdicts on a body against each other.
fn agree(schema: &str, body: &Value, taken: bool) -> Result<(), TestCaseError> {
    let document = Document::get();
    let pointer = json!({ "$ref": format!("#/components/schemas/{schema}") });
    let allowed = document.compile(&pointer).is_valid(body);
    // A schema cannot say all: the sum of the scopes' lengths, and characters beyond the first
    // plane, which languages write in different ways.
    let scopes = body["scopes"].as_array().into_iter().flatten();
    let length: usize = scopes.map(|it| it.as_str().unwrap_or("").len() + 1).sum();
    let has_tag = ["name", "environment", "labels"].iter().any(|member| {
        let text = body[member].as_str().unwrap_or_default();
        text.chars()
            .any(|c| ('\u{e0000}'..='\u{e007f}').contains(&c))
    });
    // Nor can it say which texts are networks.
    let has_networks = body["allowed_addresses"].is_array();
    if length <= 1025 && !has_tag && !(has_networks && allowed) {
        prop_assert!(allowed == taken, "{body}: allowed {allowed}, taken {taken}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_new_keys_body_is_taken_as_the_document_says(body in bodies(&NEW_KEY)) {
        let taken = body::read_create(body.to_string().as_bytes()).is_ok();
        agree("NewKey", &body, taken)?;
    }

    #[test]
    fn a_keys_change_is_taken_as_the_document_says(body in bodies(&CHANGE)) {
        let taken = body::read_update(body.to_string().as_bytes()).is_ok();
        agree("KeyChange", &body, taken)?;
    }

    #[test]
    fn a_rotations_body_is_taken_as_the_document_says(body in bodies(&[("grace_seconds", "number"), ("expires_days", "number")])) {
        let taken = body::read_rotate(body.to_string().as_bytes()).is_ok();
        agree("Rotation", &body, taken)?;
    }

    #[test]
    fn a_key_to_validate_is_taken_as_the_document_says(body in bodies(&[("api_key", "text")])) {
        let taken = body::read_validate(body.to_string().as_bytes()).is_ok();
        agree("KeyToValidate", &body, taken)?;
    }

    #[test]
    fn a_query_is_taken_as_the_document_says(
        name in prop::sample::select(vec!["limit", "after", "user_id"]),
        text in prop_oneof!["[0-9]{0,4}", "[.]{1,3}", "[.a-z:/_-]{0,6}", "\\PC{0,4}", "[a-z]{60,70}", "[a-z]{250,260}"],
    ) {
        let escaped = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("/api/v1/api-keys?{name}={escaped}");
        let taken = router::route("GET", &path).is_ok();
        let document = Document::get();
        let list = &document.root["paths"]["/api-keys"];
        let listed = [&list["parameters"], &list["get"]["parameters"]];
        let mut parameters = listed.iter().flat_map(|it| it.as_array().unwrap());
        let parameter = parameters.find_map(|it| {
            let parameter = document.resolve(it);
            (parameter["name"] == name).then_some(parameter)
        });
        let value = match name {
            "limit" => text.parse::<u64>().map_or(json!(text), |number| json!(number)),
            _ => json!(text),
        };
        let allowed = document.compile(&parameter.unwrap()["schema"]).is_valid(&value);
        prop_assert_eq!(allowed, taken, "{}", path);
    }
}
