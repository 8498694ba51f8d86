//! The steps of an exchange, in the order in which a request takes them.

use std::sync::Arc;

use super::calling::answer;
use super::credentials::{Credentials, Headers, extract};
use super::flight::Claim;
use super::throttle::SourceAddress;
use super::{
    End, Env, Exchange, Forward, Input, Output, Pass, Pending, Source, State, Step, Unseen,
    rejected,
};
use crate::cache::renewal::Age;
use crate::cache::{CachedToken, Found, Level};
use crate::calls::service_token::{Need, read_service_token};
use crate::clock::UnixMillis;
use crate::keycloak::Endpoint;
use crate::keycloak::token;
use crate::keycloak::users::{self, Lookup, LookupError};
use crate::rejection::{Reason, Refused};

/// The first wait for another request's result; each further one is twice as long.
pub(super) const WAIT_MS_MIN: u64 = 5;
/// The longest wait for another request's result.
const WAIT_MS_MAX: u64 = 40;
/// Who has not used its turn by then takes another.
const TURN_MS: u64 = 40;
/// The longest that a leader takes beside its callouts: a full queue of bcrypt.
const LEADER_MS_MAX: u64 = 60_000;
/// The roles of the gateway's account are taken for what they were so long ago, where
/// an unknown key is refused all the same.
const ROLES_SEEN_MS: u64 = 30_000;
/// A wait's callout may take this much longer than the wait: the address answers
/// in its own time.
const WAIT_GRACE_MS: u64 = 3000;

impl Exchange {
    /// The request's head came.
    pub(super) fn start(&mut self, headers: &Headers, env: &mut Env<'_>) -> Output {
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
                self.forwarded = Some(digest);
                if age == Age::Due {
                    env.worker.renewing.note(&digest, &key_id);
                }
                self.key_id = Some(key_id);
                self.owner_id = Some(Arc::clone(&token.owner_id));
                Output::Forward(forward(&token, remove, level))
            }
            // A key that was verified on this node is nobody's guess.
            _ if self.is_throttled(env) && !env.worker.cache.was_verified(&digest, env.store) => {
                rejected(Reason::Throttled)
            }
            Found::Refused(refused) if counts(refused, env) => {
                self.key_id = Some(key_id);
                self.end(remembered(refused, env), env)
            }
            Found::Refused(_) | Found::Nothing => {
                self.key_id = Some(key_id);
                let Some(id) = env.worker.admit() else {
                    return rejected(Reason::TooManyPending);
                };
                let deadline_at = env.now.plus_ms(2 * config.callout_timeout_ms);
                let (ticket, key_id) = (env.gate.ticket(), key.id().to_owned());
                self.pending = Some(Pending {
                    key: Some(key),
                    remove,
                    ..Pending::new(id, key_id, digest, ticket, deadline_at, env.now)
                });
                let step = self.with_pending(env, |pending, env| pending.claim(WAIT_MS_MIN, env));
                self.settle(step, env)
            }
        }
    }

    /// Whether the request's address has failed too often. The host is asked for it at
    /// most once, and for no request with a token in the cache.
    fn is_throttled(&mut self, env: &mut Env<'_>) -> bool {
        self.find_source(env)
            .is_some_and(|source| env.is_throttled(source))
    }

    /// Counts a failure of the request's address. True if it has failed too often before:
    /// then it is told so, and not what became of the key.
    pub(super) fn count_failure(&mut self, env: &mut Env<'_>) -> bool {
        // A renewal comes from nowhere.
        let pending = self.pending.as_ref();
        pending.is_none_or(|pending| pending.key.is_some())
            && self
                .find_source(env)
                .is_some_and(|source| env.count_failure(source))
    }

    fn find_source(&mut self, env: &Env<'_>) -> Option<SourceAddress> {
        if self.source.is_none() {
            self.source = env.source();
        }
        self.source
    }

    /// Any later input.
    pub(super) fn go_on(&mut self, state: State, input: &Input<'_>, env: &mut Env<'_>) -> Step {
        if matches!(state, State::AwaitingTurn { .. }) && self.is_throttled(env) {
            // It failed too often while it waited.
            return Err(End::refused(Reason::Throttled));
        }
        self.with_pending(env, |pending, env| {
            pending.follow_the_clock(env.now);
            match (state, input) {
                (State::New | State::Over, _) | (_, Input::Request { .. }) => {
                    Err(End::refused(Reason::Deadline))
                }
                (
                    state @ (State::FetchingToken
                    | State::LookingUp { .. }
                    | State::Granting { .. }),
                    input,
                ) => pending.answered(state, input, env),
                // From here on a turn that was waited for. One that would have come after
                // the deadline says nothing of who gives turns.
                (state, Input::Failed(_)) if env.now >= pending.deadline_at => Err(pending
                    .time_left(&state, env)
                    .err()
                    .unwrap_or_else(|| End::refused(Reason::Deadline))),
                (_, Input::Failed(why)) => Err(pending.not_given(crate::keycloak::loggable(why))),
                (_, Input::Answer { status, .. }) if *status >= 400 => {
                    Err(pending.not_given(format!("status {status}")))
                }
                (State::Following { wait_ms }, _) => pending.look_again(wait_ms, env),
                (State::AwaitingTurn { from }, _) => pending.await_turn(from, env),
                (State::AwaitingToken { wait_ms }, _) => {
                    pending.need_service_token(longer(wait_ms, env), env)
                }
                (State::Queueing { owner }, _) => pending.queue(owner, env),
                (State::Verifying { owner, job }, _) => pending.verify_slice(owner, job, env),
                (State::Signing { owner }, _) => pending.sign(owner, env),
            }
        })
    }

    pub(super) fn with_pending(
        &mut self,
        env: &mut Env<'_>,
        step: impl FnOnce(&mut Pending, &mut Env<'_>) -> Step,
    ) -> Step {
        match &mut self.pending {
            Some(pending) => step(pending, env),
            // An input after the end: whoever sends it waits for an answer still.
            None => Err(End::refused(Reason::Deadline)),
        }
    }
}

