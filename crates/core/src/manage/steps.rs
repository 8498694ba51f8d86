//! The steps that every request takes: the caller, and the token for calls to Keycloak.

use std::sync::Arc;

use super::problem::{Code, Problem};
use super::request::{expected, not_taken};
use super::{Asked, End, Manage, ManageEnv, Output, State, Step, Task, management};
use crate::calls::service_token::{Asker, Token};
use crate::clock::UnixMillis;
use crate::exchange::bucket::Bucket;
use crate::keycloak::caller_token;
use crate::keycloak::lightweight::is_lightweight;
use crate::keycloak::token::AccessToken;
use crate::keycloak::{Call, Endpoint, jwks, key_store};
use crate::machine::{Effect, Event};
use crate::rejection::{Reason, Rejection};

/// The first wait for another request's result; each further one is twice as long.
pub(super) const WAIT_MS_MIN: u64 = 5;
/// The longest wait for another request's result.
const WAIT_MS_MAX: u64 = 40;
/// The time that a turn may take beyond the wait that was asked for.
const WAIT_GRACE_MS: u64 = 2000;
/// Signatures that a worker verifies for all addresses with too many failures together: at
/// once, and in each second. Such addresses are not refused outright: a caller that shares its
/// address with a stranger, behind one proxy, must still be able to end a key.
const SUSPECTS: Bucket = Bucket::new(10, 1000, 10);
/// The roles of client `realm-management` that let the manager write users.
const WRITE_ROLES: [&str; 2] = ["manage-users", "realm-admin"];

impl Manage {
    /// The outcome of the latest effect.
    pub(super) fn go_on(
        &mut self,
        state: State,
        event: Event<'_>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
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
            (State::CheckingScopes, event) => self.scopes_checked(event, env),
            (State::Changing(change, draft), event) => self.change(change, draft, event, env),
            (State::LookingUp(changed, draft), event) => self.looked_up(changed, draft, event, env),
            // The answer for a made change goes out, whether or not the host lends a turn.
            (State::Settling(changed, draft, _), event) if !is_turn(event) => {
                self.told(&changed, draft)
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
            (State::Queueing(draft), _) => self.queue(draft, env),
            (State::AwaitingOwner(draft), _) => self.await_owner(draft, env),
            (State::Hashing(draft, job), _) => self.hash_slice(draft, job, env),
            (State::Settling(changed, draft, until), _) => self.settle(changed, draft, until, env),
        }
    }

    /// The state's resources are given back at the end.
    pub(super) fn misplaced(&mut self, state: State) -> Step {
        self.state = state;
        Err(End::unavailable("an input that belongs to nothing"))
    }

    // ---- the caller --------------------------------------------------------------

    /// Verifies the caller's token with the realm's key that it names. `unfetched` is the fault
    /// of a fetch that just failed: it ends the request if the keys at hand do not suffice.
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

    // ---- the manager's token -----------------------------------------------------

    pub(super) fn need_token(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task.as_mut().ok_or_else(nothing)?;
        let asker = Asker {
            id: task.id,
            started_at: task.deadline.started_at(),
            since: UnixMillis::default(),
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
    pub(super) fn renew_token(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task.as_mut().ok_or_else(nothing)?;
        env.manager.service_token.reject(&task.bearer);
        if std::mem::replace(&mut task.retried, true) {
            return Err(End::unavailable("Keycloak refuses the manager's token"));
        }
        self.need_token(env)
    }

    /// The caller is known and the token is there: does the operation.
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
    /// The owner of the keys.
    pub(super) fn owner_id(&self) -> Result<&str, End> {
        let caller = self.caller.as_ref().ok_or_else(nothing)?;
        Ok(self.query.user_id.as_deref().unwrap_or(&caller.subject))
    }

    /// Moves the deadline along after a clock step backwards.
    fn follow_the_clock(&mut self, env: &ManageEnv<'_, '_>) {
        let back = self.deadline.follow(env.exchange.now);
        self.ready_at = self.ready_at.map(|ready_at| ready_at.minus_ms(back));
    }

    /// Sends a call to Keycloak.
    pub(super) fn call(&self, state: State, call: Call, env: &ManageEnv<'_, '_>) -> Step {
        let timeout_ms = env.exchange.worker.config.callout_timeout_ms;
        let timeout_ms = self.time_left(env)?.min(timeout_ms);
        Ok((state, Output::Await(Effect::Call { call, timeout_ms })))
    }

    /// Yields the worker, and comes back at once.
    pub(super) fn turn(&self, state: State, env: &ManageEnv<'_, '_>) -> Step {
        let timeout_ms = env.exchange.worker.config.callout_timeout_ms;
        let turn = Effect::Yield {
            wait_ms: None,
            timeout_ms: self.time_left(env)?.min(timeout_ms),
        };
        Ok((state, Output::Await(turn)))
    }

    /// Yields the worker, and comes back later; each further wait is longer.
    pub(super) fn wait(&mut self, state: State, env: &ManageEnv<'_, '_>) -> Step {
        let wait_ms = self.wait_ms;
        self.wait_ms = (wait_ms * 2).min(WAIT_MS_MAX);
        self.wait_for(wait_ms, state, env)
    }

    /// Yields the worker, and comes back after `wait_ms`.
    pub(super) fn wait_for(&self, wait_ms: u64, state: State, env: &ManageEnv<'_, '_>) -> Step {
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
pub(super) fn answer(endpoint: Endpoint, event: Event<'_>) -> Result<(u16, &[u8]), End> {
    event.answer().map_err(|why| End::callout(endpoint, why))
}

/// Whether the host gave the turn.
const fn is_turn(event: Event<'_>) -> bool {
    matches!(event, Event::Answer { status, .. } if status < 400)
}

/// A state that lacks its data: not reached.
pub(super) fn nothing() -> End {
    End::unavailable("a step that belongs to nothing")
}

fn turn_failed(why: &str) -> End {
    End::new(
        Code::Exchange(Rejection::Overloaded),
        format!("yield_upstream does not answer: {why}"),
    )
}

/// The reason that the manager's token cannot write users, if it cannot.
pub(super) fn lacks_role(token: &AccessToken) -> Option<Reason> {
    let roles = &token.management_roles;
    if roles
        .iter()
        .any(|role| WRITE_ROLES.contains(&role.as_str()))
    {
        None
    } else if is_lightweight(&token.jwt) {
        Some(Reason::LightweightToken("management"))
    } else {
        Some(Reason::MissingManageRole)
    }
}
