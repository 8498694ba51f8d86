//! The pages of `docs/`: each can be reached, each command on one is run by a test, each
//! configuration on one is valid, and each list is the code's own.
//!
//! `tests/house/tidy.rs` checks that links lead somewhere. The commands of most pages need servers:
//! `tests/servers/cli` and `tests/servers/e2e` run them, out of the page ([`RUN_BY`] says where).
//! Commands that need no server are run here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use apikeys_core::api_key::format::KeyFormat;
use apikeys_core::config::Config;
use jsonschema::{Draft, Validator};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use test_kit::markdown::{blocks, links};
use test_kit::page;
use test_kit::repository::{read, root};

/// The test that runs the commands of each page. The test's file must name the page.
const RUN_BY: [(&str, &str); 19] = [
    ("docs/audit.md", "tests/servers/e2e/cases/runbooks.rs"),
    (
        "docs/install/envoy.md",
        "tests/servers/e2e/cases/install.rs",
    ),
    (
        "docs/install/envoy-module.md",
        "tests/servers/e2e/cases/install.rs",
    ),
    ("docs/install/kong.md", "tests/house/pages.rs"),
    ("docs/install/service.md", "tests/servers/cli/page.rs"),
    (
        "docs/management-api.md",
        "tests/servers/e2e/cases/management.rs",
    ),
    ("docs/metrics.md", "tests/servers/e2e/cases/runbooks.rs"),
    (
        "docs/migrate/back.md",
        "tests/servers/e2e/cases/migration.rs",
    ),
    (
        "docs/migrate/from-kong-key-auth.md",
        "tests/servers/e2e/cases/migration.rs",
    ),
    (
        "docs/migrate/from-own-keys.md",
        "tests/servers/e2e/cases/migration.rs",
    ),
    (
        "docs/migrate/from-seed-format.md",
        "tests/servers/e2e/cases/migration.rs",
    ),
    ("docs/realm.md", "tests/servers/cli/page.rs"),
    (
        "docs/runbooks/hit-rate-low.md",
        "tests/servers/e2e/cases/runbooks.rs",
    ),
    ("docs/runbooks/key-leaked.md", "tests/servers/cli/page.rs"),
    (
        "docs/runbooks/keycloak-down.md",
        "tests/servers/e2e/cases/runbooks.rs",
    ),
    (
        "docs/runbooks/signing-key.md",
        "tests/servers/e2e/cases/signing_key.rs",
    ),
    (
        "docs/runbooks/unexplained-401.md",
        "tests/servers/e2e/cases/runbooks.rs",
    ),
    ("docs/secret-scanners.md", "tests/house/pages.rs"),
    ("docs/tool.md", "tests/servers/cli/page.rs"),
];

/// The commands of the two pages that start the whole stack, by their first line, each with its
/// equivalent in the suite: a test cannot run the suite that it belongs to.
const BLOCKS: [(&str, &str, &str); 10] = [
    (
        "README.md",
        "make run",
        "tests/servers/src/stack.rs starts it, tests/servers/e2e/cases/first_run.rs runs the line that it prints",
    ),
    ("README.md", "make test", "not run: the suite of this test"),
    (
        "README.md",
        "read -rs KEYCLOAK_ADMIN_PASSWORD",
        "tests/servers/cli/setup.rs",
    ),
    (
        "README.md",
        "target/release/apikeys create --realm shop",
        "tests/servers/cli/create.rs",
    ),
    (
        "README.md",
        "set -a && . .run/demo.env",
        "tests/servers/cli/create.rs",
    ),
    ("CONTRIBUTING.md", "scripts/test.sh unit", "make test"),
    (
        "CONTRIBUTING.md",
        "scripts/build-wasm.sh && scripts/test.sh host-model",
        "make test-all",
    ),
    (
        "CONTRIBUTING.md",
        "make up",
        "not run: needs a Docker engine",
    ),
    (
        "CONTRIBUTING.md",
        "GATEWAY=nginx cargo test",
        "not run: the suite of this test; a part of it by make test-all, scripts/test.sh",
    ),
    (
        "CONTRIBUTING.md",
        "WRITES_SECONDS=10 WRITES_OWNERS=500 scripts/test.sh writes",
        "make test-all",
    ),
];

// --- places --------------------------------------------------------------------

