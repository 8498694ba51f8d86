//! Asks Keycloak what was changed, so that a revocation is in force on this node soon,
//! whoever made it and however.
//!
//! A state machine without I/O, as [`Exchange`](crate::exchange::Exchange) is one: it is
//! told of each tick and of each answer, and says what to call. One worker of a node polls at a time, under a lease; the one that polled
//! last goes on, and another takes over when it is late.
//!
//! ```text
//! tick ─▶ due? ─▶ lease ─▶ service token ─▶ events, page by page ─▶ events on? ─▶ note it
//! ```
//!
//! Invariants: what was listed is acted on at once, and the time up to which all is known
//! moves only when all of it was; what cannot be listed (too much, cleared, never asked for
//! before) revokes everybody; an instant of Keycloak's clock is compared with none of ours.
//! An event that is dated ahead of Keycloak's clock hides none that come after it, and one
//! that cannot be read concerns everybody, once ([`pages`]).

mod pages;
mod polling;
mod steps;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::background::env::WatchEnv;
use crate::calls::ExchangeId;
use crate::calls::breaker::Health;
use crate::clock::UnixMillis;
use crate::keycloak::admin_events::read_config_answer;
use crate::keycloak::{Call, Endpoint};
use crate::machine::{Effect, Event};
use crate::rejection::Reason;
use crate::revocation::revoked::Watched;
use crate::signing_key::SigningKey;
use crate::store::lease::Holder;
use pages::{Fault, PAGE, Unread, Unreadable};
pub use polling::{PollError, Polling};

/// Events that are remembered from polls that failed.
const SEEN_MAX: usize = 1000;
/// Each poll looks this far behind the newest event: some come late, from a transaction
/// that took its time or a node of Keycloak whose clock is behind.
const OVERLAP_MS: u64 = 90_000;
/// A poll that failed is tried again after this, or at the next if that is sooner.
const RETRY_MS: u64 = 5_000;
/// A poll that takes longer says that it waits, and again after each second. On Kong each of
/// its two calls takes a tick of 200 ms, and before the sixth second all must know of it.
const SLOW_MS: u64 = 500;
/// So long a worker leaves a poll that is due to the one that polled last.
const TAKE_OVER_MS: u64 = 400;

/// Polls for one worker.
#[derive(Debug)]
pub struct Poller {
    every_ms: u64,
    holder: Holder,
    poll: Option<Poll>,
    /// The events that were acted on, each with its time.
    seen: BTreeMap<String, UnixMillis>,
    unread: Option<Unread>,
    /// When this worker polled last, as noted for all.
    own_at: UnixMillis,
    polling: Option<Polling>,
    notice: Option<Polling>,
}

/// A poll under way.
#[derive(Debug)]
struct Poll {
    id: ExchangeId,
    started_at: UnixMillis,
    /// When all were told that it waits.
    told_at: Option<UnixMillis>,
    deadline_at: UnixMillis,
    asks: Asks,
    /// The service token was refused once and fetched anew.
    retried: bool,
    /// The call under way is made a second time.
    tried_again: bool,
    /// When the first page of this listing was asked for.
    listed_at: UnixMillis,
    /// The events after this are listed; none asks for the newest alone, to know when
    /// that was by Keycloak's clock.
    since: Option<UnixMillis>,
    /// No worker of the node ever polled.
    first_ever: bool,
    first: usize,
    /// Events on the page that is asked for, and on the largest that may be.
    page: usize,
    page_max: usize,
    calls: u32,
    asked_at: UnixMillis,
    /// No further page is asked for from then on.
    list_until: UnixMillis,
    listed: BTreeMap<String, UnixMillis>,
    newest_at: UnixMillis,
    /// Keycloak tells of events, if they are none of those that cannot be read.
    reached: bool,
    /// A page that could not be read while it is not known whether Keycloak can be reached.
    fault: Option<Fault>,
    unreadable: Unreadable,
}

/// What a poll waits for.
enum Asks {
    /// The service token.
    Token,
    /// The service token, which a request fetches.
    TokenOfAnother,
    /// A page of events.
    Events(Arc<str>),
    /// No events at all: whether Keycloak tells of them.
    NoEvents(Arc<str>),
    /// Whether the realm keeps events.
    Config(Arc<str>),
}

impl fmt::Debug for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its name alone: some hold the gateway's token.
        f.write_str(match self {
            Self::Token => "Token",
            Self::TokenOfAnother => "TokenOfAnother",
            Self::Events(_) => "Events",
            Self::NoEvents(_) => "NoEvents",
            Self::Config(_) => "Config",
        })
    }
}

