//! The machine of one request, in the order of its steps.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::answers::Answer;
use super::body::KeyBody;
use super::change::{Change, ChangeError, ChangeOutput, Changed, OwnerChange};
use super::end::End;
use super::env::ManageEnv;
use super::owner_keys::{self, Edit, EditRefused, KeySummary, NewKey, Replacement};
use super::problem::{Code, Problem};
use super::request::{self, Asked, Head, RequestHead, expected, management, not_taken};
use super::router::{Operation, Query};
use crate::api_key::format::ApiKey;
use crate::api_key::hash::{BcryptJob, HashJob, NewHash, ROUNDS_PER_SLICE, Verification};
use crate::api_key::record::RecordError;
use crate::calls::ExchangeId;
use crate::calls::service_token::{Asker, Token};
use crate::clock::UnixMillis;
use crate::config::HashAlgorithm;
use crate::exchange::bucket::Bucket;
use crate::exchange::credentials::AUTHORIZATION;
use crate::exchange::gate::{Ticket, Turn};
use crate::exchange::throttle::SourceAddress;
use crate::exchange::{self, Exchange, Pass};
use crate::keycloak::caller_token;
use crate::keycloak::owner::{self, OwnerFault, User, service_account_name};
use crate::keycloak::user_events::LastUses;
use crate::keycloak::users::{self, Lookup, LookupError, LookupRefusal, Owner};
use crate::keycloak::{Call, Endpoint, jwks, key_store, token};
use crate::machine::{Deadline, Effect, Event};
use crate::rejection::{Reason, Rejection};

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
/// The first wait for another request's result; each further one is twice as long.
const WAIT_MS_MIN: u64 = 5;
/// The longest wait for another request's result.
const WAIT_MS_MAX: u64 = 40;
/// The time that a turn may take beyond the wait that was asked for.
const WAIT_GRACE_MS: u64 = 2000;
/// Signatures that a worker verifies for all addresses with too many failures together: at
/// once, and in each second. Such addresses are not refused outright: a caller that shares its
/// address with a stranger, behind one proxy, must still be able to end a key.
const SUSPECTS: Bucket = Bucket::new(10, 1000, 10);
/// Pages of events that are looked through for the last uses of keys.
const EVENT_PAGES_MAX: usize = 5;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// The wait at the head of the gate's queue; each place behind adds as much.
const QUEUE_WAIT_MS: u64 = 15;
/// The longest wait in the queue.
const QUEUE_WAIT_MS_MAX: u64 = 100;
/// The wait of the next request for an owner; each request before it adds as much.
const OWNER_WAIT_MS: u64 = 25;
/// The longest wait for an owner.
const OWNER_WAIT_MS_MAX: u64 = 150;
/// The time between two looks at the clock, while other workers drop the owner's tokens.
const SETTLE_WAIT_MS: u64 = 100;

/// Look-ups that a worker makes for all addresses together: in each second, and at once. An
/// attacker may have any number of addresses.
const LOOK_UPS: Bucket = Bucket::new(10, 1000, 20);
/// A key is unknown only if the manager's roles were seen within this time. Without its role
/// Keycloak finds nobody, and a leaked key would be taken for ended.
const ROLES_SEEN_MS: u64 = 5_000;

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

/// One request to the management API.
#[derive(Debug, Default)]
pub struct Manage {
    state: State,
    task: Option<Task>,
    report: Report,
    cors: Option<String>,
    /// The node was told to drop the owner's tokens.
    revoked: bool,
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
    /// The settings that were changed, by their names in the API.
    pub changed: Vec<&'static str>,
    /// The reason of a refusal.
    pub reason: Option<String>,
}

impl Report {
    /// The log's line for the request of this id with this answer.
    #[must_use]
    pub fn line(&self, request_id: &str, answer: &Answer) -> String {
        let told = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let changed = match self.changed.as_slice() {
            [] => "-".to_owned(),
            members => members.join(","),
        };
        format!(
            "request_id={request_id} managed: operation={} status={} code={} caller={} owner={} \
             key_id={} changed={changed} reason={}",
            self.operation,
            answer.status,
            answer.code().unwrap_or("-"),
            told(&self.caller),
            told(&self.owner),
            told(&self.key_id),
            told(&self.reason),
        )
    }
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
    /// An answer with the realm's events.
    ReadingEvents(Box<Listing>),
    /// The answer with the owner of the key that a holder presents.
    FindingOwner,
    /// A turn, to look whether the gate is free, or to compute the next slice.
    Proving(Box<Proof>),
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
            Self::FindingOwner => "FindingOwner",
            Self::Proving(_) => "Proving",
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

/// A request with a caller or a key to check, not answered yet.
struct Task {
    query: Query,
    /// The caller's token, until it is verified.
    token: Zeroizing<String>,
    asked: Asked,
    /// Keycloak's id of the keys' owner, once the caller or the key is verified.
    owner_id: Option<String>,
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
    /// The manager's token must have been asked for at this instant or later.
    token_since: UnixMillis,
    /// Keycloak showed no owner of the presented key.
    unseen: bool,
    /// The length of the next wait.
    wait_ms: u64,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("asked", &self.asked)
            .field("owner_id", &self.owner_id)
            .finish_non_exhaustive()
    }
}

/// The proof that a presented key is the owner's.
struct Proof {
    owner: Box<Owner>,
    /// The verification, once it has begun.
    job: Option<Box<BcryptJob>>,
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
    keys: Vec<KeySummary>,
    next: Option<String>,
    uses: LastUses,
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

