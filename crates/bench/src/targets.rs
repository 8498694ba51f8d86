//! Gateways to measure: one Envoy with a listener for each filter. Each listener is the
//! example's (`deploy/envoy/envoy.yaml`), with another filter in the place of ours.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::client::Target;
use crate::cores;
use crate::gateway::{Gateway, edit_fields, lead_to, member, socket_address};
use crate::shares::share_out;
use crate::stack::{free_ports, project};
use crate::wait;

/// The key that `api_key_auth` takes; nobody's credential.
pub(crate) const PEER_KEY: &str = "bench-peer-key";

/// About the length of the demo's tokens, with `Bearer` before them.
const TOKEN_BYTES: usize = 1_000;

/// The filter of a listener.
#[derive(Clone)]
pub(crate) enum Filter {
    /// No filter.
    None,
    /// A Wasm filter that does nothing.
    Noop,
    /// The same with the host calls of our filter, and nothing else.
    HostCalls,
    /// The same calls, and the call that reads an entry of shared data.
    L2HostCalls,
    /// Envoy's own filter, in C++: compares the key with a list.
    ApiKeyAuth,
    /// `ext_authz` over gRPC as in `deploy/gateways`, with the exchange `normal` of the `apikeys serve`
    /// at this port.
    ExtAuthz(u16),
    /// Envoy's own filter that changes headers: sets `authorization` to a token's length.
    HeaderMutation,
    /// A dynamic module that does nothing.
    NoopModule,
    /// The same with the calls of our module to Envoy, and nothing else.
    ModuleCalls,
    /// Our filter, with these fields changed.
    Exchange(Vec<(&'static str, Value)>),
    /// The same as a dynamic module.
    Module(Vec<(&'static str, Value)>),
    /// Several filters of one kind, each for a share of the keys.
    Shared(Box<Filter>),
}

/// A running Envoy of one worker on the gateway's core.
pub(crate) struct Targets {
    pub(crate) gateway: Gateway<'static>,
    ports: Vec<(&'static str, u16)>,
}

impl Targets {
    /// Starts an Envoy with a listener for each name. A request without a key is given the
    /// demo's: oha takes a key only from its arguments, which are public.
    pub(crate) fn start(bench: &Bench, listeners: &[(&'static str, Filter)]) -> Self {
        Self::start_before(bench, listeners, &[])
    }

    /// The same, with callouts to these addresses instead of Keycloak's.
    pub(crate) fn start_before(
        bench: &Bench,
        listeners: &[(&'static str, Filter)],
        keycloak: &[SocketAddr],
    ) -> Self {
        let free = free_ports(listeners.len() + 1);
        let (yield_port, free) = free.split_first().expect("a port");
        let mut config = example(&bench.stack.run_dir, *yield_port);
        let local = |port: u16| vec![SocketAddr::from(([127, 0, 0, 1], port))];
        lead_to(&mut config, |cluster| match cluster {
            "orders" => local(bench.service_port),
            "yield" => local(*yield_port),
            "keycloak" => keycloak.to_vec(),
            _ => vec![],
        });
        for (_, filter) in listeners {
            if let Filter::ExtAuthz(port) = filter {
                let clusters = member(&mut config, "/static_resources/clusters");
                let clusters = clusters.as_array_mut().expect("clusters");
                clusters.push(ext_authz(bench, *port).1);
            }
        }
        let all = member(&mut config, "/static_resources/listeners");
        let all = all.as_array_mut().expect("listeners");
        let at = all
            .iter()
            .position(|listener| listener["name"] == "gateway");
        let example = all.remove(at.expect("the gateway"));
        let mut ports = Vec::new();
        for ((name, filter), port) in listeners.iter().zip(free) {
            all.push(listener(&example, name, filter, *port, bench));
            ports.push((*name, *port));
        }
        let gateway = Gateway::try_start_as(bench.stack, &config, ports[0].1, 1);
        let gateway = gateway.unwrap_or_else(|log| panic!("no gateway: {log}"));
        bench.cores.give_gateway(&gateway.pid());
        Self { gateway, ports }
    }

    /// The port of a listener.
    pub(crate) fn port(&self, name: &str) -> u16 {
        let found = self.ports.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("no listener {name}")).1
    }

    /// A listener, for requests one by one.
    pub(crate) fn target(&self, name: &str) -> Target {
        Target::local(self.port(name))
    }

    /// Waits until a listener has answered a request since the last reading.
    pub(crate) fn wait_for_requests(&self) {
        let before = self.answered();
        wait::until("requests", Duration::from_secs(10), || {
            let now = self.answered();
            (now > before)
                .then_some(())
                .ok_or(format!("{now} requests"))
        });
    }

    fn answered(&self) -> f64 {
        let (name, _) = self.ports[0];
        self.counter(&format!("http.{name}.downstream_rq_completed"))
    }

    /// Percentiles (`P99`; `P100` is the longest) of the duration of the turns of the
    /// worker's loop since the last reading, in milliseconds. 0 if there was none.
    pub(crate) fn turns_ms<const N: usize>(&self, percentiles: [&str; N]) -> [f64; N] {
        let name = "listener_manager.worker_0.dispatcher.loop_duration_us";
        let mut longest = [0.0_f64; N];
        // Envoy shows an interval at a later reading than the one that ended it.
        for _ in 0..3 {
            let stats = self.gateway.admin(&format!("/stats?filter={name}"));
            assert!(stats.contains(name), "no {name}: {stats}");
            for (longest, percentile) in longest.iter_mut().zip(percentiles) {
                let rest = stats
                    .split_once(&format!("{percentile}("))
                    .map(|(_, rest)| rest);
                let interval = rest.and_then(|rest| rest.split_once(','));
                let us: Option<f64> = interval.and_then(|(value, _)| value.trim().parse().ok());
                *longest = longest.max(us.unwrap_or(0.0) / 1000.0);
            }
        }
        longest
    }

    /// Processor seconds of its worker.
    pub(crate) fn processor_seconds(&self) -> f64 {
        let nanoseconds = cores::workers(&self.gateway.pid()).into_iter();
        let nanoseconds = nanoseconds.map(|thread| {
            // "<nanoseconds run> <nanoseconds waited> <times>", proc(5).
            let text = fs::read_to_string(thread.join("schedstat")).expect("its times");
            let run = text
                .split(' ')
                .next()
                .and_then(|run| run.parse::<u64>().ok());
            run.expect("nanoseconds")
        });
        let nanoseconds: u64 = nanoseconds.sum();
        assert!(nanoseconds > 0, "the kernel counts no processor time");
        nanoseconds as f64 / 1e9
    }

    /// One of Envoy's counters.
    pub(crate) fn counter(&self, name: &str) -> f64 {
        let stats = self.gateway.admin(&format!("/stats?filter=^{name}$"));
        let value = stats.rsplit_once(": ").map(|(_, value)| value.trim());
        value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }
}

/// The stack's rendered configuration, with other ports and without the service.
fn example(run_dir: &Path, yield_port: u16) -> Value {
    let text = fs::read_to_string(run_dir.join("envoy.yaml")).expect("the configuration");
    let mut config: Value = serde_norway::from_str(&text).expect("YAML");
    config["admin"]["address"] = socket_address(([127, 0, 0, 1], 0).into());
    // Envoy then measures each turn of a worker's loop.
    config["enable_dispatcher_stats"] = json!(true);
    // A histogram's interval begins at its last reading.
    config["stats_flush_on_admin"] = json!(true);
    let listeners = member(&mut config, "/static_resources/listeners");
    let listeners = listeners.as_array_mut().expect("listeners");
    listeners.retain(|listener| listener["name"] != "service");
    for listener in listeners {
        if listener["name"] == "yield" {
            listener["address"] = socket_address(([127, 0, 0, 1], yield_port).into());
        }
    }
    config
}

fn listener(example: &Value, name: &str, filter: &Filter, port: u16, bench: &Bench) -> Value {
    if let Filter::Shared(filter) = filter {
        let mut listener = listener(example, name, filter, port, bench);
        share_out(&mut listener);
        return listener;
    }
    let mut listener = example.clone();
    listener["name"] = json!(name);
    listener["address"] = socket_address(([127, 0, 0, 1], port).into());
    let manager = member(&mut listener, "/filter_chains/0/filters/0/typed_config");
    manager["stat_prefix"] = json!(name);
    manager["access_log"][0]["typed_config"]["path"] =
        json!(bench.stack.run_dir.join(format!("access-{name}.log")));
    let mutations = "/early_header_mutation_extensions/0/typed_config/mutations";
    let mutations = member(manager, mutations).as_array_mut();
    mutations.expect("mutations").push(json!({"append": {
        "header": {"key": "authorization", "value": format!("ApiKey {}", bench.key)},
        "append_action": "ADD_IF_ABSENT",
    }}));
    let routes = member(manager, "/route_config/virtual_hosts/0/routes");
    // The management API is not measured.
    let routes = routes.as_array_mut().expect("routes");
    routes.retain(|route| route["name"] == "orders");
    let filters = manager["http_filters"].as_array_mut().expect("filters");
    filters.retain(|filter| filter["name"] != "apikey_management");
    match filter {
        Filter::None | Filter::Shared(_) => {
            filters.remove(0);
        }
        Filter::Noop | Filter::HostCalls | Filter::L2HostCalls => {
            let config = member(&mut filters[0], "/typed_config/config");
            config["name"] = json!("noop");
            config["root_id"] = json!("noop");
            config["vm_config"]["vm_id"] = json!("noop");
            config["vm_config"]["code"]["local"]["filename"] =
                json!(format!("{}/target/wasm/noop_filter.wasm", project()));
            config["configuration"]["value"] = match filter {
                Filter::HostCalls => json!(TOKEN_BYTES.to_string()),
                Filter::L2HostCalls => json!(format!("{TOKEN_BYTES} shared")),
                _ => json!("{}"),
            };
        }
        Filter::ApiKeyAuth => {
            filters[0] = json!({
                "name": "envoy.filters.http.api_key_auth",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
                    "credentials": [{"key": PEER_KEY, "client": "bench"}],
                    "key_sources": [{"header": "x-peer-key"}],
                },
            });
        }
        Filter::ExtAuthz(port) => {
            filters[0] = ext_authz(bench, *port).0;
            let routes = member(manager, "/route_config/virtual_hosts/0/routes");
            routes[0]["typed_per_filter_config"] = json!({"envoy.filters.http.ext_authz": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
                "check_settings": {"context_extensions": {"exchange": "normal"}},
            }});
        }
        Filter::HeaderMutation => {
            filters[0] = json!({
                "name": "envoy.filters.http.header_mutation",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                    "mutations": {"request_mutations": [{"append": {
                        "header": {"key": "authorization", "value": "x".repeat(TOKEN_BYTES)},
                        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                    }}]},
                },
            });
        }
        Filter::NoopModule | Filter::ModuleCalls => {
            let calls = matches!(filter, Filter::ModuleCalls);
            let text = if calls {
                TOKEN_BYTES.to_string()
            } else {
                String::new()
            };
            filters[0] = module(
                "noop_module",
                json!({
                    "@type": "type.googleapis.com/google.protobuf.StringValue", "value": text,
                }),
            );
        }
        Filter::Exchange(fields) => change(&mut filters[0], fields),
        Filter::Module(fields) => {
            let text = member(&mut filters[0], "/typed_config/config/configuration/value");
            let text = text.as_str().expect("a text");
            let value: Value = serde_json::from_str(text).expect("JSON");
            filters[0] = module(
                "apikeys_envoy",
                json!({
                    "@type": "type.googleapis.com/google.protobuf.Struct", "value": value,
                }),
            );
            change(&mut filters[0], fields);
        }
    }
    listener
}

/// The filter and the cluster of `deploy/gateways/envoy-ext-authz.yaml`, with this port of the service.
fn ext_authz(bench: &Bench, port: u16) -> (Value, Value) {
    let template = format!("{}/deploy/gateways/envoy-ext-authz.yaml", project());
    let rendered = bench.stack.run_dir.join(format!("ext-authz-{port}.yaml"));
    let rendered = rendered.to_str().expect("UTF-8");
    let mut script = bench.stack.script("render.sh", &[&template, rendered]);
    script.env("APIKEYS_GRPC_PORT", port.to_string());
    let status = script.status().expect("scripts/render.sh");
    assert!(status.success(), "scripts/render.sh {template}");
    let text = fs::read_to_string(rendered).expect("the configuration");
    let config: Value = serde_norway::from_str(&text).expect("YAML");
    let resources = &config["static_resources"];
    let manager = &resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    (
        manager["http_filters"][0].clone(),
        resources["clusters"][0].clone(),
    )
}

/// A filter that is this dynamic module, in the folder that scripts/envoy.sh names.
fn module(name: &str, config: Value) -> Value {
    json!({
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": {"name": name},
            "filter_name": name,
            "filter_config": config,
        },
    })
}

fn change(filter: &mut Value, fields: &[(&'static str, Value)]) {
    let fields = fields.iter();
    let fields: Vec<_> = fields
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    edit_fields(filter, &fields);
}
