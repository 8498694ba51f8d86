//! The pages of `docs/install/` about Envoy, tried on Envoy itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::gateway::{Gateway, member, socket_address};
use crate::page;
use crate::secrets::redact;
use crate::stack::{free_ports, project};
use crate::world::{Case, Host, Need, World};

const ENVOY: &str = include_str!("../../../../docs/install/envoy.md");
const ENVOY_MODULE: &str = include_str!("../../../../docs/install/envoy-module.md");
const ISTIO: &str = include_str!("../../../../docs/install/istio.md");
const ENVOY_GATEWAY: &str = include_str!("../../../../docs/install/envoy-gateway.md");

pub(crate) fn cases() -> Vec<Case> {
    let of_wasm = [
        Case::new("install::envoys_page_is_run", envoy_page),
        Case::new("install::envoy_as_on_its_page_exchanges_a_key", envoy_runs),
        Case::new("install::what_istio_adds_is_valid", istio),
        Case::new("install::what_envoy_gateway_merges_is_valid", |world| {
            envoy_gateway(world, ENVOY_GATEWAY, 2);
        }),
    ];
    let of_module = [
        Case::new("install::the_modules_page_is_run", module_page),
        Case::new(
            "install::envoy_with_the_module_as_on_its_page_exchanges_a_key",
            module_runs,
        ),
        Case::new(
            "install::what_envoy_gateway_merges_for_the_module_is_valid",
            |world| envoy_gateway(world, ENVOY_MODULE, 1),
        ),
    ];
    let of_wasm = of_wasm
        .into_iter()
        .map(|case| case.not_on(&[Host::EnvoyModule], "is about the Wasm filter"));
    let of_module = of_module
        .into_iter()
        .map(|case| case.not_on(&[Host::Envoy], "is about the module: GATEWAY=envoy-module"));
    of_wasm
        .chain(of_module)
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

/// The folder of the module that the stack runs.
pub(super) fn modules() -> String {
    let target = std::env::var("CARGO_TARGET_DIR");
    let target = target.unwrap_or_else(|_| format!("{}/target", project()));
    format!("{target}/module")
}

fn envoy_page(world: &World) {
    page_is_run(
        world,
        ENVOY,
        "target/wasm/apikey_jwt_exchange.wasm",
        &wasm(world),
    );
}

fn module_page(world: &World) {
    let file = "libapikeys_envoy.so";
    let built = format!("{}/{file}", modules());
    page_is_run(
        world,
        ENVOY_MODULE,
        &format!("target/module/{file}"),
        &built,
    );
}

/// Runs a page's commands in a folder with a build and a signing key.
fn page_is_run(world: &World, text: &str, named: &str, built: &str) {
    let folder = folder(world, "install-envoy");
    let named = folder.join(named);
    fs::create_dir_all(named.parent().expect("a folder")).expect("a folder");
    std::os::unix::fs::symlink(built, named).expect("a link");
    let key = world.stack().run_dir.join("signing-key.pem");
    fs::copy(key, folder.join("signing-key.pem")).expect("the signing key");
    let envoy = envoy(world);
    let path = std::env::var("PATH").expect("a path");
    let mut shell = Command::new("bash");
    let programs = envoy.parent().expect("a folder").display();
    shell.env("PATH", format!("{programs}:{path}"));
    page::run(&page::steps(text), &folder, shell, crate::secrets::redact);
    fs::remove_dir_all(&folder).expect("the folder goes");
}

fn envoy_runs(world: &World) {
    as_on_page_runs(world, ENVOY, |filter, fields| {
        *member(filter, "/config/vm_config/code/local/filename") = json!(wasm(world));
        let text = member(filter, "/config/configuration/value");
        let mut parsed: Value = serde_json::from_str(text.as_str().expect("a text")).expect("JSON");
        merge(&mut parsed, fields);
        *text = json!(parsed.to_string());
    });
}

fn module_runs(world: &World) {
    as_on_page_runs(world, ENVOY_MODULE, |filter, fields| {
        merge(member(filter, "/filter_config/value"), fields);
    });
}

fn merge(into: &mut Value, fields: Value) {
    for (name, value) in fields.as_object().expect("fields") {
        into[name] = value.clone();
    }
}

/// The page's configuration; only the addresses, the realm and the place of the filter's file are changed.
fn as_on_page_runs(world: &World, page: &str, edit: impl Fn(&mut Value, Value)) {
    let mut config = yaml(page).remove(0);
    let ports = free_ports(2);
    *member(&mut config, "/admin/address") = socket_address(([127, 0, 0, 1], 0).into());
    let listeners = member(&mut config, "/static_resources/listeners");
    let listeners = listeners.as_array_mut().expect("listeners");
    for (listener, port) in listeners.iter_mut().zip(&ports) {
        listener["address"] = socket_address(([127, 0, 0, 1], *port).into());
    }
    let filter = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config";
    let [(_, url), (_, realm), ..] = world.keycloak.variables();
    let fields = json!({"keycloak_url": url, "realm": realm});
    edit(member(&mut listeners[0], filter), fields);
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

fn envoy_gateway(world: &World, page: &str, clusters: usize) {
    let documents = yaml(page);
    let merged = documents
        .iter()
        .find_map(|document| document.pointer("/spec/bootstrap/value"));
    let merged = merged.and_then(Value::as_str).expect("a bootstrap");
    let config: Value = serde_norway::from_str(merged).expect("YAML");
    assert_eq!(
        config["static_resources"]["clusters"]
            .as_array()
            .map(Vec::len),
        Some(clusters)
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
