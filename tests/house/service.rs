//! The installation of `apikeys serve`: its configurations are valid, its page has each of their
//! fields, and the unit, the image, the Kubernetes objects and the page agree.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use p256::pkcs8::{EncodePrivateKey, LineEnding};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use test_kit::repository::read;

const PAGE: &str = "docs/install/service.md";
const UNIT: &str = "deploy/service/apikeys-serve.service";
const KUBERNETES: &str = "deploy/kubernetes";

/// Checks a configuration as `apikeys serve --check` does, with a signing key at hand.
pub(crate) fn check(name: &str, text: &str) -> Result<(), String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("serve-{name}"));
    fs::create_dir_all(&folder).unwrap();
    let key = p256::SecretKey::from_slice(&[7; 32]).unwrap();
    let key = key.to_pkcs8_pem(LineEnding::LF).unwrap();
    fs::write(folder.join("signing-key.pem"), key).unwrap();
    let text = text.replace("/run/secrets/apikeys/signing-key.pem", "signing-key.pem");
    let file = folder.join("serve.yaml");
    fs::write(&file, text).unwrap();
    apikeys_serve::check(&file).map_err(|fault| format!("{fault:#}"))
}

#[test]
fn each_configuration_that_is_shipped_can_be_used() {
    for (name, path) in [
        ("unit", "deploy/service/serve.yaml"),
        ("pod", "deploy/kubernetes/serve.yaml"),
    ] {
        let text = read(path);
        check(name, &text).unwrap_or_else(|fault| panic!("{path}: {fault}"));
        // The lines that a reader may turn on.
        let turned_on = text.replace("\n# listen_", "\nlisten_");
        let turned_on = turned_on.replace("\n# keycloak_addresses", "\nkeycloak_addresses");
        assert_ne!(text, turned_on);
        check(name, &turned_on).unwrap_or_else(|fault| panic!("{path}: {fault}"));
    }
}

#[test]
fn the_page_has_each_field_of_the_file_and_no_other() {
    let fault = check("fields", "colour: red").unwrap_err();
    let (_, fields) = fault.split_once("expected one of").expect("the fields");
    let known = names(fields);
    let table = section("## Configuration");
    let told: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(told, known);
    assert!(known.len() > 10);
}

