//! Callouts on their way, and the fate of each.
//!
//! Times are those of a clock of its own: the wall clock that the filter sees may be
//! stepped, and answers come no sooner for that.

use std::collections::{HashMap, HashSet};

use apikeys_core::clock::UnixMillis;

use super::abi::{pairs, value_of};
use super::host::{Answer, Callout, TIMED_OUT};
pub use super::keycloak_adapter::Asked;
use super::keycloak_adapter::{Keycloaks, asked, response};
use super::node::{Profile, Sent};

/// Keycloak's time for an answer.
const KEYCLOAK_MS: u64 = 5;
/// The time of a turn at once.
const TURN_MS: u64 = 1;
/// The time of a waiting request in nginx's queue.
const KONG_WAIT_MS: u64 = 5;
/// All time limits of Kong's loopback server together (`kong/nginx-apikeys.conf`).
const LOOPBACK_MS: u64 = 1_700;

/// The fate of a callout.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It is answered correctly.
    Answered,
    /// The same, so many milliseconds later.
    Late(u64),
    /// It gets this answer, for any call.
    Status(u16, Vec<u8>),
    /// It is answered correctly, except that this function changes the body.
    Changed(fn(&[u8]) -> Vec<u8>),
    /// The answer has headers, but no status among them.
    NoStatus,
    /// The connection is refused, or breaks off.
    Reset,
    TimesOut,
}

/// Decides by the kind of call, and by the number of such calls before.
pub type FateOf = Box<dyn FnMut(Asked, u32) -> Fate>;

/// The sender of a callout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The request of this index.
    Request(usize),
    /// A root context of this worker.
    Root { worker: usize, context: u32 },
}

/// A callout on its way.
#[derive(Clone)]
pub struct Flight {
    pub token: u32,
    pub sent: Sent,
    pub due_ms: u64,
    caller: Caller,
    fate: Fate,
}

#[derive(Default)]
pub struct Flights {
    pub time_ms: u64,
    under_way: Vec<Flight>,
    seen: HashSet<u32>,
    counts: HashMap<Asked, usize>,
}

impl Flights {
    /// Takes the new callouts.
    pub fn take_off(
        &mut self,
        callouts: Vec<(Caller, Callout)>,
        on: Profile,
        fate_of: &mut FateOf,
    ) {
        for (caller, Callout { token, sent, .. }) in callouts {
            if !self.seen.insert(token) {
                continue;
            }
            let asked = asked(&sent);
            let fate = fate_of(asked, u32::try_from(self.count(asked)).unwrap());
            *self.counts.entry(asked).or_default() += 1;
            let takes_ms = match (&fate, asked) {
                (Fate::TimesOut, _) => u64::MAX,
                (Fate::Late(ms), _) => *ms,
                (_, Asked::Yield) => TURN_MS,
                (_, Asked::Wait) if on == Profile::Kong => KONG_WAIT_MS,
                (_, Asked::Wait) => delay_ms(&sent),
                _ => KEYCLOAK_MS,
            };
            let timeout_ms = u64::from(sent.timeout_ms);
            let is_turn = matches!(asked, Asked::Yield | Asked::Wait);
            let (fate, takes_ms) = match on == Profile::Kong && !is_turn && takes_ms > LOOPBACK_MS {
                true => (Fate::Status(504, b"too late".to_vec()), LOOPBACK_MS),
                false => (fate, takes_ms),
            };
            let fate = match takes_ms > timeout_ms {
                true => Fate::TimesOut,
                false => fate,
            };
            self.under_way.push(Flight {
                token,
                due_ms: self.time_ms + takes_ms.min(timeout_ms),
                sent,
                caller,
                fate,
            });
        }
    }

    /// The time at which the next one lands.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.under_way.iter().map(|flight| flight.due_ms).min()
    }

    /// The next one to land, its sender, and its fate.
    pub fn next(&mut self) -> Option<(Caller, Flight, Fate)> {
        let (at, _) = self
            .under_way
            .iter()
            .enumerate()
            .min_by_key(|(_, flight)| (flight.due_ms, flight.token))?;
        let flight = self.under_way.remove(at);
        self.seen.remove(&flight.token);
        Some((flight.caller, flight.clone(), flight.fate))
    }

    pub fn count(&self, asked: Asked) -> usize {
        self.counts.get(&asked).copied().unwrap_or_default()
    }

    /// The number of all callouts so far.
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    /// The call that a request waits for.
    pub fn waits_for(&self, request: usize) -> Option<Asked> {
        let mut flights = self.under_way.iter();
        let flight = flights.find(|flight| flight.caller == Caller::Request(request))?;
        Some(asked(&flight.sent))
    }
}

impl Fate {
    /// The callout's answer; on Kong it passes the loopback server.
    pub fn answer(
        &self,
        sent: &Sent,
        on: Profile,
        now: UnixMillis,
        keycloaks: &mut Keycloaks,
    ) -> Answer {
        let answer = self.of_keycloak(sent, on, now, keycloaks);
        match on {
            Profile::Kong => loopback(answer),
            Profile::Envoy => answer,
        }
    }

    fn of_keycloak(
        &self,
        sent: &Sent,
        on: Profile,
        now: UnixMillis,
        keycloaks: &mut Keycloaks,
    ) -> Answer {
        match self {
            Self::Reset => Answer::Failed("connection reset"),
            Self::TimesOut => Answer::Failed(TIMED_OUT),
            Self::Status(status, body) => response(*status, body),
            Self::NoStatus => Answer::Response {
                headers: pairs(&[("server", "nonsense")]),
                body: b"hello".to_vec(),
            },
            Self::Answered | Self::Late(_) | Self::Changed(_) => {
                let answer = match asked(sent) {
                    Asked::Yield | Asked::Wait if on == Profile::Kong => response(200, b"1"),
                    Asked::Yield | Asked::Wait => response(204, b""),
                    _ => keycloaks.answer(sent, now),
                };
                match (answer, self) {
                    (Answer::Response { headers, body }, Self::Changed(change)) => {
                        let body = change(&body);
                        Answer::Response { headers, body }
                    }
                    (answer, _) => answer,
                }
            }
        }
    }
}

/// An answer as Kong's loopback server gives it: never without a body, because an empty
/// body poisons the next callout (K4).
fn loopback(answer: Answer) -> Answer {
    match answer {
        Answer::Response { mut headers, body } if body.is_empty() => {
            for (name, status) in &mut headers {
                if name == b":status" && [&b"204"[..], b"205", b"304"].contains(&status.as_slice())
                {
                    *status = b"200".to_vec();
                }
            }
            let body = b"{}".to_vec();
            Answer::Response { headers, body }
        }
        answer => answer,
    }
}

fn delay_ms(sent: &Sent) -> u64 {
    let delay = value_of(&sent.headers, "x-envoy-fault-delay-request");
    let delay = delay.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    delay.expect("a wait says how long")
}
