//! The machine of one request, in the order of the request's steps.
//!
//! Invariants held here: every head and event leads to exactly one output; every claim (flight,
//! service token, gate, pending) is given back when the exchange ends, however it ends; every
//! failure is a rejection.

use core::net::IpAddr;
use std::borrow::Cow;
use std::sync::Arc;

use super::credentials::{AUTHORIZATION, Credentials, Header, extract};
use super::env::Env;
use super::flight::Claim;
use super::gate::{Ticket, Turn};
use super::identity;
use super::lookups::Spent;
use super::renewing::Due;
use super::throttle::SourceAddress;
use crate::api_key::format::ApiKey;
use crate::api_key::hash::{BcryptJob, ROUNDS_PER_SLICE, Verification};
use crate::api_key::terms::Terms;
use crate::cache::renewal::Age;
use crate::cache::{CachedRefusal, CachedToken, Found, Level};
use crate::calls::ExchangeId;
use crate::calls::breaker::Health;
use crate::calls::service_token::{Asker, Token};
use crate::clock::UnixMillis;
use crate::keycloak::token::{self, TokenError};
use crate::keycloak::users::{self, Lookup, LookupError, LookupRefusal, Owner};
use crate::keycloak::{Call, Endpoint, loggable};
use crate::machine::{Deadline, Effect, Event};
use crate::rejection::{Reason, Refused, Rejection};
use crate::store::sealed::KeyDigest;
use crate::usage::Outcome;

/// The first wait for another request's result; each further one is twice as long.
const WAIT_MS_MIN: u64 = 5;
/// The longest wait for another request's result.
const WAIT_MS_MAX: u64 = 40;
/// The longest wait for a look-up turn.
const TURN_MS_MAX: u64 = 500;
/// The longest that a leader takes beside its callouts: a full queue of bcrypt.
const LEADER_MS_MAX: u64 = 60_000;
/// An unknown key is refused only if the gateway's roles were seen within this time.
const ROLES_SEEN_MS: u64 = 30_000;
/// The callout of a wait may take this much longer than the wait: the address answers late at
/// times.
const WAIT_GRACE_MS: u64 = 3000;

/// The wait of the request that is next at the gate.
const NEXT_MS: u64 = 5;
/// Each place in the queue adds this much to the wait.
const PLACE_MS: u64 = 15;
/// The longest wait in the queue.
const QUEUE_MS_MAX: u64 = 100;

/// A token's life is at least this, where the key's end allows it.
const TOKEN_LIFE_MS_MIN: u64 = 60_000;

/// Pauses before an unanswered call is repeated, at most twice. A host needs a moment to leave
/// out the node that did not answer: Envoy's main thread tells its workers.
const PAUSES_MS: [u64; 2] = [25, 100];
/// With less time left than this, a call is not repeated.
const TRY_MS_MIN: u64 = 50;
/// The answer to a probe may come this much later than its time-out.
const LATE_MS: u64 = 1000;

/// Time limit of a renewal's look-up and grant. A renewal must not hold up the other jobs of the
/// root context; a slow answer can wait for a request. The service token has the usual limit,
/// since requests may wait for it too.
const RENEWAL_CALLOUT_MS_MAX: u64 = 1000;

/// The next step of the shell.
#[derive(Debug)]
pub enum Output {
    /// Do this and come back with its event.
    Await(Effect),
    /// Let the request go on untouched.
    Pass(Pass),
    /// Let the request go on with this token.
    Forward(Forward),
    /// Answer the client.
    Reject {
        /// The answer.
        rejection: Rejection,
        /// The reason, only for the log.
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

/// The origin of a token.
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

impl From<Level> for Source {
    fn from(level: Level) -> Self {
        match level {
            Level::L1 => Self::L1,
            Level::L2 => Self::L2,
        }
    }
}

impl Source {
    const fn outcome(self) -> Outcome {
        match self {
            Self::L1 | Self::L2 => Outcome::Hit,
            Self::Refresh => Outcome::Refresh,
            Self::FirstUse => Outcome::FirstUse,
            Self::Stale => Outcome::Stale,
        }
    }
}

/// A request that goes on with a token.
#[derive(Clone)]
pub struct Forward {
    /// The value for the `Authorization` header.
    pub authorization: Arc<str>,
    /// Headers to remove.
    pub remove: Vec<String>,
    /// The token's origin.
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
    /// The key's terms, once they are known.
    terms: Option<Arc<Terms>>,
    /// The address that the request comes from, once the host was asked.
    address: Option<IpAddr>,
    /// The key that was replaced by a token.
    forwarded: Option<KeyDigest>,
}

/// The event that the exchange waits for.
#[derive(Default)]
enum State {
    /// The request.
    #[default]
    New,
    /// A yield, to check whether the leader is done.
    Following { wait_ms: u64 },
    /// A yield, to check whether its look-up turn has come.
    AwaitingTurn,
    /// A yield, to check whether the service token has come.
    AwaitingToken { wait_ms: u64 },
    /// The answer with the service token.
    FetchingToken,
    /// The answer of the look-up.
    LookingUp { service_token: Arc<str> },
    /// A yield, to check whether the gate is free.
    Queueing { owner: Box<Owner> },
    /// A yield, to compute the next slice.
    Verifying {
        owner: Box<Owner>,
        job: Box<BcryptJob>,
    },
    /// Waits for the verification on another thread.
    Computing { owner: Box<Owner> },
    /// A yield after the verification, to sign the assertions.
    Signing { owner: Box<Owner> },
    /// The answer of the grant.
    Granting { owner: Box<Owner> },
    /// Nothing: it is over.
    Over,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Only its name: some states hold the gateway's token.
        f.write_str(match self {
            Self::New => "New",
            Self::Following { .. } => "Following",
            Self::AwaitingTurn => "AwaitingTurn",
            Self::AwaitingToken { .. } => "AwaitingToken",
            Self::FetchingToken => "FetchingToken",
            Self::LookingUp { .. } => "LookingUp",
            Self::Queueing { .. } => "Queueing",
            Self::Verifying { .. } => "Verifying",
            Self::Computing { .. } => "Computing",
            Self::Signing { .. } => "Signing",
            Self::Granting { .. } => "Granting",
            Self::Over => "Over",
        })
    }
}

/// The claims and the progress of an exchange that no cache could answer.
#[derive(Debug)]
struct Pending {
    id: ExchangeId,
    key_id: String,
    owner_id: Option<Arc<str>>,
    /// None in a renewal: no request brought the key.
    key: Option<ApiKey>,
    digest: KeyDigest,
    remove: Vec<String>,
    ticket: Ticket,
    deadline: Deadline,
    /// The deadline was already moved for the queue and the verification.
    queued: bool,
    /// The deadline was already moved to a leader's.
    followed: bool,
    /// The key was verified in this exchange.
    first_use: bool,
    /// The key was verified on this node, in this exchange or before.
    known: bool,
    attempt: Attempt,
}

/// The calls to Keycloak: their results so far, and how often each was made.
#[derive(Debug)]
struct Attempt {
    /// When Keycloak was last asked for the owner. A cached entry ends one TTL after it, so no
    /// entry survives a revocation by more than that.
    asked_at: UnixMillis,
    /// The generation of the worker's revocations then.
    generation: u64,
    /// The start of the wait for a look-up turn.
    waits_since: Option<UnixMillis>,
    /// When its turn after an outage comes.
    turn_at: Option<UnixMillis>,
    /// The token spent by the look-up of a new key.
    spent: Option<Spent>,
    /// When the look-up or the grant in flight was sent.
    sent_at: Option<UnixMillis>,
    /// Keycloak showed no owner of the key.
    unseen: Option<Unseen>,
    /// The service token was refused once and fetched anew.
    retried: bool,
    /// How often the call under way was made again.
    tries: usize,
    /// Why it is made again.
    unanswered: Option<Reason>,
}

impl Pending {
    /// A pending exchange without the key itself.
    fn new(
        id: ExchangeId,
        key_id: String,
        digest: KeyDigest,
        ticket: Ticket,
        deadline: Deadline,
    ) -> Self {
        Self {
            id,
            key_id,
            owner_id: None,
            key: None,
            digest,
            remove: Vec::new(),
            ticket,
            deadline,
            queued: false,
            followed: false,
            first_use: false,
            known: false,
            attempt: Attempt {
                asked_at: deadline.started_at(),
                generation: 0,
                waits_since: None,
                turn_at: None,
                spent: None,
                sent_at: None,
                unseen: None,
                retried: false,
                tries: 0,
                unanswered: None,
            },
        }
    }
}

/// Keycloak showed no owner of a key. The gateway must still prove that it may see owners.
#[derive(Debug, Clone, Copy)]
struct Unseen {
    /// The service token must have been requested at this instant or later.
    since: UnixMillis,
    /// The key may fall back, so that token asks Keycloak once more.
    falls_back: bool,
}

/// The end of an exchange without a token.
enum End {
    Refused {
        reason: Reason,
        /// The refusal to remember for the key.
        remember: Option<Refused>,
    },
    Fallback,
}

impl End {
    /// The key is refused, and the refusal is remembered.
    fn invalid(reason: Reason) -> Self {
        Self::Refused {
            reason,
            remember: Some(Refused::Invalid),
        }
    }