    /// Whether the request has ended tokens of an owner on this node.
    #[must_use]
    pub const fn has_revoked(&self) -> bool {
        self.revoked
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
    /// [`BODY_BYTES_MAX`](super::body::BODY_BYTES_MAX) or cannot be had.
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

    /// The outcome of the latest effect.
    fn go_on(&mut self, state: State, event: Event<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        if let Some(task) = &mut self.task {
            task.follow_the_clock(env);
        }
        match (state, event) {
            (State::Exchanging(exchange), event) => self.exchange(exchange, event, env),
            (state @ (State::New | State::Over), _) => self.misplaced(state),
            (State::FetchingKeys, event) => self.keys_fetched(event, env),
            (State::FetchingToken, event) => self.token_fetched(event, env),
            (State::ReadingOwner, event) => self.owner_read(event, env),
            (State::ReadingEvents(listing), event) => self.events_read(listing, event, env),
            (State::FindingOwner, event) => self.owner_found(event, env),
            (State::CheckingScopes, event) => self.scopes_checked(event, env),
            (State::Changing(change, draft), event) => self.change(change, draft, event, env),
            (State::LookingUp(changed, draft), event) => self.looked_up(changed, draft, event, env),
            // The answer for a made change goes out, whether or not the host lends a turn.
            (State::Settling(changed, draft, _), event) if !is_turn(event) => {
                self.told(&changed, draft, env)
            }
            // The states below wait for a turn.
            (_, Event::Failed(why)) => Err(turn_failed(&crate::keycloak::loggable(why))),
            (_, Event::Answer { status, .. }) if status >= 400 => {
                Err(turn_failed(&format!("status {status}")))
            }
            (State::ReadingBody(_), _) => Err(End::new(
                Problem::new(Code::InvalidRequest, "The body did not come in time."),
                "the body did not come: on Envoy the filter needs allow_on_headers_stop_iteration",
            )),
            (State::AwaitingKeys, _) => self.verify_caller(None, env),
            (State::Verified | State::AwaitingToken, _) => self.need_token(env),
            (State::Proving(proof), _) => self.prove(proof, env),
            (State::Queueing(draft), _) => self.queue(draft, env),
            (State::AwaitingOwner(draft), _) => self.await_owner(draft, env),
            (State::Hashing(draft, job), _) => self.hash_slice(draft, job, env),
            (State::Settling(changed, draft, until), _) => self.settle(changed, draft, until, env),
        }
    }

    /// The state's resources are given back at the end.
    fn misplaced(&mut self, state: State) -> Step {
        self.state = state;
        Err(End::unavailable("an input that belongs to nothing"))
    }

    // ---- the request ------------------------------------------------------------

    fn start(&mut self, head: RequestHead<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        let config = Arc::clone(&env.exchange.worker.config);
        self.cors = request::read_origin(&head, &config)?;
        let (operation, query) = request::route(&head)?;
        self.report.operation = operation.name();
        request::refuse_key_in_path(&operation, &query, &config)?;
        let respond = |answer| Ok((State::Over, Output::Respond(answer)));
        match operation {
            Operation::OpenApi => return respond(Answer::openapi()),
            Operation::Preflight(methods) => {
                request::check_preflight(methods, self.cors.as_deref(), &config)?;
                return respond(Answer::preflight(methods));
            }
            Operation::Usage(_) if !env.exchange.worker.tells_usage() => {
                let detail = "Requests are not counted here: usage or l2_slots is off.";
                return Err(End::new(Problem::new(Code::NotFound, detail), detail));
            }
            _ => {}
        }
        let route = (operation, query);
        let (head, expects_body) = request::read_head(&head, route, &config, env.exchange.now)?;
        if expects_body {
            let output = Output::ReadBody {
                timeout_ms: BODY_MS_MAX,
            };
            return Ok((State::ReadingBody(Box::new(head)), output));
        }
        self.with_body(head, Some(&[]), env)
    }

    /// The body has come, or there is none: reads it, and goes on to the caller.
    fn with_body(&mut self, head: Head, body: Option<&[u8]>, env: &mut ManageEnv<'_, '_>) -> Step {
        let body = request::bounded(body)?;
        if head.operation == Operation::Validate {
            let body = request::read_key(body)?;
            return self.start_exchange(&body, env);
        }
        if head.operation == Operation::RevokePresented {
            let body = request::read_key(body)?;
            return self.present(head.query, &body, env);
        }
        let asked = request::read_asked(head.operation, body)?;
        self.admit(head.query, head.token, asked, env)?;
        self.verify_caller(None, env)
    }

    /// Makes the request one of the pending, unless there are too many.
    fn admit(
        &mut self,
        query: Query,
        token: Zeroizing<String>,
        asked: Asked,
        env: &mut ManageEnv<'_, '_>,
    ) -> Result<(), End> {
        let Some(id) = env.exchange.worker.admit() else {
            let problem = Code::Exchange(Rejection::Overloaded);
            return Err(End::new(problem, "too many requests wait"));
        };
        self.task = Some(Task {
            query,
            token,
            asked,
            owner_id: None,
            bearer: "".into(),
            id,
            ticket: env.exchange.gate.ticket(),
            deadline: Deadline::after_ms(REQUEST_MS_MAX, env.exchange.now),
            ready_at: None,
            retried: false,
            token_since: UnixMillis::default(),
            unseen: false,
            undoing: false,
            wait_ms: WAIT_MS_MIN,
        });
        Ok(())
    }

    // ---- the caller -------------------------------------------------------------

    /// Verifies the caller's token with the realm's key that it names. `unfetched` is the fault
    /// of a fetch that just failed: it ends the request if the keys at hand do not suffice.
    fn verify_caller(&mut self, unfetched: Option<End>, env: &mut ManageEnv<'_, '_>) -> Step {
        let (now, config) = (env.exchange.now, Arc::clone(&env.exchange.worker.config));
        let task = self.task.as_mut().ok_or_else(nothing)?;
        let header = caller_token::read_header(&task.token).map_err(not_taken)?;
        let lease_until = now.plus_ms(config.callout_timeout_ms + 1000);
        let key = match env.manager.keys.need(&header.kid, lease_until, now) {
            key_store::Need::Use(key) => key,
            key_store::Need::Fetch => {
                let fetch = task.call(State::FetchingKeys, jwks::jwks_call(&config), env);
                if fetch.is_err() {
                    env.manager.keys.failed();
                }
                return fetch;
            }
            key_store::Need::Wait => return task.wait(State::AwaitingKeys, env),
            key_store::Need::Unknown => {
                return Err(unfetched.unwrap_or_else(|| {
                    End::new(
                        Code::InvalidToken,
                        "the caller's token: the realm has no key of that name",
                    )
                }));
            }
            key_store::Need::Unavailable => {
                return Err(unfetched.unwrap_or_else(|| {
                    End::unavailable("the realm's public keys could not be fetched")
                }));
            }
        };
        let management = management(&config)?;
        let source = env.exchange.source();
        let is_suspect = source.is_some_and(|source| env.exchange.is_throttled(source));
        if is_suspect && SUSPECTS.reserve(&mut env.manager.suspects, now).is_none() {
            return Err(End::new(
                Code::Exchange(Rejection::Throttled),
                Reason::Throttled,
            ));
        }
        let clients = [config.client_id.as_str(), &management.client_id];
        let expected = expected(&config, management, &clients);
        let verified = caller_token::verify(&expected, &key, &task.token, now);
        let caller = verified.map_err(|error| {
            source.map(|source| env.exchange.count_failure(source));
            not_taken(error)
        })?;
        task.token = zeroize::Zeroizing::default();
        let acts_for = task.query.user_id.as_ref().unwrap_or(&caller.subject);
        self.report.caller = Some(caller.subject.clone());
        self.report.owner = Some(acts_for.clone());
        if *acts_for != caller.subject && !caller.has_role(&management.admin_role) {
            let problem = Problem::new(
                Code::Forbidden,
                format!(
                    "To act for another user takes the role {}.",
                    management.admin_role
                ),
            );
            return Err(End::new(problem, "acts for another without the role"));
        }
        task.owner_id = Some(acts_for.clone());
        task.turn(State::Verified, env)
    }

    fn keys_fetched(&mut self, event: Event<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        let read = answer(Endpoint::Jwks, event).and_then(|(status, body)| {
            jwks::read_jwks_answer(status, body).map_err(End::unavailable)
        });
        match read {
            Ok(keys) => {
                env.manager.keys.fetched(keys, env.exchange.now);
                self.verify_caller(None, env)
            }
            Err(end) => {
                env.manager.keys.failed();
                // An older set of keys may suffice.
                self.verify_caller(Some(end), env)
            }
        }
    }

    // ---- the manager's token ----------------------------------------------------

    fn need_token(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task.as_mut().ok_or_else(nothing)?;
        let asker = Asker {
            id: task.id,
            started_at: task.deadline.started_at(),
            since: task.token_since,
        };
        let token = env.session()?.need(asker, "manager");
        match token.map_err(End::unavailable)? {
            Token::Ready(bearer) => {
                task.bearer = bearer;
                self.ask_keycloak(env)
            }
            Token::Wait => task.wait(State::AwaitingToken, env),
            Token::Fetch(call) => task.call(State::FetchingToken, call, env),
        }
    }

    fn token_fetched(&mut self, event: Event<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task.as_mut().ok_or_else(nothing)?;
        let token = env.session()?.answered(task.id, event);
        task.bearer = token.map_err(End::unavailable)?;
        self.ask_keycloak(env)
    }

    /// Keycloak does not accept the manager's token (any more): fetches another, once.
    fn renew_token(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task.as_mut().ok_or_else(nothing)?;
        env.manager.service_token.reject(&task.bearer);
        if std::mem::replace(&mut task.retried, true) {
            return Err(End::unavailable("Keycloak refuses the manager's token"));
        }
        self.need_token(env)
    }

    /// The token is there: does the operation.
    fn ask_keycloak(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task.as_mut().ok_or_else(nothing)?;
        match &task.asked {
            Asked::List | Asked::Show(_) | Asked::Usage(_) => self.read_owner(env),
            Asked::Update(..) | Asked::Revoke(_) | Asked::RevokeAll => self.await_owner(None, env),
            Asked::RevokePresented(_) => self.find_owner(env),
            Asked::Create(create) => {
                let scopes = create.scopes.clone();
                match scopes {
                    Some(scopes) => self.check_scopes(&scopes, env),
                    None => self.make_key(env),
                }
            }
            Asked::Rotate(..) => self.make_key(env),
        }
    }

    fn task(&mut self) -> Result<&mut Task, End> {
        self.task.as_mut().ok_or_else(nothing)
    }

    // ---- list, show: keys and their last uses -----------------------------------

    fn read_owner(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task()?;
        let users_path = &env.exchange.worker.config.realm.users_path;
        let call = owner::read_call(users_path, task.owner_id()?, &task.bearer);
        task.call(State::ReadingOwner, call, env)
    }

    fn owner_read(&mut self, event: Event<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        if matches!(event, Event::Answer { body: None, .. }) {
            let error = ChangeError::OwnerUnreadable;
            return Err(End::new(Problem::from(&error), error));
        }
        let (status, body) = answer(Endpoint::Owner, event)?;
        let task = self.task()?;
        let user = match User::read(status, body, task.owner_id()?) {
            Ok(user) => user,
            Err(OwnerFault::Absent) => {
                return Err(End::new(Code::UserNotFound, "no such user"));
            }
            Err(OwnerFault::Unauthorized) => return self.renew_token(env),
            Err(fault) => return Err(End::unavailable(format!("the owner: {fault}"))),
        };
        let now = env.exchange.now;
        let (keys, next) = match &task.asked {
            Asked::Show(id) | Asked::Usage(id) => {
                let key = owner_keys::find(&user.attributes, id, now);
                let key = key.ok_or_else(|| End::new(Code::KeyNotFound, "no such key"))?;
                self.report.key_id = Some(key.id.clone());
                (vec![key], None)
            }
            _ => {
                let keys = owner_keys::list(&user.attributes, now);
                // If the last key of the page before is gone, the list begins anew.
                let after = task.query.after.as_deref();
                let from = keys
                    .iter()
                    .position(|key| Some(key.id.as_str()) == after)
                    .map_or(0, |at| at + 1);
                let limit = task.query.limit;
                let rest = keys.len().saturating_sub(from);
                let page: Vec<_> = keys.into_iter().skip(from).take(limit).collect();
                let next = page.last().filter(|_| rest > limit);
                let next = next.map(|key| key.id.clone());
                (page, next)
            }
        };
        if let (Asked::Usage(_), [key]) = (&self.task()?.asked, keys.as_slice()) {
            return Self::tell_usage(&key.id, env);
        }
        self.find_last_uses(keys, next, env)
    }

    fn find_last_uses(
        &mut self,
        keys: Vec<KeySummary>,
        next: Option<String>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let events_path = &env.exchange.worker.config.realm.events_path;
        let ids = keys.iter().map(|key| key.id.clone());
        let uses = LastUses::new(events_path, self.task()?.owner_id()?, ids, EVENT_PAGES_MAX);
        self.read_events(Box::new(Listing { keys, next, uses }), env)
    }

    fn tell_usage(key_id: &str, env: &mut ManageEnv<'_, '_>) -> Step {
        let now = env.exchange.now;
        let usage = env.exchange.worker.usage.as_ref().ok_or_else(nothing)?;
        let told = Answer::usage(&usage.of_key(key_id, now, env.exchange.store));
        Ok((State::Over, Output::Respond(told)))
    }

    fn read_events(&mut self, listing: Box<Listing>, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task()?;
        // A change that was made is reported, even late.
        if task.time_left(env).is_err() {
            return self.tell(&listing);
        }
        match listing.uses.next_call(&task.bearer) {
            Some(call) => task.call(State::ReadingEvents(listing), call, env),
            None => self.tell(&listing),
        }
    }

    fn events_read(
        &mut self,
        mut listing: Box<Listing>,
        event: Event<'_>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        // If events are unavailable, the keys are listed without last uses.
        let Ok((status, body)) = answer(Endpoint::Events, event) else {
            return self.tell(&listing);
        };
        listing.uses.read(status, body);
        self.read_events(listing, env)
    }

    fn tell(&mut self, listing: &Listing) -> Step {
        let shows_one = matches!(self.task()?.asked, Asked::Show(_) | Asked::Update(..));
        let told = match listing.keys.first() {
            Some(key) if shows_one => Answer::key(key, &listing.uses),
            _ => Answer::keys(&listing.keys, &listing.uses, listing.next.as_deref()),
        };
        Ok((State::Over, Output::Respond(told)))
    }

    // ---- scopes -----------------------------------------------------------------

    /// Asks for a token of the gateway's own with these scopes. Keycloak refuses scopes that
    /// the gateway's client cannot have, so no role is needed to read them.
    fn check_scopes(&mut self, scopes: &str, env: &mut ManageEnv<'_, '_>) -> Step {
        let config = Arc::clone(&env.exchange.worker.config);
        let jti = env.exchange.jti("scopes");
        let key = Arc::clone(&env.exchange.worker.signing_key);
        let assertion = token::client_assertion(&config, &key, &jti, env.exchange.now)
            .map_err(|_| End::unavailable("an assertion could not be signed"))?;
        let call = token::scoped_token_call(&config, &assertion, scopes);
        self.task()?.call(State::CheckingScopes, call, env)
    }

    fn scopes_checked(&mut self, event: Event<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        let (status, body) = answer(Endpoint::Scopes, event)?;
        if status == 200 {
            return self.make_key(env);
        }
        let error: Option<Value> = serde_json::from_slice(body).ok();
        let error = error
            .as_ref()
            .and_then(|error| error.get("error")?.as_str());
        if status == 400 && error == Some("invalid_scope") {
            let problem = Problem::new(
                Code::InvalidScope,
                "Each scope must be a client scope of the realm that the gateway's client has as \
                 default or optional.",
            );
            return Err(End::new(
                problem,
                "a scope that the gateway's client cannot have",
            ));
        }
        Err(End::unavailable(format!(
            "scopes: Keycloak answered {status}"
        )))
    }

    // ---- the key and its hash ---------------------------------------------------

    fn make_key(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let config = Arc::clone(&env.exchange.worker.config);
        let task = self.task()?;
        let nonce = (env.exchange.nonce)();
        let entropy = [task.bearer.as_bytes(), nonce.as_slice()];
        let mut random = env.manager.random.for_key(&entropy, env.exchange.now);
        let key = config.key_format.generate(|bytes| random.fill(bytes));
        let mut salt = [0_u8; 16];
        random.fill(&mut salt);
        self.report.key_id = Some(key.id().to_owned());
        let draft = Box::new(Draft {
            key,
            hash_text: String::new(),
            salt,
        });
        self.queue(draft, env)
    }

    /// Waits for the gate, or starts the hash.
    fn queue(&mut self, mut draft: Box<Draft>, env: &mut ManageEnv<'_, '_>) -> Step {
        let config = Arc::clone(&env.exchange.worker.config);
        let rounds = match config.hash_algorithm {
            HashAlgorithm::Sha256 => 0,
            HashAlgorithm::Bcrypt => 1 << config.bcrypt_cost,
        };
        let task = self.task()?;
        if let Some(wait_ms) = task.wait_at_gate(draft.key.id(), rounds, env)? {
            return task.wait_for(wait_ms, State::Queueing(draft), env);
        }
        let text = draft.key.expose().as_bytes();
        match NewHash::start(text, config.hash_algorithm, config.bcrypt_cost, draft.salt) {
            NewHash::Done(hash_text) => {
                draft.hash_text = hash_text;
                self.await_owner(Some(draft), env)
            }
            NewHash::Computing(job) => self.hash_slice(draft, job, env),
        }
    }

    fn hash_slice(
        &mut self,
        mut draft: Box<Draft>,
        mut job: Box<HashJob>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let (now, config) = (env.exchange.now, Arc::clone(&env.exchange.worker.config));
        let task = self.task()?;
        let rounds = 1 << config.bcrypt_cost;
        let turn = env
            .exchange
            .gate
            .show(task.ticket, draft.key.id(), rounds, now);
        if turn != Turn::Go {
            return task.wait_for(QUEUE_WAIT_MS, State::Hashing(draft, job), env);
        }
        match job.run(ROUNDS_PER_SLICE) {
            None => task.turn(State::Hashing(draft, job), env),
            Some(hash_text) => {
                env.exchange.gate.leave(task.ticket);
                draft.hash_text = hash_text;
                self.await_owner(Some(draft), env)
            }
        }
    }

    // ---- the change -------------------------------------------------------------

    /// Waits until no other request of the worker changes the owner's keys, and begins.
    fn await_owner(&mut self, draft: Option<Box<Draft>>, env: &mut ManageEnv<'_, '_>) -> Step {
        let now = env.exchange.now;
        let task = self.task()?;
        let waited_ms = now.since_ms(*task.ready_at.get_or_insert(now));
        let before = env.manager.owners.before(task.owner_id()?, task.id);
        if before == 0 {
            return self.begin_change(draft, waited_ms, env);
        }
        if waited_ms >= LOCK_WAIT_MS {
            return self.not_made(&ChangeError::Busy);
        }
        let before = u64::try_from(before).unwrap_or(u64::MAX);
        let wait_ms = before.saturating_mul(OWNER_WAIT_MS).min(OWNER_WAIT_MS_MAX);
        task.wait_for(wait_ms, State::AwaitingOwner(draft), env)
    }

    /// The change of the owner's keys for this request.
    fn edit(&self, draft: Option<&Draft>, env: &ManageEnv<'_, '_>) -> Result<Edit, End> {
        let (now, config) = (env.exchange.now, &env.exchange.worker.config);
        let keys_max = usize::try_from(config.max_keys_per_user).unwrap_or(1);
        // Cut to whole seconds first, as they are stored: the answer then names the stored
        // instant.
        let in_days = |days: u64| UnixMillis::from_seconds(now.plus_ms(days * DAY_MS).as_seconds());
        let task = self.task.as_ref().ok_or_else(nothing)?;
        let made = draft.map(|draft| (draft.key.id().to_owned(), draft.hash_text.clone()));
        match (&task.asked, made) {
            (Asked::Update(id, settings), None) => Ok(Edit::Update {
                id: id.clone(),
                settings: settings.clone(),
            }),
            (Asked::Revoke(id), None) => Ok(Edit::Revoke { id: id.clone() }),
            (Asked::RevokeAll, None) => Ok(Edit::RevokeAll),
            (Asked::RevokePresented(key), None) => Ok(Edit::Revoke {
                id: key.id().to_owned(),
            }),
            (Asked::Create(create), Some((id, hash_text))) => Ok(Edit::Create {
                key: NewKey {
                    id,
                    hash_text,
                    name: create.name.clone(),
                    created: now,
                    expires_at: in_days(create.expires_days),
                    scopes: create.scopes.clone(),
                    settings: create.settings.clone(),
                },
                keys_max,
            }),
            (Asked::Rotate(old, rotate), Some((id, hash_text))) => Ok(Edit::Rotate {
                id: old.clone(),
                replacement: Replacement {
                    id,
                    hash_text,
                    created: now,
                    expires_at: rotate.expires_days.map(in_days),
                },
                grace_ms: rotate.grace_seconds * 1000,
                keys_max,
            }),
            _ => Err(nothing()),
        }
    }

    fn begin_change(
        &mut self,
        draft: Option<Box<Draft>>,
        waited_ms: u64,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let edit = self.edit(draft.as_deref(), env)?;
        let wait_ms_max = LOCK_WAIT_MS.saturating_sub(waited_ms);
        self.begin_edit(edit, wait_ms_max, draft, env)
    }

    fn change_of(
        &mut self,
        edit: Edit,
        wait_ms_max: u64,
        env: &mut ManageEnv<'_, '_>,
    ) -> Result<Box<OwnerChange>, End> {
        let (now, config) = (env.exchange.now, Arc::clone(&env.exchange.worker.config));
        let management = management(&config)?;
        let nonce = (env.exchange.nonce)();
        let task = self.task()?;
        let entropy = [task.bearer.as_bytes(), nonce.as_slice()];
        let mut holder = [0_u8; 12];
        env.manager.random.for_key(&entropy, now).fill(&mut holder);
        let holder = holder.iter().map(|byte| format!("{byte:02x}")).collect();
        let change = Change {
            users_path: config.realm.users_path.clone(),
            identity_provider: config.identity_provider.clone(),
            owner_id: task.owner_id()?.to_owned(),
            edit,
            gateway_accounts: [&config.client_id, &management.client_id]
                .map(|client_id| service_account_name(client_id))
                .into(),
            disabled_owners: false,
            // Only an administrator acts for another.
            relink: task.query.user_id.is_some(),
            holder,
            wait_ms_max,
            callout_timeout_ms: config.callout_timeout_ms,
        };
        Ok(Box::new(OwnerChange::new(change, now)))
    }

    fn change(
        &mut self,
        mut change: Box<OwnerChange>,
        draft: Option<Box<Draft>>,
        event: Event<'_>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let task = self.task()?;
        let is_first = change.is_at_its_first_call();
        let output = change.handle_event(event, &task.bearer, env.exchange.now);
        self.changes(change, draft, (output, is_first), env)
    }

    /// Begins a change of the owner's keys.
    fn begin_edit(
        &mut self,
        edit: Edit,
        wait_ms_max: u64,
        draft: Option<Box<Draft>>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let mut change = self.change_of(edit, wait_ms_max, env)?;
        let output = change.begin(&self.task()?.bearer, env.exchange.now);
        self.changes(change, draft, (output, false), env)
    }

    /// Turns the change's output into the request's next step. `is_first`: the output follows
    /// the answer to the change's first call.
    fn changes(
        &mut self,
        change: Box<OwnerChange>,
        draft: Option<Box<Draft>>,
        (output, is_first): (ChangeOutput, bool),
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let task = self.task()?;
        match output {
            // The request's deadline does not cut it short: a change ends by itself, and must
            // not stay half-made.
            ChangeOutput::Await(effect) => {
                Ok((State::Changing(change, draft), Output::Await(effect)))
            }
            ChangeOutput::Done(result) => match *result {
                Ok(_) if task.undoing => Err(End::new(
                    Problem::from(&ChangeError::from(EditRefused::OwnerNotFound)),
                    EditRefused::OwnerNotFound,
                )),
                Err(error) if task.undoing => Err(End::new(
                    Problem::from(&ChangeError::NotAsWritten),
                    format!(
                        "{}; its making could not be undone: {error}",
                        EditRefused::OwnerNotFound
                    ),
                )),
                Ok(changed) => self.look_up(Box::new(changed), draft, env),
                // Begun anew, with a key of its own.
                Err(ChangeError::Unauthorized) if is_first => self.renew_token(env),
                Err(error) => {
                    if error == ChangeError::Unauthorized {
                        env.manager.service_token.reject(&task.bearer);
                    }
                    self.not_made(&error)
                }
            },
        }
    }

    /// The end for a change that was not made.
    fn not_made(&mut self, error: &ChangeError) -> Step {
        match self.task()?.asked {
            // Its holder learns only that the key may live on.
            Asked::RevokePresented(_) => Err(End::unavailable(error.loggable())),
            _ => Err(End::new(Problem::from(error), error.loggable())),
        }
    }

    /// The change is made: a new key is looked up as a gateway does it.
    fn look_up(
        &mut self,
        changed: Box<Changed>,
        draft: Option<Box<Draft>>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let config = &env.exchange.worker.config;
        let Some(id) = &changed.edited.added else {
            return self.changed(changed, draft, env);
        };
        let call = users::lookup_call(config, &self.task()?.bearer, id);
        let timeout_ms = config.callout_timeout_ms;
        let state = State::LookingUp(changed, draft);
        Ok((state, Output::Await(Effect::Call { call, timeout_ms })))
    }

    /// Keycloak's search finds no owner in a user storage without import. No gateway would find
    /// the key, so it is taken away again. If the search gets no answer, the client gets the
    /// key: it was written, and read again.
    fn looked_up(
        &mut self,
        changed: Box<Changed>,
        draft: Option<Box<Draft>>,
        event: Event<'_>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let id = changed.edited.added.clone().unwrap_or_default();
        let found = match event.answer() {
            Ok((status, body)) => users::read_lookup_answer(status, body, &id),
            Err(_) => Err(LookupError::Malformed),
        };
        if found != Ok(Lookup::Unknown) {
            return self.changed(changed, draft, env);
        }
        self.task()?.undoing = true;
        self.begin_edit(Edit::Revoke { id }, LOCK_WAIT_MS, None, env)
    }

    /// The change is made. If it concerns a key that was there, the other workers of the node
    /// learn of it: they may hold a token of the key.
    fn changed(
        &mut self,
        changed: Box<Changed>,
        draft: Option<Box<Draft>>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let now = env.exchange.now;
        let task = self.task()?;
        env.manager.owners.leave(task.id);
        if matches!(task.asked, Asked::Create(_)) {
            return self.told(&changed, draft, env);
        }
        let owner_id = task.owner_id()?.to_owned();
        match &task.asked {
            Asked::Revoke(_) => self.report.key_id = changed.edited.ended.first().cloned(),
            Asked::Update(id, _) => {
                self.report.key_id = Some(id.clone());
                self.report.changed.clone_from(&changed.edited.changed);
            }
            _ => {}
        }
        if let Some(kept) = &changed.records_kept {
            self.report.reason = Some(format!("the records stay: {}", kept.loggable()));
        }
        self.revoked = true;
        let (worker, store) = (&mut *env.exchange.worker, &mut *env.exchange.store);
        if worker.revoke_owner(&owner_id, now, store).is_err() {
            // Other workers learn of the change by their polls, as of any change in Keycloak.
            self.report.reason = Some("the node's workers could not be told at once".to_owned());
        }
        self.settle(changed, draft, now.plus_ms(SETTLE_MS), env)
    }

    /// Waits until all workers of the node have dropped the owner's tokens.
    fn settle(
        &mut self,
        changed: Box<Changed>,
        draft: Option<Box<Draft>>,
        until: UnixMillis,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let now = env.exchange.now;
        // A clock that was set back must not hold the answer back.
        if now >= until || until.since_ms(now) > SETTLE_MS {
            return self.told(&changed, draft, env);
        }
        let wait_ms = until.since_ms(now).min(SETTLE_WAIT_MS);
        let state = State::Settling(changed, draft, until);
        let turn = Effect::Yield {
            wait_ms: Some(wait_ms),
            timeout_ms: env.exchange.worker.config.callout_timeout_ms,
        };
        Ok((state, Output::Await(turn)))
    }

    fn told(
        &mut self,
        changed: &Changed,
        draft: Option<Box<Draft>>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let respond = |answer| Ok((State::Over, Output::Respond(answer)));
        let by_id = |id: &str| changed.keys.iter().find(|key| key.id == id);
        let Some(draft) = draft else {
            return match &self.task()?.asked {
                Asked::Update(id, _) => {
                    let key = by_id(id)
                        .ok_or_else(|| End::unavailable("the key is not among the owner's"))?;
                    self.find_last_uses(vec![key.clone()], None, env)
                }
                Asked::RevokeAll => respond(Answer::all_ended(changed.records_kept.as_ref())),
                _ => respond(Answer::no_content()),
            };
        };
        let Some(key) = by_id(draft.key.id()) else {
            return Err(End::unavailable("the new key is not among the owner's"));
        };
        let replaced = match &self.task()?.asked {
            Asked::Rotate(old, _) => by_id(old),
            _ => None,
        };
        respond(Answer::made(key, draft.key.expose(), replaced))
    }

    // ---- validate: a key for a token, by the exchange itself --------------------

    /// Exchanges a key for a gateway that cannot load the filter. The key takes the same way through
    /// machine and caches as one in a request's header.
    fn start_exchange(&mut self, body: &KeyBody, env: &mut ManageEnv<'_, '_>) -> Step {
        let config = Arc::clone(&env.exchange.worker.config);
        // A JSON text may have spaces at its ends; a header's value has none.
        let key = match config.key_format.parse(body.api_key.as_bytes()) {
            Ok(key) => key,
            Err(fault) => return Err(malformed(fault, env)),
        };
        self.report.key_id = Some(key.id().to_owned());
        let name = config.headers.first().map_or(AUTHORIZATION, |name| name);
        let value = if name == AUTHORIZATION {
            format!("ApiKey {}", *body.api_key)
        } else {
            body.api_key.to_string()
        };
        let headers = [(name.to_owned(), value.into_bytes())];
        let mut exchange = Box::new(Exchange::new());
        let output = exchange.begin(&headers, env.exchange);
        let [(_, mut value)] = headers;
        zeroize::Zeroize::zeroize(&mut value);
        self.exchanged(exchange, output, env)
    }

    fn exchange(
        &mut self,
        mut exchange: Box<Exchange>,
        event: Event<'_>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let output = exchange.handle_event(event, env.exchange);
        self.exchanged(exchange, output, env)
    }

    fn exchanged(
        &mut self,
        exchange: Box<Exchange>,
        output: exchange::Output,
        env: &ManageEnv<'_, '_>,
    ) -> Step {
        match output {
            exchange::Output::Await(effect) => {
                Ok((State::Exchanging(exchange), Output::Await(effect)))
            }
            exchange::Output::Forward(forward) => {
                let key_id = self.report.key_id.clone().unwrap_or_default();
                let told = told_token(&forward.authorization, &key_id, env.exchange.now)?;
                Ok((State::Over, Output::Respond(told)))
            }
            exchange::Output::Pass(why) => Err(passed(why)),
            exchange::Output::Reject { rejection, reason } => {
                // Nothing was presented but a malformed key.
                let rejection = match rejection {
                    Rejection::MissingCredentials | Rejection::AmbiguousCredentials => {
                        Rejection::InvalidApiKey
                    }
                    rejection => rejection,
                };
                Err(End::new(Code::Exchange(rejection), reason))
            }
        }
    }
}

/// The end of a presented key: its holder may end it. A leak scanner has no credentials but the
/// key that it found. So the key is looked up and verified as the exchange does it, and then
/// ended as its owner would end it.
///
/// Invariants held here: a text that is no key is answered as a key that was ended; a key that
/// may live on is answered 503, for every reason. Each request counts as a failure of its
/// address, with a good key too: the count must not tell a key from another text either.
impl Manage {
    /// A key is presented, to be ended.
    fn present(&mut self, query: Query, body: &KeyBody, env: &mut ManageEnv<'_, '_>) -> Step {
        let source = env.exchange.source().unwrap_or(SourceAddress::Unknown);
        if env.exchange.count_failure(source) {
            return Err(End::new(
                Code::Exchange(Rejection::Throttled),
                Reason::Throttled,
            ));
        }
        let format = &env.exchange.worker.config.key_format;
        let key = match format.parse(body.api_key.as_bytes()) {
            Ok(key) => key,
            Err(fault) => return self.no_key(Reason::Malformed(fault)),
        };
        self.report.key_id = Some(key.id().to_owned());
        let now = env.exchange.now;
        if LOOK_UPS.reserve(&mut env.manager.presented, now).is_none() {
            let problem = Code::Exchange(Rejection::Overloaded);
            return Err(End::new(problem, "too many keys are presented"));
        }
        let asked = Asked::RevokePresented(key);
        self.admit(query, zeroize::Zeroizing::default(), asked, env)?;
        self.need_token(env)
    }

