//! The pages of `docs/install/` about Envoy, tried on Envoy itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::gateway::{Gateway, member, socket_address};
use crate::page;
use crate::secrets::redact;
use crate::stack::free_ports;
use crate::world::{Case, Need, World};

const ENVOY: &str = include_str!("../../../../docs/install/envoy.md");
const ISTIO: &str = include_str!("../../../../docs/install/istio.md");
const ENVOY_GATEWAY: &str = include_str!("../../../../docs/install/envoy-gateway.md");

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("install::envoys_page_is_run", envoy_page),
        Case::new("install::envoy_as_on_its_page_exchanges_a_key", envoy_runs),
        Case::new("install::what_istio_adds_is_valid", istio),
        Case::new("install::what_envoy_gateway_merges_is_valid", envoy_gateway),
    ]
    .into_iter()
    .map(|case| case.needs(Need::OwnEnvoy))
    .collect()
}

/// A folder of a trial's own.
fn folder(world: &World, name: &str) -> PathBuf {
    let folder = world.stack().run_dir.join(name);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// The program that the stack runs.
pub(super) fn envoy(world: &World) -> PathBuf {
    let fetched = world.stack().script("fetch.sh", &["envoy"]).output();
    let fetched = fetched.expect("scripts/fetch.sh");
    PathBuf::from(String::from_utf8_lossy(&fetched.stdout).trim())
}

/// The filter that the stack runs.
fn wasm(world: &World) -> String {
    let rendered = world.stack().run_dir.join("envoy.yaml");
    let rendered = fs::read_to_string(rendered).expect("the stack's configuration");
    let found = rendered.split("filename: \"").nth(1);
    let found = found.and_then(|rest| rest.split('"').next());
    found.expect("the filter's file").to_owned()
}

fn envoy_page(world: &World) {
    let folder = folder(world, "install-envoy");
    fs::create_dir_all(folder.join("target/wasm")).expect("a folder");
    let built = folder.join("target/wasm/apikey_jwt_exchange.wasm");
    std::os::unix::fs::symlink(wasm(world), built).expect("a link");
    let key = world.stack().run_dir.join("signing-key.pem");
    fs::copy(key, folder.join("signing-key.pem")).expect("the signing key");
    let envoy = envoy(world);
    let path = std::env::var("PATH").expect("a path");
    let mut shell = Command::new("bash");
    let programs = envoy.parent().expect("a folder").display();
    shell.env("PATH", format!("{programs}:{path}"));
    page::run(&page::steps(ENVOY), &folder, shell, crate::secrets::redact);
    fs::remove_dir_all(&folder).expect("the folder goes");
}

/// The page's configuration; only the addresses and the realm are changed.
fn envoy_runs(world: &World) {
    let mut config = yaml(ENVOY).remove(0);
    let ports = free_ports(2);
    *member(&mut config, "/admin/address") = socket_address(([127, 0, 0, 1], 0).into());
    let listeners = "/static_resources/listeners";
    for (at, port) in ports.iter().enumerate() {
        *member(&mut config, &format!("{listeners}/{at}/address")) =
            socket_address(([127, 0, 0, 1], *port).into());
    }
    let filter = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config";
    let filter = member(&mut config, &format!("{listeners}/0{filter}"));
    *member(filter, "/vm_config/code/local/filename") = json!(wasm(world));
    let fields = member(filter, "/configuration/value");
    let mut parsed: Value = serde_json::from_str(fields.as_str().expect("a text")).expect("JSON");
    let [(_, url), (_, realm), ..] = world.keycloak.variables();
    parsed["keycloak_url"] = json!(url);
    parsed["realm"] = json!(realm);
    *fields = json!(parsed.to_string());
    let keycloak = url.strip_prefix("http://").expect("the stack's is plain");
    let addresses = [
        ("keycloak", keycloak.parse().expect("an address")),
        ("yield", ([127, 0, 0, 1], ports[1]).into()),
        ("orders", world.echo()),
    ];
    let clusters = member(&mut config, "/static_resources/clusters");
    for cluster in clusters.as_array_mut().expect("clusters") {
        let (_, address) = addresses
            .iter()
            .find(|(name, _)| cluster["name"] == *name)
            .expect("a cluster that is known here");
        *member(
            cluster,
            "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address",
        ) = socket_address(*address);
        // The stack's Keycloak has no TLS.
        cluster
            .as_object_mut()
            .expect("a cluster")
            .remove("transport_socket");
    }
    let started = Gateway::try_start_as(world.stack(), &config, ports[0], 1);
    let gateway = started.unwrap_or_else(|said| panic!("no gateway: {said}"));
    // A key under bcrypt, so that the filter yields.
    let answer = gateway.target.orders(&world.api_key);
    assert_eq!(answer.status, 200, "{}", answer.describe());
    let seen = answer.json()["headers"]["authorization"].clone();
    assert!(
        seen.as_str().unwrap_or_default().starts_with("Bearer eyJ"),
        "no token"
    );
    gateway.log.expect(&["self-check: all is well"]);
}

fn istio(world: &World) {
    let documents = yaml(ISTIO);
    let patches = documents
        .iter()
        .find(|document| document["kind"] == "EnvoyFilter");
    let patches = patches.expect("an EnvoyFilter")["spec"]["configPatches"].clone();
    let added = |kind: &str| -> Vec<Value> {
        let patches = patches.as_array().expect("patches").iter();
        let patches = patches.filter(|patch| patch["applyTo"] == kind);
        patches
            .map(|patch| {
                assert_eq!(patch["patch"]["operation"], "ADD");
                patch["patch"]["value"].clone()
            })
            .collect()
    };
    let (clusters, listeners) = (added("CLUSTER"), added("LISTENER"));
    assert_eq!((clusters.len(), listeners.len()), (2, 1));
    let config = json!({"static_resources": {"clusters": clusters, "listeners": listeners}});
    is_valid(world, "install-istio", &config);
}

fn envoy_gateway(world: &World) {
    let documents = yaml(ENVOY_GATEWAY);
    let merged = documents
        .iter()
        .find_map(|document| document.pointer("/spec/bootstrap/value"));
    let merged = merged.and_then(Value::as_str).expect("a bootstrap");
    let config: Value = serde_norway::from_str(merged).expect("YAML");
    assert_eq!(
        config["static_resources"]["clusters"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    is_valid(world, "install-envoy-gateway", &config);
}

/// The blocks of YAML on a page.
pub(crate) fn yaml(page: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for block in page.split("```yaml\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        found.push(serde_norway::from_str(block).expect("YAML"));
    }
    found
}

/// Envoy validates it, and refuses a broken configuration.
#[track_caller]
fn is_valid(world: &World, name: &str, config: &Value) {
    let folder = folder(world, name);
    let validate = |config: &Value| {
        let file: &Path = &folder.join("envoy.json");
        fs::write(file, config.to_string()).expect("a configuration");
        let output = Command::new(envoy(world))
            .args(["--mode", "validate", "--config-path"])
            .arg(file)
            .output()
            .expect("Envoy");
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            redact(&String::from_utf8_lossy(&said)),
        )
    };
    let (valid, said) = validate(config);
    assert!(valid, "{said}");
    let mut broken = config.clone();
    broken["static_resources"]["clusters"][0]["type"] = json!("NO_SUCH_TYPE");
    let (valid, _) = validate(&broken);
    assert!(!valid, "Envoy takes anything");
    fs::remove_dir_all(&folder).expect("the folder goes");
}
