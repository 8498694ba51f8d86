//! A gateway of a trial's own. It shares Keycloak and the service with the gateway under test. It is the
//! stack's Envoy with some fields of the filter or the module changed, the stack's gateway with a separate
//! `apikeys serve` ([`served`]), or a gateway that a command starts ([`hook`]).

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::client::{Request, Target};
use crate::faults::Proxy;
use crate::log::{Log, worker_of};
use crate::secrets::redact;
use crate::stack::{Stack, free_ports};

mod hook;
mod served;

use hook::Hooked;

/// The variable that carries a signing key of a trial's own to Envoy's filter or module.
const SIGNING_KEY: &str = "E2E_SIGNING_KEY";

static STARTED: AtomicUsize = AtomicUsize::new(0);

/// Changes resources of Envoy's; receives a free port.
type Edit = Box<dyn Fn(&mut Value, u16)>;

/// A gateway's differences from the stack's own.
#[derive(Default)]
pub struct Spec {
    fields: Vec<(String, Value)>,
    /// PEM; none for the gateway's own.
    signing_key: Option<String>,
    without_yield: bool,
    /// Clients by their keys, which the gateway checks before our filter.
    key_auth: Option<BTreeMap<String, String>>,
    /// Nodes of Keycloak; none for the stack's own.
    keycloak: Vec<SocketAddr>,
    service: Option<SocketAddr>,
    workers: Option<usize>,
    trusted_hops: Option<u32>,
    edits: Vec<Edit>,
}

impl Spec {
    /// Puts so many load balancers in front of it.
    pub fn behind(mut self, hops: u32) -> Self {
        self.trusted_hops = Some(hops);
        self
    }

    /// The gateway's own check of keys in header `apikey` stands before our filter, names
    /// the client in `x-consumer-username` and leaves the key where it is.
    pub fn key_auth(mut self, clients: BTreeMap<String, String>) -> Self {
        self.key_auth = Some(clients);
        self
    }

    /// Changes Envoy's `static_resources` with this function too, which receives a free port.
    pub fn edit(mut self, edit: impl Fn(&mut Value, u16) + 'static) -> Self {
        self.edits.push(Box::new(edit));
        self
    }

    /// A field of the filter's configuration; null leaves the gateway's own out.
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    /// Signs with this key, in PEM; the filter receives it in the way of the gateway's own
    /// key.
    pub fn signing_key(mut self, pem: &str) -> Self {
        self.signing_key = Some(pem.to_owned());
        self
    }

    /// Lets nothing answer at its `yield_upstream`.
    pub fn without_yield(mut self) -> Self {
        self.without_yield = true;
        self
    }

    /// Writes each request to its audit log, so that [`Gateway::uses_by_worker`] counts all.
    pub fn audited(self) -> Self {
        self.field("audit_hits_per_1000", 1000)
    }

    /// Sends its callouts to Keycloak through this proxy; after several calls, through the
    /// proxies in turn.
    pub fn through(self, proxy: &Proxy) -> Self {
        self.through_address(proxy.address)
    }

    /// The same with an address, even one where nobody listens.
    pub fn through_address(mut self, address: SocketAddr) -> Self {
        self.keycloak.push(address);
        self
    }

    /// Sends requests on to this service instead of the stack's.
    pub fn serving(mut self, address: SocketAddr) -> Self {
        self.service = Some(address);
        self
    }

    /// Worker threads or processes; one by default.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }
}

/// A running gateway; stopped when it is dropped.
pub struct Gateway<'a> {
    pub target: Target,
    pub log: Log,
    /// The workers that the log tells apart: 1 for `apikeys serve`, with one memory for all threads.
    pub workers: usize,
    url: String,
    process: Process<'a>,
}

/// The running program.
enum Process<'a> {
    Envoy {
        stack: &'a Stack,
        name: String,
        port: u16,
    },
    /// A gateway, and its `apikeys serve` under the same name with the suffix `-apikeys`.
    Served {
        stack: &'a Stack,
        name: String,
    },
    Hooked(Hooked),
}

