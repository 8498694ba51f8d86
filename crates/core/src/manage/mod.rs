//! The life of a key: made, listed, rotated, revoked, by its owner or an operator.
//!
//! [`Manage`] is the management API's state machine, without I/O like the exchange's. The shell
//! brings the request's head, the body on demand, and the [`Event`] of each [`Effect`]. The
//! machine answers with the one next step ([`Output`]).
//!
//! ```text
//! head ─▶ route ─▶ token's shape ─▶ body ─▶ realm's keys ─▶ verify the caller
//!           │                                                      │
//!           ├▶ openapi.json, preflight                      manager's token
//!           └▶ validate: the exchange itself                       │
//!                                        list, show ◀──────────────┼──▶ revoke ─▶ change
//!                                          │                create, rotate
//!                                      last used            scopes ─▶ hash in slices ─▶ change ─▶ look-up
//! ```
//!
//! [`owner_keys`] reads keys from an owner's attributes and edits them; [`change`] makes one
//! change under the owner's lock. Both serve this API and the command-line tool, so there is
//! one writer.
//!
//! Invariants held here: an API key never makes keys; a caller acts for itself, unless it has
//! the administrators' role; each request ends with exactly one answer.

mod answers;
pub mod body;
pub mod change;
mod making;
pub mod owner_keys;
mod owners;
pub mod problem;
mod reading;
mod request;
pub mod router;
mod steps;
mod validating;

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::api_key::format::ApiKey;
use crate::api_key::hash::HashJob;
use crate::calls::ExchangeId;
use crate::calls::service_token::{ServiceToken, Session};
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::exchange::bucket::FullAt;
use crate::exchange::credentials::Headers;
use crate::exchange::gate::Ticket;
use crate::exchange::{Env, Exchange};
use crate::key_random::KeyRandom;
use crate::keycloak::Endpoint;
use crate::keycloak::caller_token::Caller;
use crate::keycloak::key_store::KeyStore;
use crate::machine::{Deadline, Effect, Event};
use crate::rejection::Reason;
use crate::signing_key::SigningKey;

use body::{CreateBody, RotateBody};
use change::{Changed, OwnerChange};
use owner_keys::KeySummary;
use owners::Owners;
use problem::Problem;
use router::{Operation, Query};

pub use answers::{Answer, OPENAPI};

/// The longest time of a request, with the wait for the owner's lock.
const REQUEST_MS_MAX: u64 = 30_000;
/// The longest wait of a request for the owner's lock, with the wait for earlier requests of
/// its worker.
const LOCK_WAIT_MS: u64 = 8_000;
/// The longest wait for the body.
const BODY_MS_MAX: u64 = 10_000;
/// The answer to a revocation waits this long: by then all workers of the node have dropped the
/// owner's tokens.
pub const SETTLE_MS: u64 = 500;

/// The head of a request.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Its headers.
    pub headers: &'a Headers,
    /// Whether a body comes.
    pub body_follows: bool,
}

impl std::fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Path and headers may hold keys.
        write!(f, "RequestHead({})", self.method)
    }
}

/// The next step for the shell.
#[derive(Debug)]
pub enum Output {
    /// Come back with the body, or with a failure when it has not come in time.
    ReadBody {
        /// The longest wait for it.
        timeout_ms: u64,
    },
    /// Carry out this effect and come back with its event.
    Await(Effect),
    /// Answer the client: the request is over.
    Respond(Answer),
}

/// State that one worker's requests share for one configuration, beside the state of the
/// exchange.
#[derive(Debug)]
pub struct Manager {
    signing_key: Arc<SigningKey>,
    service_token: ServiceToken,
    keys: KeyStore,
    owners: Owners,
    /// Verifications for addresses with too many failures.
    suspects: FullAt,
    random: KeyRandom,
}

impl Manager {
    /// An empty state. `signing_key` is the management client's; `seed` is any bytes that no
    /// other worker has had.
    #[must_use]
    pub fn new(signing_key: Arc<SigningKey>, seed: &[u8]) -> Self {
        Self {
            random: KeyRandom::new(&signing_key, seed),
            signing_key,
            service_token: ServiceToken::default(),
            keys: KeyStore::default(),
            owners: Owners::default(),
            suspects: FullAt::default(),
        }
    }
}

/// Everything that a management request works with.
#[derive(Debug)]
pub struct ManageEnv<'a, 'b> {
    /// Shared with the exchange.
    pub exchange: &'a mut Env<'b>,
    /// Shared with other management requests.
    pub manager: &'a mut Manager,
}