    /// The request is refused; nothing is remembered of the key.
    fn refused(reason: Reason) -> Self {
        Self::Refused {
            reason,
            remember: None,
        }
    }

    fn callout(endpoint: Endpoint, failure: &str) -> Self {
        Self::refused(Reason::callout(endpoint, failure))
    }
}

/// A step's outcome: the next one, or the end without a token.
type Step = Result<Next, End>;

/// The next of an exchange that has not failed.
enum Next {
    /// Wait for this effect in a new state.
    Await(State, Effect),
    /// The token is here.
    Token(CachedToken, Source),
}

impl Exchange {
    /// An exchange that waits for its request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the exchange holds claims that it must give back.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The headers that hold the key. A held request must not keep them.
    pub fn credential_headers(&self) -> impl Iterator<Item = &str> {
        let pending = self.pending.iter();
        pending.flat_map(|pending| {
            let others = pending.remove.iter().map(String::as_str);
            [AUTHORIZATION].into_iter().chain(others)
        })
    }

    /// Takes the request's head and gives the next step.
    pub fn begin(&mut self, headers: &[impl Header], env: &mut Env<'_>) -> Output {
        env.worker.cache.keep_up(false, env.now, env.store);
        let output = match std::mem::replace(&mut self.state, State::Over) {
            State::New => self.start(headers, env),
            // It had begun before.
            _ => self.end(End::refused(Reason::Deadline), env),
        };
        self.count(&output, env);
        output
    }

    /// Takes the outcome of the latest effect and gives the next step.
    pub fn handle_event(&mut self, event: Event<'_>, env: &mut Env<'_>) -> Output {
        env.worker.cache.keep_up(false, env.now, env.store);
        let state = std::mem::replace(&mut self.state, State::Over);
        let of_request = self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.key.is_some());
        let step = self.go_on(state, event, env);
        let output = self.settle(step, env);
        if of_request {
            self.count(&output, env);
        }
        output
    }

    /// Begins to renew the token of the next key in the queue. None if this worker has no token
    /// to renew now.
    #[must_use]
    pub fn renew(env: &mut Env<'_>) -> Option<(Self, Output)> {
        if env.worker.breaker.is_open() {
            return None;
        }
        loop {
            let due = env.worker.renewing.next(env.now)?;
            let timeout_ms = env.worker.config.callout_timeout_ms;
            let until = env.now.plus_ms(timeout_ms + 2 * RENEWAL_CALLOUT_MS_MAX);
            let cache = &mut env.worker.cache;
            // A key that was not verified yet needs a request to bring it. Skips a key whose exchange is
            // under way, or has a pause.
            if !cache.was_verified(&due.digest, env.store)
                || env.worker.flights.is_taken(&due.digest, env.now)
                || !cache.take_renewal(&due.digest, until, env.now, env.store)
            {
                continue;
            }
            let mut exchange = Self::new();
            match exchange.start_renewal(due, until, env) {
                output @ Output::Await(_) => {
                    return Some((exchange, output));
                }
                _ => env.worker.renewing.pause(env.now),
            }
        }
    }

    /// The service refused the token that went on with the request: drops it, so the next request
    /// gets another. True unless a token of this key was dropped a short while ago.
    pub fn token_refused(&self, env: &mut Env<'_>) -> bool {
        self.forwarded
            .is_some_and(|digest| env.worker.cache.drop_token(&digest, env.now))
    }

    /// Whether a token went on with the request.
    #[must_use]
    pub const fn has_forwarded(&self) -> bool {
        self.forwarded.is_some()
    }

    /// Gives back the claims of the exchange. Call it at the end of every exchange, also when the
    /// request went away; it does nothing when no claim is held.
    pub fn abort(&mut self, env: &mut Env<'_>) {
        // Without this, a client that disconnects before the verdict on a new key could try any number of
        // made-up keys, and one that disconnects with a known key could cause any number of look-ups.
        if let Some(Pending { digest, id, .. }) = &self.pending {
            if env.worker.cache.was_verified(digest, env.store) {
                let flights = &mut env.worker.flights;
                flights.pause_if_leading(digest, *id, env.now);
            } else {
                self.count_failure(env);
            }
        }
        self.give_back(env);
    }

