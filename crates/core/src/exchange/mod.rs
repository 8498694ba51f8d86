//! The exchange of one request: an API key goes in, a token of its owner comes out.
//!
//! [`Exchange`] is a state machine without I/O. Its caller, a shell around one
//! host, says what happened ([`Input`]: the request came, a callout answered or
//! failed) and is told the one thing to do next ([`Output`]: call out, yield, pass,
//! forward, reject). After a callout or a yield the caller comes back with its
//! result; after any other output the exchange is over. A request that goes away
//! is told by [`Exchange::abort`].
//!
//! The way of a request that no cache knows:
//!
//! ```text
//! request ─▶ credentials ─▶ caches ─▶ flight ─▶ service token ─▶ look-up
//!                │             │ hit     │ other leads: wait        │
//!                ▼             ▼         ▼                          ▼
//!             reject/pass   forward   caches again     verify: memo, or bcrypt in
//!                                                      slices behind the gate
//!                                                                   │
//!                      forward ◀─ remember ◀─ grant ◀─── sign ◀─────┘
//! ```
//!
//! Invariants held here: every input leads to exactly one output; every claim
//! (flight, service token, gate, pending) is given back when the exchange ends,
//! however it ends; whatever fails is a rejection.

pub mod bucket;
mod calling;
pub mod credentials;
mod end;
mod env;
pub mod flight;
pub mod gate;
mod granting;
pub mod renewing;
mod steps;
pub mod throttle;
mod told;
mod verification;
mod worker;

use std::sync::Arc;

use crate::api_key::format::ApiKey;
use crate::api_key::hash::BcryptJob;
use crate::clock::UnixMillis;
use crate::keycloak::Call;
use crate::keycloak::users::Owner;
use crate::store::sealed::KeyDigest;

use crate::calls::ExchangeId;
use crate::rejection::{Reason, Rejection};
use credentials::{AUTHORIZATION, Headers};
use end::End;
pub use env::Env;
use gate::Ticket;
use throttle::SourceAddress;
pub use worker::{PENDING_MAX, Sizes, Worker};

/// What happened.
pub enum Input<'a> {
    /// The request's head came: the first input of each exchange.
    Request {
        /// Its headers.
        headers: &'a Headers,
    },
    /// The callout or yield was answered.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The body; none if it is larger than
        /// [`ANSWER_BYTES_MAX`](crate::keycloak::ANSWER_BYTES_MAX).
        body: Option<&'a [u8]>,
    },
    /// The callout or yield failed; why, as far as the host says.
    Failed(&'a str),
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers hold keys, and bodies tokens.
        match self {
            Self::Request { headers } => write!(f, "Request({} headers)", headers.len()),
            Self::Answer { status, .. } => write!(f, "Answer({status})"),
            Self::Failed(_) => f.write_str("Failed"),
        }
    }
}

/// What to do next.
#[derive(Debug)]
pub enum Output {
    /// Send this to Keycloak and come back with its answer.
    Callout {
        /// The request.
        call: Call,
        /// How long to wait for the answer.
        timeout_ms: u64,
    },
    /// Let others have the worker, then come back.
    Yield {
        /// None: come back at once. Else about so many milliseconds later.
        wait_ms: Option<u64>,
        /// How long to wait for the answer.
        timeout_ms: u64,
    },
    /// Let the request go on untouched.
    Pass(Pass),
    /// Let the request go on with this token.
    Forward(Forward),
    /// Answer the client.
    Reject {
        /// The answer.
        rejection: Rejection,
        /// Why, for the log alone.
        reason: Reason,
    },
}

/// Why a request goes on untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The filter is switched off.
    Disabled,
    /// It carries no key, and the policy lets it through.
    NoKey,
    /// Its key is unknown to Keycloak, before `fallback_until`.
    Fallback,
}

/// How a token was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From worker memory.
    L1,
    /// From the host's shared data.
    L2,
    /// From Keycloak; the key had been verified before.
    Refresh,
    /// From Keycloak, after the key's first verification on this node.
    FirstUse,
    /// From a cache and past its TTL: Keycloak cannot be asked, and `stale_if_error_seconds`
    /// allows it.
    Stale,
}

