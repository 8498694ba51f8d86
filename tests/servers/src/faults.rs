//! A proxy between a gateway and Keycloak that counts the calls, and answers chosen ones
//! in Keycloak's place: with any bytes, too late, or not at all.
//!
//! One request for each connection, so that no state has to be kept in step.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::client::find;
use crate::secrets;

/// Keycloak's endpoint of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    ServiceToken,
    LookUp,
    Grant,
    Other,
}

/// The fault that a call meets.
#[derive(Clone)]
pub enum Fault {
    /// These bytes are the answer.
    Answer(Vec<u8>),
    /// An answer with a body of so many bytes, sent as fast as the gateway reads.
    Flood(u64),
    /// The same in chunks, so that the length is not known before.
    ChunkedFlood(u64),
    /// These bytes, then one more every tenth of a second, until the gateway stops
    /// reading.
    Drip(Vec<u8>),
    /// The connection is closed without an answer.
    Close,
    /// No answer, for as long as the fault lasts.
    Silence,
}

impl Fault {
    /// An answer with this status line, these header lines and this body.
    pub fn answer<B: AsRef<[u8]>>(status: &str, headers: &[&str], body: B) -> Self {
        let body = body.as_ref();
        let mut text = format!("HTTP/1.1 {status}\r\n");
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        text.push_str(&format!("content-length: {}\r\n", body.len()));
        text.push_str("connection: close\r\n\r\n");
        Self::Answer([text.as_bytes(), body].concat())
    }

    /// A 200 with this JSON.
    pub fn json(body: impl AsRef<[u8]>) -> Self {
        Self::answer("200 OK", &["content-type: application/json"], body)
    }
}

/// The number of calls to each endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub service_token: usize,
    pub look_up: usize,
    pub grant: usize,
    pub other: usize,
}

struct Rule {
    endpoint: Endpoint,
    fault: Fault,
    times: usize,
}

struct State {
    keycloak: String,
    rules: Mutex<Vec<Rule>>,
    counts: Mutex<Counts>,
    /// Bytes of floods that the gateway has read.
    flooded: AtomicU64,
    stopped: AtomicBool,
}