    /// Asks for the owner; or, with the roles seen, believes that the key has none.
    fn find_owner(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task()?;
        if task.unseen {
            return self.no_key(Reason::Unknown);
        }
        let Asked::RevokePresented(key) = &task.asked else {
            return Err(nothing());
        };
        let call = users::lookup_call(&env.exchange.worker.config, &task.bearer, key.id());
        task.call(State::FindingOwner, call, env)
    }

    fn owner_found(&mut self, event: Event<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        let (status, body) = answer(Endpoint::Lookup, event)?;
        let task = self.task()?;
        let Asked::RevokePresented(key) = &task.asked else {
            return Err(nothing());
        };
        match users::read_lookup_answer(status, body, key.id()) {
            // An expired key is ended too: an administrator may prolong it.
            Ok(Lookup::Owner(owner) | Lookup::Disabled(owner)) => {
                self.prove(Box::new(Proof { owner, job: None }), env)
            }
            Ok(Lookup::Unknown) => {
                task.unseen = true;
                task.token_since = env.exchange.now.minus_ms(ROLES_SEEN_MS);
                self.need_token(env)
            }
            Ok(Lookup::Refused {
                refusal: refusal @ LookupRefusal::Record(RecordError::Absent | RecordError::Hash(_)),
                ..
            }) => self.no_key(refusal),
            // No gateway takes this key now, but it would work were its record mended.
            Ok(Lookup::Refused { refusal, .. }) => Err(End::unavailable(Reason::from(refusal))),
            Err(LookupError::Unauthorized) => self.renew_token(env),
            Err(fault) => {
                if fault == LookupError::Forbidden {
                    env.manager.service_token.reject(&task.bearer);
                }
                Err(End::unavailable(Reason::LookupFault(fault)))
            }
        }
    }

