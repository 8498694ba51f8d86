//! The self-check: does the gateway fit its realm? Said before a customer finds out.
//!
//! A state machine without I/O, as [`Poller`](super::poller::Poller) is one. At
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
    deadline: Deadline,
    asks: Asks,
    /// When the call that is waited for was made.
    called_at: Option<UnixMillis>,
    /// The call is made a second time: another node of Keycloak may answer.
    tried_again: bool,
    token: Option<Seen>,
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

    /// Begins a check that is due, or makes the next call of one that is under way.
    pub(crate) fn tick(&mut self, env: &mut WatchEnv<'_>) -> Option<Effect> {
        let mut running = match self.running.take() {
            None => self.begin(env)?,
            // The clock was set back: nobody knows how long it took so far.
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
        // None is under way where the event came too late: the check was given up.
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
        // What is left without a token asks nothing.
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
        // One that lies further ahead was set before the clock was set back.
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
        // Where it is lost meanwhile another worker checks as well.
        self.take_lease(self.next_at.plus_ms(LATE_MS), env);
    }

    fn take_lease(&self, until: UnixMillis, env: &mut WatchEnv<'_>) -> bool {
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

    /// The call for a token, or none as long as a request fetches one: that shows neither
    /// its roles nor its age here.
    fn fetch_token(&self, env: &mut WatchEnv<'_>) -> Result<Option<Call>, Reason> {
        let asker = Asker {
            id: self.id,
            started_at: self.deadline.started_at(),
            // None that is there already is new enough.
            since: env.now.plus_ms(1),
        };
        match env.session().need(asker, "check")? {
            Token::Ready(_) | Token::Wait => Ok(None),
            Token::Fetch(call) => Ok(Some(call)),
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

    /// There is a token; `taken` is why it cannot look owners up, if it cannot.
    fn has_token(&mut self, token: &AccessToken, taken: Result<Arc<str>, Reason>, config: &Config) {
        let roles = &token.management_roles;
        let sees_users = taken.is_ok();
        *self.findings.of_mut(Check::Roles) = match &taken {
            Ok(_) => judge::roles(config, roles),
            Err(reason) => judge::no_role(config, reason),
        };
        self.token = Some(Seen {
            // One that cannot look owners up is kept for nobody.
            jwt: taken.unwrap_or_else(|_| token.jwt.as_str().into()),
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

#[cfg(test)]
mod tests;