/// A request that goes on with a token.
#[derive(Clone)]
pub struct Forward {
    /// The value for the `Authorization` header.
    pub authorization: Arc<str>,
    /// Headers to remove.
    pub remove: Vec<String>,
    /// How the token was come by.
    pub source: Source,
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forward")
            .field("remove", &self.remove)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// One request's exchange.
#[derive(Debug, Default)]
pub struct Exchange {
    state: State,
    pending: Option<Pending>,
    key_id: Option<String>,
    /// Keycloak's id of the key's owner, once it is known.
    owner_id: Option<Arc<str>>,
    /// Where the request comes from, once it was asked for.
    source: Option<SourceAddress>,
    /// The key whose token went on with the request.
    forwarded: Option<KeyDigest>,
}

/// What the exchange waits for.
#[derive(Default)]
enum State {
    /// The request.
    #[default]
    New,
    /// A turn, to look whether the leader is done.
    Following { wait_ms: u64 },
    /// Its turn to look a key up that nobody has seen.
    AwaitingTurn { from: UnixMillis },
    /// A turn, to look whether the service token is there.
    AwaitingToken { wait_ms: u64 },
    /// The answer with the service token.
    FetchingToken,
    /// The answer of the look-up.
    LookingUp { service_token: Arc<str> },
    /// A turn, to look whether the gate is free.
    Queueing { owner: Box<Owner> },
    /// A turn, to compute the next slice.
    Verifying {
        owner: Box<Owner>,
        job: Box<BcryptJob>,
    },
    /// A turn after the verification, to sign the assertions.
    Signing { owner: Box<Owner> },
    /// The answer of the grant.
    Granting { owner: Box<Owner> },
    /// Nothing: it is over.
    Over,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its name alone: some hold the gateway's token.
        f.write_str(match self {
            Self::New => "New",
            Self::Following { .. } => "Following",
            Self::AwaitingTurn { .. } => "AwaitingTurn",
            Self::AwaitingToken { .. } => "AwaitingToken",
            Self::FetchingToken => "FetchingToken",
            Self::LookingUp { .. } => "LookingUp",
            Self::Queueing { .. } => "Queueing",
            Self::Verifying { .. } => "Verifying",
            Self::Signing { .. } => "Signing",
            Self::Granting { .. } => "Granting",
            Self::Over => "Over",
        })
    }
}

/// What an exchange that no cache could answer holds on to.
#[derive(Debug)]
struct Pending {
    id: ExchangeId,
    key_id: String,
    owner_id: Option<Arc<str>>,
    /// None where a token is renewed and no request brought the key.
    key: Option<ApiKey>,
    digest: KeyDigest,
    remove: Vec<String>,
    ticket: Ticket,
    started_at: UnixMillis,
    deadline_at: UnixMillis,
    seen_at: UnixMillis,
    /// When the owner was last asked for: what is remembered ends the TTL after it,
    /// so that a revocation is never older than that.
    asked_at: UnixMillis,
    /// What the worker knew of revocations then.
    generation: u64,
    /// The service token was refused once and fetched anew.
    retried: bool,
    /// How often the call under way was made again.
    tries: usize,
    /// Why it is made again.
    unanswered: Option<Reason>,
    /// The key was verified in this exchange.
    first_use: bool,
    /// The key was verified on this node, in this exchange or before.
    known: bool,
    /// Its turn came then, and it has not looked the key up yet.
    turn_at: Option<UnixMillis>,
    /// The deadline was moved for the queue and the verification already.
    queued: bool,
    /// The deadline was moved to a leader's already.
    followed: bool,
    /// Nobody was seen to own the key.
    unseen: Option<Unseen>,
}

impl Pending {
    /// What is pending for a key that no request brought.
    fn new(
        id: ExchangeId,
        key_id: String,
        digest: KeyDigest,
        ticket: Ticket,
        deadline_at: UnixMillis,
        now: UnixMillis,
    ) -> Self {
        Self {
            id,
            key_id,
            owner_id: None,
            key: None,
            digest,
            remove: Vec::new(),
            ticket,
            started_at: now,
            deadline_at,
            seen_at: now,
            asked_at: now,
            generation: 0,
            retried: false,
            tries: 0,
            unanswered: None,
            first_use: false,
            known: false,
            turn_at: None,
            queued: false,
            followed: false,
            unseen: None,
        }
    }
}

/// Nobody was seen to own a key: whether the gateway could see is to be shown.
#[derive(Debug, Clone, Copy)]
struct Unseen {
    /// By a service token that was asked for at this instant or later.
    since: UnixMillis,
    /// The key is to fall back: Keycloak is asked once more, with that token.
    falls_back: bool,
}

