//! The self-check: does the gateway fit its realm? Said before a customer finds out.
//!
//! A state machine without I/O, as [`Poller`](crate::background::poller::Poller) is one. At
//! a worker's first tick and every five minutes after that, more often while something is
//! bad, it asks Keycloak what an exchange depends on, and gives [`Findings`].
//!
//! ```text
//! tick ─▶ due? ─▶ lease ─▶ service token: roles, clock ─▶ issuer ─▶ events on? ─▶ user profile
//! ```
//!
//! One worker of a node checks: it holds the lease from one check to the next. Another takes
//! over when it is late; where nothing is shared each checks.
//!
//! Invariants: one call at a time, and each begins at a tick, so that a poll of revocations
//! can go between; a call that fails is a finding and keeps no other check from being made;
//! no answer but a service token's changes what the gateway does.

mod findings;
mod judge;

use std::fmt;
use std::sync::Arc;

use crate::background::poller::{PollCall, PollInput};
use crate::calls::ExchangeId;
use crate::calls::breaker::Health;
use crate::calls::service_token::{Need, ServiceToken, lacks_role};
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::keycloak::admin_events::{config_call, may_read_events, read_config_answer};
use crate::keycloak::realm_checks::{
    discovery_call, profile_call, read_discovery_answer, read_profile_answer,
};
use crate::keycloak::token::{self, AccessToken, read_token_answer};
use crate::keycloak::{Call, Endpoint, loggable};
use crate::rejection::Reason;
use crate::signing_key::SigningKey;
use crate::store::lease::{Holder, Lease};
use crate::store::slots::SharedStore;
pub use findings::{Check, Findings, Severity, State};

/// From one check to the next while nothing is bad.
const EVERY_MS: u64 = 300_000;
/// The same while something is: who mends it wants to see that.
const EVERY_MS_BAD: u64 = 30_000;
/// So late the holder of the lease may be before another worker checks.
const LATE_MS: u64 = 5_000;
/// A worker that does not hold the lease looks this often whether it is free.
const LOOK_MS: u64 = 1_000;
/// Calls of one check.
const CALLS: u64 = 4;
/// A check's deadline, beyond the time-outs of its calls.
const SLACK_MS: u64 = 5_000;
/// The longest lease: from one check to the next and late, and the next itself.
const LEASE_MS_MAX: u64 = 600_000;

/// What a self-check works with.
pub(crate) struct CheckEnv<'a> {
    pub(crate) now: UnixMillis,
    pub(crate) config: &'a Config,
    pub(crate) signing_key: &'a SigningKey,
    pub(crate) service_token: &'a mut ServiceToken,
    pub(crate) store: &'a mut dyn SharedStore,
    /// Names one more exchange within the worker.
    pub(crate) next_exchange: &'a mut dyn FnMut() -> ExchangeId,
    /// Makes the id of an assertion.
    pub(crate) jti: &'a mut dyn FnMut(&str) -> String,
}

/// Checks for one worker.
#[derive(Debug)]
pub struct SelfCheck {
    holder: Holder,
    /// None where nothing is shared.
    lease: Option<Lease>,
    /// When to check, or to look whether to.
    next_at: UnixMillis,
    running: Option<Running>,
    findings: Findings,
    told: Option<Findings>,
    notice: bool,
}

/// A check under way.
#[derive(Debug)]
struct Running {
    id: ExchangeId,
    started_at: UnixMillis,
    deadline_at: UnixMillis,
    asks: Asks,
    /// When the call that is waited for was made.
    called_at: Option<UnixMillis>,
    /// The call is made a second time: another node of Keycloak may answer.
    tried_again: bool,
    token: Option<Token>,
    findings: Findings,
}

/// What is asked next, or waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    ServiceToken,
    Issuer,
    Events,
    UserProfile,
    Nothing,
}