impl ManageEnv<'_, '_> {
    /// The means to get the manager's token.
    fn session(&mut self) -> Result<Session<'_>, End> {
        let (worker, manager) = (&mut *self.exchange.worker, &mut *self.manager);
        Ok(Session {
            now: self.exchange.now,
            config: &worker.config,
            client_id: &management(&worker.config)?.client_id,
            signing_key: &manager.signing_key,
            lacks_role: steps::lacks_role,
            tokens: &mut manager.service_token,
            ids: &mut worker.ids,
            nonce: self.exchange.nonce,
        })
    }
}

/// One request to the management API.
#[derive(Debug, Default)]
pub struct Manage {
    state: State,
    task: Option<Task>,
    report: Report,
    cors: Option<String>,
}

/// A request's data for the log. Holds no secret.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The operation; empty where it is unknown.
    pub operation: &'static str,
    /// The caller: Keycloak's id of the user.
    pub caller: Option<String>,
    /// The owner of the keys.
    pub owner: Option<String>,
    /// The key, or the new one, once it is found. The id that the client sent may be any text,
    /// even a key.
    pub key_id: Option<String>,
    /// The reason of a refusal.
    pub reason: Option<String>,
}

/// The event that the request waits for.
#[derive(Default)]
enum State {
    /// Its head.
    #[default]
    New,
    /// Its body. A request that waits for its body is not yet counted among the pending, or
    /// slow clients could take all places.
    ReadingBody(Box<Head>),
    /// A turn, to look whether the realm's keys are there.
    AwaitingKeys,
    /// The answer with the realm's keys.
    FetchingKeys,
    /// A turn. Verifying the caller's token took as long as a slice may, and the next step may
    /// sign or hash.
    Verified,
    /// A turn, to look whether the manager's token is there.
    AwaitingToken,
    /// The answer with the manager's token.
    FetchingToken,
    /// The answer with the owner.
    ReadingOwner,
    /// The answer with the owner's events.
    ReadingEvents(Box<Listing>),
    /// Whether the gateway's tokens can have the scopes.
    CheckingScopes,
    /// A turn, to look whether the gate is free.
    Queueing(Box<Draft>),
    /// A turn, to compute the next slice.
    Hashing(Box<Draft>, Box<HashJob>),
    /// A turn, to look whether another request of the worker still changes the owner.
    AwaitingOwner(Option<Box<Draft>>),
    /// The answer to a call of the change, or a turn that it waits for.
    Changing(Box<OwnerChange>, Option<Box<Draft>>),
    /// The answer to the look-up of the new key, as a gateway asks.
    LookingUp(Box<Changed>, Option<Box<Draft>>),
    /// A turn, until all workers of the node have dropped the owner's tokens.
    Settling(Box<Changed>, Option<Box<Draft>>, UnixMillis),
    /// An event of the exchange.
    Exchanging(Box<Exchange>),
    /// Nothing: it is over.
    Over,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its name alone: some hold keys.
        f.write_str(match self {
            Self::New => "New",
            Self::ReadingBody(_) => "ReadingBody",
            Self::AwaitingKeys => "AwaitingKeys",
            Self::FetchingKeys => "FetchingKeys",
            Self::Verified => "Verified",
            Self::AwaitingToken => "AwaitingToken",
            Self::FetchingToken => "FetchingToken",
            Self::ReadingOwner => "ReadingOwner",
            Self::ReadingEvents(_) => "ReadingEvents",
            Self::CheckingScopes => "CheckingScopes",
            Self::Queueing(_) => "Queueing",
            Self::Hashing(..) => "Hashing",
            Self::AwaitingOwner(_) => "AwaitingOwner",
            Self::Changing(..) => "Changing",
            Self::LookingUp(..) => "LookingUp",
            Self::Settling(..) => "Settling",
            Self::Exchanging(_) => "Exchanging",
            Self::Over => "Over",
        })
    }
}

/// The contents of a request's head.
struct Head {
    operation: Operation,
    query: Query,
    /// The caller's token; empty where none is needed.
    token: Zeroizing<String>,
}

/// The operation and its arguments.
#[derive(Debug)]
enum Asked {
    List,
    Show(String),
    Revoke(String),
    RevokeAll,
    Create(CreateBody),
    Rotate(String, RotateBody),
}

/// A request with a caller to check, not answered yet.
struct Task {
    query: Query,
    /// The caller's token, until it is verified.
    token: Zeroizing<String>,
    asked: Asked,
    caller: Option<Caller>,
    /// The manager's token, once it is there.
    bearer: Arc<str>,
    id: ExchangeId,
    ticket: Ticket,
    deadline: Deadline,
    /// The instant at which it was ready for its change, and began to wait for its turn.
    ready_at: Option<UnixMillis>,
    /// No look-up finds the new key, and its making is being undone.
    undoing: bool,
    /// The manager's token was refused once and fetched anew.
    retried: bool,
    /// The length of the next wait.
    wait_ms: u64,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("asked", &self.asked)
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}

