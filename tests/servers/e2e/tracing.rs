//! Envoy's own tracing, and a collector of its spans (OTLP over HTTP).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::client::find;
use crate::gateway::{member, socket_address};

const MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TRACER: &str = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// The name of the span of a call to Keycloak.
pub(crate) const TO_KEYCLOAK: &str = "to-keycloak";

/// Turns the gateway's tracing on, and puts a tracing listener before its Keycloak.
pub(crate) fn add(resources: &mut Value, collector: SocketAddr, port: u16) {
    let tracing = json!({"provider": {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {"@type": TRACER, "service_name": "gateway", "http_service": {"http_uri": {
            "uri": format!("http://{collector}/v1/traces"), "cluster": "collector", "timeout": "1s",
        }}},
    }});
    let listeners = resources["listeners"].as_array_mut().expect("listeners");
    for listener in listeners
        .iter_mut()
        .filter(|listener| listener["name"] == "gateway")
    {
        member(listener, "/filter_chains/0/filters/0/typed_config")["tracing"] = tracing.clone();
    }
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    listeners.push(json!({
        "name": "traced", "address": socket_address(local),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": MANAGER, "stat_prefix": "traced", "tracing": tracing,
                "route_config": {"virtual_hosts": [{"name": "keycloak", "domains": ["*"], "routes": [{
                    "match": {"prefix": "/"}, "route": {"cluster": "keycloak"},
                    "decorator": {"operation": TO_KEYCLOAK},
                }]}]},
                "http_filters": [{
                    "name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER},
                }],
            },
        }]}],
    }));
    let clusters = resources["clusters"].as_array_mut().expect("clusters");
    for (name, address) in [("traced", local), ("collector", collector)] {
        clusters.push(json!({
            "name": name, "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": socket_address(address)}},
            ]}]},
        }));
    }
}

/// Collects spans.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let taken = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&taken);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let all = Arc::clone(&all);
                thread::spawn(move || while take(&stream, &all).is_some() {});
            }
        });
        Self { address, taken }
    }

    /// The number of this trace's spans with this name.
    pub(crate) fn spans(&self, trace_id: &[u8; 16], name: &str) -> usize {
        let taken = self.taken.lock().expect("spans");
        let mut rest = taken.as_slice();
        let mut count = 0;
        // A span begins with its trace (field 1, 16 bytes) and has its name in field 5.
        let begin = [&[0x0a, 16][..], trace_id].concat();
        let length = u8::try_from(name.len()).expect("a short name");
        let named = [&[0x2a, length][..], name.as_bytes()].concat();
        while let Some(at) = find(rest, &begin) {
            rest = &rest[at + begin.len()..];
            let head = &rest[..rest.len().min(80 + named.len())];
            count += usize::from(find(head, &named).is_some());
        }
        count
    }
}

/// Reads one request and answers it; none if the connection ends.
fn take(mut stream: &TcpStream, all: &Mutex<Vec<u8>>) -> Option<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let head = loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut buffer).ok()? {
            0 => return None,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().expect("a length"));
    while bytes.len() < head + length {
        match stream.read(&mut buffer).ok()? {
            0 => return None,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    all.lock().expect("spans").extend_from_slice(&bytes[head..]);
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .ok()
}
