//! What one poll asks for: the service token, and pages of events with it.

use std::sync::Arc;

use super::pages::Unreadable;
use super::{Asks, Next, OVERLAP_MS, Poll, PollEnv, PollError, SLOW_MS, Step};
use crate::calls::service_token::{Need, read_service_token};
use crate::clock::UnixMillis;
use crate::keycloak::admin_events::{
    AdminEvent, EventsError, config_call, events_call, no_events_call,
};
use crate::keycloak::token;
use crate::rejection::Reason;

impl Poll {
    pub(super) fn need_token(&mut self, env: &mut PollEnv<'_>) -> Step {
        let lease_until = env.now.plus_ms(env.config.callout_timeout_ms + 1000);
        let need = env
            .service_token
            .need(self.id, self.started_at, lease_until, env.now);
        match need {
            Need::Use(token) => Ok(self.ask_for_events(token, env)),
            Need::Wait => {
                self.asks = Asks::TokenOfAnother;
                Ok(Next::Wait)
            }
            Need::Failed(reason) => Err(PollError::Token(reason)),
            Need::Fetch => {
                let jti = (env.jti)("poll");
                let assertion = token::client_assertion(env.config, env.signing_key, &jti, env.now)
                    .map_err(|_| PollError::Token(Box::new(Reason::Signing)))?;
                let call = token::service_token_call(env.config, &assertion);
                Ok(Next::Ask(Asks::Token, call))
            }
        }
    }

    /// A Keycloak that takes its time is none that nobody asks: keys that are in use go on
    /// meanwhile, as they do when it is down.
    pub(super) fn tell_that_it_waits(&mut self, env: &mut PollEnv<'_>) {
        let next = match self.told_at {
            Some(told_at) => told_at.plus_ms(1000),
            None => self.started_at.plus_ms(SLOW_MS),
        };
        if env.now < next {
            return;
        }
        self.told_at = Some(env.now);
        let mut watched = *env.revocations.watched();
        watched.asked_at = env.now;
        env.revocations
            .polled(&[], false, watched, env.now, env.store);
    }

    /// What was not answered is asked once more: another node of Keycloak may answer.
    pub(super) fn ask_again(&mut self, env: &mut PollEnv<'_>) -> Step {
        match &self.asks {
            Asks::Token | Asks::TokenOfAnother => self.need_token(env),
            Asks::Events(token) => Ok(self.ask_for_events(Arc::clone(token), env)),
            Asks::NoEvents(token) => {
                let (token, call) = (Arc::clone(token), no_events_call(env.config, token));
                Ok(Next::Ask(Asks::NoEvents(token), call))
            }
            Asks::Config(token) => {
                let (token, call) = (Arc::clone(token), config_call(env.config, token));
                Ok(Next::Ask(Asks::Config(token), call))
            }
        }
    }

    pub(super) fn token_answered(
        &mut self,
        status: u16,
        body: &[u8],
        env: &mut PollEnv<'_>,
    ) -> Step {
        match read_service_token(env.config, status, body, env.now) {
            Ok(token) => {
                let token = env.service_token.fetched(self.id, &token, env.now);
                Ok(self.ask_for_events(token, env))
            }
            Err(reason) => {
                env.service_token.failed(self.id, env.now, reason.clone());
                Err(PollError::Token(Box::new(reason)))
            }
        }
    }

    /// The newest event is known: lists what was shortly before it, so that it is not taken
    /// for news later. Nothing of it is: whoever never polled revokes everybody.
    pub(super) fn list_from(
        &mut self,
        newest: &[AdminEvent],
        token: Arc<str>,
        env: &PollEnv<'_>,
    ) -> Next {
        let times = newest.iter().map(|event| event.time);
        self.newest_at = times.max().unwrap_or_default();
        self.newest_at = self.newest_seen(env);
        self.since = Some(self.newest_at.minus_ms(OVERLAP_MS));
        self.ask_for_events(token, env)
    }

    /// Up to when events were seen, by Keycloak's clock: to the newest, unless that is dated
    /// ahead of the clock, and to when the service token was made where one could not be
    /// read, or it would be come upon for as long as no other follows.
    pub(super) fn newest_seen(&self, env: &PollEnv<'_>) -> UnixMillis {
        let Some((earliest, latest)) = env.service_token.keycloak_clock(self.listed_at) else {
            return self.newest_at;
        };
        if self.unreadable.any() {
            return self.newest_at.min(latest).max(earliest);
        }
        self.newest_at.min(latest)
    }

    pub(super) fn ask_for_events(&mut self, token: Arc<str>, env: &PollEnv<'_>) -> Next {
        if self.first == 0 {
            self.listed_at = env.now;
            self.listed.clear();
        }
        self.calls += 1;
        self.asked_at = env.now;
        let page = if self.since.is_none() { 1 } else { self.page };
        let call = events_call(env.config, &token, self.since, (self.first, page));
        Next::Ask(Asks::Events(token), call)
    }

    /// A service token that is not taken any more is fetched anew, once.
    pub(super) fn refused(
        &mut self,
        token: &str,
        error: EventsError,
        env: &mut PollEnv<'_>,
    ) -> Step {
        if error != EventsError::Unauthorized {
            return Err(error.into());
        }
        env.service_token.reject(token);
        if std::mem::replace(&mut self.retried, true) {
            return Err(error.into());
        }
        self.first = 0;
        self.unreadable = Unreadable::default();
        self.need_token(env)
    }
}