impl Pending {
    /// After a clock step backwards the deadline moves along, so that the request
    /// waits no longer for it.
    fn follow_the_clock(&mut self, now: UnixMillis) {
        let back = self.seen_at.since_ms(now);
        self.deadline_at = self.deadline_at.minus_ms(back);
        self.started_at = self.started_at.minus_ms(back);
        self.asked_at = self.asked_at.minus_ms(back);
        if let Some(unseen) = &mut self.unseen {
            unseen.since = unseen.since.minus_ms(back);
        }
        self.seen_at = now;
    }

    /// Leads the exchange for this key, or follows who does.
    fn claim(&mut self, wait_ms: u64, env: &mut Env<'_>) -> Step {
        let claimed = env.worker.flights.claim(
            &self.digest,
            self.id,
            self.started_at,
            self.deadline_at,
            env.now,
        );
        match claimed {
            Claim::Lead => self.take_turn(0, env),
            Claim::Follow { until } => {
                // Once: a row of leaders that hang up must not hold a follower. And not
                // to an instant that only a clock step can have made so far.
                let callouts = 2 * env.worker.config.callout_timeout_ms;
                let near = env.now.plus_ms(LEADER_MS_MAX + callouts);
                let later = until > self.deadline_at && until <= near;
                if later && !std::mem::replace(&mut self.followed, true) {
                    self.deadline_at = until;
                }
                self.wait(State::Following { wait_ms }, wait_ms, env)
            }
            Claim::Failed(reason) if *reason == Reason::Unknown => Err(unknown(*reason, env)),
            Claim::Failed(reason) => Err(End::refused(*reason)),
        }
    }

    /// Keycloak is asked at once for a key that was verified on this node before; for one
    /// that nobody has seen there are so many turns in a second, and for all when Keycloak
    /// has only just come back. It takes so long at the least.
    pub(super) fn take_turn(&mut self, least_ms: u64, env: &mut Env<'_>) -> Step {
        let (now, worker) = (env.now, &mut *env.worker);
        if !worker.breaker.would_admit(&self.digest, now) {
            return Err(End::refused(Reason::BreakerOpen));
        }
        self.known = worker.cache.was_verified(&self.digest, env.store);
        let wait_ms = if !self.known {
            worker.lookups.take_turn(now)
        } else if worker.breaker.is_recovering(now) {
            let wait_ms = worker.refreshes.take_turn(now);
            if wait_ms != Some(0) {
                worker.breaker.go_on_recovering(now);
            }
            wait_ms
        } else {
            return self.need_service_token(WAIT_MS_MIN, env);
        };
        match wait_ms {
            Some(wait_ms) => self.await_turn(now.plus_ms(wait_ms.max(least_ms)), env),
            None if self.known => Err(End::refused(Reason::TooManyReturn)),
            None => Err(End::refused(Reason::TooManyNewKeys)),
        }
    }

