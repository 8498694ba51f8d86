//! A service without a validator, which answers with the headers that it received: it
//! shows how a request arrives that passes the gateway untouched. Asked for `/refuse` it
//! answers 401, like a service that refuses a token.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::client::find;

/// The headers of a request, with names in lower case.
pub(crate) type Headers = Map<String, Value>;

/// Starts one for the life of the suite.
pub(crate) fn start() -> SocketAddr {
    serve(|path, headers| {
        let status = match path.starts_with("/refuse") {
            true => "401 Unauthorized",
            false => "200 OK",
        };
        (status, json!({ "headers": headers }))
    })
}

/// Starts a service that answers each request by its path and its headers, for the life
/// of the suite.
pub(crate) fn serve(
    answer: impl Fn(&str, &Headers) -> (&'static str, Value) + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || respond(stream, &*answer));
        }
    });
    address
}

fn respond(
    mut stream: TcpStream,
    answer: &dyn Fn(&str, &Headers) -> (&'static str, Value),
) -> Option<()> {
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .ok()?;
    let mut bytes = Vec::new();
    let mut part = [0_u8; 4096];
    while find(&bytes, b"\r\n\r\n").is_none() {
        let length = stream.read(&mut part).ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&part[..length]);
    }
    let head = String::from_utf8_lossy(&bytes);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let headers = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), json!(value)))
        .collect();
    let (status, body) = answer(path, &headers);
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).ok()
}