    /// The id of the key, for the log; it is public. None where no key was read.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Keycloak's id of the key's owner, for the log. None where the exchange did not learn it.
    #[must_use]
    pub fn owner_id(&self) -> Option<&str> {
        self.owner_id.as_deref()
    }

    /// The key's terms: its name and its team's words, for the log and for the service. None where
    /// the exchange did not learn them.
    #[must_use]
    pub fn terms(&self) -> Option<&Terms> {
        self.terms.as_deref()
    }

    /// The headers that tell the service the key and its owner. None before a token is forwarded.
    #[must_use]
    pub fn identity(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let (Some(key_id), Some(owner_id), Some(_)) =
            (&self.key_id, &self.owner_id, self.forwarded)
        else {
            return Vec::new();
        };
        let name = self.terms.as_ref().and_then(|terms| terms.name.as_deref());
        identity::headers(key_id, owner_id, name)
    }

    /// Counts the request's outcome: by its key, if the key was verified or has an owner.
    fn count(&self, output: &Output, env: &mut Env<'_>) {
        let Some(usage) = &mut env.worker.usage else {
            return;
        };
        let (outcome, is_known) = match output {
            Output::Await(_) | Output::Pass(_) => return,
            Output::Forward(forward) => (forward.source.outcome(), true),
            Output::Reject { rejection, reason } => {
                let was_known = *reason == Reason::Remembered(Refused::Invalid);
                let outcome = Outcome::Refused(*rejection);
                (outcome, was_known || self.owner_id.is_some())
            }
        };
        let key_id = self.key_id.as_deref().filter(|_| is_known);
        usage.count(key_id, outcome, env.now);
    }

    /// Whether a verification is being computed, in slices.
    #[must_use]
    pub const fn is_verifying(&self) -> bool {
        matches!(self.state, State::Verifying { .. })
    }
}

// ---- the request and its caches ----------------------------------------------------

impl Exchange {
    /// The request's head came.
    fn start(&mut self, headers: &[impl Header], env: &mut Env<'_>) -> Output {
        let config = Arc::clone(&env.worker.config);
        if !config.enabled {
            return Output::Pass(Pass::Disabled);
        }
        let (key, remove) = match extract(&config, headers) {
            Ok(Credentials::Key { key, remove }) => (key, remove),
            Ok(Credentials::Pass) => return Output::Pass(Pass::NoKey),
            Err(reason) => return self.end(End::refused(reason), env),
        };
        let digest = env.worker.cache.digest(&key);
        let key_id = key.id().to_owned();
        match env.worker.cache.find(&digest, env.now, env.store) {
            Found::Token(token, level, age) => {
                self.key_id = Some(key_id);
                let output = self.admit(&digest, token, remove, level.into(), env);
                if age == Age::Due
                    && let (Output::Forward(_), Some(key_id)) = (&output, &self.key_id)
                {
                    env.worker.renewing.note(&digest, key_id);
                }
                output
            }
            // A key that was verified on this node is not a guess.
            _ if self.is_throttled(env) && !env.worker.cache.was_verified(&digest, env.store) => {
                rejected(Reason::Throttled)
            }
            Found::Refused(refused) if counts(refused, env) => {
                self.key_id = Some(key_id);
                self.end(remembered(refused, env), env)
            }
            Found::Refused(_) | Found::Nothing => {
                self.key_id = Some(key_id);
                // The key may be bound to addresses, and Kong tells it only now.
                self.find_address(env);
                let Some(id) = env.worker.admit() else {
                    return rejected(Reason::TooManyPending);
                };
                let deadline = Deadline::after_ms(2 * config.callout_timeout_ms, env.now);
                let (ticket, key_id) = (env.gate.ticket(), key.id().to_owned());
                self.pending = Some(Pending {
                    key: Some(key),
                    remove,
                    ..Pending::new(id, key_id, digest, ticket, deadline)
                });
                let step = self.with_pending(env, |pending, env| pending.claim(WAIT_MS_MIN, env));
                self.settle(step, env)
            }
        }
    }

    /// Whether the request's address has failed too often. Asks the host for the address at most
    /// once, and never for a request with a cached token.
    fn is_throttled(&mut self, env: &mut Env<'_>) -> bool {
        self.find_source(env)
            .is_some_and(|source| env.is_throttled(source))
    }

    /// Counts a failure of the request's address. True if the address had failed too often
    /// before: the client is then told to wait, and not the result for its key.
    fn count_failure(&mut self, env: &mut Env<'_>) -> bool {
        // A renewal has no source address.
        let pending = self.pending.as_ref();
        pending.is_none_or(|pending| pending.key.is_some())
            && self
                .find_source(env)
                .is_some_and(|source| env.count_failure(source))
    }

    fn find_source(&mut self, env: &Env<'_>) -> Option<SourceAddress> {
        let counts = env.worker.throttle.is_on();
        counts.then(|| self.find_address(env).map(SourceAddress::of))?
    }

    fn find_address(&mut self, env: &Env<'_>) -> Option<IpAddr> {
        if self.address.is_none() {
            self.address = env.address();
        }
        self.address
    }

    /// Lets a request with a verified key go on, if the key's terms allow it. Each request that goes
    /// on with a token comes this way.
    fn admit(
        &mut self,
        digest: &KeyDigest,
        token: CachedToken,
        remove: Vec<String>,
        source: Source,
        env: &mut Env<'_>,
    ) -> Output {
        self.owner_id = Some(Arc::clone(&token.owner_id));
        self.terms = Some(Arc::clone(&token.terms));
        if let Some(reason) = self.refused_by_terms(digest, &token.terms, env) {
            return rejected(reason);
        }
        self.forwarded = Some(*digest);
        forward(token, remove, source)
    }

    fn refused_by_terms(
        &mut self,
        digest: &KeyDigest,
        terms: &Terms,
        env: &mut Env<'_>,
    ) -> Option<Reason> {
        if let Some(allowed) = &terms.allowed_addresses {
            let address = self.find_address(env);
            if !address.is_some_and(|address| allowed.allow(address)) {
                return Some(Reason::AddressNotAllowed);
            }
        }
        let limit = terms.rate_limit?;
        let key_id = self.key_id.as_deref().unwrap_or_default();
        let limits = &mut env.worker.rate_limits;
        let taken = limits.take(digest, key_id, limit, env.now, env.store);
        taken.err().map(Reason::RateLimited)
    }