    /// Waits until its turn comes: a host may be back before. No turn is further away
    /// than a callout may take, unless the clock was set back meanwhile.
    fn await_turn(&mut self, from: UnixMillis, env: &mut Env<'_>) -> Step {
        match from.since_ms(env.now) {
            0 => {
                self.turn_at = Some(env.now);
                self.need_service_token(WAIT_MS_MIN, env)
            }
            left if left > env.worker.config.callout_timeout_ms => self.take_turn(0, env),
            left => self.wait(State::AwaitingTurn { from }, left, env),
        }
    }

    /// A follower's turn: the leader may have left a token or a refusal.
    fn look_again(&mut self, waited_ms: u64, env: &mut Env<'_>) -> Step {
        match env.worker.cache.find(&self.digest, env.now, env.store) {
            Found::Token(token, level, _) => {
                self.owner_id = Some(Arc::clone(&token.owner_id));
                let forward = forward(&token, std::mem::take(&mut self.remove), level);
                Ok((State::Over, Output::Forward(forward)))
            }
            Found::Refused(refused) if counts(refused, env) => Err(remembered(refused, env)),
            Found::Refused(_) | Found::Nothing => self.claim(longer(waited_ms, env), env),
        }
    }

    pub(super) fn need_service_token(&mut self, wait_ms: u64, env: &mut Env<'_>) -> Step {
        let config = Arc::clone(&env.worker.config);
        let lease_until = env.now.plus_ms(config.callout_timeout_ms + 1000);
        let service = &mut env.worker.service_token;
        let since = self.unseen.map(|unseen| unseen.since).unwrap_or_default();
        match service.need_since(since, self.id, self.started_at, lease_until, env.now) {
            Need::Use(service_token) => self.go_to_keycloak(service_token, env),
            Need::Wait => self.wait(State::AwaitingToken { wait_ms }, wait_ms, env),
            Need::Failed(reason) => Err(End::refused(*reason)),
            Need::Fetch => {
                let jti = env.jti("service");
                let assertion =
                    token::client_assertion(&config, &env.worker.signing_key, &jti, env.now)
                        .map_err(|_| End::refused(Reason::Signing))?;
                let call = token::service_token_call(&config, &assertion);
                self.call(State::FetchingToken, call, env)
            }
        }
    }

    pub(super) fn token_fetched(&mut self, input: &Input<'_>, env: &mut Env<'_>) -> Step {
        let endpoint = Endpoint::ServiceToken;
        let fetched = answer(endpoint, input).and_then(|(status, body)| {
            read_service_token(&env.worker.config, status, body, env.now).map_err(End::refused)
        });
        match fetched {
            Ok(token) => {
                let service = &mut env.worker.service_token;
                let service_token = service.fetched(self.id, &token, env.now);
                self.go_to_keycloak(service_token, env)
            }
            Err(end) => {
                if let End::Refused { reason, .. } = &end {
                    let service = &mut env.worker.service_token;
                    service.failed(self.id, env.now, reason.clone());
                }
                Err(end)
            }
        }
    }

    /// There is a service token whose roles were looked at: asks for the owner, or
    /// believes that there is none.
    fn go_to_keycloak(&mut self, service_token: Arc<str>, env: &mut Env<'_>) -> Step {
        match self.unseen {
            Some(unseen) if !unseen.falls_back => Err(self.unknown(Refused::Unseen, env)),
            // All who waited for the service token meanwhile would go at one moment.
            _ if self
                .turn_at
                .is_some_and(|at| env.now >= at.plus_ms(TURN_MS)) =>
            {
                self.turn_at = None;
                self.take_turn(0, env)
            }
            // A role may have come back since: asked with this token, which shows it.
            _ => self.look_up(service_token, env),
        }
    }

