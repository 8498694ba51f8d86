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
//! that cannot be read concerns everybody, once.
//!
//! A page that is too large does not always say so: a host resets a call with too large an
//! answer, a proxy answers 502. An outage looks the same. So before a page is blamed,
//! Keycloak must answer a question that no event can make large. A page that is to blame is
//! asked for in smaller ones, down to a single event.

mod polling;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::env::WatchEnv;
use crate::calls::ExchangeId;
use crate::calls::breaker::Health;
use crate::calls::service_token::{Asker, Token};
use crate::clock::UnixMillis;
use crate::keycloak::admin_events::{
    AdminEvent, Concerns, EventsError, config_call, events_call, no_events_call,
    read_config_answer, read_events_answer,
};
use crate::keycloak::{Call, Endpoint};
use crate::machine::{Deadline, Effect, Event};
use crate::rejection::Reason;
use crate::revocation::revoked::Watched;
use crate::signing_key::SigningKey;
use crate::store::lease::Holder;
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

/// Events on a page; each takes about 430 bytes of an answer.
const PAGE: usize = 100;
/// A page that cannot be read is followed by one this many times smaller, and one that can
/// by a larger.
const STEP: usize = 10;
/// Of more events than these everybody is revoked.
const EVENTS_MAX: usize = 1000;
/// And of more than these calls show.
const CALLS_MAX: u32 = 60;

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
    deadline: Deadline,
    /// When all were told that it waits.
    told_at: Option<UnixMillis>,
    asks: Asks,
    /// The service token was refused once and fetched anew.
    retried: bool,
    /// The call under way is made a second time.
    tried_again: bool,
    /// Keycloak tells of events, if they are none of those that cannot be read.
    reached: bool,
    /// A page that could not be read while it is not known whether Keycloak can be reached.
    fault: Option<Fault>,
    listing: Listing,
}

