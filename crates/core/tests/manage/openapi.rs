//! The promises of `openapi.json`: each answer of each scenario is held against it.
//!
//! Its schemas are JSON Schema 2020-12 (OpenAPI 3.1), so a validator that is not ours judges
//! the bodies. It leaves out the refusals that no operation can list: another path (404),
//! another method (405), and a browser's question before a request (CORS).

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use apikeys_core::manage::OPENAPI;
use jsonschema::Validator;
use serde_json::{Value, json};

use super::told::Told;

pub struct Document {
    pub root: Value,
    /// Schemas, by their pointer in the document.
    schemas: HashMap<String, Validator>,
}

impl Document {
    pub fn get() -> &'static Self {
        static DOCUMENT: OnceLock<Document> = OnceLock::new();
        DOCUMENT.get_or_init(|| {
            let root: Value = serde_json::from_str(OPENAPI).unwrap();
            let mut document = Self {
                root,
                schemas: HashMap::new(),
            };
            for name in document.names("schemas") {
                let pointer = format!("#/components/schemas/{name}");
                let validator = document.compile(&json!({ "$ref": pointer }));
                document.schemas.insert(pointer, validator);
            }
            document
        })
    }

    pub fn names(&self, kind: &str) -> Vec<String> {
        let found = self.root["components"][kind].as_object().unwrap();
        found.keys().cloned().collect()
    }

    /// A validator of a schema that may refer to the document's.
    pub fn compile(&self, schema: &Value) -> Validator {
        let mut schema = schema.clone();
        schema["components"] = self.root["components"].clone();
        jsonschema::draft202012::options()
            .should_validate_formats(true)
            .build(&schema)
            .unwrap_or_else(|fault| panic!("{schema}: {fault}"))
    }

    /// The target of a `$ref`, or the value itself.
    pub fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(pointer) => {
                let found = self.root.pointer(pointer.strip_prefix('#').unwrap());
                found.unwrap_or_else(|| panic!("{pointer} leads nowhere"))
            }
            None => value,
        }
    }

    /// The operations: their ids, and their descriptions.
    pub fn operations(&self) -> Vec<(String, String, String, &Value)> {
        let mut found = Vec::new();
        for (path, item) in self.root["paths"].as_object().unwrap() {
            for method in ["get", "post", "put", "delete", "patch", "options", "head"] {
                if let Some(operation) = item.get(method) {
                    let id = operation["operationId"].as_str().unwrap();
                    found.push((method.to_uppercase(), path.clone(), id.into(), operation));
                }
            }
        }
        found
    }

    /// The operation that a request is for.
    pub fn operation(&self, method: &str, path: &str) -> Option<(String, &Value)> {
        let path = path.split('?').next().unwrap();
        let below = path.split_once("/api/v1")?.1;
        let fits = |template: &str| {
            let (parts, template): (Vec<_>, Vec<_>) =
                (below.split('/').collect(), template.split('/').collect());
            parts.len() == template.len()
                && parts.iter().zip(&template).all(|(part, template)| {
                    part == template || (template.starts_with('{') && !part.is_empty())
                })
        };
        let mut all = self.operations();
        // A template without a variable comes before one with.
        all.sort_by_key(|(_, template, ..)| template.matches('{').count());
        let paths = all.iter().map(|(_, template, ..)| template.clone());
        let template = paths.into_iter().find(|template| fits(template))?;
        let found = all
            .into_iter()
            .find(|(known, path, ..)| *known == method && *path == template)?;
        Some((found.2, found.3))
    }

    /// Every status of every operation.
    pub fn documented(&self) -> BTreeSet<(String, u16)> {
        let mut found = BTreeSet::new();
        for (_, _, id, operation) in self.operations() {
            for status in operation["responses"].as_object().unwrap().keys() {
                found.insert((id.clone(), status.parse().unwrap()));
            }
        }
        found
    }

    /// Every code of a refusal.
    pub fn codes(&self) -> BTreeSet<String> {
        let codes = &self.root["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
        let codes = codes.as_array().unwrap().iter();
        codes
            .map(|code| code.as_str().unwrap().to_owned())
            .collect()
    }

    /// Holds an answer against its description.
    #[track_caller]
    pub fn check(&self, told: &Told) {
        let (method, path) = (&told.request.method, &told.request.path);
        let place = format!("{method} {path}: {}", told.status);
        assert_eq!(told.header("cache-control"), Some("no-store"), "{place}");
        if told.status >= 400 {
            self.check_problem(told, &place);
        }
        let outside = matches!(told.status, 404 | 405) || method == "OPTIONS";
        let Some((id, operation)) = self.operation(method, path) else {
            assert!(outside, "{place}: no operation, and answered");
            return;
        };
        let response = &operation["responses"][told.status.to_string()];
        assert!(!response.is_null(), "{place}: {id} does not say so");
        let response = self.resolve(response);
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let value = told.header(&name.to_lowercase());
            let value = value.unwrap_or_else(|| panic!("{place}: no header {name}"));
            let validator = self.compile(&self.resolve(header)["schema"]);
            assert!(
                validator.is_valid(&json!(value)),
                "{place}: {name}: {value}"
            );
        }
        let Some((kind, content)) = self.content(response) else {
            assert_eq!(told.text, None, "{place}: a body, and none is documented");
            assert_eq!(told.header("content-type"), None, "{place}");
            return;
        };
        assert_eq!(told.header("content-type"), Some(kind.as_str()), "{place}");
        self.validate(&content["schema"], &told.body(), &place);
    }

    fn content<'a>(&self, response: &'a Value) -> Option<(String, &'a Value)> {
        let content = response["content"].as_object()?;
        assert_eq!(content.len(), 1);
        let (kind, content) = content.iter().next()?;
        Some((kind.clone(), content))
    }

    /// Holds a body against a schema. The message shows no value: it may be a secret.
    #[track_caller]
    pub fn validate(&self, schema: &Value, body: &Value, place: &str) {
        let known = schema["$ref"]
            .as_str()
            .map(|pointer| &self.schemas[pointer]);
        let compiled = known.is_none().then(|| self.compile(schema));
        let validator = known.or(compiled.as_ref()).unwrap();
        let faults: Vec<String> = validator
            .iter_errors(body)
            .map(|fault| format!("{} ({})", fault.instance_path(), fault.schema_path()))
            .collect();
        assert!(faults.is_empty(), "{place}: {faults:?}");
    }

    fn check_problem(&self, told: &Told, place: &str) {
        let body = told.body();
        let schema = json!({ "$ref": "#/components/schemas/Problem" });
        self.validate(&schema, &body, place);
        assert_eq!(body["status"], told.status, "{place}");
        let code = body["code"].as_str().unwrap();
        let kind = format!("urn:api-key-gateway:problem:{code}");
        assert_eq!(body["type"], kind, "{place}");
        assert_eq!(body["request_id"], super::told::REQUEST_ID, "{place}");
        let challenge = told.header("www-authenticate");
        assert_eq!(challenge.is_some(), told.status == 401, "{place}");
        let later = told.header("retry-after");
        assert_eq!(
            later.is_some(),
            [429, 503].contains(&told.status),
            "{place}"
        );
        let allow = told.header("allow");
        assert_eq!(allow.is_some(), told.status == 405, "{place}");
    }
}
