//! The self-check: tells an operator that the gateway does not fit its realm, before a customer
//! finds out.
//!
//! A state machine without I/O, like [`Poller`](super::poller::Poller). At a worker's first tick
//! and every five minutes after that, more often while a finding is bad, it asks Keycloak for
//! everything that an exchange depends on, and gives [`Findings`].
//!
//! ```text
//! tick ─▶ due? ─▶ lease ─▶ service token: roles, clock ─▶ issuer ─▶ events on? ─▶ user profile
//! ```
//!
//! One worker of a node checks: it holds the lease from one check to the next. Another takes over
//! when it is late; without shared data each worker checks.
//!
//! Invariants: one call at a time, and each begins at a tick, so that a poll of revocations can
//! go between; a failed call is a finding and prevents no other check; only the answer with a
//! service token changes the gateway's behaviour.

mod findings;
mod judge;

use std::fmt;
use std::sync::Arc;

use crate::background::env::WatchEnv;
use crate::calls::ExchangeId;
use crate::calls::breaker::Health;
use crate::calls::service_token::{Asker, Token};
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::keycloak::admin_events::{config_call, may_read_events, read_config_answer};
use crate::keycloak::realm_checks::{
    discovery_call, profile_call, read_discovery_answer, read_profile_answer,
};
use crate::keycloak::token::AccessToken;
use crate::keycloak::{Call, Endpoint};
use crate::machine::{Deadline, Effect, Event};
use crate::rejection::Reason;
use crate::signing_key::SigningKey;
use crate::store::lease::{Holder, Lease};
pub use findings::{Check, Findings, Severity, State};

/// The interval of checks while no finding is bad.
const EVERY_MS: u64 = 300_000;
/// The same while a finding is bad: an operator who mends it wants to see the effect.
const EVERY_MS_BAD: u64 = 30_000;
/// The holder of the lease may be this late before another worker checks.
const LATE_MS: u64 = 5_000;
/// A worker without the lease tries this often to take it.
const LOOK_MS: u64 = 1_000;
/// The number of calls of one check.
const CALLS: u64 = 4;
/// A check's deadline, beyond the time-outs of its calls.
const SLACK_MS: u64 = 5_000;
/// The longest lease: from one check to the next and late, and the next itself.
const LEASE_MS_MAX: u64 = 600_000;

/// Checks for one worker.
#[derive(Debug)]
pub struct SelfCheck {
    holder: Holder,
    /// None without shared data.
    lease: Option<Lease>,
    /// When to check, or to try the lease.
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
    deadline: Deadline,
    asks: Asks,
    /// When the call under way was made.
    called_at: Option<UnixMillis>,
    /// The call is made a second time: another node of Keycloak may answer.
    tried_again: bool,
    token: Option<Seen>,
    findings: Findings,
}

/// The question that is asked next, or waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    ServiceToken,
    Issuer,
    Events,
    UserProfile,
    Nothing,
}

/// The gateway's token, and the facts that Keycloak showed to it.
struct Seen {
    jwt: Arc<str>,
    sees_users: bool,
    sees_events: bool,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seen")
    }
}

impl SelfCheck {
    /// Checks at the next tick. `seed` is any bytes that no other worker has had.
    #[must_use]
    pub fn new(config: &Config, signing_key: &SigningKey, seed: &[u8]) -> Self {
        let derived = signing_key.derive(&[b"self-check:", seed]);
        // Workers that check the same facts share a lease.
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

    /// The findings of this worker's latest check; all unchecked if another worker checks.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The same, if they are the first or hold news.
    pub fn take_findings(&mut self) -> Option<Findings> {
        std::mem::take(&mut self.notice).then(|| self.findings.clone())
    }

    /// Whether it waits for the answer to a call.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|running| running.called_at.is_some())
    }

    /// Begins a check that is due, or makes the next call of one that is under way.
    pub(crate) fn tick(&mut self, env: &mut WatchEnv<'_>) -> Option<Effect> {
        let mut running = match self.running.take() {
            None => self.begin(env)?,
            // The clock was set back: the duration so far is unknown.
            Some(running) if running.deadline.is_ahead_of(env.now) => {
                env.service_token.give_up(running.id);
                self.next_at = env.now;
                return None;
            }
            Some(running) => running,
        };
        let call = if running.deadline.left_ms(env.now) == 0 {
            running.give_up();
            None
        } else {
            running.next(env)
        };
        self.settle(running, call, env)
    }

    /// Takes the outcome of the latest call. The next is made at a tick.
    pub(crate) fn handle_event(&mut self, event: Event<'_>, env: &mut WatchEnv<'_>) {
        // No check is under way if the answer came too late: it was given up.
        if let Some(mut running) = self.running.take() {
            running.answered(event, env);
            self.settle(running, None, env);
        }
    }

    fn settle(
        &mut self,
        mut running: Running,
        call: Option<Call>,
        env: &mut WatchEnv<'_>,
    ) -> Option<Effect> {
        // Without a token the remaining questions are skipped.
        running.skip(env.config);
        if running.asks == Asks::Nothing {
            self.end(running, env);
            return None;
        }
        let left = running.deadline.left_ms(env.now).max(1);
        self.running = Some(running);
        call.map(|call| Effect::Call {
            call,
            timeout_ms: left.min(env.config.callout_timeout_ms),
        })
    }

