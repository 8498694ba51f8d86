//! How an exchange calls Keycloak: through the breaker, within its deadline, and again where
//! another node may answer what the first did not; and what is done where
//! none answers.

use super::end::End;
use super::renewing::CALLOUT_MS_MAX;
use super::{Env, Exchange, Forward, Input, Output, Pending, Source, State, Step};
use crate::calls::breaker::Health;
use crate::keycloak::{Call, Endpoint, loggable};
use crate::rejection::Reason;

/// A call that is not answered is made again after so long, twice at the most. A host needs
/// a moment to leave out the node that did not answer: Envoy's workers are told by its main
/// thread.
const PAUSES_MS: [u64; 2] = [25, 100];
/// A try with less time than this is none.
const TRY_MS_MIN: u64 = 50;
/// A probe's answer comes this much later than it may at most.
const LATE_MS: u64 = 1000;

impl State {
    /// Which of Keycloak's endpoints is waited for.
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
    pub(super) fn call(&self, state: State, call: Call, env: &mut Env<'_>) -> Step {
        let most = match state {
            State::LookingUp { .. } | State::Granting { .. } if self.key.is_none() => {
                CALLOUT_MS_MAX
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
        Ok((state, Output::Callout { call, timeout_ms }))
    }

    /// Takes the answer to a call.
    pub(super) fn answered(&mut self, state: State, input: &Input<'_>, env: &mut Env<'_>) -> Step {
        let health = match input {
            Input::Answer { status, .. } => Health::of(Some(*status)),
            Input::Failed(_) | Input::Request { .. } => Health::Gone,
        };
        if let (Some(endpoint), Some(_)) = (state.endpoint(), &self.key) {
            let breaker = &mut env.worker.breaker;
            breaker.heard(endpoint, health, self.id, &self.digest, env.now);
        }
        if health != Health::Gone {
            self.tries = 0;
            self.unanswered = None;
        } else if let Some(pause_ms) = self.tries_again(&state, env) {
            self.tries += 1;
            self.unanswered = state.endpoint().map(|endpoint| unanswered(endpoint, input));
            return match state {
                // Each look-up for a key that nobody has seen takes a turn.
                State::LookingUp { .. } if !self.known && self.key.is_some() => {
                    self.take_turn(pause_ms, env)
                }
                State::Granting { owner } => self.wait(State::Signing { owner }, pause_ms, env),
                _ => self.wait(State::AwaitingToken { wait_ms: pause_ms }, pause_ms, env),
            };
        }
        match state {
            State::FetchingToken => self.token_fetched(input, env),
            State::LookingUp { service_token } => self.looked_up(&service_token, input, env),
            State::Granting { owner } => self.granted(&owner, input, env),
            _ => Err(End::refused(Reason::Deadline)),
        }
    }

    /// A turn was not given: tells of that, or of the call that was to be made again.
    pub(super) fn not_given(&mut self, why: String) -> End {
        match self.unanswered.take() {
            Some(reason) => End::refused(reason),
            None => End::refused(Reason::YieldFailed(why)),
        }
    }

    /// After how long a call that was not answered is made again, where time is left, and
    /// where Keycloak is not left alone. A renewal's is made again once: it must not hold up
    /// a poll for long.
    fn tries_again(&self, state: &State, env: &Env<'_>) -> Option<u64> {
        let pause_ms = *PAUSES_MS.get(self.tries)?;
        let left = self.deadline_at.since_ms(env.now);
        let again = (self.key.is_some() || self.tries == 0)
            && left >= pause_ms + TRY_MS_MIN
            && state.endpoint().is_some()
            && env.worker.breaker.would_admit(&self.digest, env.now);
        again.then_some(pause_ms)
    }

    /// Milliseconds until the deadline, at least one.
    pub(super) fn time_left(&self, state: &State, env: &Env<'_>) -> Result<u64, End> {
        match self.deadline_at.since_ms(env.now) {
            0 if matches!(state, State::Queueing { .. } | State::Verifying { .. }) => {
                Err(End::refused(Reason::VerificationDeadline))
            }
            0 => Err(End::refused(Reason::Deadline)),
            left => Ok(left),
        }
    }
}

impl Exchange {
    /// The token of before, where Keycloak cannot be asked for another.
    pub(super) fn stale(&mut self, reason: &Reason, env: &mut Env<'_>) -> Option<Forward> {
        let pending = self
            .pending
            .as_mut()
            .filter(|p| p.key.is_some() && reason.is_outage())?;
        let cache = &mut env.worker.cache;
        let token = cache.find_stale(&pending.digest, env.now, env.store)?;
        pending.owner_id = Some(token.owner_id);
        self.forwarded = Some(pending.digest);
        Some(Forward {
            authorization: token.authorization,
            remove: std::mem::take(&mut pending.remove),
            source: Source::Stale,
        })
    }
}

/// Why a call is made again.
fn unanswered(endpoint: Endpoint, input: &Input<'_>) -> Reason {
    let failure = match input {
        Input::Answer { status, .. } => format!("status {status}"),
        Input::Failed(why) => loggable(why),
        Input::Request { .. } => String::new(),
    };
    Reason::Callout { endpoint, failure }
}

/// The answer to a callout, if there is one that can be read.
pub(super) fn answer<'a>(endpoint: Endpoint, input: &Input<'a>) -> Result<(u16, &'a [u8]), End> {
    match input {
        Input::Answer {
            status,
            body: Some(body),
        } => Ok((*status, body)),
        Input::Answer { body: None, .. } => Err(End::callout(endpoint, "the answer is too large")),
        Input::Failed(why) => Err(End::callout(endpoint, why)),
        Input::Request { .. } => Err(End::refused(Reason::Deadline)),
    }
}