    /// Verifies the key: at once, or a slice of it behind the gate.
    fn prove(&mut self, mut proof: Box<Proof>, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task()?;
        let Asked::RevokePresented(key) = &task.asked else {
            return Err(nothing());
        };
        let hash = &proof.owner.record.hash;
        if let Some(wait_ms) = task.wait_at_gate(key.id(), hash.rounds(), env)? {
            return task.wait_for(wait_ms, State::Proving(proof), env);
        }
        let is_right = match &mut proof.job {
            Some(job) => job.run(ROUNDS_PER_SLICE),
            job => match hash.verify(key.expose().as_bytes()) {
                Verification::Decided(is_right) => Some(is_right),
                Verification::Computing(begun) => job.insert(begun).run(ROUNDS_PER_SLICE),
            },
        };
        match is_right {
            None => task.turn(State::Proving(proof), env),
            Some(false) => self.no_key(Reason::WrongSecret),
            Some(true) => {
                env.exchange.gate.leave(task.ticket);
                task.owner_id = Some(proof.owner.id.clone());
                self.report.owner = Some(proof.owner.id);
                self.await_owner(None, env)
            }
        }
    }

    /// The text is no key, so nothing was ended; the log alone says why.
    fn no_key(&mut self, reason: impl std::fmt::Display) -> Step {
        self.report.reason = Some(reason.to_string());
        Ok((State::Over, Output::Respond(Answer::no_content())))
    }
}

impl Task {
    /// The owner of the keys.
    fn owner_id(&self) -> Result<&str, End> {
        self.owner_id.as_deref().ok_or_else(nothing)
    }