#[test]
fn every_page_can_be_reached() {
    let mut reached = BTreeSet::new();
    let mut ahead = vec!["README.md".to_owned()];
    while let Some(path) = ahead.pop() {
        if !reached.insert(path.clone()) {
            continue;
        }
        let folder = Path::new(&path).parent().unwrap().to_owned();
        for link in links(&read(&path)) {
            let target = link.split('#').next().unwrap_or_default();
            if target.ends_with(".md") && !target.contains("://") {
                ahead.push(plain(&folder.join(target)));
            }
        }
    }
    for path in pages() {
        assert!(reached.contains(&path), "no page links to {path}");
    }
    let contents: BTreeSet<String> = links(&read("docs/README.md"))
        .iter()
        .map(|link| plain(&Path::new("docs").join(link)))
        .collect();
    for path in pages().iter().filter(|path| *path != "docs/README.md") {
        assert!(
            contents.contains(path),
            "docs/README.md does not list {path}"
        );
    }
}

#[test]
fn every_command_of_a_page_is_run_by_a_test() {
    let listed: BTreeMap<&str, &str> = RUN_BY.into_iter().collect();
    for path in pages() {
        let commands = blocks(&read(&path), "sh").len();
        let test = listed.get(path.as_str());
        assert_eq!(
            commands > 0,
            test.is_some(),
            "{path} has {commands} blocks of sh: let a test run them, out of the page, and \
             list it here; or mark as text what cannot run"
        );
        if let Some(test) = test {
            assert!(read(test).contains(&path), "{test} does not name {path}");
        }
    }
    for (path, _) in RUN_BY {
        assert!(pages().contains(path), "there is no page {path}");
    }
}

#[test]
fn every_command_of_the_readme_is_accounted_for() {
    for path in ["README.md", "CONTRIBUTING.md"] {
        let text = read(path);
        let firsts = blocks(&text, "sh");
        let firsts: Vec<&str> = firsts
            .iter()
            .map(|block| block.lines().next().unwrap_or_default())
            .collect();
        let listed: Vec<&str> = BLOCKS
            .iter()
            .filter(|(page, _, _)| *page == path)
            .map(|(_, first, _)| *first)
            .collect();
        assert_eq!(firsts.len(), listed.len(), "{path}: {firsts:#?}");
        for (first, listed) in firsts.iter().zip(listed) {
            assert!(first.starts_with(listed), "{path}: {first}");
        }
    }
    for (page, first, by) in BLOCKS {
        for name in by.split([' ', ',']).filter(|word| word.contains('/')) {
            assert!(root().join(name).exists(), "{page}, {first}: no {name}");
        }
    }
}

#[test]
fn a_block_is_of_a_kind_that_is_looked_at() {
    for path in pages() {
        for line in read(&path)
            .lines()
            .filter_map(|line| line.strip_prefix("```"))
        {
            let known = ["", "sh", "text", "json", "yaml"];
            assert!(known.contains(&line), "{path}: a block of {line}");
        }
    }
}

// --- configurations --------------------------------------------------------------

#[test]
fn every_configuration_of_a_page_is_valid() {
    let schema: Value = serde_json::from_str(&read("kong/apikey_jwt_exchange.meta.json")).unwrap();
    let validator = jsonschema::options()
        .with_draft(Draft::Draft4)
        .build(&schema["config_schema"])
        .unwrap();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for path in pages() {
        for block in blocks(&read(&path), "yaml") {
            for document in documents(&path, &block) {
                // A file of `apikeys serve`: it checks its exchanges itself.
                if document.get("signing_key_file").is_some() {
                    let read = crate::service::check("page", &block);
                    read.unwrap_or_else(|fault| panic!("{path}: {fault}"));
                    *found.entry(path.clone()).or_default() += 1;
                    continue;
                }
                for config in configs(&path, &document) {
                    validate(&path, &validator, config);
                    *found.entry(path.clone()).or_default() += 1;
                }
            }
        }
    }
    let expected = [
        ("docs/install/envoy-gateway.md", 1),
        ("docs/install/envoy-module.md", 2),
        ("docs/install/envoy.md", 1),
        ("docs/install/istio.md", 1),
        ("docs/install/kong-plugin.md", 1),
        ("docs/install/kong.md", 2),
        ("docs/install/service.md", 1),
        ("docs/migrate/back.md", 1),
        ("docs/migrate/from-kong-key-auth.md", 3),
        ("docs/migrate/from-own-keys.md", 2),
        ("docs/migrate/from-seed-format.md", 1),
    ];
    let expected = expected.map(|(path, count)| (path.to_owned(), count));
    assert_eq!(found, expected.into_iter().collect());
}