/// What a poll does next.
enum Next {
    Ask(Asks, Call),
    Wait,
    /// It is over: whether the realm keeps events.
    Over(bool),
}

type Step = Result<Next, PollError>;

impl Poller {
    /// Polls every so many milliseconds, or never if it is 0. `seed` is any bytes that no
    /// other worker has had.
    #[must_use]
    pub fn new(every_ms: u64, signing_key: &SigningKey, seed: &[u8]) -> Self {
        let derived = signing_key.derive(&[b"poller:", seed]);
        let holder = derived.first_chunk().copied().unwrap_or_default();
        Self {
            every_ms,
            holder,
            poll: None,
            seen: BTreeMap::new(),
            unread: None,
            own_at: UnixMillis::default(),
            polling: None,
            notice: None,
        }
    }

    /// How polling goes, if that changed since it was last asked.
    pub fn take_notice(&mut self) -> Option<Polling> {
        self.notice.take()
    }

    /// Whether a poll is under way.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        self.poll.is_some()
    }

    /// How many events it remembers.
    #[must_use]
    pub fn events(&self) -> usize {
        self.seen.len()
    }

    /// Begins a poll that is due, and minds how long one takes that is under way.
    pub(crate) fn tick(&mut self, env: &mut WatchEnv<'_>) -> Option<Effect> {
        let (poll, step) = match self.poll.take() {
            None => {
                let mut poll = self.begin(env)?;
                let step = poll.need_token(env);
                (poll, step)
            }
            Some(mut poll) => {
                let over = env.now >= poll.deadline_at || env.now < poll.started_at;
                poll.tell_that_it_waits(env);
                let step = match poll.asks {
                    _ if over => Err(PollError::Call("no answer came in time".to_owned())),
                    Asks::TokenOfAnother => poll.need_token(env),
                    _ => Ok(Next::Wait),
                };
                (poll, step)
            }
        };
        self.settle(poll, step, env)
    }

    /// Takes the outcome of the latest call, and says what to call next.
    pub(crate) fn handle_event(
        &mut self,
        event: Event<'_>,
        env: &mut WatchEnv<'_>,
    ) -> Option<Effect> {
        // None is under way where the event came too late: the poll was given up.
        let mut poll = self.poll.take()?;
        let step = self.answered(&mut poll, event, env);
        self.settle(poll, step, env)
    }

    fn settle(&mut self, mut poll: Poll, step: Step, env: &mut WatchEnv<'_>) -> Option<Effect> {
        match step {
            Ok(Next::Wait) => {
                self.poll = Some(poll);
                None
            }
            Ok(Next::Ask(asks, call)) => {
                poll.asks = asks;
                let left = poll.deadline_at.since_ms(env.now).max(1);
                self.poll = Some(poll);
                Some(Effect::Call {
                    call,
                    timeout_ms: left.min(env.config.callout_timeout_ms),
                })
            }
            Ok(Next::Over(on)) => {
                self.over(poll, on, env);
                None
            }
            Err(error) => {
                self.failed(&poll, error, env);
                None
            }
        }
    }

    /// Begins a poll, if one is due and no other worker polls.
    fn begin(&mut self, env: &mut WatchEnv<'_>) -> Option<Poll> {
        let now = env.now;
        if !self.is_due(env.revocations.watched(), now) {
            return None;
        }
        // The token, a page, the question whether events are on; and some more pages.
        let deadline_at = now.plus_ms(3 * env.config.callout_timeout_ms + 2000);
        if !env
            .revocations
            .take_lease(&self.holder, deadline_at, now, env.store)
        {
            return None;
        }
        let newest_at = env.revocations.watched().newest_event_at;
        let asked_before = newest_at > UnixMillis::default();
        let since = self.since(newest_at);
        Some(Poll {
            id: env.ids.exchange(),
            started_at: now,
            told_at: None,
            deadline_at,
            asks: Asks::TokenOfAnother,
            retried: false,
            tried_again: false,
            listed_at: now,
            since: asked_before.then_some(since),
            first_ever: !asked_before,
            first: 0,
            page: self.first_page(),
            page_max: PAGE,
            calls: 0,
            asked_at: now,
            list_until: now.plus_ms(2 * env.config.callout_timeout_ms + 1000),
            listed: BTreeMap::new(),
            newest_at,
            reached: false,
            fault: None,
            unreadable: Unreadable::default(),
        })
    }

    fn is_due(&self, watched: &Watched, now: UnixMillis) -> bool {
        let last = watched.answered_at().max(watched.failed_at);
        if self.every_ms == 0 || last == UnixMillis::default() {
            return self.every_ms > 0;
        }
        let failing = watched.failed_at > watched.answered_at();
        let every = if failing {
            self.every_ms.min(RETRY_MS)
        } else {
            self.every_ms
        };
        let others = if last == self.own_at { 0 } else { TAKE_OVER_MS };
        now >= last.plus_ms(every + others)
    }

    fn answered(&mut self, poll: &mut Poll, event: Event<'_>, env: &mut WatchEnv<'_>) -> Step {
        let (endpoint, token) = match &poll.asks {
            Asks::Token => (Endpoint::ServiceToken, None),
            Asks::TokenOfAnother => return Ok(Next::Wait),
            Asks::Events(token) | Asks::NoEvents(token) | Asks::Config(token) => {
                (Endpoint::Events, Some(Arc::clone(token)))
            }
        };
        if let Asks::Events(token) = &poll.asks {
            let token = Arc::clone(token);
            return self.page_answered(poll, token, event, env);
        }
        let health = Health::of(event.status());
        let hangs = poll.fault.as_ref().is_some_and(|fault| fault.slow);
        let again = health == Health::Gone && !poll.tried_again && !hangs;
        poll.tried_again = again;
        if again {
            return poll.ask_again(env);
        }
        let (status, body) = event
            .answer()
            .map_err(|why| match (event, poll.fault.take()) {
                (Event::Failed(_), Some(fault)) => fault.error,
                _ => call_failed(endpoint, why),
            })?;
        match (&poll.asks, token) {
            (Asks::NoEvents(_), Some(token)) => self.reached(poll, token, (status, body), env),
            (Asks::Config(_), Some(token)) => match read_config_answer(status, body) {
                Ok(on) => Ok(Next::Over(on)),
                Err(error) => poll.refused(&token, error, env),
            },
            _ => poll.token_answered(event, env),
        }
    }

    fn over(&mut self, poll: Poll, on: bool, env: &mut WatchEnv<'_>) {
        let before = *env.revocations.watched();
        let mut watched = before;
        // Whoever looks for the first time has looked, though there was nothing.
        watched.newest_event_at = poll.newest_seen(env).max(UnixMillis(1));
        let unread = self.keep_unread(&poll, env);
        let at = poll.listed_at;
        // What was changed while they were off is in none.
        let was_on = before.polled_at >= before.off_at;
        let turned = on != was_on && before.answered_at() > UnixMillis::default();
        if turned || before.failed_at > before.answered_at() {
            // Whoever told of what was before, this is news.
            self.polling = None;
        }
        if on {
            watched.polled_at = at;
        } else {
            watched.off_at = at;
        }
        let since = self.since(watched.newest_event_at);
        self.seen = poll.listed;
        self.seen.retain(|_, time| *time > since);
        self.end(poll.id, at, watched, turned, env);
        self.tell(match unread {
            _ if !on => Polling::Off,
            Some(why) => Polling::Unread(why),
            None => Polling::Good,
        });
    }

    fn failed(&mut self, poll: &Poll, error: PollError, env: &mut WatchEnv<'_>) {
        let mut watched = *env.revocations.watched();
        watched.failed_at = env.now;
        // Polls that fail after they listed something: what is forgotten counts once more.
        if self.seen.len() > SEEN_MAX {
            self.seen.clear();
        }
        self.end(poll.id, env.now, watched, false, env);
        self.tell(Polling::Failing(error));
    }

    fn end(
        &mut self,
        id: ExchangeId,
        at: UnixMillis,
        watched: Watched,
        everybody: bool,
        env: &mut WatchEnv<'_>,
    ) {
        self.own_at = at;
        env.service_token.give_up(id);
        env.revocations
            .polled(&[], everybody, watched, env.now, env.store);
        env.revocations.give_lease_back(&self.holder, env.store);
    }

    fn tell(&mut self, polling: Polling) {
        if self.polling.as_ref() != Some(&polling) {
            self.notice = Some(polling.clone());
            self.polling = Some(polling);
        }
    }
}

fn call_failed(endpoint: Endpoint, failure: &str) -> PollError {
    PollError::Call(Reason::callout(endpoint, failure).to_string())
}

#[cfg(test)]
mod tests;
