//! A gateway of `deploy/gateways` with its own `apikeys serve`; `scripts/gateway.sh` starts both.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use serde_json::{Value, json};

use super::{Gateway, Process, Spec};
use crate::client::Target;
use crate::log::Log;
use crate::secrets::redact;
use crate::stack::{APIKEYS_PORTS, Stack, free_ports};

/// Starts a gateway of this kind, or returns the output of the service and of the script.
pub(super) fn start<'a>(
    stack: &'a Stack,
    kind: &str,
    spec: &Spec,
    name: &str,
) -> Result<Gateway<'a>, String> {
    assert!(
        spec.edits.is_empty() && spec.key_auth.is_none() && !spec.without_yield,
        "a case with these options must not run on {kind}: give the reason by not_on"
    );
    let names = APIKEYS_PORTS
        .into_iter()
        .chain(["GATEWAY_PORT", "ENVOY_ADMIN_PORT"]);
    let ports: Vec<(&str, u16)> = names.clone().zip(free_ports(names.count())).collect();
    let port = |name| {
        ports
            .iter()
            .find(|(found, _)| *found == name)
            .expect(name)
            .1
    };
    let config = stack.run_dir.join(format!("{name}.json"));
    let text = config_of(stack, kind, spec, name, port).to_string();
    fs::write(&config, text).expect("a configuration");
    let mut script = stack.script(
        "gateway.sh",
        &["start", kind, name, config.to_str().expect("UTF-8")],
    );
    script.envs(ports.iter().map(|(name, port)| (name, port.to_string())));
    script.env("GATEWAY_WORKERS", spec.workers.unwrap_or(1).to_string());
    if let Some(service) = spec.service {
        script.env("SERVICE_PORT", service.port().to_string());
    }
    if spec.trusted_hops == Some(1) {
        script.env("BEHIND_LOAD_BALANCER", "1");
    }
    let started = script.output().expect("scripts/gateway.sh");
    let gateway = Gateway {
        target: Target::local(port("GATEWAY_PORT")),
        log: Log::File(stack.run_dir.join(format!("{name}-apikeys.log"))),
        workers: 1,
        url: format!("http://127.0.0.1:{}", port("GATEWAY_PORT")),
        process: Process::Served {
            stack,
            name: name.to_owned(),
        },
    };
    if started.status.success() {
        return Ok(gateway);
    }
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    Err(redact(&format!("{said}\n{}", gateway.log.text())))
}

/// The stack's configuration of the service, with the trial's differences.
fn config_of(
    stack: &Stack,
    kind: &str,
    spec: &Spec,
    name: &str,
    port: impl Fn(&'static str) -> u16,
) -> Value {
    let text = fs::read_to_string(stack.run_dir.join("apikeys.yaml")).expect("apikeys.yaml");
    let mut config: Value = serde_norway::from_str(&text).expect("YAML");
    for (listener, name) in [
        ("listen", "APIKEYS_PORT"),
        ("listen_operations", "APIKEYS_OPERATIONS_PORT"),
        ("listen_grpc", "APIKEYS_GRPC_PORT"),
        ("listen_management", "APIKEYS_MANAGEMENT_PORT"),
    ] {
        config[listener] = json!([format!("127.0.0.1:{}", port(name))]);
    }
    if let Some(pem) = &spec.signing_key {
        let file = format!("{name}.pem");
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut written = options.open(stack.run_dir.join(&file)).expect("a file");
        written.write_all(pem.as_bytes()).expect("a key");
        config["signing_key_file"] = json!(file);
    }
    // Calls the stack's Keycloak, also if the trial changes keycloak_url.
    config["keycloak_addresses"] = match spec.keycloak.as_slice() {
        [] => json!([config["exchange"]["keycloak_url"]]),
        given => {
            let url = |address| json!(format!("http://{address}"));
            given.iter().map(url).collect()
        }
    };
    // Envoy sends the whole X-Forwarded-For. The other gateways send the address that they have found.
    if kind == "envoy-ext-authz" {
        config["trusted_hops"] = json!(spec.trusted_hops.unwrap_or(0));
    }
    // No polls by default: some trials count calls.
    for part in ["exchange", "management"] {
        config[part]["revocation_poll_seconds"] = json!(0);
    }
    for (field, value) in &spec.fields {
        config["exchange"][field] = value.clone();
    }
    let fields = config["exchange"].as_object_mut().expect("fields");
    fields.retain(|_, value| !value.is_null());
    config
}
