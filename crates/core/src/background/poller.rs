//! Polls Keycloak for changes, so that every revocation, by any tool, is soon in force on this
//! node.
//!
//! A state machine without I/O, like [`Exchange`](crate::exchange::Exchange): ticks and answers
//! come in, calls go out. One worker of a node polls at a time, under a lease. The worker that
//! polled last goes on, and another takes over when it is late.
//!
//! ```text
//! tick ─▶ due? ─▶ lease ─▶ service token ─▶ events, page by page ─▶ events on? ─▶ note it
//! ```
//!
//! Invariants: every listed event is acted on at once; the time up to which all changes are known
//! moves only when all events up to it were acted on; events that cannot be listed (too many,
//! cleared, or no poll before) revoke everybody; an instant of Keycloak's clock is never compared
//! with one of ours. An event that is dated ahead of Keycloak's clock hides no later event, and
//! an unreadable event concerns everybody, once.
//!
//! A page that is too large does not always say so: a host resets a call with too large an
//! answer, a proxy answers 502. An outage looks the same. So before a page is blamed, Keycloak
//! must answer a question that no event can make large. A page that is to blame is asked for in
//! smaller ones, down to a single event.

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

/// Events that are remembered from failed polls.
const SEEN_MAX: usize = 1000;
/// Each poll looks this far behind the newest event. Some events come late: from a long
/// transaction, or from a node of Keycloak with a clock that is behind.
const OVERLAP_MS: u64 = 90_000;
/// A failed poll is tried again after this, or after the usual interval if that is shorter.
const RETRY_MS: u64 = 5_000;
/// A poll that takes longer tells the other workers that it waits, and again after each second.
/// On Kong each of its two calls takes a tick of 200 ms, and all must know of it before the sixth
/// second.
const SLOW_MS: u64 = 500;
/// Other workers wait this long, so that the worker that polled last can begin a due poll.
const TAKE_OVER_MS: u64 = 400;

/// Events on a page; each takes about 430 bytes of an answer.
const PAGE: usize = 100;
/// After a page that cannot be read the next one is this many times smaller; after a readable
/// page it is this many times larger.
const STEP: usize = 10;
/// More events than these revoke everybody.
const EVENTS_MAX: usize = 1000;
/// So do more events than these calls can list.
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
    /// When this worker polled last, as noted for all workers.
    own_at: UnixMillis,
    polling: Option<Polling>,
    notice: Option<Polling>,
}

/// A poll under way.
#[derive(Debug)]
struct Poll {
    id: ExchangeId,
    deadline: Deadline,
    /// When the other workers were told that it waits.
    told_at: Option<UnixMillis>,
    asks: Asks,
    /// The service token was refused once and fetched anew.
    retried: bool,
    /// The call under way is made a second time.
    tried_again: bool,
    /// Keycloak answers questions for events; only some events cannot be read.
    reached: bool,
    /// A page that could not be read, until it is known whether Keycloak can be reached.
    fault: Option<Fault>,
    listing: Listing,
}

/// The events that a poll lists, page by page.
#[derive(Debug)]
struct Listing {
    /// When the first page was asked for, and the latest.
    listed_at: UnixMillis,
    asked_at: UnixMillis,
    /// From this instant on no further page is asked for.
    until: UnixMillis,
    /// Events after this are listed. None asks for the newest event alone, to learn its time by
    /// Keycloak's clock.
    since: Option<UnixMillis>,
    /// No worker of the node ever polled.
    first_ever: bool,
    first: usize,
    /// Events on the current page, and on the largest page allowed.
    page: usize,
    page_max: usize,
    calls: u32,
    listed: BTreeMap<String, UnixMillis>,
    newest_at: UnixMillis,
    unreadable: Unreadable,
}

/// The answer that a poll waits for.
enum Asks {
    /// The service token.
    Token,
    /// The service token, which a request fetches.
    TokenOfAnother,
    /// A page of events.
    Events(Arc<str>),
    /// A page without events: does Keycloak answer questions for events?
    NoEvents(Arc<str>),
    /// Whether the realm keeps events.
    Config(Arc<str>),
}

impl fmt::Debug for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only its name: some states hold the gateway's token.
        f.write_str(match self {
            Self::Token => "Token",
            Self::TokenOfAnother => "TokenOfAnother",
            Self::Events(_) => "Events",
            Self::NoEvents(_) => "NoEvents",
            Self::Config(_) => "Config",
        })
    }
}

/// Unreadable events that the next polls meet again. Each concerned everybody when it was new.
/// They have no ids: their number between the same bounds tells old ones from new ones.
#[derive(Debug, Clone)]
struct Unread {
    count: usize,
    /// The reason why the newest of them could not be read.
    why: String,
    /// A list of the events after this holds all of them.
    since: UnixMillis,
    /// A list of the events after this holds none of them.
    until: UnixMillis,
}

