//! The steps of an exchange, in the order in which a request takes them.

use std::sync::Arc;

use super::credentials::{Credentials, Headers, extract};
use super::flight::Claim;
use super::gate::Turn;
use super::rejection::{Reason, Rejection};
use super::service_token::Need;
use super::{
    End, Env, Exchange, Forward, Input, Output, PENDING_MAX, Pass, Pending, Source, State, Step,
};
use crate::api_key::hash::{ROUNDS_PER_SLICE, Verification};
use crate::cache::{CachedToken, Found, Level, Refused};
use crate::clock::UnixMillis;
use crate::keycloak::token::{self, TokenError};
use crate::keycloak::users::{self, Lookup, LookupError, Owner};
use crate::keycloak::{Call, Endpoint};

/// The first wait for another request's result; each further one is twice as long.
const WAIT_MS_MIN: u64 = 5;
/// The longest wait for another request's result.
const WAIT_MS_MAX: u64 = 40;
/// The wait of whoever is next at the gate.
const NEXT_MS: u64 = 5;
/// Each place in the queue adds this much to the wait.
const PLACE_MS: u64 = 15;
/// The longest wait in the queue.
const QUEUE_MS_MAX: u64 = 100;
/// A wait's callout may take this much longer than the wait: the address answers
/// in its own time.
const WAIT_GRACE_MS: u64 = 2000;
/// A token's life is at least this, where the key's end allows it.
const TOKEN_LIFE_MS_MIN: u64 = 60_000;

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
            Err((rejection, reason)) => return Output::Reject { rejection, reason },
        };
        let digest = env.worker.cache.digest(&key);
        match env.worker.cache.find(&digest, env.now, env.store) {
            Found::Token(token, level) => Output::Forward(forward(&token, remove, level)),
            Found::Refused(refused) => {
                self.key_id = Some(key.id().to_owned());
                self.end(remembered(refused, env), env)
            }
            Found::Nothing => {
                self.key_id = Some(key.id().to_owned());
                if env.worker.pending >= PENDING_MAX {
                    let reason = Reason::TooManyPending;
                    return Output::Reject {
                        rejection: Rejection::Overloaded,
                        reason,
                    };
                }
                env.worker.pending += 1;
                self.pending = Some(Pending {
                    id: env.worker.next_exchange(),
                    key,
                    digest,
                    remove,
                    ticket: env.gate.ticket(),
                    started_at: env.now,
                    deadline_at: env.now.plus_ms(2 * config.callout_timeout_ms),
                    seen_at: env.now,
                    retried: false,
                    first_use: false,
                    queued: false,
                });
                let step = self.with_pending(env, |pending, env| pending.claim(WAIT_MS_MIN, env));
                self.settle(step, env)
            }
        }
    }

    /// Any later input.
    pub(super) fn go_on(&mut self, state: State, input: &Input<'_>, env: &mut Env<'_>) -> Step {
        self.with_pending(env, |pending, env| {
            pending.follow_the_clock(env.now);
            match (state, input) {
                (State::New | State::Over, _) | (_, Input::Request { .. }) => {
                    Err(End::unavailable(Reason::Deadline))
                }
                (State::FetchingToken, input) => pending.token_fetched(input, env),
                (State::LookingUp { service_token }, input) => {
                    pending.looked_up(&service_token, input, env)
                }
                (State::Granting { owner }, input) => pending.granted(&owner, input, env),
                // From here on a turn that was waited for.
                (_, Input::Failed(why)) => Err(End::overloaded(Reason::YieldFailed(
                    crate::keycloak::loggable(why),
                ))),
                (State::Following { wait_ms }, _) => pending.look_again(wait_ms, env),
                (State::AwaitingToken { wait_ms }, _) => {
                    pending.need_service_token(longer(wait_ms), env)
                }
                (State::Queueing { owner }, _) => pending.queue(owner, env),
                (State::Verifying { owner, job }, _) => {
                    let state = State::Verifying { owner, job };
                    pending.verify_slice(state, env)
                }
                (State::Signing { owner }, _) => pending.sign_grant(owner, env),
                (
                    State::SigningClient {
                        owner,
                        grant_assertion,
                    },
                    _,
                ) => pending.sign_client(owner, &grant_assertion, env),
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
            // An input after the end: whoever sends it waits for an answer still.
            None => Err(End::unavailable(Reason::Deadline)),
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
            Claim::Lead => self.need_service_token(WAIT_MS_MIN, env),
            Claim::Follow { until } => {
                self.deadline_at = self.deadline_at.max(until);
                self.wait(State::Following { wait_ms }, wait_ms, env)
            }
            Claim::Failed(rejection, reason) => Err(End::Refused {
                rejection,
                reason: *reason,
                remember: None,
            }),
        }
    }

    /// A follower's turn: the leader may have left a token or a refusal.
    fn look_again(&mut self, waited_ms: u64, env: &mut Env<'_>) -> Step {
        match env.worker.cache.find(&self.digest, env.now, env.store) {
            Found::Token(token, level) => {
                let forward = forward(&token, std::mem::take(&mut self.remove), level);
                Ok((State::Over, Output::Forward(forward)))
            }
            Found::Refused(refused) => Err(remembered(refused, env)),
            Found::Nothing => self.claim(longer(waited_ms), env),
        }
    }

    fn need_service_token(&mut self, wait_ms: u64, env: &mut Env<'_>) -> Step {
        let config = Arc::clone(&env.worker.config);
        let lease_until = env.now.plus_ms(config.callout_timeout_ms + 1000);
        let service = &mut env.worker.service_token;
        match service.need(self.id, self.started_at, lease_until, env.now) {
            Need::Use(service_token) => self.look_up(service_token, env),
            Need::Wait => self.wait(State::AwaitingToken { wait_ms }, wait_ms, env),
            Need::Failed(rejection, reason) => Err(End::Refused {
                rejection,
                reason: *reason,
                remember: None,
            }),
            Need::Fetch => {
                let jti = env.jti("service");
                let assertion =
                    token::client_assertion(&config, &env.worker.signing_key, &jti, env.now)
                        .map_err(|_| End::unavailable(Reason::Signing))?;
                let call = token::service_token_call(&config, &assertion);
                self.call(State::FetchingToken, call, env)
            }
        }
    }

    fn token_fetched(&mut self, input: &Input<'_>, env: &mut Env<'_>) -> Step {
        let endpoint = Endpoint::ServiceToken;
        let fetched = answer(endpoint, input).and_then(|(status, body)| {
            let token = token::read_token_answer(&env.worker.config, status, body, env.now)
                .map_err(|error| End::unavailable(Reason::TokenFault { endpoint, error }))?;
            // Without the role Keycloak answers a search with an empty list: a
            // known key would look like an unknown one.
            if users::may_look_up(&token.management_roles) {
                Ok(token)
            } else {
                Err(End::unavailable(Reason::MissingRole))
            }
        });
        match fetched {
            Ok(token) => {
                let service_token = env.worker.service_token.fetched(&token, env.now);
                self.look_up(service_token, env)
            }
            Err(end) => {
                if let End::Refused {
                    rejection, reason, ..
                } = &end
                {
                    let service = &mut env.worker.service_token;
                    service.failed(self.id, env.now, *rejection, reason.clone());
                }
                Err(end)
            }
        }
    }

    fn look_up(&mut self, service_token: Arc<str>, env: &mut Env<'_>) -> Step {
        let call = users::lookup_call(&env.worker.config, &service_token, self.key.id());
        self.call(State::LookingUp { service_token }, call, env)
    }

    fn looked_up(&mut self, service_token: &str, input: &Input<'_>, env: &mut Env<'_>) -> Step {
        let (status, body) = answer(Endpoint::Lookup, input)?;
        match users::read_lookup_answer(status, body, self.key.id()) {
            Ok(Lookup::Owner(owner)) => self.check_record(owner, env),
            Ok(Lookup::Unknown) => {
                env.worker.cache.remember_refused(
                    &self.digest,
                    Refused::Unknown,
                    env.now,
                    env.store,
                );
                Err(unknown(Reason::Unknown, env))
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
                Err(End::unavailable(Reason::LookupFault(fault)))
            }
        }
    }

    fn check_record(&mut self, owner: Box<Owner>, env: &mut Env<'_>) -> Step {
        let record = &owner.record;
        if record.ends_at <= env.now {
            return Err(End::invalid(Reason::Expired));
        }
        if env
            .worker
            .cache
            .is_verified(&self.digest, &record.hash_text, env.store)
        {
            return self.sign_grant(owner, env);
        }
        if record.hash.rounds() == 0 {
            let key = self.key.expose().as_bytes();
            let same = matches!(record.hash.verify(key), Verification::Decided(true));
            return self.verified(owner, same, env);
        }
        self.queue(owner, env)
    }

    /// Waits for the gate, or starts the verification.
    fn queue(&mut self, owner: Box<Owner>, env: &mut Env<'_>) -> Step {
        let rounds = owner.record.hash.rounds();
        match env.gate.show(self.ticket, rounds, env.now) {
            Turn::Full => Err(End::overloaded(Reason::QueueFull)),
            Turn::Go => {
                // Another worker of the node may have been faster.
                let hash_text = &owner.record.hash_text;
                if env
                    .worker
                    .cache
                    .is_verified(&self.digest, hash_text, env.store)
                {
                    env.gate.leave(self.ticket);
                    return self.sign_grant(owner, env);
                }
                self.allow_for(u64::from(rounds), env);
                match owner.record.hash.verify(self.key.expose().as_bytes()) {
                    Verification::Decided(same) => self.verified(owner, same, env),
                    Verification::Computing(job) => {
                        self.verify_slice(State::Verifying { owner, job }, env)
                    }
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

    /// Moves the deadline, once, to make room for so many rounds of bcrypt. The time
    /// of other requests in between is allowed for: four times what the rounds take
    /// on an idle worker, 0.1 ms each.
    fn allow_for(&mut self, rounds: u64, env: &mut Env<'_>) {
        if std::mem::replace(&mut self.queued, true) {
            return;
        }
        let callouts = env.worker.config.callout_timeout_ms;
        let enough = env.now.plus_ms(rounds * 2 / 5 + callouts);
        self.deadline_at = self.deadline_at.max(enough);
        env.worker
            .flights
            .extend(&self.digest, self.id, self.deadline_at);
    }

    fn verify_slice(&mut self, state: State, env: &mut Env<'_>) -> Step {
        let State::Verifying { owner, mut job } = state else {
            return Err(End::unavailable(Reason::Deadline));
        };
        let rounds = owner.record.hash.rounds();
        if env.gate.show(self.ticket, rounds, env.now) != Turn::Go {
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

    fn verified(&mut self, owner: Box<Owner>, same: bool, env: &mut Env<'_>) -> Step {
        if !same {
            return Err(End::invalid(Reason::WrongSecret));
        }
        self.first_use = true;
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

    /// Signs the owner's assertion. It ends with the key, and Keycloak's token ends
    /// with it.
    fn sign_grant(&mut self, owner: Box<Owner>, env: &mut Env<'_>) -> Step {
        let config = Arc::clone(&env.worker.config);
        let life = (config.cache_ttl_ms + 2 * config.clock_skew_ms).max(TOKEN_LIFE_MS_MIN);
        let expires_at = owner.record.ends_at.min(env.now.plus_ms(life));
        if expires_at.as_seconds() <= env.now.as_seconds() {
            return Err(End::invalid(Reason::Expired));
        }
        let jti = env.jti(self.key.id());
        let key = &env.worker.signing_key;
        let grant_assertion =
            token::grant_assertion(&config, key, &owner.id, &jti, env.now, expires_at)
                .map_err(|_| End::unavailable(Reason::Signing))?;
        // A signature takes about as long as a slice: the second has its own turn.
        self.turn(
            State::SigningClient {
                owner,
                grant_assertion,
            },
            env,
        )
    }

    fn sign_client(&mut self, owner: Box<Owner>, grant_assertion: &str, env: &mut Env<'_>) -> Step {
        let config = Arc::clone(&env.worker.config);
        let jti = env.jti(self.key.id());
        let client_assertion =
            token::client_assertion(&config, &env.worker.signing_key, &jti, env.now)
                .map_err(|_| End::unavailable(Reason::Signing))?;
        let scope = owner.record.scopes.as_deref().or(config.scope.as_deref());
        let call = token::grant_call(&config, grant_assertion, &client_assertion, scope);
        self.call(State::Granting { owner }, call, env)
    }

    fn granted(&mut self, owner: &Owner, input: &Input<'_>, env: &mut Env<'_>) -> Step {
        let endpoint = Endpoint::Grant;
        let (status, body) = answer(endpoint, input)?;
        let config = Arc::clone(&env.worker.config);
        let token = match token::read_token_answer(&config, status, body, env.now) {
            Ok(token) => token,
            Err(TokenError::OwnerRefused(why)) => {
                return Err(End::invalid(Reason::OwnerRefused(why)));
            }
            Err(error) => return Err(End::unavailable(Reason::TokenFault { endpoint, error })),
        };
        if token.subject != owner.id {
            return Err(End::unavailable(Reason::ForeignSubject));
        }
        let key_ends_at = owner.record.ends_at;
        if key_ends_at <= env.now {
            return Err(End::invalid(Reason::Expired));
        }
        if token.expires_at > key_ends_at.plus_ms(1000) {
            return Err(End::unavailable(Reason::TokenOutlivesKey));
        }
        let cached = CachedToken {
            authorization: format!("Bearer {}", token.jwt).into(),
            owner_id: owner.id.as_str().into(),
        };
        let ends_at = token
            .expires_at
            .minus_ms(config.clock_skew_ms)
            .min(key_ends_at);
        let cache = &mut env.worker.cache;
        cache.remember_token(&self.digest, cached.clone(), ends_at, env.now, env.store);
        let source = if self.first_use {
            Source::FirstUse
        } else {
            Source::Refresh
        };
        let remove = std::mem::take(&mut self.remove);
        let forward = Forward {
            authorization: cached.authorization,
            remove,
            source,
        };
        Ok((State::Over, Output::Forward(forward)))
    }

    /// Sends a call to Keycloak.
    fn call(&self, state: State, call: Call, env: &Env<'_>) -> Step {
        let timeout_ms = self
            .time_left(&state, env)?
            .min(env.worker.config.callout_timeout_ms);
        Ok((state, Output::Callout { call, timeout_ms }))
    }

    /// Lets others have the worker, and comes back at once.
    fn turn(&self, state: State, env: &Env<'_>) -> Step {
        self.time_left(&state, env)?;
        let timeout_ms = env.worker.config.callout_timeout_ms;
        Ok((
            state,
            Output::Yield {
                wait_ms: None,
                timeout_ms,
            },
        ))
    }

    /// Lets others have the worker, and comes back later.
    fn wait(&self, state: State, wait_ms: u64, env: &Env<'_>) -> Step {
        self.time_left(&state, env)?;
        let timeout_ms = wait_ms + WAIT_GRACE_MS;
        Ok((
            state,
            Output::Yield {
                wait_ms: Some(wait_ms),
                timeout_ms,
            },
        ))
    }

    /// Milliseconds until the deadline, at least one.
    fn time_left(&self, state: &State, env: &Env<'_>) -> Result<u64, End> {
        match self.deadline_at.since_ms(env.now) {
            0 if matches!(state, State::Queueing { .. } | State::Verifying { .. }) => {
                Err(End::overloaded(Reason::Deadline))
            }
            0 => Err(End::unavailable(Reason::Deadline)),
            left => Ok(left),
        }
    }
}

/// The answer to a callout, if there is one that can be read.
fn answer<'a>(endpoint: Endpoint, input: &Input<'a>) -> Result<(u16, &'a [u8]), End> {
    match input {
        Input::Answer {
            status,
            body: Some(body),
        } => Ok((*status, body)),
        Input::Answer { body: None, .. } => Err(End::callout(endpoint, "the answer is too large")),
        Input::Failed(why) => Err(End::callout(endpoint, why)),
        Input::Request { .. } => Err(End::unavailable(Reason::Deadline)),
    }
}

fn longer(wait_ms: u64) -> u64 {
    (wait_ms * 2).min(WAIT_MS_MAX)
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
        Refused::Invalid => End::Refused {
            rejection: Rejection::InvalidApiKey,
            reason,
            remember: None,
        },
    }
}

/// The end for a key that Keycloak does not know: the one kind that may pass, while
/// a migration lasts.
fn unknown(reason: Reason, env: &Env<'_>) -> End {
    match env.worker.config.fallback_until {
        Some(until) if env.now < until => End::Fallback,
        _ => End::Refused {
            rejection: Rejection::InvalidApiKey,
            reason,
            remember: None,
        },
    }
}