/// The documents of a block, and the documents that it holds as text.
fn documents(path: &str, block: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for document in serde_norway::Deserializer::from_str(block) {
        let value = Value::deserialize(document).unwrap_or_else(|fault| panic!("{path}: {fault}"));
        if let Some(text) = value.pointer("/spec/bootstrap/value") {
            let text = text.as_str().expect("a bootstrap as a text");
            found.extend(documents(path, text));
        }
        found.push(value);
    }
    found
}

/// The configurations of our filter in a document, in any form.
fn configs(path: &str, document: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    match document {
        Value::Array(items) => {
            found.extend(items.iter().flat_map(|item| configs(path, item)));
        }
        Value::Object(members) => {
            if members.contains_key("keycloak_url") {
                found.push(document.clone());
                return found;
            }
            if let Some(text) = document.pointer("/configuration/value") {
                let text = text.as_str().expect("JSON as a text");
                found.push(serde_json::from_str(text).unwrap_or_else(|e| panic!("{path}: {e}")));
            }
            found.extend(members.values().flat_map(|value| configs(path, value)));
        }
        _ => {}
    }
    found
}

fn validate(path: &str, validator: &Validator, mut config: Value) {
    if let Some(index_key) = config.get_mut("index_key") {
        assert_eq!(index_key, "the line in index-key.txt", "{path}");
        *index_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into();
    }
    // The module needs none.
    if path.ends_with("envoy-module.md") {
        config["yield_upstream"] = "unused".into();
    }
    if let Err(fault) = Config::from_json(config.to_string().as_bytes()) {
        panic!("{path}: {fault}");
    }
    let faults: Vec<String> = validator
        .iter_errors(&config)
        .map(|fault| fault.to_string())
        .collect();
    assert!(faults.is_empty(), "{path}: {faults:?}");
}

/// Each upstream that a filter calls exists under that name.
#[test]
fn every_upstream_of_an_installation_is_a_cluster_on_its_page() {
    for path in ["envoy", "istio", "envoy-gateway"] {
        let path = format!("docs/install/{path}.md");
        let text = read(&path);
        let documents: Vec<Value> = blocks(&text, "yaml")
            .iter()
            .flat_map(|block| documents(&path, block))
            .collect();
        let config = documents
            .iter()
            .flat_map(|document| configs(&path, document))
            .next()
            .expect("a configuration");
        for field in ["keycloak_upstream", "yield_upstream"] {
            let name = config[field].as_str().unwrap();
            let cluster = format!("cluster_name: {name}\n");
            assert!(text.contains(&cluster), "{path}: no cluster {name}");
        }
    }
}

/// Each block on a page that names a file of `deploy/gateways` is a part of that file, with ports filled
/// in. The end-to-end suite runs the files.
#[test]
fn the_parts_of_a_gateways_file_on_a_page_are_the_files_own() {
    let mut found = BTreeMap::new();
    for (page, file) in [
        ("nginx", "nginx.conf"),
        ("caddy", "Caddyfile"),
        ("haproxy", "haproxy.cfg"),
        ("envoy-ext-authz", "envoy-ext-authz.yaml"),
    ] {
        let mut text = read(&format!("deploy/gateways/{file}"));
        for (name, value) in [
            ("SERVICE_PORT", "8001"),
            ("APIKEYS_PORT", "8181"),
            ("APIKEYS_GRPC_PORT", "8183"),
        ] {
            text = text.replace(&format!("${{{name}}}"), value);
        }
        let page = read(&format!("docs/install/{page}.md"));
        let mark = format!("# {file}\n");
        let blocks = [blocks(&page, "text"), blocks(&page, "yaml")].concat();
        for part in blocks.iter().filter_map(|block| block.strip_prefix(&mark)) {
            assert!(text.contains(part), "deploy/gateways/{file} has no\n{part}");
            *found.entry(file).or_default() += 1;
        }
    }
    let expected = [
        ("nginx.conf", 2),
        ("Caddyfile", 1),
        ("haproxy.cfg", 1),
        ("envoy-ext-authz.yaml", 2),
    ];
    assert_eq!(found, expected.into());
}