/// Unreadable events of one poll.
#[derive(Debug, Default)]
struct Unreadable {
    count: usize,
    /// The newest that is news: why it cannot be read, and an instant that is not before it.
    news: Option<(String, Option<UnixMillis>)>,
    /// The list is not complete.
    is_cut: bool,
    /// The newest event could not be read, when it was asked for alone.
    newest: bool,
}

impl Unreadable {
    /// Whether there may be an unreadable event that is newer than all readable ones.
    const fn any(&self) -> bool {
        self.count > 0 || self.is_cut || self.newest
    }
}

/// A page that could not be read, perhaps for another reason than its size.
#[derive(Debug)]
struct Fault {
    error: PollError,
    /// The answer was so slow that Keycloak may hang.
    slow: bool,
}

/// The next step of a poll.
enum Next {
    Ask(Asks, Call),
    Wait,
    /// The poll is over: whether the realm keeps events.
    Over(bool),
}

type Step = Result<Next, PollError>;

impl Poller {
    /// Polls every so many milliseconds, or never if it is 0. `seed` is any bytes that no other
    /// worker has had.
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

    /// The state of polling, if it changed since the last call.
    pub fn take_notice(&mut self) -> Option<Polling> {
        self.notice.take()
    }

    /// Whether a poll is under way.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        self.poll.is_some()
    }

    /// The number of events that are remembered.
    #[must_use]
    pub fn events(&self) -> usize {
        self.seen.len()
    }

    /// Begins a poll that is due, and watches the time of a poll under way.
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

    /// Takes the outcome of the latest call, and gives the next call.
    pub(crate) fn handle_event(
        &mut self,
        event: Event<'_>,
        env: &mut WatchEnv<'_>,
    ) -> Option<Effect> {
        // No poll is under way if the answer came too late: it was given up.
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

    /// The start of the list: before all unreadable events, or after all of them.
    fn since(&mut self, newest_at: UnixMillis) -> UnixMillis {
        let since = newest_at.minus_ms(OVERLAP_MS);
        self.unread.take_if(|unread| since >= unread.until);
        let unread = self.unread.as_ref();
        unread.map_or(since, |unread| since.min(unread.since))
    }

    /// The size of the first page.
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

    /// A slow Keycloak is not the same as no poll: keys in use go on meanwhile, as they do when
    /// Keycloak is down.
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

    /// Repeats an unanswered call once: another node of Keycloak may answer.
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

    /// Takes the answer to the question for a page.
    fn page_answered(
        &mut self,
        poll: &mut Poll,
        token: Arc<str>,
        event: Event<'_>,
        env: &mut WatchEnv<'_>,
    ) -> Step {
        let read = match event {
            Event::Failed(why) => Err(call_failed(Endpoint::Events, why)),
            Event::Computed(_) => Err(call_failed(Endpoint::Events, "no answer")),
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
        // Another node of Keycloak may answer, unless this failure was expected.
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

    /// Takes the answer to the question that no event can make large.
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

    /// Keycloak answers questions for events, but not for this page.
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

    /// The page cannot be read: asks for a smaller one at the same place. A single event that
    /// cannot be read may concern anybody, and is skipped.
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
            // If it is recent, the list of events holds it again.
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

    /// Revokes the owners on a page, and asks for the next page if this one was full. `taken` is
    /// the number of events to step over: those of a full page, else 0.
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
            // Known events that are gone: the log was cleared, perhaps with events that were
            // never read.
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
    /// The newest event is known: lists the events shortly before it, so that later polls do not
    /// take them for news. They need not be read one by one: the first poll of a node revokes
    /// everybody.
    fn list_from(&mut self, newest: &[AdminEvent], token: Arc<str>, env: &WatchEnv<'_>) -> Next {
        let times = newest.iter().map(|event| event.time);
        self.listing.newest_at = times.max().unwrap_or_default();
        self.listing.newest_at = self.newest_seen(env);
        self.listing.since = Some(self.listing.newest_at.minus_ms(OVERLAP_MS));
        self.ask_for_events(token, env)
    }

    /// The time up to which events are known, by Keycloak's clock. It is the time of the newest
    /// event, but not ahead of the clock. With an unreadable event it is at least the time at
    /// which the service token was made. Otherwise every later poll would meet that event again,
    /// until another event follows it.
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

    /// A refused service token is fetched anew, once.
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
        // A first poll without events counts as a poll.
        watched.newest_event_at = poll.newest_seen(env).max(UnixMillis(1));
        let unread = self.keep_unread(&poll, env);
        let at = poll.listing.listed_at;
        // Changes made while events were off are in no event.
        let was_on = before.polled_at >= before.off_at;
        let turned = on != was_on && before.answered_at() > UnixMillis::default();
        if turned || before.failed_at > before.answered_at() {
            // After a change or a failure the state is news, even if another worker told that.
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
        // Failing polls may list ever more events. A forgotten event revokes once more.
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

    /// Keeps the facts about unreadable events that the next poll needs. Gives the reason why
    /// they could not be read, if there are any.
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
            // The next token is made later, and shows that they are of the past.
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
