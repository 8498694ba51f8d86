//! `apikeys serve`: the cost of an answer beside a constant one of the same server, alone and
//! behind nginx, that of keys that are not warm, Envoy that asks it beside Envoy with the filter, and
//! its memory.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bare::Bare;
use crate::bench::Bench;
use crate::client::{Request, Target};
use crate::cold::{first_uses, refreshes};
use crate::gateway::memory;
use crate::load::{Keys, Order, Until, closed_at, open, program};
use crate::owner::Key;
use crate::rates::ratios;
use crate::report::{Report, median};
use crate::stack::free_ports;
use crate::stand_in::StandIn;
use crate::targets::{Filter, Targets};
use crate::wait;

const ROUNDS: usize = 6;
/// The best turn of a round counts, as for the filter.
const TURNS: usize = 8;
const REQUESTS: u64 = 4000;
const CONNECTIONS: u32 = 16;
const OPEN_CONNECTIONS: u32 = 8;
const WINDOWS: usize = 10;
const WINDOW: Duration = Duration::from_millis(250);
/// Two exchanges: one keeps a token for a second.
const NORMAL: &str = "/exchange/normal";
const SHORT: &str = "/exchange/short";
const CONSTANT: &str = "/livez";
/// Keys in the cache, and all requests with them, the first use of each among them.
const MANY_KEYS: usize = 100_000;
const MANY_REQUESTS: f64 = 1_000_000.0;
const MEGABYTE: f64 = 1024.0 * 1024.0;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let ttl = |seconds: u32| json!({"cache_ttl_seconds": seconds});
    let exchanges = [("normal", ttl(300)), ("short", ttl(1))];
    let served = Served::start(bench, &exchanges, None);
    let one = Keys::new(bench, [bench.key.as_str()]);
    bench.cores.give_gateways_core(&served.pid());
    let alone = direct(&served, &one, report);
    bench.cores.give_all(&served.pid());
    cores(&served, &one, &alone, report);
    bench.cores.give_rest(&served.pid());
    let nginx = Nginx::start(bench, &served);
    bench.cores.give_gateways_core(&nginx.pid());
    behind_nginx(&nginx, &one, report);
    drop(nginx);
    behind_envoy(bench, &served, &one, report);
    bench.cores.give_rest(&served.pid());
    let mut bare = Bare::new(bench);
    let (ours, _, ratios) = refreshes(bench, &mut bare, |key| served.ask(SHORT, key));
    report.fact("serve_refresh_ms", &ours);
    report.row("serve_refresh_vs_roundtrips", &ratios);
    let (ours, _, ratios) = first_uses(bench, &mut bare, |key| served.ask(NORMAL, key));
    report.fact("serve_first_use_ms", &ours);
    report.row("serve_first_use_vs_bcrypt", &ratios);
    drop(served);
    in_memory(bench, report);
}

/// Requests a second with the token in the cache, beside those of a constant answer, on one core.
fn direct(served: &Served, keys: &Keys, report: &mut Report) -> Vec<f64> {
    let places = [(served.port, NORMAL), (served.operations, CONSTANT)];
    let [ours, constant] = compare(places, keys);
    report.fact("serve_requests_per_second", &ours);
    report.fact("serve_constant_requests_per_second", &constant);
    report.row("serve_vs_constant", &ratios(&ours, &constant));
    ours
}

/// The same on all cores, which the load shares.
fn cores(served: &Served, keys: &Keys, alone: &[f64], report: &mut Report) {
    let place = (served.port, NORMAL);
    let [ours, _] = compare([place, place], keys);
    report.fact("serve_all_cores_requests_per_second", &ours);
    report.row("serve_cores", &ratios(&ours, alone));
}

/// nginx asks before each request: the service, or for a constant answer. And nginx hands requests on
/// to both, at a load that both can bear.
fn behind_nginx(nginx: &Nginx, keys: &Keys, report: &mut Report) {
    let [asks, asks_constant, hands_on, hands_on_constant] = nginx.ports;
    let [ours, constant] = compare([(asks, "/orders"), (asks_constant, "/orders")], keys);
    report.fact("serve_nginx_requests_per_second", &ours);
    report.fact("serve_nginx_constant_requests_per_second", &constant);
    report.row("serve_nginx_vs_constant", &ratios(&ours, &constant));
    let [ours, constant] = compare(
        [(hands_on, "/orders"), (hands_on_constant, "/orders")],
        keys,
    );
    let half = median(&ours).min(median(&constant)) / 2.0;
    let added = (0..ROUNDS).map(|_| {
        let mut least = [f64::MAX; 2];
        for _ in 0..WINDOWS {
            for (port, least) in [hands_on, hands_on_constant].into_iter().zip(&mut least) {
                *least = least.min(open(port, half, OPEN_CONNECTIONS, WINDOW).p99);
            }
        }
        least[0] - least[1]
    });
    let added: Vec<f64> = added.collect();
    report.fact("serve_half_load_requests_per_second", &[half]);
    report.row("serve_added_p99_us", &added);
}

