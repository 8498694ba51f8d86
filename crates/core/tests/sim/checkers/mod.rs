//! Holds a run against the invariants of ARCHITECTURE.md, one in a file.
//!
//! A checker sees the outputs of a gateway and the truth, and of its caches the sizes alone. It
//! sees each step; the first violation ends the run.

mod abuse;
mod answered;
mod belief;
mod bounded;
mod closed;
mod expiry;
mod limits;
mod owner;
pub mod panics;
mod revocation;
mod secrecy;
mod serves;
mod slices;
mod terms;
mod unique;
mod upstream;

use apikeys_core::config::Config;
use apikeys_core::exchange::{Output, Sizes};

use super::node::ClockSteps;
use super::request::{End, Request};
use super::truth::{self, Truth};

/// A happening that a checker sees.
pub enum Seen<'a> {
    /// An exchange gave its next output.
    Step {
        request: &'a Request,
        /// The time by the node's clock.
        node_now: u64,
        /// The number of times that the node's clock was set, and of workers in this one's
        /// place before it.
        era: (usize, u32),
        output: &'a Output,
        /// The fault of the answer that it was just given, if nobody may believe that answer.
        poison: Option<&'static str>,
    },
    /// A request was answered, or went on to the service.
    Ended(&'a Ended<'a>),
    /// A text went where others read it: to a log, to a client.
    Said(&'a str),
    /// The sizes of a worker's state.
    Sizes {
        worker: Sizes,
        /// Admin events that it remembers.
        events: usize,
        places: usize,
        config: &'a Config,
    },
    /// The shared data of a node holds this.
    Shared {
        entries: usize,
        slots_max: usize,
        name: &'a str,
        value: &'a [u8],
    },
    /// A worker with no request left.
    Idle { worker: Sizes, places: usize },
    /// Nothing is left to happen.
    Closed { unanswered: usize, reuses: u32 },
}

/// The end of a request.
pub struct Ended<'a> {
    pub request: &'a Request,
    pub end: &'a End,
    pub config: &'a Config,
    /// The realm of its route.
    pub realm: usize,
    /// The right time.
    pub now: u64,
    /// The time by the node's clock.
    pub node_now: u64,
    /// When it was sent.
    pub sent_at: u64,
    /// The settings of the node's clock.
    pub clock: &'a ClockSteps,
    /// Turns that it took without a wait.
    pub turns: u32,
    /// Whether it waited for others.
    pub waited: bool,
    /// The rounds of bcrypt of the record that it was last shown.
    pub rounds: u32,
    /// The number of workers in this one's place before it.
    pub generation: u32,
    /// Keycloak's id of the owner, as the exchange says it.
    pub owner: Option<&'a str>,
    /// The terms that it was served by, as the exchange says them.
    pub terms: Option<truth::Terms>,
    /// The number of buckets that the node's shared data had lost, or lied about, before the
    /// request's last step and after it.
    pub lost_buckets: (u64, u64),
    /// The instant since which no fault could have kept it from its token.
    pub calm_since: Option<u64>,
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The number of the invariant; 0 for the purpose of it all.
    pub invariant: u8,
    pub what: String,
}

/// A checker's word: nothing, or the violation.
pub type Word = Result<(), String>;

/// Holds a run against one invariant.
pub trait Checker {
    /// The number of the invariant.
    fn invariant(&self) -> u8;

    /// # Errors
    ///
    /// The violation.
    fn see(&mut self, seen: &Seen<'_>, truth: &Truth) -> Word;
}

/// All checkers of a run, and the first violation that one of them saw.
pub struct Jury {
    checkers: Vec<Box<dyn Checker>>,
    pub violation: Option<Violation>,
}

impl Jury {
    pub fn new() -> Self {
        let checkers: Vec<Box<dyn Checker>> = vec![
            Box::new(serves::Serves),
            Box::new(owner::Owner),
            Box::new(expiry::Expiry),
            Box::new(revocation::Revocation),
            Box::new(closed::Closed),
            Box::new(secrecy::Secrecy),
            Box::new(upstream::Upstream),
            Box::new(answered::Answered),
            Box::new(slices::Slices),
            Box::new(bounded::Bounded),
            Box::new(belief::Belief),
            Box::new(unique::Unique),
            Box::new(abuse::Abuse::default()),
            Box::new(terms::Terms),
            Box::new(limits::Limits::default()),
        ];
        Self {
            checkers,
            violation: None,
        }
    }

    /// Shows something to all of them.
    pub fn see(&mut self, seen: &Seen<'_>, truth: &Truth) {
        for checker in &mut self.checkers {
            if let Err(what) = checker.see(seen, truth) {
                let invariant = checker.invariant();
                self.violation.get_or_insert(Violation { invariant, what });
            }
        }
    }
}

/// Gives the violation unless the condition holds.
fn holds(condition: bool, what: impl FnOnce() -> String) -> Word {
    if condition { Ok(()) } else { Err(what()) }
}