    /// Moves the deadline along after a clock step backwards.
    fn follow_the_clock(&mut self, env: &ManageEnv<'_, '_>) {
        let back = self.deadline.follow(env.exchange.now);
        self.ready_at = self.ready_at.map(|ready_at| ready_at.minus_ms(back));
        self.token_since = self.token_since.minus_ms(back);
    }

    /// The wait until it looks at the gate again; none when it may compute so many rounds.
    fn wait_at_gate(
        &self,
        key_id: &str,
        rounds: u32,
        env: &mut ManageEnv<'_, '_>,
    ) -> Result<Option<u64>, End> {
        if rounds == 0 {
            return Ok(None);
        }
        let now = env.exchange.now;
        match env.exchange.gate.show(self.ticket, key_id, rounds, now) {
            Turn::Go => Ok(None),
            Turn::Full => {
                let problem = Code::Exchange(Rejection::Overloaded);
                Err(End::new(problem, "the queue of hashes is full"))
            }
            Turn::Wait { position, .. } => {
                let places = u64::try_from(position).unwrap_or(u64::MAX);
                let wait_ms = places.saturating_mul(QUEUE_WAIT_MS);
                Ok(Some(wait_ms.min(QUEUE_WAIT_MS_MAX)))
            }
        }
    }

    /// Sends a call to Keycloak.
    fn call(&self, state: State, call: Call, env: &ManageEnv<'_, '_>) -> Step {
        let timeout_ms = env.exchange.worker.config.callout_timeout_ms;
        let timeout_ms = self.time_left(env)?.min(timeout_ms);
        Ok((state, Output::Await(Effect::Call { call, timeout_ms })))
    }