#[test]
fn the_unit_the_image_and_the_pod_run_the_same_command() {
    let command = "apikeys serve --config /etc/apikeys/serve.yaml";
    let unit = setting("ExecStart");
    assert_eq!(unit, format!("/usr/local/bin/{command}"));
    let dockerfile = read("deploy/Dockerfile");
    let (_, image) = dockerfile.split_once("FROM scratch AS serve\n").unwrap();
    let image = image.split("\n\n").next().unwrap();
    let arguments = r#"["serve", "--config", "/etc/apikeys/serve.yaml"]"#;
    assert!(image.contains(r#"ENTRYPOINT ["/usr/local/bin/apikeys"]"#));
    assert!(image.contains(&format!("CMD {arguments}")));
    let container = container();
    assert_eq!(
        container["args"],
        serde_json::from_str::<Value>(arguments).unwrap()
    );
    let user = &pod()["securityContext"]["runAsUser"];
    assert!(image.contains(&format!("USER {user}:{user}")));
    let page = read(PAGE);
    assert!(page.contains(&format!("{command} --check")));
    assert!(page.contains(&format!("--user {user}:{user}")));
    // The image is built and run with the same tag.
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        kubernetes("kustomization.yaml")["images"][0]["newTag"],
        version
    );
    assert_eq!(page.matches(&format!("apikeys-serve:{version}")).count(), 2);
}

#[test]
fn the_socket_lies_in_the_folder_that_the_unit_makes() {
    let serve: Value = serde_norway::from_str(&read("deploy/service/serve.yaml")).unwrap();
    let socket = serve["listen"][0].as_str().unwrap();
    let folder = format!("unix:/run/{}/", setting("RuntimeDirectory"));
    assert!(socket.starts_with(&folder), "{socket}");
    assert!(read(PAGE).contains(socket.strip_prefix("unix:").unwrap()));
    // Nothing is open to other machines.
    for (field, addresses) in serve.as_object().unwrap() {
        if field.starts_with("listen") {
            let address = addresses[0].as_str().unwrap();
            let stays = ["unix:", "127.0.0.1:"].map(|stays| address.starts_with(stays));
            assert!(stays.contains(&true), "{field}: {address}");
        }
    }
}

#[test]
fn the_end_of_the_process_is_waited_for() {
    let source = read("crates/serve/src/lib.rs");
    let limit = Regex::new(r"LAST_REQUESTS: Duration = Duration::from_secs\((\d+)\)").unwrap();
    let limit: u64 = limit.captures(&source).unwrap()[1].parse().unwrap();
    let stop: u64 = setting("TimeoutStopSec")
        .trim_end_matches('s')
        .parse()
        .unwrap();
    assert!(stop > limit, "systemd kills after {stop} s");
    let pause = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
        .as_u64()
        .unwrap();
    let grace = pod()["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > pause + limit, "the kubelet kills after {grace} s");
    assert!(section("## Stop and restart").contains(&format!("get {limit} s.")));
}

#[test]
fn ports_and_labels_of_the_kubernetes_objects_agree() {
    let serve = kubernetes("serve.yaml");
    let container = container();
    let port = |name: &str| {
        let ports = container["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == name);
        port.unwrap_or_else(|| panic!("no port {name}"))["containerPort"].clone()
    };
    for (field, name) in [("listen", "http"), ("listen_operations", "operations")] {
        assert_eq!(serve[field][0], format!("0.0.0.0:{}", port(name)));
    }
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"]["port"], "operations");
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert!(read("crates/serve/src/operations.rs").contains(&format!("\"{path}\"")));
    }
    let service = kubernetes("service.yaml");
    let name = &service["metadata"]["name"];
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
    assert_eq!(service["spec"]["ports"][0]["port"], port("http"));
    let url = format!(
        "http://{}.NAMESPACE.svc:{}/exchange",
        name.as_str().unwrap(),
        port("http")
    );
    assert!(read(PAGE).contains(&url), "{url}");

    let deployment = kubernetes("deployment.yaml");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let policy = kubernetes("network-policy.yaml");
    for selected in [
        &deployment["spec"]["selector"]["matchLabels"],
        &service["spec"]["selector"],
        &kubernetes("disruption-budget.yaml")["spec"]["selector"]["matchLabels"],
        &policy["spec"]["podSelector"]["matchLabels"],
    ] {
        assert_eq!(selected, labels);
    }
    // Each port is open to one caller: the first to the gateway, the second to Prometheus.
    let ways: Vec<_> = policy["spec"]["ingress"]
        .as_array()
        .unwrap()
        .iter()
        .map(|way| (way["ports"][0]["port"].clone(), way["from"][0].is_object()))
        .collect();
    assert_eq!(ways, [("http".into(), true), ("operations".into(), true)]);
}

#[test]
fn the_pod_gets_each_file_that_its_configuration_names() {
    let mounts = container()["volumeMounts"].clone();
    let mounted = |name: &str| {
        let mounts = mounts.as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["name"] == name).unwrap();
        assert_eq!(mount["readOnly"], true, "{name}");
        mount["mountPath"].as_str().unwrap().to_owned()
    };
    let key = kubernetes("serve.yaml")["signing_key_file"].clone();
    let (folder, file) = key.as_str().unwrap().rsplit_once('/').unwrap();
    assert_eq!(folder, mounted("signing-key"));
    let volumes = pod()["volumes"].clone();
    let secret = volumes[1]["secret"]["secretName"].as_str().unwrap();
    let made = format!("kubectl create secret generic {secret} --from-file={file}\n");
    assert!(read(PAGE).contains(&made), "{made}");
    let generated = &kubernetes("kustomization.yaml")["configMapGenerator"][0];
    assert_eq!(volumes[0]["configMap"]["name"], generated["name"]);
    assert_eq!(generated["files"][0], "serve.yaml");
    assert_eq!(mounted("configuration"), "/etc/apikeys");
}

#[test]
fn the_pod_has_no_rights_and_its_base_names_each_file() {
    let pod = pod();
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["automountServiceAccountToken"], false);
    let rights = &container()["securityContext"];
    assert_eq!(rights["readOnlyRootFilesystem"], true);
    assert_eq!(rights["allowPrivilegeEscalation"], false);
    assert_eq!(rights["capabilities"]["drop"][0], "ALL");
    let base = kubernetes("kustomization.yaml");
    let mut named: BTreeSet<String> = ["kustomization.yaml", "serve.yaml"].map(Into::into).into();
    for name in base["resources"].as_array().unwrap() {
        named.insert(name.as_str().unwrap().to_owned());
    }
    let there: BTreeSet<String> = fs::read_dir(test_kit::repository::path(KUBERNETES))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(named, there);
}

// --- how the files are read --------------------------------------------------

/// A file of the base; it holds one object.
fn kubernetes(name: &str) -> Value {
    let text = read(&format!("{KUBERNETES}/{name}"));
    Value::deserialize(serde_norway::Deserializer::from_str(&text))
        .unwrap_or_else(|fault| panic!("{name}: {fault}"))
}

fn pod() -> Value {
    kubernetes("deployment.yaml")["spec"]["template"]["spec"].clone()
}

fn container() -> Value {
    pod()["containers"][0].clone()
}

/// A setting of the unit.
fn setting(name: &str) -> String {
    let unit = read(UNIT);
    let value = unit
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name}")).to_owned()
}

/// A section of the page.
fn section(heading: &str) -> String {
    let page = read(PAGE);
    let (_, rest) = page.split_once(heading).expect("the section");
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The names in code marks.
fn names(text: &str) -> BTreeSet<String> {
    let odd = text.split('`').skip(1).step_by(2);
    odd.map(str::to_owned).collect()
}