    /// Begins a check, if one is due and no other worker checks.
    fn begin(&mut self, env: &mut WatchEnv<'_>) -> Option<Running> {
        let now = env.now;
        // A later instant was set before the clock was set back.
        if now < self.next_at && self.next_at <= now.plus_ms(EVERY_MS) {
            return None;
        }
        let deadline = Deadline::after_ms(CALLS * env.config.callout_timeout_ms + SLACK_MS, now);
        if !self.take_lease(deadline.at().plus_ms(LATE_MS), env) {
            self.next_at = now.plus_ms(LOOK_MS);
            return None;
        }
        Some(Running {
            id: env.ids.exchange(),
            deadline,
            asks: Asks::ServiceToken,
            called_at: None,
            tried_again: false,
            token: None,
            findings: Findings::default(),
        })
    }

    fn end(&mut self, running: Running, env: &mut WatchEnv<'_>) {
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
        // If the lease is lost meanwhile, another worker checks as well.
        self.take_lease(self.next_at.plus_ms(LATE_MS), env);
    }

    fn take_lease(&self, until: UnixMillis, env: &mut WatchEnv<'_>) -> bool {
        let lease = self.lease.as_ref();
        lease.is_none_or(|lease| lease.take(&self.holder, until, env.now, env.store))
    }
}

impl Running {
    /// Drops the remaining questions.
    fn give_up(&mut self) {
        self.failed("no answer came in time");
        self.asks = Asks::Nothing;
    }

    /// Makes the next call, unless one is under way.
    fn next(&mut self, env: &mut WatchEnv<'_>) -> Option<Call> {
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

    /// The call for a token, or none as long as a request fetches one: such a token shows here
    /// neither its roles nor its age.
    fn fetch_token(&self, env: &mut WatchEnv<'_>) -> Result<Option<Call>, Reason> {
        let asker = Asker {
            id: self.id,
            started_at: self.deadline.started_at(),
            // No token that is there already is new enough.
            since: env.now.plus_ms(1),
        };
        match env.session().need(asker, "check")? {
            Token::Ready(_) | Token::Wait => Ok(None),
            Token::Fetch(call) => Ok(Some(call)),
        }
    }

    /// Skips the questions that cannot or need not be asked.
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

    fn answered(&mut self, event: Event<'_>, env: &mut WatchEnv<'_>) {
        let Some(called_at) = self.called_at.take() else {
            return;
        };
        // Another node of Keycloak may answer.
        let unanswered = Health::of(event.status()) == Health::Gone;
        if unanswered && !std::mem::replace(&mut self.tried_again, true) {
            env.service_token.give_up(self.id);
            return;
        }
        let (status, body) = match event.answer() {
            Ok(answer) => answer,
            Err(why) => return self.failed(why),
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
        env: &mut WatchEnv<'_>,
    ) {
        let mut session = env.session();
        let read = session.read(status, body);
        let taken = session.take(self.id, read.as_ref());
        match read {
            Ok(token) => {
                let clock = judge::clock(env.config, called_at, env.now, token.issued_at);
                *self.findings.of_mut(Check::Clock) = clock;
                self.has_token(&token, taken, env.config);
            }
            Err(reason) => self.no_token(&reason, env.config),
        }
    }

    /// There is a token; `taken` is the reason why it cannot look owners up, if it cannot.
    fn has_token(&mut self, token: &AccessToken, taken: Result<Arc<str>, Reason>, config: &Config) {
        let roles = &token.management_roles;
        let sees_users = taken.is_ok();
        *self.findings.of_mut(Check::Roles) = match &taken {
            Ok(_) => judge::roles(config, roles),
            Err(reason) => judge::no_role(config, reason),
        };
        self.token = Some(Seen {
            // The worker does not keep a token that cannot look owners up.
            jwt: taken.unwrap_or_else(|_| token.jwt.as_str().into()),
            sees_users,
            sees_events: may_read_events(roles),
        });
        self.found(Check::ServiceToken, State::Good);
    }

    fn no_token(&mut self, reason: &Reason, config: &Config) {
        // A request got the token, and found this.
        if matches!(reason, Reason::MissingRole | Reason::LightweightToken(_)) {
            *self.findings.of_mut(Check::Roles) = judge::no_role(config, reason);
            return self.found(Check::ServiceToken, State::Good);
        }
        self.found(Check::ServiceToken, judge::no_token(reason));
    }

    /// The call got no answer, or one that is too large.
    fn failed(&mut self, failure: &str) {
        let (check, endpoint) = match self.asks {
            Asks::ServiceToken => {
                let reason = Reason::callout(Endpoint::ServiceToken, failure);
                return self.found(Check::ServiceToken, judge::no_token(&reason));
            }
            Asks::Issuer => (Check::Issuer, Endpoint::Discovery),
            Asks::Events => (Check::Events, Endpoint::Events),
            Asks::UserProfile => (Check::UserProfile, Endpoint::UserProfile),
            Asks::Nothing => return,
        };
        self.found(check, judge::call_failed(endpoint, failure));
    }

    /// Notes the result of a check, and goes on to the next question.
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

#[cfg(test)]
mod tests;