/// The gateways' demo runs the validator of `make run` in a separate Envoy.
#[test]
fn the_validator_behind_each_gateway_is_that_of_the_demo() {
    let name = Regex::new(r"\$\{[A-Z_]+\}").expect("a pattern");
    let parse = |path: &str| -> Value {
        serde_norway::from_str(&name.replace_all(&read(path), "1")).expect("YAML")
    };
    let both = parse("deploy/envoy/envoy.yaml");
    let alone = parse("deploy/gateways/validator.yaml");
    for kind in ["listeners", "clusters"] {
        let of = |config: &Value| -> Vec<Value> {
            let list = config["static_resources"][kind].as_array().expect("a list");
            list.clone()
        };
        for one in of(&alone) {
            assert!(of(&both).contains(&one), "{}", one["name"]);
        }
    }
}

// --- lists that are the code's own -------------------------------------------------

#[test]
fn every_field_has_its_paragraph_and_no_other_thing_has() {
    let schema: Value = serde_json::from_str(&read("kong/apikey_jwt_exchange.meta.json")).unwrap();
    let fields = schema.pointer("/config_schema/properties").unwrap();
    let fields: BTreeSet<String> = fields.as_object().unwrap().keys().cloned().collect();
    let mut told = BTreeSet::new();
    for line in read("docs/settings.md").lines() {
        let Some((names, _)) = line.split_once(" – ").filter(|_| line.starts_with("**`")) else {
            continue;
        };
        for name in names.split(", ") {
            let name = name.trim_matches(['*', '`']).to_owned();
            assert!(told.insert(name.clone()), "{name} is told twice");
        }
    }
    assert_eq!(told, fields, "docs/settings.md against the schema");
}

// --- secret scanners ---------------------------------------------------------------

/// Two hundred keys as the tool and the management API make them.
fn generated() -> Vec<String> {
    let format = KeyFormat::new("sk_live_").unwrap();
    let mut state = 1_u8;
    let key = |_| {
        let key = format.generate(|bytes| {
            for byte in bytes {
                state = state.wrapping_mul(141).wrapping_add(43);
                *byte = state;
            }
        });
        key.expose().to_owned()
    };
    (0..200).map(key).collect()
}

/// Texts that come close to a key.
fn near_misses(key: &str) -> Vec<String> {
    let (id, secret) = key["sk_live_".len()..].split_once('_').unwrap();
    vec![
        key[..key.len() - 1].to_owned(),
        format!("{key}x"),
        format!("x{key}"),
        format!("_{key}"),
        format!("sk_test_{id}_{secret}"),
        format!("sk_live_{}_{secret}", &id[1..]),
        format!("sk_live_{id}0_{secret}"),
        format!("sk_live_A{}_{secret}", &id[1..]),
        format!("sk_live_{id}-{secret}"),
        format!("sk_live_{id}_-{}", &secret[1..]),
        id.to_owned(),
        "sk_live_…".to_owned(),
        "sk_live_[0-9a-z]{12}_[0-9A-Za-z]{38}".to_owned(),
    ]
}

/// Checks that a pattern finds keys and nothing else; one of its groups is the key.
#[track_caller]
fn finds_keys_alone(pattern: &Regex, group: usize) {
    for key in generated() {
        for text in [
            key.clone(),
            format!("API_KEY={key}\n"),
            format!("{{\"key\":\"{key}\"}}"),
            format!("curl -H 'Authorization: ApiKey {key}' https://api.example.com"),
        ] {
            let found = pattern.captures(&text).and_then(|found| found.get(group));
            assert_eq!(found.map(|found| found.as_str()), Some(key.as_str()));
        }
        for miss in near_misses(&key) {
            assert!(!pattern.is_match(&miss), "{miss} is no key");
            let text = format!("key = \"{miss}\"");
            assert!(!pattern.is_match(&text), "{text} holds no key");
        }
    }
}

#[test]
fn the_rule_for_gitleaks_finds_keys_and_nothing_else() {
    let rule = read("docs/gitleaks.toml");
    let value = |name: &str, quote: &str| {
        let line = rule
            .lines()
            .find(|line| line.starts_with(&format!("{name} = ")));
        let value = line
            .unwrap_or_else(|| panic!("no {name}"))
            .split_once(" = ")
            .unwrap()
            .1;
        value.trim_matches(|c| quote.contains(c)).to_owned()
    };
    let pattern = Regex::new(&value("regex", "'")).unwrap();
    let group = value("secretGroup", "").parse().unwrap();
    finds_keys_alone(&pattern, group);
    // A rule is tried only on texts with one of its keywords.
    let keyword = value("keywords", "[]\"");
    assert!(generated().iter().all(|key| key.contains(&keyword)));
}