/// The gateway's token, and what Keycloak shows to it.
struct Token {
    jwt: Arc<str>,
    sees_users: bool,
    sees_events: bool,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl SelfCheck {
    /// Checks at the next tick. `seed` is any bytes that no other worker has had.
    #[must_use]
    pub fn new(config: &Config, signing_key: &SigningKey, seed: &[u8]) -> Self {
        let derived = signing_key.derive(&[b"self-check:", seed]);
        // Those whose checks would find the same check together.
        let lease = signing_key.derive(&[
            b"lease of self-checks:",
            &config.fingerprint,
            &config.revocation_poll_ms.to_be_bytes(),
            &[u8::from(config.management.is_some())],
        ]);
        Self {
            holder: derived.first_chunk().copied().unwrap_or_default(),
            lease: (config.l2_slots > 0).then(|| Lease::new(&lease, LEASE_MS_MAX)),
            next_at: UnixMillis::default(),
            running: None,
            findings: Findings::default(),
            told: None,
            notice: false,
        }
    }

    /// What the latest check of this worker found; all unchecked where another checks.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The same, if it is the first or says something that was not told yet.
    pub fn take_findings(&mut self) -> Option<Findings> {
        std::mem::take(&mut self.notice).then(|| self.findings.clone())
    }

    /// Whether it waits for the answer to a call.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|running| running.called_at.is_some())
    }

    /// Takes what happened, and says what to call.
    pub(crate) fn handle_input(
        &mut self,
        input: PollInput<'_>,
        env: &mut CheckEnv<'_>,
    ) -> Option<PollCall> {
        let (mut running, call) = match (self.running.take(), input) {
            (None, PollInput::Tick) => {
                let mut running = self.begin(env)?;
                let call = running.next(env);
                (running, call)
            }
            // Too late: the check was given up.
            (None, _) => return None,
            // The clock was set back: nobody knows how long it took so far.
            (Some(running), PollInput::Tick) if env.now < running.started_at => {
                env.service_token.give_up(running.id);
                self.next_at = env.now;
                return None;
            }
            (Some(mut running), PollInput::Tick) => {
                let call = if env.now >= running.deadline_at {
                    running.give_up();
                    None
                } else {
                    running.next(env)
                };
                (running, call)
            }
            (Some(mut running), input) => {
                running.answered(input, env);
                (running, None)
            }
        };
        // What is left without a token asks nothing.
        running.skip(env.config);
        if running.asks == Asks::Nothing {
            self.end(running, env);
            return None;
        }
        let left = running.deadline_at.since_ms(env.now).max(1);
        self.running = Some(running);
        call.map(|call| PollCall {
            call,
            timeout_ms: left.min(env.config.callout_timeout_ms),
        })
    }

    /// Begins a check, if one is due and no other worker checks.
    fn begin(&mut self, env: &mut CheckEnv<'_>) -> Option<Running> {
        let now = env.now;
        // One that lies further ahead was set before the clock was set back.
        if now < self.next_at && self.next_at <= now.plus_ms(EVERY_MS) {
            return None;
        }
        let deadline_at = now.plus_ms(CALLS * env.config.callout_timeout_ms + SLACK_MS);
        if !self.take_lease(deadline_at.plus_ms(LATE_MS), env) {
            self.next_at = now.plus_ms(LOOK_MS);
            return None;
        }
        Some(Running {
            id: (env.next_exchange)(),
            started_at: now,
            deadline_at,
            asks: Asks::ServiceToken,
            called_at: None,
            tried_again: false,
            token: None,
            findings: Findings::default(),
        })
    }

    fn end(&mut self, running: Running, env: &mut CheckEnv<'_>) {
        env.service_token.give_up(running.id);
        self.findings = running.findings;
        let told = self.told.as_ref();
        if told.is_none_or(|told| self.findings.differ(told)) {
            self.told = Some(self.findings.clone());
            self.notice = true;
        }
        let every_ms = if self.findings.any_bad() {
            EVERY_MS_BAD
        } else {
            EVERY_MS
        };
        self.next_at = env.now.plus_ms(every_ms);
        // Where it is lost meanwhile another worker checks as well.
        self.take_lease(self.next_at.plus_ms(LATE_MS), env);
    }