    /// The outcome of the latest effect.
    fn go_on(&mut self, state: State, event: Event<'_>, env: &mut Env<'_>) -> Step {
        let is_new = |pending: &Pending| !pending.known;
        if matches!(state, State::AwaitingTurn)
            && self.pending.as_ref().is_some_and(is_new)
            && self.is_throttled(env)
        {
            // The address failed too often while this request waited.
            return Err(End::refused(Reason::Throttled));
        }
        self.with_pending(env, |pending, env| {
            pending.follow_the_clock(env.now);
            match (state, event) {
                (State::New | State::Over, _) => Err(End::refused(Reason::Deadline)),
                (
                    state @ (State::FetchingToken
                    | State::LookingUp { .. }
                    | State::Granting { .. }),
                    event,
                ) => pending.answered(state, event, env),
                (State::Computing { owner }, event) => pending.computed(owner, event, env),
                // All other states wait for a yield. A yield past the deadline does not show that
                // the yield address is at fault.
                (state, Event::Failed(_)) if pending.deadline.left_ms(env.now) == 0 => Err(pending
                    .time_left(&state, env)
                    .err()
                    .unwrap_or_else(|| End::refused(Reason::Deadline))),
                (_, Event::Failed(why)) => Err(pending.not_given(loggable(why))),
                (_, Event::Answer { status, .. }) if status >= 400 => {
                    Err(pending.not_given(format!("status {status}")))
                }
                (State::Following { wait_ms }, _) => pending.look_again(wait_ms, env),
                (State::AwaitingTurn, _) => pending.take_turn(env),
                (State::AwaitingToken { wait_ms }, _) => {
                    pending.need_service_token(longer(wait_ms, env), env)
                }
                (State::Queueing { owner }, _) => pending.queue(owner, env),
                (State::Verifying { owner, job }, _) => pending.verify_slice(owner, job, env),
                (State::Signing { owner }, _) => pending.sign(owner, env),
            }
        })
    }

    fn with_pending(
        &mut self,
        env: &mut Env<'_>,
        step: impl FnOnce(&mut Pending, &mut Env<'_>) -> Step,
    ) -> Step {
        match &mut self.pending {
            Some(pending) => step(pending, env),
            // An input after the end: its sender still waits for an answer.
            None => Err(End::refused(Reason::Deadline)),
        }
    }
}

// ---- the leader, the turn and the owner ----------------------------------------------

impl Pending {
    /// After a clock step backwards the deadline moves along, so the request waits no longer than
    /// before.
    fn follow_the_clock(&mut self, now: UnixMillis) {
        let back = self.deadline.follow(now);
        let attempt = &mut self.attempt;
        attempt.asked_at = attempt.asked_at.minus_ms(back);
        for at in [&mut attempt.waits_since, &mut attempt.turn_at] {
            *at = at.map(|at| at.minus_ms(back));
        }
        if let Some(unseen) = &mut attempt.unseen {
            unseen.since = unseen.since.minus_ms(back);
        }
    }

    /// Leads the exchange for this key, or follows its leader.
    fn claim(&mut self, wait_ms: u64, env: &mut Env<'_>) -> Step {
        let claimed = env.worker.flights.claim(
            &self.digest,
            self.id,
            self.deadline.started_at(),
            self.deadline.at(),
            env.now,
        );
        match claimed {
            Claim::Lead => self.take_turn(env),
            Claim::Follow { until } => {
                // Only once: a row of leaders that hang up must not hold a follower. And only to
                // a near instant: a far one comes from a clock step.
                let callouts = 2 * env.worker.config.callout_timeout_ms;
                let near = env.now.plus_ms(LEADER_MS_MAX + callouts);
                let later = until > self.deadline.at() && until <= near;
                if later && !std::mem::replace(&mut self.followed, true) {
                    self.deadline.extend(until);
                }
                self.wait(State::Following { wait_ms }, wait_ms, env)
            }
            Claim::Pause { until } => {
                let following = State::Following {
                    wait_ms: WAIT_MS_MIN,
                };
                self.wait(following, until.since_ms(env.now), env)
            }
            Claim::Failed(reason) if *reason == Reason::Unknown => Err(unknown(*reason, env)),
            Claim::Failed(reason) => Err(End::refused(*reason)),
        }
    }

    /// Starts the way to Keycloak; runs again after each wait for a turn.
    fn take_turn(&mut self, env: &mut Env<'_>) -> Step {
        let (now, worker) = (env.now, &mut *env.worker);
        if !worker.breaker.would_admit(&self.digest, now) {
            return Err(End::refused(Reason::BreakerOpen));
        }
        self.known = worker.cache.was_verified(&self.digest, env.store);
        if self.known {
            worker.new_keys.leave(self.id);
        } else if self.attempt.spent.is_none() && !worker.new_keys.join(self.id, now) {
            return Err(End::refused(Reason::TooManyNewKeys));
        }
        self.need_service_token(WAIT_MS_MIN, env)
    }

    /// Takes a look-up turn, or returns the wait until the next check. A turn needs room among the calls
    /// in flight, and for a new key also a token. Right after an outage, known keys have a separate
    /// rate. A request waits for the callout timeout at most.
    fn wait_for_turn(&mut self, env: &mut Env<'_>) -> Result<Option<u64>, End> {
        if self.key.is_none() {
            return Ok(None);
        }
        let (now, id) = (env.now, self.id);
        let is_returning = self.known && env.worker.breaker.is_recovering(now);
        if is_returning || self.attempt.turn_at.is_some() {
            return self.turn_after_outage(env);
        }
        let since = *self.attempt.waits_since.get_or_insert(now);
        let worker = &mut *env.worker;
        let has_room = worker.in_flight.has_room(self.known);
        let wait_ms = if self.known || self.attempt.spent.is_some() {
            if has_room {
                return Ok(None);
            }
            longer(now.since_ms(since) / 2, env)
        } else {
            if has_room && let Some(spent) = worker.new_keys.spend(id, now) {
                self.attempt.spent = Some(spent);
                return Ok(None);
            }
            let before = worker.new_keys.before(id);
            let for_room = worker.in_flight.wait_ms(before);
            worker.new_keys.wait_ms(before, now).max(for_room)
        };
        if now.since_ms(since) > env.worker.config.callout_timeout_ms {
            return Err(End::refused(if self.known {
                Reason::TooManyReturn
            } else {
                Reason::TooManyNewKeys
            }));
        }
        Ok(Some(wait_ms.clamp(WAIT_MS_MIN, TURN_MS_MAX)))
    }