impl<'a> Gateway<'a> {
    /// Starts one; fails with the end of its log if it does not start.
    #[allow(dead_code, reason = "for suites that know of no other gateway")]
    #[track_caller]
    pub fn start(stack: &'a Stack, spec: &Spec) -> Self {
        Self::try_start(stack, spec).unwrap_or_else(|log| panic!("no gateway: {log}"))
    }

    /// Starts a gateway, or returns the output of the gateway and of its script.
    pub fn try_start(stack: &'a Stack, spec: &Spec) -> Result<Self, String> {
        let kind = stack.gateway();
        if !["envoy", "envoy-module"].contains(&kind.as_str()) {
            return served::start(stack, &kind, spec, &new_name());
        }
        let (edited, port) = envoy_of(stack, spec);
        let environment = spec
            .signing_key
            .iter()
            .map(|pem| (SIGNING_KEY, pem.clone()));
        let workers = spec.workers.unwrap_or(1);
        Self::try_start_in(stack, &edited, port, workers, environment)
    }

    /// Starts one with this configuration of Envoy, which listens on that port.
    pub fn try_start_as(
        stack: &'a Stack,
        envoy: &Value,
        port: u16,
        workers: usize,
    ) -> Result<Self, String> {
        Self::try_start_in(stack, envoy, port, workers, [])
    }