/// A key that is being made.
struct Draft {
    key: ApiKey,
    /// Its hash, once it is computed.
    hash_text: String,
    salt: [u8; 16],
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Keys for a list or a single answer, which waits for their last uses.
#[derive(Debug)]
struct Listing {
    keys: Vec<(KeySummary, Option<UnixMillis>)>,
    next: Option<String>,
    /// Pages of events that were looked through.
    page: usize,
}

/// A request's early end: a refusal or a fault.
#[derive(Debug)]
struct End {
    problem: Problem,
    /// The reason, for the log.
    reason: String,
}

impl End {
    fn new(problem: impl Into<Problem>, reason: impl std::fmt::Display) -> Self {
        Self {
            problem: problem.into(),
            reason: reason.to_string(),
        }
    }

    /// Keycloak cannot be asked, or does not answer as it should.
    fn unavailable(reason: impl std::fmt::Display) -> Self {
        Self::new(Problem::unavailable(), reason)
    }

    fn callout(endpoint: Endpoint, failure: &str) -> Self {
        Self::unavailable(Reason::callout(endpoint, failure))
    }
}

/// A step's outcome: wait for something in a new state, or the end.
type Step = Result<(State, Output), End>;

impl Manage {
    /// A request that waits for its head.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The request's data for the log.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Whether the request holds something that must be given back.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.task.is_some() || matches!(self.state, State::Exchanging(_))
    }

    /// Takes the request's head and gives the next step.
    pub fn begin(&mut self, head: RequestHead<'_>, env: &mut ManageEnv<'_, '_>) -> Output {
        let step = match std::mem::replace(&mut self.state, State::Over) {
            State::New => self.start(head, env),
            state => self.misplaced(state),
        };
        self.end_step(step, env)
    }

    /// Takes the whole body, after [`Output::ReadBody`]; none if it is larger than
    /// [`BODY_BYTES_MAX`](body::BODY_BYTES_MAX) or cannot be had.
    pub fn read_body(&mut self, body: Option<&[u8]>, env: &mut ManageEnv<'_, '_>) -> Output {
        let step = match std::mem::replace(&mut self.state, State::Over) {
            State::ReadingBody(head) => self.with_body(*head, body, env),
            state => self.misplaced(state),
        };
        self.end_step(step, env)
    }

    /// Takes the outcome of the latest effect and gives the next step. While the machine waits
    /// for the body, any event means that the body has not come in time.
    pub fn handle_event(&mut self, event: Event<'_>, env: &mut ManageEnv<'_, '_>) -> Output {
        let state = std::mem::replace(&mut self.state, State::Over);
        let step = self.go_on(state, event, env);
        self.end_step(step, env)
    }

    fn end_step(&mut self, step: Step, env: &mut ManageEnv<'_, '_>) -> Output {
        match step {
            Ok((state, output)) => {
                self.state = state;
                if let Output::Respond(answer) = output {
                    return self.respond(answer, env);
                }
                output
            }
            Err(End { problem, reason }) => {
                self.report.reason = Some(reason);
                let realm = &env.exchange.worker.config.realm.name;
                let answer = Answer::refusal(problem, realm);
                self.respond(answer, env)
            }
        }
    }

    /// Releases all that the request holds, for a client that went away. To be called at the
    /// end of each request; does nothing where nothing is held.
    pub fn abort(&mut self, env: &mut ManageEnv<'_, '_>) {
        let state = std::mem::replace(&mut self.state, State::Over);
        match state {
            State::Exchanging(mut exchange) => exchange.abort(env.exchange),
            State::FetchingKeys => env.manager.keys.given_up(),
            _ => {}
        }
        if let Some(task) = self.task.take() {
            env.manager.service_token.give_up(task.id);
            env.manager.owners.leave(task.id);
            env.exchange.gate.leave(task.ticket);
            env.exchange.worker.leave();
        }
    }

    fn respond(&mut self, mut answer: Answer, env: &mut ManageEnv<'_, '_>) -> Output {
        self.abort(env);
        if let Some(origin) = &self.cors {
            answer.allow_origin(origin);
        }
        Output::Respond(answer)
    }
}

/// The configuration of mode `manage`; a filter of the other mode never comes here.
fn management(config: &Config) -> Result<&crate::config::Management, End> {
    let management = config.management.as_ref();
    management.ok_or_else(|| End::unavailable("mode is not manage"))
}
