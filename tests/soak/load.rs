//! The load: clients that send keys of every kind, each waiting for its answer.

use std::thread;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::client::{Connection, Request, Response, Target};
use crate::owner::Key;
use crate::report::Report;
use crate::truth::Truth;
use crate::wait::now_ms;

/// Clients that send at once.
pub(crate) const CLIENTS: u64 = 6;
/// The pause between two requests of one client: the load is to leave the machine
/// room for Keycloak.
const PAUSE: Duration = Duration::from_millis(25);

/// Sends until the end.
pub(crate) fn run(
    target: &Target,
    truth: &Truth,
    report: &Report,
    mut random: ChaCha8Rng,
    end_ms: u64,
) {
    let mut connection: Option<Connection> = None;
    while now_ms() < end_ms {
        match random.random_range(0..100) {
            0..4 => stranger(&Key::random().text, target, &mut connection, report),
            4..8 => stranger(&Key::random().mistyped(), target, &mut connection, report),
            _ => {
                let at = random.random_range(0..truth.len());
                known(at, target, &mut connection, truth, report);
            }
        }
        thread::sleep(PAUSE);
    }
}

fn send(
    key: &str,
    target: &Target,
    connection: &mut Option<Connection>,
    report: &Report,
) -> Option<(u64, u64, Response)> {
    let started = now_ms();
    let request = Request::orders().api_key(key);
    // A panic of the client's is an answer that did not come.
    let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut open = connection.take().unwrap_or_else(|| target.connect());
        let response = open.send(&request);
        (open, response)
    }));
    match sent {
        Ok((open, response)) => {
            if response.header("connection") != Some("close") {
                *connection = Some(open);
            }
            Some((started, now_ms(), response))
        }
        Err(_) => {
            report.unanswered(started);
            None
        }
    }
}

/// A key that nobody owns.
fn stranger(key: &str, target: &Target, connection: &mut Option<Connection>, report: &Report) {
    if let Some((started, ended, response)) = send(key, target, connection, report) {
        report.answered(&response, started, ended);
        if !matches!(response.status, 401 | 503) {
            report.fault(format!("a stranger's key: {}", response.describe()));
        }
    }
}

/// A key of an owner's, alive or dead.
fn known(
    at: usize,
    target: &Target,
    connection: &mut Option<Connection>,
    truth: &Truth,
    report: &Report,
) {
    let key = truth.get(at);
    let Some((started, ended, response)) = send(&key.text, target, connection, report) else {
        return;
    };
    report.answered(&response, started, ended);
    match response.status {
        200 => {
            let subject = response.json()["subject"].as_str().map(str::to_owned);
            if subject.as_deref() != Some(&key.owner_id) {
                report.fault(format!("another owner's answer: {}", response.describe()));
            }
            truth.change(at, |known| {
                known.last_exchanged = known.last_exchanged.max(started);
            });
        }
        401 => {
            let mut alive = false;
            truth.change(at, |known| match known.dying_at {
                Some(dying_at) if ended >= dying_at => {
                    if known.dead_at.is_some_and(|dead_at| started >= dead_at) {
                        known.first_refused.get_or_insert(started);
                    }
                }
                _ => alive = true,
            });
            if alive {
                report.fault(format!("a good key was refused: {}", response.describe()));
            }
        }
        // Whether it may be is judged at the end, by the outages that there were.
        503 => report.unavailable(started),
        _ => report.fault(format!("no answer of ours: {}", response.describe())),
    }
}