/// Envoy asks it over gRPC, beside Envoy with the filter, and with its own check of a key. The service
/// has no core of its own here: it shares that of Envoy's worker, where the filter runs too.
fn behind_envoy(bench: &Bench, served: &Served, keys: &Keys, report: &mut Report) {
    let listeners = [
        ("ext_authz", Filter::ExtAuthz(served.grpc)),
        ("filter", Filter::Exchange(vec![])),
        ("api_key_auth", Filter::ApiKeyAuth),
    ];
    let targets = Targets::start(bench, &listeners);
    bench.cores.give_gateways_core(&served.pid());
    let places = listeners.map(|(name, _)| (targets.port(name), "/orders"));
    let [ours, filter, own] = compare(places, keys);
    report.fact("serve_envoy_ext_authz_requests_per_second", &ours);
    report.fact("serve_envoy_filter_requests_per_second", &filter);
    report.fact("serve_envoy_api_key_auth_requests_per_second", &own);
    report.row("serve_ext_authz_vs_filter", &ratios(&ours, &filter));
    report.row("serve_ext_authz_vs_api_key_auth", &ratios(&ours, &own));
}

/// Resident memory with many keys in the cache, and its growth as requests with them go on.
fn in_memory(bench: &Bench, report: &mut Report) {
    let keys: Vec<Key> = (0..MANY_KEYS).map(|_| Key::random()).collect();
    let stand_in = StandIn::start(bench, &keys);
    // No token is refreshed, and none is pushed out.
    let fields = json!({"cache_ttl_seconds": 3600, "l1_entries": MANY_KEYS, "l2_slots": 65_536});
    let served = Served::start(bench, &[("normal", fields)], Some(stand_in.address));
    let all = Keys::new(bench, keys.iter().map(|key| key.text.as_str()));
    let resident = || memory(&served.pid(), "VmRSS:") as f64 / MEGABYTE;
    let send = |order, until| {
        let done = closed_at((served.port, NORMAL), &all, order, CONNECTIONS, until);
        done.requests
    };
    let empty = resident();
    // These requests measure memory, and no time.
    let [full, last] = bench.lull.during(|| {
        let mut requests = send(Order::Turn, Until::Requests(MANY_KEYS as u64));
        let full = resident();
        while requests < MANY_REQUESTS {
            requests += send(Order::Random, Until::Seconds(10));
        }
        [full, resident()]
    });
    report.fact("serve_rss_without_keys_mb", &[empty]);
    report.row("serve_rss_100k_keys_mb", &[full]);
    report.row("serve_rss_growth_1m_requests_mb", &[last - full]);
}

/// The best rates of some places, round by round, in turns.
fn compare<const N: usize>(places: [(u16, &str); N], keys: &Keys) -> [Vec<f64>; N] {
    let turn = |place| {
        let until = Until::Requests(REQUESTS);
        closed_at(place, keys, Order::Turn, CONNECTIONS, until).per_second
    };
    for place in places {
        turn(place);
    }
    let mut rates = [(); N].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        let mut best = [0.0_f64; N];
        for _ in 0..TURNS {
            for (place, best) in places.into_iter().zip(&mut best) {
                *best = best.max(turn(place));
            }
        }
        for (rates, best) in rates.iter_mut().zip(best) {
            rates.push(best);
        }
    }
    rates
}

/// A process that ends when it is dropped, and with its parent.
struct Process(Child);

