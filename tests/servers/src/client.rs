//! A client that sends exactly the bytes that a test gives it, and gives up in time.
//!
//! An HTTP library would refuse or repair requests that these tests send: headers twice,
//! bytes that are no text, headers of 64 KiB.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};
use serde_json::Value;

use crate::secrets;

/// The longest that any answer may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The address of a gateway.
#[derive(Clone, Debug)]
pub struct Target {
    host: String,
    port: u16,
    path: String,
    /// The address that its connections come from; without one each has its own.
    source: Option<Ipv4Addr>,
}

impl Target {
    /// Reads `http://host[:port][/path]`.
    pub fn parse(url: &str) -> Self {
        let rest = url
            .strip_prefix("http://")
            .unwrap_or_else(|| panic!("{url} does not begin with http://"));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        Self {
            host: host.to_owned(),
            port: port.parse().expect("a port in the URL"),
            path: path.trim_end_matches('/').to_owned(),
            source: None,
        }
    }

    /// The same, as seen from one address of this machine.
    pub fn from(&self, source: Ipv4Addr) -> Self {
        Self {
            source: Some(source),
            ..self.clone()
        }
    }

    /// The target at a port of this machine.
    pub fn local(port: u16) -> Self {
        Self::parse(&format!("http://127.0.0.1:{port}"))
    }

    /// The target's port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Opens a connection.
    pub fn connect(&self) -> Connection {
        let (host, port) = (&self.host, self.port);
        let opened = self.try_connect();
        opened.unwrap_or_else(|error| panic!("cannot connect to {host}:{port}: {error}"))
    }

    /// Opens a connection, if somebody listens.
    ///
    /// # Errors
    /// The system's.
    pub fn try_connect(&self) -> io::Result<Connection> {
        let address = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .expect("an address of the gateway")
            .next()
            .expect("an address of the gateway");
        let stream = match address {
            SocketAddr::V4(address) if address.ip().is_loopback() => {
                connect_from(self.source.unwrap_or_else(another_address), address)
            }
            address => TcpStream::connect_timeout(&address, PATIENCE),
        }?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Ok(Connection {
            stream,
            target: self.clone(),
            buffer: Vec::new(),
        })
    }

    /// Sends one request on a connection of its own.
    pub fn send(&self, request: &Request) -> Response {
        self.connect().send(request)
    }

    /// `GET /orders` with this key in `Authorization: ApiKey`.
    pub fn orders(&self, key: &str) -> Response {
        self.send(&Request::orders().api_key(key))
    }
}

/// A new address of this machine: the refusals of one trial must not count against
/// another.
fn another_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, a, b, c] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 64 | (a & 63), b, c)
}

/// Connects from an address of the loopback network, all of which is this machine's.
fn connect_from(source: Ipv4Addr, target: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(source, 0))?;
    rustix::net::connect(&socket, &target)?;
    Ok(TcpStream::from(socket))
}

/// A request, as the bytes to send.
#[derive(Clone)]
pub struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    /// `GET /orders` with no credential.
    pub fn orders() -> Self {
        Self {
            method: "GET",
            path: "/orders".to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// `GET` of the target's own path.
    pub fn root() -> Self {
        Self::orders().at("").header("Connection", "close")
    }

    /// The same at another path.
    pub fn at(mut self, path: &str) -> Self {
        self.path = path.to_owned();
        self
    }

    /// The same as a POST with this body.
    pub fn post(mut self, body: Vec<u8>) -> Self {
        self.method = "POST";
        self.body = body;
        let length = self.body.len().to_string();
        self.header("Content-Length", length)
    }

    /// The same with another method.
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// The same with one more header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// The same with `Authorization: ApiKey <key>`.
    pub fn api_key(self, key: &str) -> Self {
        self.header("Authorization", format!("ApiKey {key}"))
    }

    /// The same with `Authorization: Bearer <token>`.
    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", format!("Bearer {token}"))
    }
}

/// A connection for several requests.
pub struct Connection {
    stream: TcpStream,
    target: Target,
    buffer: Vec<u8>,
}

impl Connection {
    /// Sends a request and reads its answer.
    pub fn send(&mut self, request: &Request) -> Response {
        let started = Instant::now();
        // A gateway may answer, and close, before it has read all of a long head.
        let _ = self.stream.write_all(&self.bytes_of(request));
        let mut response = self.read_response();
        response.took = started.elapsed();
        response
    }

    /// Sends a request and reads its answer, unless the connection ends before one comes.
    pub fn send_unless_closed(&mut self, request: &Request) -> Option<Response> {
        let _ = self.stream.write_all(&self.bytes_of(request));
        self.fill().then(|| self.read_response())
    }

    /// Sends a request and goes away.
    pub fn send_only(mut self, request: &Request) {
        let _ = self.stream.write_all(&self.bytes_of(request));
    }

    fn bytes_of(&self, request: &Request) -> Vec<u8> {
        let mut head = format!(
            "{} {}{} HTTP/1.1\r\nHost: {}:{}\r\n",
            request.method, self.target.path, request.path, self.target.host, self.target.port
        )
        .into_bytes();
        for (name, value) in &request.headers {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(&request.body);
        head
    }

    fn read_response(&mut self) -> Response {
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.fill(), "the connection ended before an answer came");
        };
        let head: Vec<u8> = self.buffer.drain(..head_end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("an answer without a status: {head}"));
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
            took: Duration::ZERO,
        };
        response.body = self.read_body(&response);
        response
    }

    fn read_body(&mut self, head: &Response) -> Vec<u8> {
        let chunked = head
            .header("transfer-encoding")
            .is_some_and(|encoding| encoding.eq_ignore_ascii_case("chunked"));
        if chunked {
            let mut body = Vec::new();
            loop {
                let line = self.take_line();
                let size = usize::from_str_radix(line.trim(), 16).expect("the size of a chunk");
                body.extend(self.take(size));
                self.take_line();
                if size == 0 {
                    return body;
                }
            }
        }
        match head.header("content-length") {
            Some(length) => self.take(length.parse().expect("a content-length")),
            None if head.status == 204 => Vec::new(),
            None => {
                while self.fill() {}
                std::mem::take(&mut self.buffer)
            }
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.fill(), "the connection ended within a body");
        }
        self.buffer.drain(..length).collect()
    }

    fn take_line(&mut self) -> String {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return String::from_utf8_lossy(&line[..at]).into_owned();
            }
            assert!(self.fill(), "the connection ended within a body");
        }
    }

    /// Reads some more; false at the end.
    fn fill(&mut self) -> bool {
        let mut part = [0_u8; 16 * 1024];
        match self.stream.read(&mut part) {
            Ok(0) => false,
            Ok(length) => {
                self.buffer.extend_from_slice(&part[..length]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("no answer within {PATIENCE:?}")
            }
            Err(_) => false,
        }
    }
}

pub fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// An answer.
#[derive(Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl Response {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A description without secrets, for messages.
    pub fn describe(&self) -> String {
        let body: String = String::from_utf8_lossy(&self.body)
            .chars()
            .take(600)
            .collect();
        secrets::redact(&format!(
            "status {} after {:?}, headers {:?}, body {body}",
            self.status, self.took, self.headers
        ))
    }
}