    /// Yields the worker, and comes back at once.
    fn turn(&self, state: State, env: &ManageEnv<'_, '_>) -> Step {
        let timeout_ms = env.exchange.worker.config.callout_timeout_ms;
        let turn = Effect::Yield {
            wait_ms: None,
            timeout_ms: self.time_left(env)?.min(timeout_ms),
        };
        Ok((state, Output::Await(turn)))
    }

    /// Yields the worker, and comes back later; each further wait is longer.
    fn wait(&mut self, state: State, env: &ManageEnv<'_, '_>) -> Step {
        let wait_ms = self.wait_ms;
        self.wait_ms = (wait_ms * 2).min(WAIT_MS_MAX);
        self.wait_for(wait_ms, state, env)
    }

    /// Yields the worker, and comes back after `wait_ms`.
    fn wait_for(&self, wait_ms: u64, state: State, env: &ManageEnv<'_, '_>) -> Step {
        self.time_left(env)?;
        let turn = Effect::Yield {
            wait_ms: Some(wait_ms),
            timeout_ms: wait_ms + WAIT_GRACE_MS,
        };
        Ok((state, Output::Await(turn)))
    }

    fn time_left(&self, env: &ManageEnv<'_, '_>) -> Result<u64, End> {
        match self.deadline.left_ms(env.exchange.now) {
            0 => Err(End::unavailable("the request's deadline has passed")),
            left => Ok(left),
        }
    }
}

/// The answer to a callout, if there is one that can be read.
fn answer(endpoint: Endpoint, event: Event<'_>) -> Result<(u16, &[u8]), End> {
    event.answer().map_err(|why| End::callout(endpoint, why))
}

/// Whether the host gave the turn.
const fn is_turn(event: Event<'_>) -> bool {
    matches!(event, Event::Answer { status, .. } if status < 400)
}

/// A state that lacks its data: not reached.
fn nothing() -> End {
    End::unavailable("a step that belongs to nothing")
}

fn turn_failed(why: &str) -> End {
    End::new(
        Code::Exchange(Rejection::Overloaded),
        format!("yield_upstream does not answer: {why}"),
    )
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    preferred_username: Option<String>,
}

/// A malformed key counts as it does in the exchange, which never sees it.
fn malformed(fault: impl std::fmt::Display, env: &mut ManageEnv<'_, '_>) -> End {
    let source = env.exchange.source();
    if source.is_some_and(|source| env.exchange.count_failure(source)) {
        return End::new(Code::Exchange(Rejection::Throttled), Reason::Throttled);
    }
    End::new(Code::Exchange(Rejection::InvalidApiKey), fault)
}

/// The exchange would let the request pass to an upstream; here there is none.
fn passed(why: Pass) -> End {
    End::new(
        Code::Exchange(Rejection::InvalidApiKey),
        format!("a request that would pass ({why:?})"),
    )
}

fn told_token(authorization: &str, key_id: &str, now: UnixMillis) -> Result<Answer, End> {
    let jwt = authorization.strip_prefix("Bearer ").unwrap_or_default();
    let claims = jwt
        .split('.')
        .nth(1)
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok())
        .and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok())
        .ok_or_else(|| End::unavailable("the owner's token cannot be read"))?;
    let expires_in = UnixMillis::from_seconds(claims.exp).since_ms(now) / 1000;
    Ok(Answer::token(&json!({
        "access_token": jwt,
        "token_type": "Bearer",
        "expires_in": expires_in,
        "user_id": claims.sub,
        "username": claims.preferred_username,
        "key_id": key_id,
    })))
}