    fn turn_after_outage(&mut self, env: &mut Env<'_>) -> Result<Option<u64>, End> {
        let (now, worker) = (env.now, &mut *env.worker);
        let at = if let Some(at) = self.attempt.turn_at {
            at
        } else {
            let wait_ms = worker.refreshes.take_turn(now);
            if wait_ms != Some(0) {
                worker.breaker.go_on_recovering(now);
            }
            let wait_ms = wait_ms.ok_or_else(|| End::refused(Reason::TooManyReturn))?;
            now.plus_ms(wait_ms)
        };
        let left_ms = at.since_ms(now);
        self.attempt.turn_at = (left_ms > 0).then_some(at);
        Ok(self.attempt.turn_at.map(|_| left_ms))
    }

    /// The end of a follower's wait: the leader may have left a token or a refusal.
    fn look_again(&mut self, waited_ms: u64, env: &mut Env<'_>) -> Step {
        match env.worker.cache.find(&self.digest, env.now, env.store) {
            Found::Token(token, level, _) => Ok(Next::Token(token, level.into())),
            Found::Refused(refused) if counts(refused, env) => Err(remembered(refused, env)),
            Found::Refused(_) | Found::Nothing => self.claim(longer(waited_ms, env), env),
        }
    }

    fn need_service_token(&mut self, wait_ms: u64, env: &mut Env<'_>) -> Step {
        let asker = Asker {
            id: self.id,
            started_at: self.deadline.started_at(),
            since: self
                .attempt
                .unseen
                .map(|unseen| unseen.since)
                .unwrap_or_default(),
        };
        let token = env.session().need(asker, "service");
        match token.map_err(End::refused)? {
            Token::Ready(service_token) => self.go_to_keycloak(service_token, env),
            Token::Wait => self.wait(State::AwaitingToken { wait_ms }, wait_ms, env),
            Token::Fetch(call) => self.call(State::FetchingToken, call, env),
        }
    }

    fn token_fetched(&mut self, event: Event<'_>, env: &mut Env<'_>) -> Step {
        let token = env.session().answered(self.id, event);
        self.go_to_keycloak(token.map_err(End::refused)?, env)
    }

    /// The service token is here and its roles are checked: asks for the owner, or accepts that
    /// the key has none.
    fn go_to_keycloak(&mut self, service_token: Arc<str>, env: &mut Env<'_>) -> Step {
        match self.attempt.unseen {
            Some(unseen) if !unseen.falls_back => Err(self.unknown(Refused::Unseen, env)),
            // This token shows whether a missing role has come back.
            _ => self.look_up(service_token, env),
        }
    }

    fn look_up(&mut self, service_token: Arc<str>, env: &mut Env<'_>) -> Step {
        if let Some(wait_ms) = self.wait_for_turn(env)? {
            return self.wait(State::AwaitingTurn, wait_ms, env);
        }
        self.attempt.waits_since = None;
        self.attempt.asked_at = env.now;
        self.attempt.generation = env.worker.cache.revocations().generation();
        let call = users::lookup_call(&env.worker.config, &service_token, &self.key_id);
        self.call(State::LookingUp { service_token }, call, env)
    }

    fn looked_up(&mut self, service_token: &str, event: Event<'_>, env: &mut Env<'_>) -> Step {
        let (status, body) = answer(Endpoint::Lookup, event)?;
        match users::read_lookup_answer(status, body, &self.key_id) {
            Ok(Lookup::Owner(owner)) => self.check_record(owner, env),
            Ok(Lookup::Unknown) if self.attempt.unseen.is_some_and(|unseen| unseen.falls_back) => {
                Err(self.unknown(Refused::Unknown, env))
            }
            Ok(Lookup::Unknown) => {
                // If a role was taken away after the token was fetched, every key looks unknown,
                // and only a new token shows it. A key that would pass to the service is worth a
                // new token; a flood of unknown keys is not.
                let falls_back = falls_back(env);
                let age_ms = if falls_back { 0 } else { ROLES_SEEN_MS };
                self.attempt.unseen = Some(Unseen {
                    since: env.now.minus_ms(age_ms),
                    falls_back,
                });
                self.need_service_token(WAIT_MS_MIN, env)
            }
            Ok(Lookup::Disabled(owner)) => {
                self.owner_id = Some(owner.id.as_str().into());
                Err(End::invalid(LookupRefusal::OwnerDisabled.into()))
            }
            Ok(Lookup::Refused { owner_id, refusal }) => {
                self.owner_id = owner_id.map(Into::into);
                Err(End::invalid(refusal.into()))
            }
            Err(LookupError::Unauthorized) if !self.attempt.retried => {
                self.attempt.retried = true;
                env.worker.service_token.reject(service_token);
                self.need_service_token(WAIT_MS_MIN, env)
            }
            Err(fault) => {
                if matches!(fault, LookupError::Unauthorized | LookupError::Forbidden) {
                    env.worker.service_token.reject(service_token);
                }
                Err(End::refused(Reason::LookupFault(fault)))
            }
        }
    }

    fn remember_refused(&self, refused: Refused, env: &mut Env<'_>) {
        let refusal = CachedRefusal {
            refused,
            owner_id: self.owner_id.clone(),
        };
        let cache = &mut env.worker.cache;
        let asked_at = self.attempt.asked_at;
        cache.remember_refused(&self.digest, refusal, asked_at, env.now, env.store);
    }

    /// Remembers that the key has no owner.
    fn unknown(&self, refused: Refused, env: &mut Env<'_>) -> End {
        self.remember_refused(refused, env);
        if refused == Refused::Unseen {
            End::refused(Reason::Unknown)
        } else {
            unknown(Reason::Unknown, env)
        }
    }
}

// ---- the key against its owner's record: memo, gate, slices --------------------------

impl Pending {
    fn check_record(&mut self, owner: Box<Owner>, env: &mut Env<'_>) -> Step {
        self.owner_id = Some(owner.id.as_str().into());
        let record = &owner.record;
        if record.ends_at <= env.now {
            return Err(End::invalid(Reason::Expired));
        }
        if record.disabled {
            return Err(End::invalid(Reason::Disabled));
        }
        if env
            .worker
            .cache
            .is_verified(&self.digest, &record.hash_text, env.store)
        {
            self.known = true;
            return self.sign(owner, env);
        }
        let Some(key) = &self.key else {
            return Err(End::refused(Reason::NoKeyAtHand));
        };
        if record.hash.rounds() == 0 {
            let key = key.expose().as_bytes();
            let same = matches!(record.hash.verify(key), Verification::Decided(true));
            return self.verified(owner, same, env);
        }
        self.queue(owner, env)
    }

