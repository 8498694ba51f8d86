//! The steps that every request takes: who calls, and with which token Keycloak is asked.

use std::sync::Arc;

use super::problem::{Code, Problem};
use super::request::{expected, not_taken};
use super::{Asked, End, Input, Manage, ManageEnv, Output, State, Step, Task, management};
use crate::calls::service_token::Need;
use crate::exchange::bucket::Bucket;
use crate::keycloak::caller_token;
use crate::keycloak::lightweight::is_lightweight;
use crate::keycloak::{Call, Endpoint, jwks, key_store, token};
use crate::rejection::{Reason, Rejection};

/// The first wait for another request's result; each further one is twice as long.
pub(super) const WAIT_MS_MIN: u64 = 5;
/// The longest wait for another request's result.
const WAIT_MS_MAX: u64 = 40;
/// What a turn may take beside what was asked for.
const WAIT_GRACE_MS: u64 = 2000;
/// Signatures that a worker verifies for all addresses with too many failures together, at
/// once and in each second. They are not refused outright: whoever shares an address with
/// a stranger, behind one proxy, must be able to end a key all the same.
const SUSPECTS: Bucket = Bucket::new(10, 1000, 10);
/// The roles of client `realm-management` that let the manager write users.
const WRITE_ROLES: [&str; 2] = ["manage-users", "realm-admin"];

