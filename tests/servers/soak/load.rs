//! The load: clients that send keys of every kind, each waiting for its answer.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::client::{Connection, Request, Response, Target};
use crate::judge::{Answer, By, Seen, Sent};
use crate::owner::Key;
use crate::record::Record;
use crate::wait::now_ms;

/// Clients that send at the same time.
pub(crate) const CLIENTS: u64 = 6;
/// The pause between two requests of one client: the load must leave processor time for
/// Keycloak.
const PAUSE: Duration = Duration::from_millis(25);
/// The failing address, and its pause: it sends three times the limit and more.
const FLOOD: Ipv4Addr = Ipv4Addr::new(127, 200, 0, 1);
const FLOOD_PAUSE: Duration = Duration::from_millis(400);

thread_local! {
    /// A client's panic counts as a missing answer, and is not printed.
    pub(crate) static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Sends keys of every kind until the end.
pub(crate) fn run(target: &Target, record: &Record, mut random: ChaCha8Rng, over: &AtomicBool) {
    let mut connection: Option<Connection> = None;
    while !over.load(Ordering::Relaxed) {
        match random.random_range(0..100) {
            0..4 => stranger(Sent::Unknown, By::Load, target, record),
            4..8 => stranger(Sent::Malformed, By::Load, target, record),
            8..25 => {
                if let Some(at) = record.any(&mut random, |key| !key.is_alive()) {
                    // From an address of its own: these requests fail.
                    known(at, By::Load, target, &mut None, record);
                }
            }
            _ => {
                if let Some(at) = record.any(&mut random, |key| key.is_alive()) {
                    known(at, By::Load, target, &mut connection, record);
                }
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Sends keys without an owner from one address all the time, and now and then a good
/// key.
pub(crate) fn flood(target: &Target, record: &Record, mut random: ChaCha8Rng, over: &AtomicBool) {
    let target = target.from(FLOOD);
    while !over.load(Ordering::Relaxed) {
        stranger(Sent::Unknown, By::Flood, &target, record);
        if random.random_range(0..4) == 0
            && let Some(at) = record.any(&mut random, |key| key.in_use && key.is_to_last())
        {
            known(at, By::Flood, &target, &mut None, record);
        }
        thread::sleep(FLOOD_PAUSE);
    }
}

/// Sends one key again and again until it is refused, each time from another address
/// and on another connection, and so perhaps to another worker.
pub(crate) fn watch(at: usize, target: &Target, record: &Record, for_ms: u64) {
    let until = now_ms() + for_ms;
    while now_ms() < until {
        known(at, By::Load, target, &mut None, record);
        thread::sleep(PAUSE);
    }
}

/// A key that nobody owns.
fn stranger(sent: Sent, by: By, target: &Target, record: &Record) {
    let key = Key::random();
    let text = match sent {
        Sent::Malformed => key.mistyped(),
        _ => key.text,
    };
    exchange(&text, "", sent, by, target, &mut None, record);
}

/// A key of an owner's, alive or dead.
fn known(at: usize, by: By, target: &Target, connection: &mut Option<Connection>, record: &Record) {
    let key = record.get(at);
    let sent = Sent::Key(at);
    let answer = exchange(
        &key.text,
        &key.owner_id,
        sent,
        by,
        target,
        connection,
        record,
    );
    if answer == Answer::Owners && !key.in_use {
        record.change(at, |key| key.in_use = true);
    }
}

fn exchange(
    key: &str,
    owner: &str,
    sent: Sent,
    by: By,
    target: &Target,
    connection: &mut Option<Connection>,
    record: &Record,
) -> Answer {
    let started = now_ms();
    QUIET.set(true);
    let response = catch_unwind(AssertUnwindSafe(|| {
        let mut open = connection.take().unwrap_or_else(|| target.connect());
        let response = open.send(&Request::orders().api_key(key));
        (open, response)
    }));
    QUIET.set(false);
    let answer = match response {
        Ok((open, response)) => {
            if response.header("connection") != Some("close") {
                *connection = Some(open);
            }
            read(&response, owner)
        }
        Err(_) => Answer::Unanswered,
    };
    if matches!(answer, Answer::Strange(_) | Answer::Unanswered) {
        println!("    {sent:?} at {started} was answered {answer:?}");
    }
    record.saw(Seen {
        sent,
        by,
        answer,
        started,
        ended: now_ms(),
    });
    answer
}

/// The content of a response: the service's `subject`, or the `code` of a problem of
/// ours.
fn read(response: &Response, owner: &str) -> Answer {
    let body = response.json();
    match (response.status, body["code"].as_str()) {
        (200, None) if owner.is_empty() => Answer::Owners,
        (200, None) if body["subject"] == owner => Answer::Owners,
        (200, None) => Answer::AnotherOwners,
        (401, Some("invalid_api_key")) => Answer::Refused,
        (429, Some("throttled")) => Answer::Throttled,
        (503, Some("identity_provider_unavailable" | "overloaded")) => Answer::Unavailable,
        (status, _) => Answer::Strange(status),
    }
}