    /// The same with more variables in Envoy's environment.
    pub fn try_start_in(
        stack: &'a Stack,
        envoy: &Value,
        port: u16,
        workers: usize,
        environment: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, String> {
        let name = new_name();
        let config = stack.run_dir.join(format!("{name}.json"));
        fs::write(&config, envoy.to_string()).expect("a configuration");
        let started = stack
            .script("envoy.sh", &["start", &name, config.to_str().unwrap()])
            .env("ENVOY_CONCURRENCY", workers.to_string())
            .envs(environment)
            .output()
            .expect("scripts/envoy.sh");
        let gateway = Self {
            target: Target::local(port),
            log: Log::File(stack.run_dir.join(format!("{name}.log"))),
            workers,
            url: format!("http://127.0.0.1:{port}"),
            process: Process::Envoy { stack, name, port },
        };
        if started.status.success() {
            return Ok(gateway);
        }
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        Err(redact(&format!("{said}\n{}", gateway.log.text())))
    }

    /// Lets a command start one, with its log in this folder, or returns the command's words.
    pub fn try_start_by(command: &str, spec: &Spec, folder: &Path) -> Result<Self, String> {
        assert!(spec.edits.is_empty(), "Envoy's resources are Envoy's alone");
        let log = folder.join(format!("{}.log", new_name()));
        let (url, hooked) = hook::start(command, spec, &log)?;
        Ok(Self {
            target: Target::parse(&url),
            log: Log::File(log),
            workers: spec.workers.unwrap_or(1),
            url,
            process: Process::Hooked(hooked),
        })
    }

    /// The address at which it listens.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The answer of Envoy's admin interface to a GET.
    pub fn admin(&self, path: &str) -> String {
        let Process::Envoy { stack, name, .. } = &self.process else {
            panic!("no Envoy of the stack's");
        };
        let address = stack.run_dir.join(format!("{name}.admin"));
        let address = fs::read_to_string(address).expect("the admin address");
        let target = Target::parse(&format!("http://{address}{path}"));
        let answer = target.send(&Request::root());
        String::from_utf8_lossy(&answer.body).into_owned()
    }

    /// Connections that each worker of an Envoy has taken so far.
    pub fn connections_by_worker(&self) -> Vec<u64> {
        let stats = self.admin("/stats?filter=downstream_cx_total");
        let Process::Envoy { port, .. } = &self.process else {
            return Vec::new();
        };
        let prefix = format!("listener.127.0.0.1_{port}.worker_");
        stats
            .lines()
            .filter(|line| line.starts_with(&prefix))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect()
    }

    /// The lines of the audit log with all these words, counted by the worker that wrote them. The module writes
    /// those of first uses on a thread of its own, which is left out.
    pub fn uses_by_worker(&self, words: &[&str]) -> BTreeMap<String, usize> {
        let words = [&[r#"{"event":"exchange""#], words].concat();
        let mut counts = BTreeMap::new();
        for line in self.log.lines(&words) {
            let worker = worker_of(&line).unwrap_or_default().to_owned();
            if self.is_modules_thread(&worker) {
                continue;
            }
            *counts.entry(worker).or_insert(0) += 1;
        }
        counts
    }

    fn is_modules_thread(&self, thread: &str) -> bool {
        let Process::Envoy { .. } = &self.process else {
            return false;
        };
        let name = fs::read_to_string(format!("/proc/{}/task/{thread}/comm", self.pid()));
        name.is_ok_and(|name| name.trim_end() == "apikeys")
    }

    /// The peak memory of its processes, in bytes.
    pub fn memory_peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// A figure of its processes' memory, as Linux names it; in bytes.
    pub fn memory(&self, name: &str) -> u64 {
        let pids = match &self.process {
            Process::Envoy { .. } => vec![self.pid()],
            Process::Served { stack, name } => vec![stack.pid(&format!("{name}-apikeys"))],
            Process::Hooked(hooked) => hooked.pids(),
        };
        pids.iter().map(|pid| memory(pid, name)).sum()
    }

    /// The process of an Envoy.
    pub fn pid(&self) -> String {
        match &self.process {
            Process::Envoy { stack, name, .. } => stack.pid(name),
            _ => panic!("no Envoy of the stack's"),
        }
    }

    /// Stops it; a second call does nothing.
    pub fn stop(&self) {
        let (stack, script, name) = match &self.process {
            Process::Envoy { stack, name, .. } => (stack, "envoy.sh", name),
            Process::Served { stack, name } => (stack, "gateway.sh", name),
            Process::Hooked(hooked) => return hooked.stop(),
        };
        let stopped = stack.script(script, &["stop", name]).output();
        if !stopped.is_ok_and(|output| output.status.success()) {
            eprintln!("could not stop the gateway {name}");
        }
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn new_name() -> String {
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    format!("e2e-{}-{number}", std::process::id())
}

/// A figure of a process's memory, as Linux names it; in bytes.
pub fn memory(pid: &str, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect(name) * 1024
}

/// The stack's configuration of Envoy with a trial's differences, and the port that it listens on.
pub fn envoy_of(stack: &Stack, spec: &Spec) -> (Value, u16) {
    let ports = free_ports(3);
    let mut edited = edited(&stack.run_dir.join("envoy.yaml"), spec, ports[0], ports[1]);
    for edit in &spec.edits {
        edit(&mut edited["static_resources"], ports[2]);
    }
    (edited, ports[0])
}

/// The rendered configuration, edited.
fn edited(rendered: &Path, spec: &Spec, port: u16, yield_port: u16) -> Value {
    let text = fs::read_to_string(rendered).expect("the stack's configuration");
    let mut config: Value = serde_norway::from_str(&text).expect("YAML");
    config["admin"]["address"] = socket_address(([127, 0, 0, 1], 0).into());
    let resources = &mut config["static_resources"];
    let listeners = resources["listeners"].as_array_mut().expect("listeners");
    // The validator and the application are the stack's.
    listeners.retain(|listener| listener["name"] != "service");
    for listener in listeners {
        let port = if listener["name"] == "yield" {
            yield_port
        } else {
            port
        };
        listener["address"] = socket_address(([127, 0, 0, 1], port).into());
        if listener["name"] == "gateway" {
            edit_filter(listener, spec);
            if let Some(hops) = spec.trusted_hops {
                let manager = member(listener, "/filter_chains/0/filters/0/typed_config");
                manager["xff_num_trusted_hops"] = json!(hops);
                let mutations = "/early_header_mutation_extensions/0/typed_config/mutations";
                let mutations = member(manager, mutations).as_array_mut().expect("a list");
                mutations.retain(|mutation| mutation["remove"] != "x-forwarded-for");
            }
        }
    }
    lead_to(&mut config, |cluster| match cluster {
        "yield" => vec![([127, 0, 0, 1], yield_port).into()],
        "keycloak" => spec.keycloak.clone(),
        "orders" => spec.service.into_iter().collect(),
        _ => vec![],
    });
    config
}

/// Points clusters to the addresses given for their names; the other clusters stay.
pub fn lead_to(config: &mut Value, addresses: impl Fn(&str) -> Vec<SocketAddr>) {
    let clusters = member(config, "/static_resources/clusters");
    for cluster in clusters.as_array_mut().expect("clusters") {
        let addresses = cluster["name"].as_str().map_or_else(Vec::new, &addresses);
        if !addresses.is_empty() {
            let endpoint = |address| json!({"endpoint": {"address": socket_address(address)}});
            *member(cluster, "/load_assignment/endpoints/0/lb_endpoints") =
                addresses.into_iter().map(endpoint).collect();
        }
    }
}

fn edit_filter(listener: &mut Value, spec: &Spec) {
    let filters = member(
        listener,
        "/filter_chains/0/filters/0/typed_config/http_filters",
    );
    let filters = filters.as_array_mut().expect("filters");
    // One Wasm machine serves all filters, and takes the variables of the first filter; the module reads Envoy's own.
    for filter in &mut *filters {
        if let Some(machine) = filter.pointer_mut("/typed_config/config/vm_config")
            && let Some(pem) = &spec.signing_key
        {
            machine["environment_variables"]["key_values"][SIGNING_KEY] = json!(pem);
        }
    }
    // Most trials do not want polls, and some of them count calls. The management API polls
    // for all of the node's filters.
    for filter in &mut *filters {
        edit_fields(filter, &[("revocation_poll_seconds".to_owned(), json!(0))]);
    }
    let filter = filters
        .iter_mut()
        .find(|filter| filter["name"] == "apikey_jwt_exchange")
        .expect("the filter");
    let mut fields = spec.fields.clone();
    if spec.signing_key.is_some() {
        let property = format!("env.{SIGNING_KEY}");
        fields.push(("signing_key_property".to_owned(), json!(property)));
    }
    if spec.without_yield {
        fields.push(("yield_upstream".to_owned(), json!("nowhere")));
    }
    edit_fields(filter, &fields);
    if let Some(clients) = &spec.key_auth {
        filters.insert(0, key_auth(clients));
    }
}

/// Envoy's own check of keys, as Kong's key-auth does it.
fn key_auth(clients: &BTreeMap<String, String>) -> Value {
    let credential = |(key, client)| json!({"key": key, "client": client});
    let credentials: Vec<Value> = clients.iter().map(credential).collect();
    json!({
        "name": "envoy.filters.http.api_key_auth",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
            "credentials": credentials,
            "key_sources": [{"header": "apikey"}],
            "forwarding": {"header": "x-consumer-username", "hide_credentials": false},
        },
    })
}

/// Sets fields of a filter's configuration, if the filter is one of ours.
pub fn edit_fields(filter: &mut Value, changed: &[(String, Value)]) {
    // The module's are a structure; null would reach it as a value.
    if let Some(Value::Object(fields)) = filter.pointer_mut("/typed_config/filter_config/value") {
        for (name, value) in changed {
            fields.insert(name.clone(), value.clone());
        }
        fields.retain(|_, value| !value.is_null());
        return;
    }
    let Some(text) = filter.pointer_mut("/typed_config/config/configuration/value") else {
        return;
    };
    let mut fields: Value = serde_json::from_str(text.as_str().expect("a text")).expect("JSON");
    for (name, value) in changed {
        fields[name] = value.clone();
    }
    *text = json!(fields.to_string());
}

pub fn member<'a>(value: &'a mut Value, path: &str) -> &'a mut Value {
    value
        .pointer_mut(path)
        .unwrap_or_else(|| panic!("Envoy's configuration has no {path}"))
}

pub fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