/// A step's outcome: wait for something in a new state, or the end.
type Step = Result<(State, Output), End>;

impl Exchange {
    /// An exchange that waits for its request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the exchange holds something that must be given back.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The headers that the key came in: a request that is held must not hold them.
    pub fn credential_headers(&self) -> impl Iterator<Item = &str> {
        let pending = self.pending.iter();
        pending.flat_map(|pending| {
            let others = pending.remove.iter().map(String::as_str);
            [AUTHORIZATION].into_iter().chain(others)
        })
    }

    /// Takes what happened and says what to do next.
    pub fn handle_input(&mut self, input: &Input<'_>, env: &mut Env<'_>) -> Output {
        env.worker.cache.keep_up(false, env.now, env.store);
        let state = std::mem::replace(&mut self.state, State::Over);
        let step = match (state, input) {
            (State::New, Input::Request { headers }) => {
                return self.start(headers, env);
            }
            (state, input) => self.go_on(state, input, env),
        };
        self.settle(step, env)
    }

    /// The service refused the token that went on with the request: it is dropped, and the
    /// next request gets another. True unless that was a short while ago.
    pub fn token_refused(&self, env: &mut Env<'_>) -> bool {
        self.forwarded
            .is_some_and(|digest| env.worker.cache.drop_token(&digest, env.now))
    }

    /// Whether a token went on with the request.
    #[must_use]
    pub const fn has_forwarded(&self) -> bool {
        self.forwarded.is_some()
    }

    /// Gives back what the exchange holds: the request went away. To be called for
    /// each exchange at its end; does nothing where there is nothing to give back.
    pub fn abort(&mut self, env: &mut Env<'_>) {
        // Who hangs up before the verdict on a key that nobody has seen would else make
        // up as many as he likes.
        if self.pending.as_ref().is_some_and(|pending| !pending.known) {
            self.count_failure(env);
        }
        self.give_back(env);
    }

    fn give_back(&mut self, env: &mut Env<'_>) {
        self.state = State::Over;
        if let Some(mut pending) = self.pending.take() {
            self.owner_id = pending.owner_id.take().or(self.owner_id.take());
            release(&pending, env);
        }
    }

    /// Takes a step's outcome: keeps the new state, or ends the exchange.
    fn settle(&mut self, step: Step, env: &mut Env<'_>) -> Output {
        match step {
            Ok((state, output)) => {
                if matches!(state, State::Over) {
                    self.forwarded = self.pending.as_ref().map(|pending| pending.digest);
                    self.give_back(env);
                }
                self.state = state;
                output
            }
            Err(end) => self.end(end, env),
        }
    }

    fn end(&mut self, end: End, env: &mut Env<'_>) -> Output {
        let output = match end {
            End::Fallback => {
                if let Some(Pending { digest, id, .. }) = &self.pending {
                    let flights = &mut env.worker.flights;
                    flights.fail_if_leading(digest, *id, env.now, &Reason::Unknown);
                }
                Output::Pass(Pass::Fallback)
            }
            End::Refused { reason, remember } => {
                let rejection = reason.rejection();
                if let Some(pending) = &self.pending {
                    let Pending { digest, id, .. } = pending;
                    let (now, worker) = (env.now, &mut *env.worker);
                    if let Some(refused) = remember {
                        worker
                            .cache
                            .remember_refused(digest, refused, now, env.store);
                    }
                    // What a renewal could not wait for, a request may; and what an address
                    // has done is no word on a key that comes from others as well.
                    let of_the_key = rejection != Rejection::Throttled;
                    if of_the_key && (pending.key.is_some() || remember.is_some()) {
                        worker.flights.fail_if_leading(digest, *id, now, &reason);
                    }
                }
                if let Some(forward) = self.stale(&reason, env) {
                    Output::Forward(forward)
                } else if rejection == Rejection::InvalidApiKey && self.count_failure(env) {
                    rejected(Reason::Throttled)
                } else {
                    rejected(reason)
                }
            }
        };
        self.give_back(env);
        output
    }
}

fn rejected(reason: Reason) -> Output {
    let rejection = reason.rejection();
    Output::Reject { rejection, reason }
}

/// Gives back every claim of an exchange.
fn release(pending: &Pending, env: &mut Env<'_>) {
    env.worker.flights.land(&pending.digest, pending.id);
    env.worker.service_token.give_up(pending.id);
    env.worker.breaker.give_up(pending.id);
    env.worker.leave();
    env.gate.leave(pending.ticket);
}