    pub(super) fn look_up(&mut self, service_token: Arc<str>, env: &mut Env<'_>) -> Step {
        self.turn_at = None;
        self.asked_at = env.now;
        self.generation = env.worker.cache.revocations().generation();
        let call = users::lookup_call(&env.worker.config, &service_token, &self.key_id);
        self.call(State::LookingUp { service_token }, call, env)
    }

    pub(super) fn looked_up(
        &mut self,
        service_token: &str,
        input: &Input<'_>,
        env: &mut Env<'_>,
    ) -> Step {
        let (status, body) = answer(Endpoint::Lookup, input)?;
        match users::read_lookup_answer(status, body, &self.key_id) {
            Ok(Lookup::Owner(owner)) => self.check_record(owner, env),
            Ok(Lookup::Unknown) if self.unseen.is_some_and(|unseen| unseen.falls_back) => {
                Err(self.unknown(Refused::Unknown, env))
            }
            Ok(Lookup::Unknown) => {
                // A role that was taken since the token was fetched makes every key
                // look unknown, and only a new token shows it. A key that is about to
                // reach the service is worth one; a flood of unknown keys is not.
                let falls_back = falls_back(env);
                let age_ms = if falls_back { 0 } else { ROLES_SEEN_MS };
                self.unseen = Some(Unseen {
                    since: env.now.minus_ms(age_ms),
                    falls_back,
                });
                self.need_service_token(WAIT_MS_MIN, env)
            }
            Ok(Lookup::Refused(refusal)) => Err(End::invalid(refusal.into())),
            Err(LookupError::Unauthorized) if !self.retried => {
                self.retried = true;
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

    /// Remembers that nobody owns the key.
    fn unknown(&self, refused: Refused, env: &mut Env<'_>) -> End {
        let cache = &mut env.worker.cache;
        cache.remember_refused(&self.digest, refused, env.now, env.store);
        if refused == Refused::Unseen {
            End::refused(Reason::Unknown)
        } else {
            unknown(Reason::Unknown, env)
        }
    }

    /// Lets others have the worker, and comes back at once.
    pub(super) fn turn(&self, state: State, env: &Env<'_>) -> Step {
        let timeout_ms = self
            .time_left(&state, env)?
            .min(env.worker.config.callout_timeout_ms);
        Ok((
            state,
            Output::Yield {
                wait_ms: None,
                timeout_ms,
            },
        ))
    }

    /// Lets others have the worker, and comes back later.
    pub(super) fn wait(&self, state: State, wait_ms: u64, env: &Env<'_>) -> Step {
        let timeout_ms = self.time_left(&state, env)?.min(wait_ms + WAIT_GRACE_MS);
        Ok((
            state,
            Output::Yield {
                wait_ms: Some(wait_ms),
                timeout_ms,
            },
        ))
    }
}

/// The next wait: the more requests wait, the less often each of them looks.
fn longer(wait_ms: u64, env: &Env<'_>) -> u64 {
    let crowd = u64::try_from(env.worker.pending).unwrap_or(u64::MAX);
    (wait_ms * 2).min(WAIT_MS_MAX.saturating_add(crowd / 2))
}

fn forward(token: &CachedToken, remove: Vec<String>, level: Level) -> Forward {
    let source = match level {
        Level::L1 => Source::L1,
        Level::L2 => Source::L2,
    };
    Forward {
        authorization: Arc::clone(&token.authorization),
        remove,
        source,
    }
}

/// The end for a key that was refused a short while ago; not remembered anew, or
/// it would never be asked for again.
fn remembered(refused: Refused, env: &Env<'_>) -> End {
    let reason = Reason::Remembered(refused);
    match refused {
        Refused::Unknown => unknown(reason, env),
        Refused::Unseen | Refused::Invalid => End::refused(reason),
    }
}

/// The end for a key that Keycloak does not know: the one kind that may pass, while
/// a migration lasts.
fn unknown(reason: Reason, env: &Env<'_>) -> End {
    if falls_back(env) {
        End::Fallback
    } else {
        End::refused(reason)
    }
}

/// Whether an unknown key passes now.
pub(super) fn falls_back(env: &Env<'_>) -> bool {
    let until = env.worker.config.fallback_until;
    until.is_some_and(|until| env.now < until)
}

/// Whether this is all that there is to know of a key.
fn counts(refused: Refused, env: &Env<'_>) -> bool {
    refused != Refused::Unseen || !falls_back(env)
}