    /// Waits for the gate, or starts the verification.
    fn queue(&mut self, owner: Box<Owner>, env: &mut Env<'_>) -> Step {
        let rounds = owner.record.hash.rounds();
        match env.gate.show(self.ticket, &self.key_id, rounds, env.now) {
            Turn::Full => Err(End::refused(Reason::QueueFull)),
            Turn::Go => {
                // Another worker of the node may have been faster while this request waited.
                let hash_text = &owner.record.hash_text;
                let cache = &mut env.worker.cache;
                if self.queued && cache.is_verified(&self.digest, hash_text, env.store) {
                    env.gate.leave(self.ticket);
                    self.known = true;
                    return self.sign(owner, env);
                }
                self.allow_for(u64::from(rounds), env);
                let Some(key) = &self.key else {
                    return Err(End::refused(Reason::NoKeyAtHand));
                };
                match owner.record.hash.verify(key.expose().as_bytes()) {
                    Verification::Decided(same) => self.verified(owner, same, env),
                    Verification::Computing(job) if env.gate.is_apart() => {
                        let state = State::Computing { owner };
                        let timeout_ms = self.time_left(&state, env)?;
                        Ok(Next::Await(state, Effect::Compute { job, timeout_ms }))
                    }
                    Verification::Computing(job) => self.verify_slice(owner, job, env),
                }
            }
            Turn::Wait {
                position,
                rounds_before,
            } => {
                self.allow_for(rounds_before + u64::from(rounds), env);
                let places = u64::try_from(position)
                    .unwrap_or(u64::MAX)
                    .saturating_sub(1);
                let wait_ms = (NEXT_MS + places.saturating_mul(PLACE_MS)).min(QUEUE_MS_MAX);
                self.wait(State::Queueing { owner }, wait_ms, env)
            }
        }
    }

    /// Moves the deadline, once, to make room for so many rounds of bcrypt: four times their
    /// duration on an idle worker (0.1 ms each), because other requests run in between.
    fn allow_for(&mut self, rounds: u64, env: &mut Env<'_>) {
        if std::mem::replace(&mut self.queued, true) {
            return;
        }
        let callouts = env.worker.config.callout_timeout_ms;
        let enough = env.now.plus_ms(rounds * 2 / 5 + callouts);
        self.deadline.extend(enough);
        env.worker
            .flights
            .extend(&self.digest, self.id, self.deadline.at());
    }

    fn verify_slice(
        &mut self,
        owner: Box<Owner>,
        mut job: Box<BcryptJob>,
        env: &mut Env<'_>,
    ) -> Step {
        let rounds = owner.record.hash.rounds();
        if env.gate.show(self.ticket, &self.key_id, rounds, env.now) != Turn::Go {
            return self.wait(State::Verifying { owner, job }, NEXT_MS, env);
        }
        match job.run(ROUNDS_PER_SLICE) {
            None => self.turn(State::Verifying { owner, job }, env),
            Some(same) => {
                env.gate.leave(self.ticket);
                self.verified(owner, same, env)
            }
        }
    }

    /// Handles the end of a verification on another thread.
    fn computed(&mut self, owner: Box<Owner>, event: Event<'_>, env: &mut Env<'_>) -> Step {
        env.gate.leave(self.ticket);
        match event {
            Event::Computed(same) => self.verified(owner, same, env),
            _ => Err(End::refused(Reason::VerificationDeadline)),
        }
    }

    fn verified(&mut self, owner: Box<Owner>, same: bool, env: &mut Env<'_>) -> Step {
        if !same {
            return Err(End::invalid(Reason::WrongSecret));
        }
        self.first_use = true;
        self.known = true;
        let record = &owner.record;
        env.worker.cache.remember_verified(
            &self.digest,
            &record.hash_text,
            record.ends_at,
            env.now,
            env.store,
        );
        self.turn(State::Signing { owner }, env)
    }
}

// ---- the owner's token: two signatures, the grant, its checks ------------------------

impl Pending {
    /// Signs both assertions, the owner's and the client's, and asks for the token. The owner's
    /// assertion ends with the key at the latest, and so does Keycloak's token.
    fn sign(&mut self, owner: Box<Owner>, env: &mut Env<'_>) -> Step {
        if let Some(spent) = self.attempt.spent.take() {
            env.worker.new_keys.verified(spent, env.now);
        }
        let config = Arc::clone(&env.worker.config);
        let key = Arc::clone(&env.worker.signing_key);
        let used_for = config.cache_ttl_ms + config.stale_if_error_ms;
        let life = (used_for + 2 * config.clock_skew_ms).max(TOKEN_LIFE_MS_MIN);
        let expires_at = owner.record.ends_at.min(env.now.plus_ms(life));
        if expires_at.as_seconds() <= env.now.as_seconds() {
            return Err(End::invalid(Reason::Expired));
        }
        let jti = env.jti(&self.key_id);
        let grant_assertion =
            token::grant_assertion(&config, &key, &owner.id, &jti, env.now, expires_at);
        let jti = env.jti(&self.key_id);
        let client_assertion = token::client_assertion(&config, &key, &jti, env.now);
        let (Ok(grant_assertion), Ok(client_assertion)) = (grant_assertion, client_assertion)
        else {
            return Err(End::refused(Reason::Signing));
        };
        let scope = owner.record.scopes.as_deref().or(config.scope.as_deref());
        let call = token::grant_call(&config, &grant_assertion, &client_assertion, scope);
        self.call(State::Granting { owner }, call, env)
    }

