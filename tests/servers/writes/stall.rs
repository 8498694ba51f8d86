//! A proxy before Keycloak in which a write gets stuck: its sender holds the owner's
//! lock, and goes on holding it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// The proxy.
pub(crate) struct Stall {
    pub(crate) address: SocketAddr,
    /// Receives a message for each stuck write.
    pub(crate) stuck: Receiver<()>,
}

impl Stall {
    /// Starts one before the Keycloak at this URL.
    pub(crate) fn start(keycloak_url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let keycloak = keycloak_url.strip_prefix("http://").expect("an http URL");
        let keycloak = keycloak.trim_end_matches('/').to_owned();
        let (tell, stuck) = channel();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (keycloak, tell) = (keycloak.clone(), tell.clone());
                thread::spawn(move || serve(client, &keycloak, &tell));
            }
        });
        Self { address, stuck }
    }
}

fn serve(mut client: TcpStream, keycloak: &str, tell: &Sender<()>) {
    let Ok(mut server) = TcpStream::connect(keycloak) else {
        return;
    };
    let (mut answers, mut to) = match (server.try_clone(), client.try_clone()) {
        (Ok(answers), Ok(to)) => (answers, to),
        _ => return,
    };
    thread::spawn(move || std::io::copy(&mut answers, &mut to));
    let mut part = [0_u8; 16 * 1024];
    while let Ok(length @ 1..) = client.read(&mut part) {
        if part[..length].starts_with(b"PUT ") {
            // Reads the rest of it, so that its sender waits for an answer.
            let _ = tell.send(());
            let _ = std::io::copy(&mut client, &mut std::io::sink());
            return;
        }
        if server.write_all(&part[..length]).is_err() {
            return;
        }
    }
}