    fn take_lease(&self, until: UnixMillis, env: &mut CheckEnv<'_>) -> bool {
        let lease = self.lease.as_ref();
        lease.is_none_or(|lease| lease.take(&self.holder, until, env.now, env.store))
    }
}

impl Running {
    /// What is left is not asked any more.
    fn give_up(&mut self) {
        self.failed("no answer came in time");
        self.asks = Asks::Nothing;
    }

    /// Makes the next call, unless one is waited for.
    fn next(&mut self, env: &mut CheckEnv<'_>) -> Option<Call> {
        if self.called_at.is_some() {
            return None;
        }
        if self.asks == Asks::ServiceToken {
            match self.fetch_token(env) {
                Ok(call) => {
                    self.called_at = call.is_some().then_some(env.now);
                    return call;
                }
                Err(reason) => self.no_token(&reason, env.config),
            }
            self.skip(env.config);
        }
        let jwt = self.token.as_ref().map(|token| &*token.jwt);
        let call = match (self.asks, jwt) {
            (Asks::Issuer, _) => discovery_call(env.config),
            (Asks::Events, Some(jwt)) => config_call(env.config, jwt),
            (Asks::UserProfile, Some(jwt)) => profile_call(env.config, jwt),
            _ => return None,
        };
        self.called_at = Some(env.now);
        Some(call)
    }

    /// The call for a token, or none as long as a request fetches one: that shows neither
    /// its roles nor its age here.
    fn fetch_token(&self, env: &mut CheckEnv<'_>) -> Result<Option<Call>, Reason> {
        let now = env.now;
        let lease_until = now.plus_ms(env.config.callout_timeout_ms + 1000);
        // None that is there already is new enough.
        let since = now.plus_ms(1);
        let tokens = &mut *env.service_token;
        match tokens.need_since(since, self.id, self.started_at, lease_until, now) {
            Need::Use(_) | Need::Wait => Ok(None),
            Need::Failed(reason) => Err(*reason),
            Need::Fetch => {
                let jti = (env.jti)("check");
                let assertion = token::client_assertion(env.config, env.signing_key, &jti, now)
                    .map_err(|_| Reason::Signing)?;
                Ok(Some(token::service_token_call(env.config, &assertion)))
            }
        }
    }

    /// Passes over what cannot be asked, or need not be.
    fn skip(&mut self, config: &Config) {
        let token = self.token.as_ref();
        let polls = config.revocation_poll_ms > 0;
        if self.asks == Asks::Events && !(polls && token.is_some_and(|token| token.sees_events)) {
            self.asks = Asks::UserProfile;
        }
        if self.asks == Asks::UserProfile && !token.is_some_and(|token| token.sees_users) {
            self.asks = Asks::Nothing;
        }
    }

    fn answered(&mut self, input: PollInput<'_>, env: &mut CheckEnv<'_>) {
        let Some(called_at) = self.called_at.take() else {
            return;
        };
        if is_unanswered(input) && !std::mem::replace(&mut self.tried_again, true) {
            env.service_token.give_up(self.id);
            return;
        }
        let (status, body) = match input {
            PollInput::Answer {
                status,
                body: Some(body),
            } => (status, body),
            PollInput::Answer { body: None, .. } => return self.failed("the answer is too large"),
            PollInput::Failed(why) => return self.failed(why),
            PollInput::Tick => return,
        };
        let config = env.config;
        match self.asks {
            Asks::ServiceToken => self.token_answered(status, body, called_at, env),
            Asks::Issuer => {
                let read = read_discovery_answer(config, status, body);
                self.found(Check::Issuer, judge::issuer(config, read));
            }
            Asks::Events => {
                let read = read_config_answer(status, body);
                self.found(Check::Events, judge::events(read));
            }
            Asks::UserProfile => {
                let read = read_profile_answer(status, body);
                self.found(Check::UserProfile, judge::profile(read));
            }
            Asks::Nothing => {}
        }
    }