    fn granted(&mut self, owner: &Owner, event: Event<'_>, env: &mut Env<'_>) -> Step {
        let endpoint = Endpoint::Grant;
        let (status, body) = answer(endpoint, event)?;
        let config = Arc::clone(&env.worker.config);
        let token = match token::read_token_answer(&config, status, body, env.now) {
            Ok(token) => token,
            Err(TokenError::OwnerRefused(why)) => {
                return Err(End::invalid(Reason::OwnerRefused(why)));
            }
            Err(TokenError::Expired) if ends_with_key(owner, env) => {
                return Err(End::invalid(Reason::Expired));
            }
            Err(error) => return Err(End::refused(Reason::TokenFault { endpoint, error })),
        };
        if token.subject != owner.id {
            return Err(End::refused(Reason::ForeignSubject));
        }
        let revocations = env.worker.cache.revocations();
        if revocations.generation() != self.attempt.generation
            && revocations.kills(&owner.id, self.attempt.asked_at)
        {
            // Revoked since the owner was asked for: that answer is stale.
            return self.need_service_token(WAIT_MS_MIN, env);
        }
        let key_ends_at = owner.record.ends_at;
        if key_ends_at <= env.now {
            return Err(End::invalid(Reason::Expired));
        }
        if token.exp > key_ends_at.plus_ms(1000) {
            return Err(End::refused(Reason::TokenOutlivesKey));
        }
        let cached = CachedToken {
            authorization: format!("Bearer {}", token.jwt).into(),
            owner_id: owner.id.as_str().into(),
            terms: Arc::clone(&owner.record.terms),
        };
        // A token shorter than the skew is used for half of its life. Without a cache entry each
        // request would go to Keycloak.
        let margin = config
            .clock_skew_ms
            .min(token.expires_at.since_ms(env.now) / 2);
        let ends_at = token.expires_at.minus_ms(margin);
        let ends_at = ends_at.min(key_ends_at);
        let cache = &mut env.worker.cache;
        cache.remember_token(
            &self.digest,
            cached.clone(),
            ends_at,
            self.attempt.asked_at,
            env.now,
            env.store,
        );
        let source = if self.first_use {
            Source::FirstUse
        } else {
            Source::Refresh
        };
        Ok(Next::Token(cached, source))
    }
}

// ---- calls and yields ----------------------------------------------------------------
//
// A call goes through the breaker and ends within the deadline. It is repeated where another node
// of Keycloak may answer.

impl State {
    /// The Keycloak endpoint that this state waits for.
    const fn endpoint(&self) -> Option<Endpoint> {
        match self {
            Self::FetchingToken => Some(Endpoint::ServiceToken),
            Self::LookingUp { .. } => Some(Endpoint::Lookup),
            Self::Granting { .. } => Some(Endpoint::Grant),
            _ => None,
        }
    }
}

impl Pending {
    /// Sends a call to Keycloak.
    fn call(&mut self, state: State, call: Call, env: &mut Env<'_>) -> Step {
        let most = match state {
            State::LookingUp { .. } | State::Granting { .. } if self.key.is_none() => {
                RENEWAL_CALLOUT_MS_MAX
            }
            _ => u64::MAX,
        };
        let timeout_ms = self
            .time_left(&state, env)?
            .min(env.worker.config.callout_timeout_ms)
            .min(most);
        let lease_until = env.now.plus_ms(timeout_ms + LATE_MS);
        let breaker = &mut env.worker.breaker;
        let (id, digest) = (self.id, &self.digest);
        if self.key.is_some() && !breaker.admits(call.endpoint, id, digest, lease_until, env.now) {
            return Err(End::refused(Reason::BreakerOpen));
        }
        if self.key.is_some() && call.endpoint != Endpoint::ServiceToken {
            env.worker.in_flight.sent();
            self.attempt.sent_at = Some(env.now);
        }
        Ok(Next::Await(state, Effect::Call { call, timeout_ms }))
    }

    /// Takes the answer to a call.
    fn answered(&mut self, state: State, event: Event<'_>, env: &mut Env<'_>) -> Step {
        let health = Health::of(event.status());
        if let (Some(endpoint), Some(_)) = (state.endpoint(), &self.key) {
            let breaker = &mut env.worker.breaker;
            breaker.heard(endpoint, health, self.id, &self.digest, env.now);
            if let Some(sent_at) = self.attempt.sent_at.take() {
                let in_flight = &mut env.worker.in_flight;
                in_flight.answered(endpoint, health, sent_at, env.now);
            }
        }
        if health != Health::Gone {
            self.attempt.tries = 0;
            self.attempt.unanswered = None;
        } else if let Some(pause_ms) = self.tries_again(&state, env) {
            self.attempt.tries += 1;
            // The next look-up of a new key takes a turn of its own.
            self.attempt.spent = None;
            self.attempt.unanswered = state.endpoint().map(|endpoint| unanswered(endpoint, event));
            return match state {
                State::Granting { owner } => self.wait(State::Signing { owner }, pause_ms, env),
                _ => self.wait(State::AwaitingToken { wait_ms: pause_ms }, pause_ms, env),
            };
        }
        match state {
            State::FetchingToken => self.token_fetched(event, env),
            State::LookingUp { service_token } => self.looked_up(&service_token, event, env),
            State::Granting { owner } => self.granted(&owner, event, env),
            _ => Err(End::refused(Reason::Deadline)),
        }
    }

    /// A yield failed: reports that, or the failed call that the yield was to repeat.
    fn not_given(&mut self, why: String) -> End {
        match self.attempt.unanswered.take() {
            Some(reason) => End::refused(reason),
            None => End::refused(Reason::YieldFailed(why)),
        }
    }

    /// The pause before an unanswered call is repeated. None without time left, or while the
    /// breaker leaves Keycloak alone. A renewal repeats a call only once: it must not hold up a
    /// poll for long.
    fn tries_again(&self, state: &State, env: &Env<'_>) -> Option<u64> {
        let pause_ms = *PAUSES_MS.get(self.attempt.tries)?;
        let left = self.deadline.left_ms(env.now);
        let again = (self.key.is_some() || self.attempt.tries == 0)
            && left >= pause_ms + TRY_MS_MIN
            && state.endpoint().is_some()
            && env.worker.breaker.would_admit(&self.digest, env.now);
        again.then_some(pause_ms)
    }

    /// Milliseconds until the deadline, at least one.
    fn time_left(&self, state: &State, env: &Env<'_>) -> Result<u64, End> {
        match self.deadline.left_ms(env.now) {
            0 if matches!(
                state,
                State::Queueing { .. } | State::Verifying { .. } | State::Computing { .. }
            ) =>
            {
                Err(End::refused(Reason::VerificationDeadline))
            }
            0 => Err(End::refused(Reason::Deadline)),
            left => Ok(left),
        }
    }

    /// Yields to other requests, and comes back at once.
    fn turn(&self, state: State, env: &Env<'_>) -> Step {
        let timeout_ms = self
            .time_left(&state, env)?
            .min(env.worker.config.callout_timeout_ms);
        let wait_ms = None;
        Ok(Next::Await(
            state,
            Effect::Yield {
                wait_ms,
                timeout_ms,
            },
        ))
    }

