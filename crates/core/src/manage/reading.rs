//! The steps that list keys, with their last uses.

use std::sync::Arc;

use super::change::ChangeError;
use super::problem::{Code, Problem};
use super::steps::answer;
use super::{Answer, Asked, End, Listing, Manage, ManageEnv, Output, State, Step};
use crate::keycloak::owner::{self, OwnerFault, User};
use crate::keycloak::{Endpoint, user_events};
use crate::machine::Event;
use crate::manage::owner_keys;

/// Pages of events that are looked through for the last uses of keys.
const EVENT_PAGES_MAX: usize = 5;

impl Manage {
    pub(super) fn read_owner(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task()?;
        let users_path = &env.exchange.worker.config.realm.users_path;
        let call = owner::read_call(users_path, task.owner_id()?, &task.bearer);
        task.call(State::ReadingOwner, call, env)
    }

    pub(super) fn owner_read(&mut self, event: Event<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        if matches!(event, Event::Answer { body: None, .. }) {
            let error = ChangeError::OwnerUnreadable;
            return Err(End::new(Problem::from(&error), error));
        }
        let (status, body) = answer(Endpoint::Owner, event)?;
        let task = self.task()?;
        let user = match User::read(status, body, task.owner_id()?) {
            Ok(user) => user,
            Err(OwnerFault::Absent) => {
                return Err(End::new(Code::UserNotFound, "no such user"));
            }
            Err(OwnerFault::Unauthorized) => return self.renew_token(env),
            Err(fault) => return Err(End::unavailable(format!("the owner: {fault}"))),
        };
        let now = env.exchange.now;
        let listing = match &task.asked {
            Asked::Show(id) => {
                let key = owner_keys::find(&user.attributes, id, now);
                let key = key.ok_or_else(|| End::new(Code::KeyNotFound, "no such key"))?;
                self.report.key_id = Some(key.id.clone());
                Listing::of(vec![key], None)
            }
            _ => {
                let keys = owner_keys::list(&user.attributes, now);
                // If the last key of the page before is gone, the list begins anew.
                let after = task.query.after.as_deref();
                let from = keys
                    .iter()
                    .position(|key| Some(key.id.as_str()) == after)
                    .map_or(0, |at| at + 1);
                let limit = task.query.limit;
                let rest = keys.len().saturating_sub(from);
                let page: Vec<_> = keys.into_iter().skip(from).take(limit).collect();
                let next = page.last().filter(|_| rest > limit);
                let next = next.map(|key| key.id.clone());
                Listing::of(page, next)
            }
        };
        if listing.keys.is_empty() {
            return self.tell(&listing);
        }
        self.read_events(Box::new(listing), env)
    }

    fn read_events(&mut self, listing: Box<Listing>, env: &mut ManageEnv<'_, '_>) -> Step {
        let config = Arc::clone(&env.exchange.worker.config);
        let task = self.task()?;
        let owner_id = task.owner_id()?;
        let call = user_events::exchanges_call(
            &config.realm.events_path,
            owner_id,
            listing.page,
            &task.bearer,
        );
        task.call(State::ReadingEvents(listing), call, env)
    }

    pub(super) fn events_read(
        &mut self,
        mut listing: Box<Listing>,
        event: Event<'_>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        // If events are unavailable, the keys are listed without last uses.
        let read = answer(Endpoint::Events, event).ok();
        let read = read.and_then(|(status, body)| user_events::read_exchanges(status, body));
        let Some((seen, events)) = read else {
            return self.tell(&listing);
        };
        for exchange in seen {
            let key = listing
                .keys
                .iter_mut()
                .find(|(key, _)| key.id == exchange.key_id);
            if let Some((_, last_used)) = key {
                *last_used = (*last_used).max(Some(exchange.at));
            }
        }
        listing.page += 1;
        let more = events >= user_events::EVENTS_PER_PAGE && listing.page < EVENT_PAGES_MAX;
        if more
            && listing
                .keys
                .iter()
                .any(|(_, last_used)| last_used.is_none())
        {
            return self.read_events(listing, env);
        }
        self.tell(&listing)
    }

    fn tell(&mut self, listing: &Listing) -> Step {
        let shows_one = matches!(self.task()?.asked, Asked::Show(_));
        let told = match listing.keys.first() {
            Some((key, last_used)) if shows_one => Answer::key(key, *last_used),
            _ => Answer::keys(&listing.keys, listing.next.as_deref()),
        };
        Ok((State::Over, Output::Respond(told)))
    }
}

impl Listing {
    fn of(keys: Vec<owner_keys::KeySummary>, next: Option<String>) -> Self {
        Self {
            keys: keys.into_iter().map(|key| (key, None)).collect(),
            next,
            page: 0,
        }
    }
}
