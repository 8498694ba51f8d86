//! A service without a validator, that tells which headers it was sent: what a
//! request looks like that passes the gateway untouched. Asked for `/refuse` it answers
//! 401, as a service does that does not take a token.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::{Map, json};

use crate::client::find;

/// Starts one that lives as long as the suite does.
pub(crate) fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> Option<()> {
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
    let headers: Map<_, _> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), json!(value)))
        .collect();
    let body = json!({ "headers": headers }).to_string();
    let status = match head.contains(" /refuse") {
        true => "401 Unauthorized",
        false => "200 OK",
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).ok()
}