    /// Yields to other requests, and comes back later.
    fn wait(&self, state: State, wait_ms: u64, env: &Env<'_>) -> Step {
        let timeout_ms = self.time_left(&state, env)?.min(wait_ms + WAIT_GRACE_MS);
        let wait_ms = Some(wait_ms);
        Ok(Next::Await(
            state,
            Effect::Yield {
                wait_ms,
                timeout_ms,
            },
        ))
    }
}

// ---- renewals: the same without a key ------------------------------------------------

impl Exchange {
    fn start_renewal(&mut self, due: Due, until: UnixMillis, env: &mut Env<'_>) -> Output {
        let Some(id) = env.worker.admit() else {
            return self.end(End::refused(Reason::TooManyPending), env);
        };
        self.key_id = Some(due.key_id.clone());
        let ticket = env.gate.ticket();
        let deadline = Deadline::new(until, env.now);
        let pending = Pending::new(id, due.key_id, due.digest, ticket, deadline);
        self.pending = Some(pending);
        let step = self.with_pending(env, Pending::lead);
        self.settle(step, env)
    }
}

impl Pending {
    /// Leads for this key, or leaves the key to its leader.
    fn lead(&mut self, env: &mut Env<'_>) -> Step {
        self.known = true;
        let (started_at, until) = (self.deadline.started_at(), self.deadline.at());
        let flights = &mut env.worker.flights;
        match flights.claim(&self.digest, self.id, started_at, until, env.now) {
            Claim::Lead => self.need_service_token(WAIT_MS_MIN, env),
            Claim::Follow { .. } | Claim::Pause { .. } => Err(End::refused(Reason::Deadline)),
            Claim::Failed(reason) => Err(End::refused(*reason)),
        }
    }
}

// ---- the end -------------------------------------------------------------------------

impl Exchange {
    fn give_back(&mut self, env: &mut Env<'_>) {
        self.state = State::Over;
        if let Some(mut pending) = self.pending.take() {
            self.owner_id = self.owner_id.take().or(pending.owner_id.take());
            release(&pending, env);
        }
    }

    /// Takes a step's outcome: keeps the new state, or ends the exchange.
    fn settle(&mut self, step: Step, env: &mut Env<'_>) -> Output {
        match step {
            Ok(Next::Await(state, effect)) => {
                self.state = state;
                Output::Await(effect)
            }
            Ok(Next::Token(token, source)) => {
                let output = match &mut self.pending {
                    Some(pending) if pending.key.is_some() => {
                        let remove = std::mem::take(&mut pending.remove);
                        let digest = pending.digest;
                        self.admit(&digest, token, remove, source, env)
                    }
                    // A renewal serves no request, so no term applies to it.
                    _ => forward(token, Vec::new(), source),
                };
                self.give_back(env);
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
                    if let Some(refused) = remember {
                        pending.remember_refused(refused, env);
                    }
                    // A request may wait where a renewal could not. And a throttled address says
                    // nothing about a key that comes from other addresses as well.
                    let of_the_key = rejection != Rejection::Throttled;
                    if of_the_key && (pending.key.is_some() || remember.is_some()) {
                        let flights = &mut env.worker.flights;
                        flights.fail_if_leading(digest, *id, env.now, &reason);
                    }
                }
                if let Some(output) = self.stale(&reason, env) {
                    output
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

    /// The cached token past its TTL, where Keycloak cannot be asked for another.
    fn stale(&mut self, reason: &Reason, env: &mut Env<'_>) -> Option<Output> {
        let pending = self
            .pending
            .as_mut()
            .filter(|p| p.key.is_some() && reason.is_outage())?;
        let cache = &mut env.worker.cache;
        let token = cache.find_stale(&pending.digest, env.now, env.store)?;
        let (digest, remove) = (pending.digest, std::mem::take(&mut pending.remove));
        Some(self.admit(&digest, token, remove, Source::Stale, env))
    }
}

fn forward(token: CachedToken, remove: Vec<String>, source: Source) -> Output {
    Output::Forward(Forward {
        authorization: token.authorization,
        remove,
        source,
    })
}

fn rejected(reason: Reason) -> Output {
    let rejection = reason.rejection();
    Output::Reject { rejection, reason }
}

/// Gives back every claim of an exchange.
fn release(pending: &Pending, env: &mut Env<'_>) {
    let worker = &mut *env.worker;
    worker.flights.land(&pending.digest, pending.id);
    worker.service_token.give_up(pending.id);
    worker.breaker.give_up(pending.id);
    worker.new_keys.leave(pending.id);
    if pending.attempt.spent.is_some() {
        worker.new_keys.came_to_nothing();
    }
    if pending.attempt.sent_at.is_some() {
        worker.in_flight.give_up();
    }
    worker.leave();
    env.gate.leave(pending.ticket);
}

/// The next wait: the more requests wait, the less often each of them comes back.
fn longer(wait_ms: u64, env: &Env<'_>) -> u64 {
    let crowd = u64::try_from(env.worker.pending).unwrap_or(u64::MAX);
    (wait_ms * 2).min(WAIT_MS_MAX.saturating_add(crowd / 2))
}

/// The end for a key that was refused a short while ago. The refusal is not remembered anew, or
/// Keycloak would never be asked for the key again.
fn remembered(refused: Refused, env: &Env<'_>) -> End {
    let reason = Reason::Remembered(refused);
    match refused {
        Refused::Unknown => unknown(reason, env),
        Refused::Unseen | Refused::Invalid => End::refused(reason),
    }
}

/// The end for a key that is unknown to Keycloak. Only such a key may pass, during a migration.
fn unknown(reason: Reason, env: &Env<'_>) -> End {
    if falls_back(env) {
        End::Fallback
    } else {
        End::refused(reason)
    }
}

/// Whether an unknown key passes now.
fn falls_back(env: &Env<'_>) -> bool {
    let until = env.worker.config.fallback_until;
    until.is_some_and(|until| env.now < until)
}

/// Whether this refusal alone decides.
fn counts(refused: Refused, env: &Env<'_>) -> bool {
    refused != Refused::Unseen || !falls_back(env)
}

/// Whether a token may have ended because its key ended. The token ends with the key's whole
/// second, by Keycloak's clock, which may be ahead of ours.
fn ends_with_key(owner: &Owner, env: &Env<'_>) -> bool {
    let ahead_ms = env.worker.config.clock_skew_ms.max(1000);
    owner.record.ends_at <= env.now.plus_ms(ahead_ms)
}

/// The reason for which a call is repeated.
fn unanswered(endpoint: Endpoint, event: Event<'_>) -> Reason {
    let failure = match event {
        Event::Answer { status, .. } => format!("status {status}"),
        Event::Computed(_) => String::new(),
        Event::Failed(why) => loggable(why),
    };
    Reason::Callout { endpoint, failure }
}

/// The answer to a callout, if it came and can be read.
fn answer(endpoint: Endpoint, event: Event<'_>) -> Result<(u16, &[u8]), End> {
    event.answer().map_err(|why| End::callout(endpoint, why))
}