#[test]
fn the_pattern_for_github_finds_keys_and_nothing_else() {
    let text = read("docs/secret-scanners.md");
    let field = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("| {name} | `")));
        let line = line
            .unwrap_or_else(|| panic!("no {name}"))
            .replace(r"\|", "\u{1}");
        let value = line.split('|').nth(2).unwrap().trim().trim_matches('`');
        value.replace('\u{1}', "|")
    };
    let (before, secret, after) = (
        field("Before secret"),
        field("Secret format"),
        field("After secret"),
    );
    let pattern = Regex::new(&format!("(?:{before})({secret})(?:{after})")).unwrap();
    finds_keys_alone(&pattern, 1);
    assert!(blocks(&text, "text")[0].trim() == secret, "one pattern");
    let test = field("Test string");
    assert!(pattern.is_match(&test));
    let format = KeyFormat::new("sk_live_").unwrap();
    assert!(
        format.parse(test.as_bytes()).is_err(),
        "the test string is no key"
    );
}

// --- commands that need no server ----------------------------------------------------

/// A folder with the project's own folders in it, as a reader has them.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn the_files_for_kong_are_made_as_the_page_says() {
    let folder = folder("kong");
    std::os::unix::fs::symlink(root().join("kong"), folder.join("kong")).unwrap();
    let made = Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-out", "signing-key.pem"])
        .current_dir(&folder)
        .output()
        .expect("openssl (apt-get install openssl)");
    assert!(made.status.success(), "{made:?}");
    let text = read("docs/install/kong.md");
    page::run(
        &page::steps(&text),
        &folder,
        Command::new("bash"),
        str::to_owned,
    );
    let compose = fs::read_to_string(folder.join("compose.yaml")).unwrap();
    assert!(compose.contains("kong:3.9"));
}

/// With an alert as GitHub sends it, and a server in the gateway's place.
#[test]
fn the_commands_for_found_keys_do_what_the_page_says() {
    let folder = folder("scanners");
    let keys = &generated()[..2];
    let alert: Vec<Value> = keys
        .iter()
        .map(|key| json!({"token": key, "type": "acme_api_key", "url": "u", "source": "content"}))
        .collect();
    fs::write(folder.join("body.json"), Value::from(alert).to_string()).unwrap();
    let sign = "openssl ecparam -name prime256v1 -genkey -noout -out github.key
        openssl ec -in github.key -pubout -out github.pem
        openssl dgst -sha256 -sign github.key body.json | base64 >signature.txt";
    let mut bash = Command::new("bash");
    let signed = bash.args(["-ec", sign]).current_dir(&folder).output();
    assert!(
        signed.expect("bash").status.success(),
        "openssl (apt-get install openssl)"
    );
    let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut shell = Command::new("bash");
    shell.env(
        "GATEWAY_URL",
        format!("http://{}", gateway.local_addr().unwrap()),
    );
    let presented = thread::spawn(move || [0, 1].map(|_| answer_204(&gateway)));
    let text = read("docs/secret-scanners.md");
    page::run(&page::steps(&text), &folder, shell, str::to_owned);
    for (request, key) in presented.join().unwrap().iter().zip(keys) {
        assert!(request.starts_with("POST /api/v1/api-keys/revoke HTTP/1.1"));
        let body = json!({"api_key": key}).to_string();
        assert!(request.ends_with(&body), "the key, and nothing else");
    }
}

/// Takes one request with a body, and gives it back.
fn answer_204(server: &TcpListener) -> String {
    let (mut stream, _) = server.accept().unwrap();
    let mut request = String::new();
    while !request.ends_with('}') {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "no body");
        request.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    stream
        .write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        .unwrap();
    request
}

// --- readers -------------------------------------------------------------------------

/// All pages below `docs/`.
fn pages() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "md") {
                found.insert(path.to_str().unwrap().to_owned());
            }
        }
    }
    assert!(found.contains("docs/README.md"));
    found
}

/// A relative path without `..`.
fn plain(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str().unwrap().split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}