    fn token_answered(
        &mut self,
        status: u16,
        body: &[u8],
        called_at: UnixMillis,
        env: &mut CheckEnv<'_>,
    ) {
        let (config, now) = (env.config, env.now);
        let read = read_token_answer(config, status, body, now).map_err(|error| {
            let endpoint = Endpoint::ServiceToken;
            Reason::TokenFault { endpoint, error }
        });
        let reason = match &read {
            Ok(token) => lacks_role(token),
            Err(reason) => Some(reason.clone()),
        };
        if let Some(reason) = reason {
            env.service_token.failed(self.id, now, reason);
        }
        match read {
            Ok(token) => {
                let issued_at = token.issued_at;
                let clock = judge::clock(config, called_at, now, issued_at);
                *self.findings.of_mut(Check::Clock) = clock;
                self.has_token(&token, env);
            }
            Err(reason) => self.no_token(&reason, config),
        }
    }

    fn has_token(&mut self, token: &AccessToken, env: &mut CheckEnv<'_>) {
        let roles = &token.management_roles;
        let lacks_role = lacks_role(token);
        let sees_users = lacks_role.is_none();
        *self.findings.of_mut(Check::Roles) = match &lacks_role {
            Some(reason) => judge::no_role(env.config, reason),
            None => judge::roles(env.config, roles),
        };
        self.token = Some(Token {
            // One that cannot look owners up is kept for nobody.
            jwt: if sees_users {
                env.service_token.fetched(self.id, token, env.now)
            } else {
                token.jwt.as_str().into()
            },
            sees_users,
            sees_events: may_read_events(roles),
        });
        self.found(Check::ServiceToken, State::Good);
    }

    fn no_token(&mut self, reason: &Reason, config: &Config) {
        // Another request got one, and saw that.
        if matches!(reason, Reason::MissingRole | Reason::LightweightToken(_)) {
            *self.findings.of_mut(Check::Roles) = judge::no_role(config, reason);
            return self.found(Check::ServiceToken, State::Good);
        }
        self.found(Check::ServiceToken, judge::no_token(reason));
    }

    /// The call was not answered, or with more than is read.
    fn failed(&mut self, failure: &str) {
        let (check, endpoint) = match self.asks {
            Asks::ServiceToken => {
                let (endpoint, failure) = (Endpoint::ServiceToken, loggable(failure));
                let reason = Reason::Callout { endpoint, failure };
                return self.found(Check::ServiceToken, judge::no_token(&reason));
            }
            Asks::Issuer => (Check::Issuer, Endpoint::Discovery),
            Asks::Events => (Check::Events, Endpoint::Events),
            Asks::UserProfile => (Check::UserProfile, Endpoint::UserProfile),
            Asks::Nothing => return,
        };
        self.found(check, judge::call_failed(endpoint, failure));
    }

    /// Notes what a check showed; the next is asked then.
    fn found(&mut self, check: Check, state: State) {
        *self.findings.of_mut(check) = state;
        self.tried_again = false;
        self.asks = match self.asks {
            Asks::ServiceToken => Asks::Issuer,
            Asks::Issuer => Asks::Events,
            Asks::Events => Asks::UserProfile,
            Asks::UserProfile | Asks::Nothing => Asks::Nothing,
        };
    }
}

/// Whether a node of Keycloak did not answer, so that another may.
fn is_unanswered(input: PollInput<'_>) -> bool {
    match input {
        PollInput::Answer { status, .. } => Health::of(Some(status)) == Health::Gone,
        PollInput::Failed(_) => true,
        PollInput::Tick => false,
    }
}

#[cfg(test)]
mod tests;