/// The events that a poll lists, page by page.
#[derive(Debug)]
struct Listing {
    /// When the first page was asked for, and the latest.
    listed_at: UnixMillis,
    asked_at: UnixMillis,
    /// No further page is asked for from then on.
    until: UnixMillis,
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
    listed: BTreeMap<String, UnixMillis>,
    newest_at: UnixMillis,
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

/// Events that could not be read and that polls come upon again. Each concerned everybody
/// when it was new. None has a name: their number between the same bounds tells old ones
/// from new.
#[derive(Debug, Clone)]
struct Unread {
    count: usize,
    /// Why the newest of them could not be read.
    why: String,
    /// Events after this are listed, so that all of them are among them,
    since: UnixMillis,
    /// until those after this are: then none of them is.
    until: UnixMillis,
}

/// Unreadable events of one poll.
#[derive(Debug, Default)]
struct Unreadable {
    count: usize,
    /// The newest that is news: why it cannot be read, and an instant that it is not after.
    news: Option<(String, Option<UnixMillis>)>,
    /// Not all was listed.
    is_cut: bool,
    /// The newest of all could not be read, when it was asked for alone.
    newest: bool,
}

impl Unreadable {
    /// Whether there may have been events that none of those that were read came after.
    const fn any(&self) -> bool {
        self.count > 0 || self.is_cut || self.newest
    }
}

/// A page that could not be read, though it may be none too large.
#[derive(Debug)]
struct Fault {
    error: PollError,
    /// It took so long that Keycloak may hang.
    slow: bool,
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
                let over =
                    poll.deadline.left_ms(env.now) == 0 || poll.deadline.is_ahead_of(env.now);
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
                let left = poll.deadline.left_ms(env.now).max(1);
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
        let deadline = Deadline::after_ms(3 * env.config.callout_timeout_ms + 2000, now);
        if !env
            .revocations
            .take_lease(&self.holder, deadline.at(), now, env.store)
        {
            return None;
        }
        let newest_at = env.revocations.watched().newest_event_at;
        let asked_before = newest_at > UnixMillis::default();
        let since = self.since(newest_at);
        Some(Poll {
            id: env.ids.exchange(),
            deadline,
            told_at: None,
            asks: Asks::TokenOfAnother,
            retried: false,
            tried_again: false,
            reached: false,
            fault: None,
            listing: Listing {
                listed_at: now,
                asked_at: now,
                until: now.plus_ms(2 * env.config.callout_timeout_ms + 1000),
                since: asked_before.then_some(since),
                first_ever: !asked_before,
                first: 0,
                page: self.first_page(),
                page_max: PAGE,
                calls: 0,
                listed: BTreeMap::new(),
                newest_at,
                unreadable: Unreadable::default(),
            },
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

    /// From when on events are listed: those that cannot be read all, or none of them.
    fn since(&mut self, newest_at: UnixMillis) -> UnixMillis {
        let since = newest_at.minus_ms(OVERLAP_MS);
        self.unread.take_if(|unread| since >= unread.until);
        let unread = self.unread.as_ref();
        unread.map_or(since, |unread| since.min(unread.since))
    }

    /// So many are on the first page.
    const fn first_page(&self) -> usize {
        if self.unread.is_some() { 1 } else { PAGE }
    }
}

// ---- the service token -----------------------------------------------------------------

impl Poll {
    fn need_token(&mut self, env: &mut WatchEnv<'_>) -> Step {
        let asker = Asker {
            id: self.id,
            started_at: self.deadline.started_at(),
            since: UnixMillis::default(),
        };
        match env.session().need(asker, "poll").map_err(no_token)? {
            Token::Ready(token) => Ok(self.ask_for_events(token, env)),
            Token::Wait => {
                self.asks = Asks::TokenOfAnother;
                Ok(Next::Wait)
            }
            Token::Fetch(call) => Ok(Next::Ask(Asks::Token, call)),
        }
    }

    /// A Keycloak that takes its time is none that nobody asks: keys that are in use go on
    /// meanwhile, as they do when it is down.
    fn tell_that_it_waits(&mut self, env: &mut WatchEnv<'_>) {
        let next = match self.told_at {
            Some(told_at) => told_at.plus_ms(1000),
            None => self.deadline.started_at().plus_ms(SLOW_MS),
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
    fn ask_again(&mut self, env: &mut WatchEnv<'_>) -> Step {
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

    fn token_answered(&mut self, event: Event<'_>, env: &mut WatchEnv<'_>) -> Step {
        let token = env.session().answered(self.id, event).map_err(no_token)?;
        Ok(self.ask_for_events(token, env))
    }
}

// ---- answers, and pages of events ------------------------------------------------------

impl Poller {
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

    /// The answer to the question for a page.
    fn page_answered(
        &mut self,
        poll: &mut Poll,
        token: Arc<str>,
        event: Event<'_>,
        env: &mut WatchEnv<'_>,
    ) -> Step {
        let read = match event {
            Event::Failed(why) => Err(call_failed(Endpoint::Events, why)),
            Event::Answer {
                status: 200,
                body: None,
            } => {
                poll.tried_again = false;
                let error = call_failed(Endpoint::Events, "the answer is too large");
                return Ok(self.ask_for_less(poll, token, &error, STEP, env));
            }
            Event::Answer { status, body } => {
                match read_events_answer(status, body.unwrap_or_default()) {
                    Err(error @ (EventsError::Status(500..) | EventsError::Malformed)) => {
                        Err(error.into())
                    }
                    Err(error) => return poll.refused(&token, error, env),
                    Ok(events) => Ok(events),
                }
            }
        };
        let error = match read {
            Ok(events) => {
                poll.tried_again = false;
                return Ok(if poll.listing.since.is_none() {
                    poll.list_from(&events, token, env)
                } else {
                    self.list(poll, token, events, env)
                });
            }
            Err(error) => error,
        };
        // Another node of Keycloak may answer, unless this is what was to be expected.
        let expected = poll.reached && (poll.listing.page > 1 || poll.listing.unreadable.count > 0);
        if !expected && !std::mem::replace(&mut poll.tried_again, true) {
            return Ok(poll.ask_for_events(token, env));
        }
        poll.tried_again = false;
        let slow = env.now
            >= poll
                .listing
                .asked_at
                .plus_ms(env.config.callout_timeout_ms / 2);
        let fault = Fault { error, slow };
        if poll.reached {
            return self.blame_the_page(poll, token, fault, env);
        }
        poll.fault = Some(fault);
        let call = no_events_call(env.config, &token);
        Ok(Next::Ask(Asks::NoEvents(token), call))
    }

    /// The answer to the question that no event can make large.
    fn reached(
        &mut self,
        poll: &mut Poll,
        token: Arc<str>,
        (status, body): (u16, &[u8]),
        env: &mut WatchEnv<'_>,
    ) -> Step {
        match (read_events_answer(status, body), poll.fault.take()) {
            (Err(EventsError::Unauthorized), _) => {
                poll.refused(&token, EventsError::Unauthorized, env)
            }
            (Ok(_), Some(fault)) => {
                poll.reached = true;
                self.blame_the_page(poll, token, fault, env)
            }
            (Err(error), None) => Err(error.into()),
            (Err(_), Some(fault)) => Err(fault.error),
            (Ok(_), None) => Ok(poll.ask_for_events(token, env)),
        }
    }

    /// Keycloak tells of events, but not of these.
    fn blame_the_page(
        &mut self,
        poll: &mut Poll,
        token: Arc<str>,
        fault: Fault,
        env: &mut WatchEnv<'_>,
    ) -> Step {
        let alone = poll.listing.page == 1 || poll.listing.since.is_none();
        if alone && fault.slow {
            return Err(fault.error);
        }
        Ok(self.ask_for_less(poll, token, &fault.error, PAGE, env))
    }

    /// The page cannot be read: asks for a smaller one, from here on. A single event that
    /// cannot be read may concern anybody, and is stepped over.
    fn ask_for_less(
        &mut self,
        poll: &mut Poll,
        token: Arc<str>,
        error: &PollError,
        smaller: usize,
        env: &mut WatchEnv<'_>,
    ) -> Next {
        let clock = env.service_token.keycloak_clock(env.now);
        let until = clock.map(|(_, latest)| latest);
        if poll.listing.since.is_none() {
            // Where it is recent it is come upon again as soon as events are listed.
            poll.listing.unreadable.newest = true;
            return poll.list_from(&[], token, env);
        }
        if poll.listing.page > 1 {
            poll.listing.page_max = (poll.listing.page / STEP).max(1);
            poll.listing.page = (poll.listing.page / smaller).max(1);
            return poll.ask_for_events(token, env);
        }
        poll.listing.unreadable.count += 1;
        let known = self.unread.as_ref().map_or(0, |unread| unread.count);
        let is_new = poll.listing.unreadable.count > known;
        if is_new {
            poll.listing.unreadable.news = Some((error.to_string(), until));
        }
        poll.listing.page_max = PAGE;
        self.go_on(poll, token, (&[], is_new), 1, env)
    }

    /// Acts on a page of events.
    fn list(
        &mut self,
        poll: &mut Poll,
        token: Arc<str>,
        events: Vec<AdminEvent>,
        env: &mut WatchEnv<'_>,
    ) -> Next {
        let (mut owners, mut everybody) = (Vec::new(), false);
        let is_full = events.len() >= poll.listing.page;
        for event in events {
            poll.listing.newest_at = poll.listing.newest_at.max(event.time);
            if self.seen.insert(event.id.clone(), event.time).is_none() {
                match event.concerns {
                    Concerns::Nobody => {}
                    Concerns::Owner(owner) => owners.push(owner),
                    Concerns::Everybody => everybody = true,
                }
            }
            poll.listing.listed.insert(event.id, event.time);
        }
        let taken = if is_full { poll.listing.page } else { 0 };
        poll.listing.page = (poll.listing.page * STEP).min(poll.listing.page_max);
        self.go_on(poll, token, (&owners, everybody), taken, env)
    }

    /// Revokes whom a page concerns, and asks for the next page, if there is one: if this
    /// one was full, of so many.
    fn go_on(
        &self,
        poll: &mut Poll,
        token: Arc<str>,
        (owners, mut everybody): (&[String], bool),
        taken: usize,
        env: &mut WatchEnv<'_>,
    ) -> Next {
        poll.listing.first += taken;
        let goes_on = taken > 0
            && poll.listing.first < EVENTS_MAX
            && poll.listing.calls < CALLS_MAX
            && env.now < poll.listing.until;
        if !goes_on {
            // Events that were there and are not any more: cleared, and with them what
            // was not seen yet.
            let after = poll.listing.since.unwrap_or_default().plus_ms(1);
            let gone = |(id, time): (&String, &UnixMillis)| {
                *time > after && !poll.listing.listed.contains_key(id)
            };
            poll.listing.unreadable.is_cut |= taken > 0;
            everybody |= taken > 0 || poll.listing.first_ever || self.seen.iter().any(gone);
        }
        if everybody || !owners.is_empty() {
            let watched = *env.revocations.watched();
            env.revocations
                .polled(owners, everybody, watched, env.now, env.store);
        }
        if goes_on {
            return poll.ask_for_events(token, env);
        }
        let call = config_call(env.config, &token);
        Next::Ask(Asks::Config(token), call)
    }
}

impl Poll {
    /// The newest event is known: lists what was shortly before it, so that it is not taken
    /// for news later. Nothing of it is: whoever never polled revokes everybody.
    fn list_from(&mut self, newest: &[AdminEvent], token: Arc<str>, env: &WatchEnv<'_>) -> Next {
        let times = newest.iter().map(|event| event.time);
        self.listing.newest_at = times.max().unwrap_or_default();
        self.listing.newest_at = self.newest_seen(env);
        self.listing.since = Some(self.listing.newest_at.minus_ms(OVERLAP_MS));
        self.ask_for_events(token, env)
    }

    /// Up to when events were seen, by Keycloak's clock: to the newest, unless that is dated
    /// ahead of the clock, and to when the service token was made where one could not be
    /// read, or it would be come upon for as long as no other follows.
    fn newest_seen(&self, env: &WatchEnv<'_>) -> UnixMillis {
        let Some((earliest, latest)) = env.service_token.keycloak_clock(self.listing.listed_at)
        else {
            return self.listing.newest_at;
        };
        if self.listing.unreadable.any() {
            return self.listing.newest_at.min(latest).max(earliest);
        }
        self.listing.newest_at.min(latest)
    }

    fn ask_for_events(&mut self, token: Arc<str>, env: &WatchEnv<'_>) -> Next {
        if self.listing.first == 0 {
            self.listing.listed_at = env.now;
            self.listing.listed.clear();
        }
        self.listing.calls += 1;
        self.listing.asked_at = env.now;
        let page = if self.listing.since.is_none() {
            1
        } else {
            self.listing.page
        };
        let call = events_call(
            env.config,
            &token,
            self.listing.since,
            (self.listing.first, page),
        );
        Next::Ask(Asks::Events(token), call)
    }

    /// A service token that is not taken any more is fetched anew, once.
    fn refused(&mut self, token: &str, error: EventsError, env: &mut WatchEnv<'_>) -> Step {
        if error != EventsError::Unauthorized {
            return Err(error.into());
        }
        env.service_token.reject(token);
        if std::mem::replace(&mut self.retried, true) {
            return Err(error.into());
        }
        self.listing.first = 0;
        self.listing.unreadable = Unreadable::default();
        self.need_token(env)
    }
}

// ---- the end ---------------------------------------------------------------------------

impl Poller {
    fn over(&mut self, poll: Poll, on: bool, env: &mut WatchEnv<'_>) {
        let before = *env.revocations.watched();
        let mut watched = before;
        // Whoever looks for the first time has looked, though there was nothing.
        watched.newest_event_at = poll.newest_seen(env).max(UnixMillis(1));
        let unread = self.keep_unread(&poll, env);
        let at = poll.listing.listed_at;
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
        self.seen = poll.listing.listed;
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

    /// Keeps what the next poll must know of events that could not be read, and says why
    /// they could not be, if there are any.
    fn keep_unread(&mut self, poll: &Poll, env: &mut WatchEnv<'_>) -> Option<String> {
        let Unreadable {
            count,
            news,
            is_cut,
            newest: _,
        } = &poll.listing.unreadable;
        let before = self.unread.take();
        if *is_cut {
            env.service_token.forget();
            let many = format!("more than {EVENTS_MAX} events, or than can be listed in time");
            return Some(news.as_ref().map_or(many, |(why, _)| why.clone()));
        }
        if *count == 0 {
            return None;
        }
        let (why, until) = match (news, before) {
            (Some((why, until)), _) => (why.clone(), *until),
            (None, Some(before)) => (before.why, Some(before.until)),
            (None, None) => return None,
        };
        let latest = env.service_token.keycloak_clock(env.now);
        let left = until.zip(latest);
        if left.is_none_or(|(until, (_, latest))| latest >= until.plus_ms(OVERLAP_MS)) {
            // The next is made later, and shows that they are of the past.
            env.service_token.forget();
        }
        self.unread = until.zip(poll.listing.since).map(|(until, since)| Unread {
            count: *count,
            why: why.clone(),
            since,
            until,
        });
        Some(why)
    }
}

fn no_token(reason: Reason) -> PollError {
    PollError::Token(Box::new(reason))
}

fn call_failed(endpoint: Endpoint, failure: &str) -> PollError {
    PollError::Call(Reason::callout(endpoint, failure).to_string())
}

#[cfg(test)]
mod tests;
