//! Pages of events: acts on each event that is listed, and asks for an unreadable page in
//! smaller ones, down to a single event that concerns everybody.
//!
//! A page that is too large does not always say so: a host resets a call with too large an
//! answer, a proxy answers 502. An outage looks the same. So before a page is blamed,
//! Keycloak must answer a question that no event can make large.

use std::sync::Arc;

use super::{Asks, Next, OVERLAP_MS, Poll, PollError, Poller, Step, call_failed};
use crate::background::env::WatchEnv;
use crate::clock::UnixMillis;
use crate::keycloak::Endpoint;
use crate::keycloak::admin_events::{
    AdminEvent, Concerns, EventsError, config_call, no_events_call, read_events_answer,
};
use crate::machine::Event;

/// Events on a page; each takes about 430 bytes of an answer.
pub(super) const PAGE: usize = 100;
/// A page that cannot be read is followed by one this many times smaller, and one that can
/// by a larger.
const STEP: usize = 10;
/// Of more events than these everybody is revoked.
const EVENTS_MAX: usize = 1000;
/// And of more than these calls show.
const CALLS_MAX: u32 = 60;

/// Events that could not be read and that polls come upon again. Each concerned everybody
/// when it was new. None has a name: their number between the same bounds tells old ones
/// from new.
#[derive(Debug, Clone)]
pub(super) struct Unread {
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
pub(super) struct Unreadable {
    pub(super) count: usize,
    /// The newest that is news: why it cannot be read, and an instant that it is not after.
    news: Option<(String, Option<UnixMillis>)>,
    /// Not all was listed.
    is_cut: bool,
    /// The newest of all could not be read, when it was asked for alone.
    newest: bool,
}

impl Unreadable {
    /// Whether there may have been events that none of those that were read came after.
    pub(super) const fn any(&self) -> bool {
        self.count > 0 || self.is_cut || self.newest
    }
}

/// A page that could not be read, though it may be none too large.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: PollError,
    /// It took so long that Keycloak may hang.
    pub(super) slow: bool,
}

impl Poller {
    /// From when on events are listed: those that cannot be read all, or none of them.
    pub(super) fn since(&mut self, newest_at: UnixMillis) -> UnixMillis {
        let since = newest_at.minus_ms(OVERLAP_MS);
        self.unread.take_if(|unread| since >= unread.until);
        let unread = self.unread.as_ref();
        unread.map_or(since, |unread| since.min(unread.since))
    }

    /// So many are on the first page.
    pub(super) const fn first_page(&self) -> usize {
        if self.unread.is_some() { 1 } else { PAGE }
    }

    /// The answer to the question for a page.
    pub(super) fn page_answered(
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
                return Ok(if poll.since.is_none() {
                    poll.list_from(&events, token, env)
                } else {
                    self.list(poll, token, events, env)
                });
            }
            Err(error) => error,
        };
        // Another node of Keycloak may answer, unless this is what was to be expected.
        let expected = poll.reached && (poll.page > 1 || poll.unreadable.count > 0);
        if !expected && !std::mem::replace(&mut poll.tried_again, true) {
            return Ok(poll.ask_for_events(token, env));
        }
        poll.tried_again = false;
        let slow = env.now >= poll.asked_at.plus_ms(env.config.callout_timeout_ms / 2);
        let fault = Fault { error, slow };
        if poll.reached {
            return self.blame_the_page(poll, token, fault, env);
        }
        poll.fault = Some(fault);
        let call = no_events_call(env.config, &token);
        Ok(Next::Ask(Asks::NoEvents(token), call))
    }

    /// The answer to the question that no event can make large.
    pub(super) fn reached(
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
        let alone = poll.page == 1 || poll.since.is_none();
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
        if poll.since.is_none() {
            // Where it is recent it is come upon again as soon as events are listed.
            poll.unreadable.newest = true;
            return poll.list_from(&[], token, env);
        }
        if poll.page > 1 {
            poll.page_max = (poll.page / STEP).max(1);
            poll.page = (poll.page / smaller).max(1);
            return poll.ask_for_events(token, env);
        }
        poll.unreadable.count += 1;
        let known = self.unread.as_ref().map_or(0, |unread| unread.count);
        let is_new = poll.unreadable.count > known;
        if is_new {
            poll.unreadable.news = Some((error.to_string(), until));
        }
        poll.page_max = PAGE;
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
        let is_full = events.len() >= poll.page;
        for event in events {
            poll.newest_at = poll.newest_at.max(event.time);
            if self.seen.insert(event.id.clone(), event.time).is_none() {
                match event.concerns {
                    Concerns::Nobody => {}
                    Concerns::Owner(owner) => owners.push(owner),
                    Concerns::Everybody => everybody = true,
                }
            }
            poll.listed.insert(event.id, event.time);
        }
        let taken = if is_full { poll.page } else { 0 };
        poll.page = (poll.page * STEP).min(poll.page_max);
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
        poll.first += taken;
        let goes_on = taken > 0
            && poll.first < EVENTS_MAX
            && poll.calls < CALLS_MAX
            && env.now < poll.list_until;
        if !goes_on {
            // Events that were there and are not any more: cleared, and with them what
            // was not seen yet.
            let after = poll.since.unwrap_or_default().plus_ms(1);
            let gone =
                |(id, time): (&String, &UnixMillis)| *time > after && !poll.listed.contains_key(id);
            poll.unreadable.is_cut |= taken > 0;
            everybody |= taken > 0 || poll.first_ever || self.seen.iter().any(gone);
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

    /// Keeps what the next poll must know of events that could not be read, and says why
    /// they could not be, if there are any.
    pub(super) fn keep_unread(&mut self, poll: &Poll, env: &mut WatchEnv<'_>) -> Option<String> {
        let Unreadable {
            count,
            news,
            is_cut,
            newest: _,
        } = &poll.unreadable;
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
        self.unread = until.zip(poll.since).map(|(until, since)| Unread {
            count: *count,
            why: why.clone(),
            since,
            until,
        });
        Some(why)
    }
}