/// The proxy; ends when it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// Starts one before the Keycloak at this URL.
    pub fn start(keycloak_url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let keycloak = keycloak_url.strip_prefix("http://").expect("an http URL");
        let state = Arc::new(State {
            keycloak: keycloak.trim_end_matches('/').to_owned(),
            rules: Mutex::new(Vec::new()),
            counts: Mutex::new(Counts::default()),
            flooded: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&shared);
                if let Ok(stream) = stream {
                    thread::spawn(move || serve(&shared, stream));
                }
            }
        });
        Self { address, state }
    }

    /// From now on calls of this kind meet the fault.
    pub fn set(&self, endpoint: Endpoint, fault: Fault) {
        self.set_times(endpoint, fault, usize::MAX);
    }

    /// The next so many calls of this kind meet the fault.
    pub fn set_times(&self, endpoint: Endpoint, fault: Fault, times: usize) {
        self.state.rules.lock().unwrap().push(Rule {
            endpoint,
            fault,
            times,
        });
    }

    /// Ends all faults.
    pub fn lift(&self) {
        self.state.rules.lock().unwrap().clear();
    }

    pub fn counts(&self) -> Counts {
        *self.state.counts.lock().unwrap()
    }

    /// Bytes of floods that the gateway has read so far.
    pub fn flooded(&self) -> u64 {
        self.state.flooded.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.lift();
        self.state.stopped.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(state: &State, mut client: TcpStream) {
    let _ = client.set_read_timeout(Some(Duration::from_secs(120)));
    let Some((head, body)) = read_request(&mut client) else {
        return;
    };
    let endpoint = endpoint_of(&head, &body);
    register_secrets(&head, &body);
    state.count(endpoint);
    match state.fault_for(endpoint) {
        None => pass_on(state, &head, &body, &mut client),
        Some(Fault::Answer(bytes)) => {
            let _ = client.write_all(&bytes);
        }
        Some(Fault::Flood(length)) => flood(state, length, false, &mut client),
        Some(Fault::ChunkedFlood(length)) => flood(state, length, true, &mut client),
        Some(Fault::Drip(begin)) => drip(&begin, &mut client),
        Some(Fault::Close) => {}
        Some(Fault::Silence) => {
            while state.is_faulty(endpoint) {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl State {
    fn count(&self, endpoint: Endpoint) {
        let mut counts = self.counts.lock().unwrap();
        let counter = match endpoint {
            Endpoint::ServiceToken => &mut counts.service_token,
            Endpoint::LookUp => &mut counts.look_up,
            Endpoint::Grant => &mut counts.grant,
            Endpoint::Other => &mut counts.other,
        };
        *counter += 1;
    }

    fn fault_for(&self, endpoint: Endpoint) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let rule = rules
            .iter_mut()
            .find(|rule| rule.endpoint == endpoint && rule.times > 0)?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    fn is_faulty(&self, endpoint: Endpoint) -> bool {
        let rules = self.rules.lock().unwrap();
        rules.iter().any(|rule| rule.endpoint == endpoint)
    }
}

pub fn endpoint_of(head: &str, body: &str) -> Endpoint {
    let path = head.split(' ').nth(1).unwrap_or_default();
    if path.contains("/users?") {
        Endpoint::LookUp
    } else if body.contains("grant_type=client_credentials") {
        Endpoint::ServiceToken
    } else if body.contains("jwt-bearer&assertion=") {
        Endpoint::Grant
    } else {
        Endpoint::Other
    }
}

/// Registers the assertions and the service token of these calls: they must stand in no
/// log.
fn register_secrets(head: &str, body: &str) {
    for pair in body.split('&') {
        if let Some((name, value)) = pair.split_once('=')
            && name.ends_with("assertion")
        {
            secrets::register(&percent_decode_str(value).decode_utf8_lossy());
        }
    }
    for line in head.lines() {
        if let Some((_, token)) = line.split_once("Bearer ") {
            secrets::register(token.trim());
        }
    }
}

pub fn read_request(client: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = find(&bytes, b"\r\n\r\n") {
            break at + 4;
        }
        read_some(client, &mut bytes)?;
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let lower = head.to_ascii_lowercase();
    let mut body = bytes.split_off(head_end);
    if lower.contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            read_some(client, &mut body)?;
        }
        return Some((head, unchunk(&String::from_utf8_lossy(&body))));
    }
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0_usize);
    while body.len() < length {
        read_some(client, &mut body)?;
    }
    Some((head, String::from_utf8_lossy(&body).into_owned()))
}

fn read_some(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut part = [0_u8; 16 * 1024];
    let length = stream.read(&mut part).ok().filter(|length| *length > 0)?;
    bytes.extend_from_slice(&part[..length]);
    Some(())
}

/// The data of chunks that are text: every second line.
fn unchunk(chunks: &str) -> String {
    let lines = chunks.split("\r\n");
    lines.skip(1).step_by(2).collect()
}

fn pass_on(state: &State, head: &str, body: &str, client: &mut TcpStream) {
    let Ok(mut keycloak) = TcpStream::connect(&state.keycloak) else {
        return;
    };
    let mut request = String::new();
    for line in head.trim_end().split("\r\n") {
        let lower = line.to_ascii_lowercase();
        let ours = ["connection:", "transfer-encoding:", "content-length:"];
        if !ours.iter().any(|name| lower.starts_with(name)) {
            request.push_str(line);
            request.push_str("\r\n");
        }
    }
    request.push_str(&format!("content-length: {}\r\n", body.len()));
    request.push_str("connection: close\r\n\r\n");
    request.push_str(body);
    if keycloak.write_all(request.as_bytes()).is_ok() {
        let _ = std::io::copy(&mut keycloak, client);
    }
}

fn flood(state: &State, length: u64, chunked: bool, client: &mut TcpStream) {
    let framing = match chunked {
        true => "transfer-encoding: chunked".to_owned(),
        false => format!("content-length: {length}"),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{framing}\r\nconnection: close\r\n\r\n"
    );
    if client.write_all(head.as_bytes()).is_err() {
        return;
    }
    let spaces = [b' '; 64 * 1024];
    let part = match chunked {
        true => [b"10000\r\n", &spaces[..], b"\r\n"].concat(),
        false => spaces.to_vec(),
    };
    let mut written = 0;
    while written < length && client.write_all(&part).is_ok() {
        written += spaces.len() as u64;
        state
            .flooded
            .fetch_add(spaces.len() as u64, Ordering::Relaxed);
    }
}

/// Ends when the other side has gone; until then some byte is always on its way.
fn drip(begin: &[u8], client: &mut TcpStream) {
    let mut written = client.write_all(begin);
    while written.is_ok() {
        thread::sleep(Duration::from_millis(100));
        written = client.write_all(b" ");
    }
}