impl Manage {
    /// Any later input.
    pub(super) fn go_on(
        &mut self,
        state: State,
        input: &Input<'_>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        if let Some(task) = &mut self.task {
            task.follow_the_clock(env);
        }
        match (state, input) {
            (State::Exchanging(exchange), input) => self.exchange(exchange, input, env),
            (State::ReadingBody(head), Input::Body(body)) => self.with_body(*head, *body, env),
            (state, Input::Head { .. } | Input::Body(_))
            | (state @ (State::New | State::Over), _) => {
                // What it waits for is given back at the end.
                self.state = state;
                Err(End::unavailable("an input that belongs to nothing"))
            }
            (State::FetchingKeys, input) => self.keys_fetched(input, env),
            (State::FetchingToken, input) => self.token_fetched(input, env),
            (State::ReadingOwner, input) => self.owner_read(input, env),
            (State::ReadingEvents(listing), input) => self.events_read(listing, input, env),
            (State::CheckingScopes, input) => self.scopes_checked(input, env),
            (State::Changing(change, draft), input) => self.change(change, draft, input, env),
            (State::LookingUp(changed, draft), input) => self.looked_up(changed, draft, input, env),
            // What is made is told, whether or not the host lends a turn.
            (State::Settling(changed, draft, _), input) if !is_turn(input) => {
                self.told(&changed, draft)
            }
            // From here on a turn that was waited for.
            (_, Input::Failed(why)) => Err(turn_failed(&crate::keycloak::loggable(why))),
            (_, Input::Answer { status, .. }) if *status >= 400 => {
                Err(turn_failed(&format!("status {status}")))
            }
            (State::ReadingBody(_), _) => Err(End::new(
                Problem::new(Code::InvalidRequest, "The body did not come in time."),
                "the body did not come: on Envoy the filter needs allow_on_headers_stop_iteration",
            )),
            (State::AwaitingKeys, _) => self.verify_caller(None, env),
            (State::Verified | State::AwaitingToken, _) => self.need_token(env),
            (State::Queueing(draft), _) => self.queue(draft, env),
            (State::AwaitingOwner(draft), _) => self.await_owner(draft, env),
            (State::Hashing(draft, job), _) => self.hash_slice(draft, job, env),
            (State::Settling(changed, draft, until), _) => self.settle(changed, draft, until, env),
        }
    }

    // ---- who calls ---------------------------------------------------------------

    /// Verifies the caller's token with the realm's key of its name. `unfetched` is why the
    /// keys could not be fetched just now: the end where those at hand do not do.
    pub(super) fn verify_caller(
        &mut self,
        unfetched: Option<End>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
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
        let acts_for = task.query.user_id.as_deref().unwrap_or(&caller.subject);
        self.report.caller = Some(caller.subject.clone());
        self.report.owner = Some(acts_for.to_owned());
        if acts_for != caller.subject && !caller.has_role(&management.admin_role) {
            let problem = Problem::new(
                Code::Forbidden,
                format!(
                    "To act for another user takes the role {}.",
                    management.admin_role
                ),
            );
            return Err(End::new(problem, "acts for another without the role"));
        }
        task.caller = Some(caller);
        task.turn(State::Verified, env)
    }

    fn keys_fetched(&mut self, input: &Input<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        let read = answer(Endpoint::Jwks, input).and_then(|(status, body)| {
            jwks::read_jwks_answer(status, body).map_err(End::unavailable)
        });
        match read {
            Ok(keys) => {
                env.manager.keys.fetched(keys, env.exchange.now);
                self.verify_caller(None, env)
            }
            Err(end) => {
                env.manager.keys.failed();
                // An older set may do still.
                self.verify_caller(Some(end), env)
            }
        }
    }

    // ---- the manager's token -----------------------------------------------------

    pub(super) fn need_token(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let (now, config) = (env.exchange.now, Arc::clone(&env.exchange.worker.config));
        let task = self.task.as_mut().ok_or_else(nothing)?;
        let lease_until = now.plus_ms(config.callout_timeout_ms + 1000);
        let service = &mut env.manager.service_token;
        match service.need(task.id, task.started_at, lease_until, now) {
            Need::Use(bearer) => {
                task.bearer = bearer;
                self.ask_keycloak(env)
            }
            Need::Wait => task.wait(State::AwaitingToken, env),
            Need::Failed(reason) => Err(End::unavailable(reason)),
            Need::Fetch => {
                let client_id = &management(&config)?.client_id;
                let jti = env.exchange.jti("manager");
                let key = Arc::clone(&env.manager.signing_key);
                let assertion = token::client_assertion_of(client_id, &config, &key, &jti, now)
                    .map_err(|_| End::unavailable("an assertion could not be signed"))?;
                let call = token::service_token_call(&config, &assertion);
                task.call(State::FetchingToken, call, env)
            }
        }
    }

    fn token_fetched(&mut self, input: &Input<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        let endpoint = Endpoint::ServiceToken;
        let (now, config) = (env.exchange.now, Arc::clone(&env.exchange.worker.config));
        let task = self.task.as_mut().ok_or_else(nothing)?;
        let fetched = match input {
            Input::Answer {
                status,
                body: Some(body),
            } => token::read_token_answer(&config, *status, body, now)
                .map_err(|error| Reason::TokenFault { endpoint, error }),
            Input::Failed(why) => Err(callout_failed(endpoint, why)),
            _ => Err(callout_failed(endpoint, "the answer is too large")),
        };
        let fetched = fetched.and_then(|token| {
            let roles = &token.management_roles;
            if roles
                .iter()
                .any(|role| WRITE_ROLES.contains(&role.as_str()))
            {
                Ok(token)
            } else if is_lightweight(&token.jwt) {
                Err(Reason::LightweightToken("management"))
            } else {
                Err(Reason::MissingManageRole)
            }
        });
        match fetched {
            Ok(token) => {
                task.bearer = env.manager.service_token.fetched(task.id, &token, now);
                self.ask_keycloak(env)
            }
            Err(reason) => {
                let service = &mut env.manager.service_token;
                service.failed(task.id, now, reason.clone());
                Err(End::unavailable(reason))
            }
        }
    }

    /// Keycloak does not take the manager's token (any more): once, another is fetched.
    pub(super) fn renew_token(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task.as_mut().ok_or_else(nothing)?;
        env.manager.service_token.reject(&task.bearer);
        if std::mem::replace(&mut task.retried, true) {
            return Err(End::unavailable("Keycloak refuses the manager's token"));
        }
        self.need_token(env)
    }

    /// The caller is known and the token is there: does what is asked for.
    fn ask_keycloak(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task.as_mut().ok_or_else(nothing)?;
        match &task.asked {
            Asked::List | Asked::Show(_) => self.read_owner(env),
            Asked::Revoke(_) | Asked::RevokeAll => self.await_owner(None, env),
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

    pub(super) fn task(&mut self) -> Result<&mut Task, End> {
        self.task.as_mut().ok_or_else(nothing)
    }
}

impl Task {
    /// Whose keys are concerned.
    pub(super) fn owner_id(&self) -> Result<&str, End> {
        let caller = self.caller.as_ref().ok_or_else(nothing)?;
        Ok(self.query.user_id.as_deref().unwrap_or(&caller.subject))
    }

    /// After a clock step backwards the deadline moves along.
    fn follow_the_clock(&mut self, env: &ManageEnv<'_, '_>) {
        let now = env.exchange.now;
        let back = self.seen_at.since_ms(now);
        self.deadline_at = self.deadline_at.minus_ms(back);
        self.started_at = self.started_at.minus_ms(back);
        self.ready_at = self.ready_at.map(|ready_at| ready_at.minus_ms(back));
        self.seen_at = now;
    }

    /// Sends a call to Keycloak.
    pub(super) fn call(&self, state: State, call: Call, env: &ManageEnv<'_, '_>) -> Step {
        let timeout_ms = env.exchange.worker.config.callout_timeout_ms;
        let timeout_ms = self.time_left(env)?.min(timeout_ms);
        Ok((state, Output::Callout { call, timeout_ms }))
    }

    /// Lets others have the worker, and comes back at once.
    pub(super) fn turn(&self, state: State, env: &ManageEnv<'_, '_>) -> Step {
        let timeout_ms = env.exchange.worker.config.callout_timeout_ms;
        let output = Output::Yield {
            wait_ms: None,
            timeout_ms: self.time_left(env)?.min(timeout_ms),
        };
        Ok((state, output))
    }

    /// Lets others have the worker, and comes back later, each time a while longer.
    pub(super) fn wait(&mut self, state: State, env: &ManageEnv<'_, '_>) -> Step {
        let wait_ms = self.wait_ms;
        self.wait_ms = (wait_ms * 2).min(WAIT_MS_MAX);
        self.wait_for(wait_ms, state, env)
    }

    /// Lets others have the worker, and comes back so much later.
    pub(super) fn wait_for(&self, wait_ms: u64, state: State, env: &ManageEnv<'_, '_>) -> Step {
        self.time_left(env)?;
        let output = Output::Yield {
            wait_ms: Some(wait_ms),
            timeout_ms: wait_ms + WAIT_GRACE_MS,
        };
        Ok((state, output))
    }

    fn time_left(&self, env: &ManageEnv<'_, '_>) -> Result<u64, End> {
        match self.deadline_at.since_ms(env.exchange.now) {
            0 => Err(End::unavailable("the request's deadline has passed")),
            left => Ok(left),
        }
    }
}

/// The answer to a callout, if there is one that can be read.
pub(super) fn answer<'a>(endpoint: Endpoint, input: &Input<'a>) -> Result<(u16, &'a [u8]), End> {
    match input {
        Input::Answer {
            status,
            body: Some(body),
        } => Ok((*status, body)),
        Input::Failed(why) => Err(End::callout(endpoint, why)),
        _ => Err(End::callout(endpoint, "the answer is too large")),
    }
}

/// Whether the host lent the turn that was asked for.
const fn is_turn(input: &Input<'_>) -> bool {
    matches!(input, Input::Answer { status, .. } if *status < 400)
}

/// A state without what it takes: not reached.
pub(super) fn nothing() -> End {
    End::unavailable("a step that belongs to nothing")
}

fn turn_failed(why: &str) -> End {
    End::new(
        Code::Exchange(Rejection::Overloaded),
        format!("yield_upstream does not answer: {why}"),
    )
}

fn callout_failed(endpoint: Endpoint, why: &str) -> crate::rejection::Reason {
    crate::rejection::Reason::Callout {
        endpoint,
        failure: crate::keycloak::loggable(why),
    }
}