impl Process {
    fn start(command: &[&str]) -> Self {
        let mut process = Command::new("setpriv");
        process.args(["--pdeathsig", "TERM"]).args(command);
        let child = process.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(child.expect("setpriv, of util-linux"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The service.
struct Served {
    process: Process,
    port: u16,
    grpc: u16,
    operations: u16,
    folder: PathBuf,
}

impl Served {
    /// Starts it with these exchanges of the demo's realm, and with callouts to Keycloak or to this
    /// address.
    fn start(bench: &Bench, exchanges: &[(&str, Value)], keycloak: Option<SocketAddr>) -> Self {
        let (ports, demo) = (free_ports(3), bench.stack.demo_env());
        let folder = bench.stack.run_dir.join(format!("serve-{}", ports[0]));
        fs::create_dir_all(&folder).expect("a folder");
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut config = json!({
            "signing_key_file": "../signing-key.pem",
            "listen": [address(ports[0]), "unix:exchange.sock"],
            "listen_operations": [address(ports[1]), "unix:operations.sock"],
            "listen_grpc": [address(ports[2])],
        });
        for (name, fields) in exchanges {
            let exchange = &mut config["exchanges"][*name];
            *exchange = fields.clone();
            exchange["keycloak_url"] = json!(demo["KEYCLOAK_URL"]);
            exchange["realm"] = json!(demo["REALM"]);
        }
        if let Some(address) = keycloak {
            config["keycloak_addresses"] = json!([format!("http://{address}")]);
        }
        let file = folder.join("serve.json");
        fs::write(&file, config.to_string()).expect("a configuration");
        let tool = Path::new(crate::stack::project()).join("target/release/apikeys");
        let (tool, file) = (tool.display().to_string(), file.display().to_string());
        let served = Self {
            process: Process::start(&[&tool, "serve", "--config", &file]),
            port: ports[0],
            operations: ports[1],
            grpc: ports[2],
            folder,
        };
        wait::until("the service", Duration::from_secs(30), || {
            let there = std::net::TcpStream::connect(("127.0.0.1", served.operations));
            there.map_err(|error| error.to_string())?;
            let ready = Request::orders().at("/readyz");
            let answer = Target::local(served.operations).send(&ready);
            (answer.status == 200)
                .then_some(())
                .ok_or(answer.describe())
        });
        served
    }

    fn pid(&self) -> String {
        self.process.0.id().to_string()
    }

    /// Milliseconds of an exchange.
    fn ask(&self, path: &str, key: &str) -> f64 {
        let mut connection = Target::local(self.port).connect();
        let answer = connection.send(&Request::orders().at(path).api_key(key));
        assert_eq!(answer.status, 200, "{}", answer.describe());
        answer.took.as_secs_f64() * 1000.0
    }
}

/// An nginx of one process: two servers ask before each request, two hand each request on.
struct Nginx {
    process: Process,
    ports: [u16; 4],
}

impl Nginx {
    fn start(bench: &Bench, served: &Served) -> Self {
        let found = free_ports(4);
        let ports = [found[0], found[1], found[2], found[3]];
        let file = served.folder.join("nginx.conf");
        // It holds a key, since oha would take one only from its arguments, which are public.
        let mut options = fs::OpenOptions::new();
        let opened = options
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&file);
        let text = configuration(&served.folder, ports, &bench.key);
        opened
            .and_then(|mut opened| opened.write_all(text.as_bytes()))
            .expect("a configuration");
        let (program, file) = (program("NGINX_PROGRAM"), file.display().to_string());
        let nginx = Self {
            process: Process::start(&[&program, "-e", "stderr", "-c", &file]),
            ports,
        };
        wait::until("nginx", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", ports[0])).map_err(|error| error.to_string())
        });
        nginx
    }

    fn pid(&self) -> String {
        self.process.0.id().to_string()
    }
}

fn configuration(folder: &Path, ports: [u16; 4], key: &str) -> String {
    let folder = folder.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};"))
        .join(" ");
    // HEAD: nginx keeps no connection with an answer's body left in it.
    let asks = |port: u16, upstream: &str, path: &str| {
        format!(
            "server {{ listen 127.0.0.1:{port};
    location / {{ auth_request /ask; try_files /nothing @answer; }}
    location @answer {{ return 200; }}
    location = /ask {{ internal; proxy_method HEAD; proxy_pass http://{upstream}{path}; proxy_pass_request_body off;
      proxy_set_header Connection \"\"; proxy_set_header Content-Length \"\"; proxy_set_header X-Forwarded-For $remote_addr; }} }}\n"
        )
    };
    let hands_on = |port: u16, upstream: &str, path: &str| {
        format!(
            "server {{ listen 127.0.0.1:{port};
    location = /orders {{ proxy_pass http://{upstream}{path}; proxy_set_header Connection \"\";
      proxy_set_header X-API-Key {key}; }} }}\n"
        )
    };
    let servers = [
        asks(ports[0], "exchange", NORMAL),
        asks(ports[1], "operations", CONSTANT),
        hands_on(ports[2], "exchange", NORMAL),
        hands_on(ports[3], "operations", CONSTANT),
    ];
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; {temporary}
  keepalive_timeout 600s; keepalive_requests 1000000000;
  proxy_http_version 1.1;
  upstream exchange {{ server unix:{folder}/exchange.sock; keepalive 64; keepalive_requests 1000000000; }}
  upstream operations {{ server unix:{folder}/operations.sock; keepalive 64; keepalive_requests 1000000000; }}
  {}
}}
",
        servers.concat()
    )
}
