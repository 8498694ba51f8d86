//! A gateway that a command starts: for gateways that are given by URL, of which the suite knows
//! nothing else. The protocol is at the top of `main.rs`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::Spec;
use crate::secrets::redact;

/// No gateway takes longer to start, or to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// A gateway that a command has started and will stop.
pub(super) struct Hooked {
    child: Mutex<Option<Child>>,
    pids: Vec<String>,
}

/// Starts one, with its log in this file; returns its URL too. Fails with the command's words if
/// the configuration is refused or no gateway starts.
pub(super) fn start(command: &str, spec: &Spec, log: &Path) -> Result<(String, Hooked), String> {
    let said = log.with_extension("said");
    let mut child = Command::new("bash")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&said).expect("a file"))
        // In a group of its own: a Ctrl-C in the terminal does not reach it.
        .process_group(0)
        .spawn()
        .expect("bash");
    let told = format!("{}\n", in_neutral_terms(spec, log));
    // If the command is gone already, its missing output shows it.
    let _ = child
        .stdin
        .as_mut()
        .expect("its input")
        .write_all(told.as_bytes());
    let lines = lines(&mut child);
    let mut hooked = Hooked {
        child: Mutex::new(Some(child)),
        pids: Vec::new(),
    };
    let mut url = None;
    let deadline = Instant::now() + PATIENCE;
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("url", text) => url = Some(text.to_owned()),
            ("pid", text) => hooked.pids.push(text.to_owned()),
            ("ready", _) => return Ok((url.expect("a url before ready"), hooked)),
            _ => break,
        }
    }
    hooked.stop();
    let read = |path: &Path| fs::read(path).unwrap_or_default();
    let all = [read(&said), read(log)].concat();
    Err(redact(&String::from_utf8_lossy(&all)))
}

/// The line for the command.
fn in_neutral_terms(spec: &Spec, log: &Path) -> Value {
    // As for the stack's gateways: most trials do not want polls.
    let mut fields = Map::from_iter([("revocation_poll_seconds".to_owned(), json!(0))]);
    fields.extend(spec.fields.iter().cloned());
    json!({
        "fields": fields,
        "signing_key": spec.signing_key,
        "yields": !spec.without_yield,
        "key_auth": spec.key_auth,
        "keycloak": spec.keycloak,
        "service": spec.service,
        "workers": spec.workers.unwrap_or(1),
        "trusted_hops": spec.trusted_hops.unwrap_or(0),
        "log": log,
    })
}

/// The lines that the command prints, until it ends.
fn lines(child: &mut Child) -> Receiver<String> {
    let output = child.stdout.take().expect("its output");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Reads on without a receiver: a full pipe would block the command.
            let _ = sender.send(line);
        }
    });
    receiver
}

impl Hooked {
    /// Its processes: those that the command named, and their children.
    pub(super) fn pids(&self) -> Vec<String> {
        let children = |pid: &String| {
            let file = format!("/proc/{pid}/task/{pid}/children");
            let found = fs::read_to_string(file).expect("its children");
            found
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let all = self.pids.iter().flat_map(children);
        all.chain(self.pids.iter().cloned()).collect()
    }

    /// Lets the command stop it.
    pub(super) fn stop(&self) {
        let Some(mut child) = self.child.lock().unwrap().take() else {
            return;
        };
        drop(child.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("E2E_GATEWAY_START did not end when its input did, and is killed");
        let _ = child.kill();
        let _ = child.wait();
    }
}
