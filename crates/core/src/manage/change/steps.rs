//! The steps between the taking of the lock and its end: read, edit, link, write,
//! read again.

use super::{
    ChangeError, ChangeOutput, Changed, LOCK_PROVIDER, Linked, OwnerChange, State, Step,
    WRITES_MAX, Written, answer, done, fault_in, find, lost, read_links, refused, status, taken_at,
};
use crate::clock::UnixMillis;
use crate::keycloak::loggable;
use crate::keycloak::owner::{self, Link, OwnerFault, User};
use crate::machine::Event;
use crate::manage::owner_keys::{self, Edit, EditRefused, Edited};

/// The step that ends all keys of an owner.
const END_OF_ALL: &str = "the end of the owner's link";

impl OwnerChange {
    pub(super) fn links_read(&mut self, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
        let links = read_links(event)?;
        let lock = find(&links, LOCK_PROVIDER);
        let ours = lock.filter(|lock| self.is_ours(lock));
        // The link may come from an earlier attempt of ours with a lost answer.
        let taken_at = ours.map_or(self.locked_at, |lock| taken_at(&lock.name));
        self.locked_at = self.locked_at.min(taken_at);
        self.held = ours.is_some() && self.may_go_on(now);
        if !self.held {
            // Taken a moment ago, and not shown: Keycloak accepts links to a missing provider.
            if lock.is_none() && self.may_go_on(now) {
                return Err(ChangeError::NoLockProvider);
            }
            // Too slow: another writer breaks the lock, or has broken it.
            return self.wait(now);
        }
        let provider = &self.change.identity_provider;
        self.linked = match find(&links, provider) {
            None => Linked::No,
            Some(link) if link.id == self.change.owner_id => Linked::Yes,
            Some(_) if self.change.edit.needs_the_link() => {
                return Err(ChangeError::ForeignLink(provider.clone()));
            }
            Some(_) => Linked::Foreign,
        };
        if self.change.edit == Edit::RevokeAll {
            if self.linked == Linked::Yes {
                return self.end_all(bearer);
            }
            self.all_ended = true;
        }
        Ok(self.read_user(State::ReadingUser, bearer))
    }

    /// Takes the owner's link away, once.
    fn end_all(&mut self, bearer: &str) -> Step {
        let step = END_OF_ALL;
        match self.link_end.take() {
            None => {
                let call = self.unlink(&self.change.identity_provider, bearer);
                Ok((State::EndingAll, self.call(call)))
            }
            Some(Ok(())) => Err(lost(step, "it is still there")),
            // The link may still be deleted: nobody may link before that.
            Some(Err(why)) => {
                self.held = false;
                Err(lost(step, &why))
            }
        }
    }

    /// Reads the links after any answer: they alone say that the link is gone.
    pub(super) fn all_ended(&mut self, event: Event<'_>, bearer: &str) -> Step {
        self.link_end = Some(match status(event).map(owner::read_status) {
            Ok(Ok(()) | Err(OwnerFault::Absent)) => Ok(()),
            Ok(Err(fault @ OwnerFault::Status(500..))) => Err(fault.to_string()),
            Err(why) => Err(why.to_owned()),
            Ok(Err(fault)) => return Err(fault_in(END_OF_ALL, fault, event)),
        });
        self.held = self.link_end == Some(Ok(()));
        Ok(self.read_links(State::ReadingLinks, bearer))
    }

    pub(super) fn user_read(&mut self, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
        let gives_a_key = self.change.edit.gives_a_key();
        if gives_a_key && matches!(event, Event::Answer { body: None, .. }) {
            return Err(EditRefused::OwnerTooLarge.into());
        }
        let before = self.user(event)?;
        if gives_a_key {
            let name = before.username();
            if self.change.gateway_accounts.iter().any(|own| own == name) {
                return Err(EditRefused::GatewayAccount.into());
            }
            if !before.is_enabled() && !self.change.disabled_owners {
                return Err(EditRefused::OwnerDisabled.into());
            }
        }
        let mut after = before.clone();
        let edited = self.change.edit.apply(&mut after.attributes, now)?;
        if edited.added.is_some() && after.is_too_large() {
            return Err(EditRefused::OwnerTooLarge.into());
        }
        let written = Box::new(Written {
            before,
            after,
            edited,
            lost: None,
        });
        let holds_keys = |user: &User| owner_keys::key_ids(&user.attributes).next().is_some();
        let change = &self.change;
        if change.edit.needs_the_link() && self.linked == Linked::No && holds_keys(&written.after) {
            // An administrator may have taken it away, to end all keys at once.
            if holds_keys(&written.before) && !change.relink {
                return Err(EditRefused::Unlinked.into());
            }
            let call = owner::holders_call(
                &change.users_path,
                &change.identity_provider,
                &change.owner_id,
                bearer,
            );
            return Ok((State::ReadingHolders(written), self.call(call)));
        }
        self.write(written, bearer, now)
    }

    pub(super) fn holders_read(
        &mut self,
        written: Box<Written>,
        event: Event<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> Step {
        let step = "the search for links";
        let (status, body) = answer(step, event)?;
        let holders =
            owner::read_holders(status, body).map_err(|fault| fault_in(step, fault, event))?;
        if holders.iter().any(|id| *id != self.change.owner_id) {
            return Err(ChangeError::IdLinkedElsewhere(
                self.change.identity_provider.clone(),
            ));
        }
        if !self.may_go_on(now) {
            return Err(ChangeError::Busy);
        }
        let link = Link {
            provider: self.change.identity_provider.clone(),
            id: self.change.owner_id.clone(),
            name: written.before.username().to_owned(),
        };
        let change = &self.change;
        let call = owner::link_call(&change.users_path, &change.owner_id, &link, bearer);
        Ok((State::Linking(written), self.call(call)))
    }

    pub(super) fn link_made(
        &mut self,
        written: Box<Written>,
        event: Event<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> Step {
        let step = "the link";
        match status(event).map(owner::read_status) {
            Ok(Ok(())) => {
                self.linked = Linked::Yes;
                self.link_made = true;
            }
            // The link may still be made: until then nobody may take away the last key and
            // unlink.
            Ok(Err(fault @ OwnerFault::Status(500..))) => {
                self.held = false;
                return Err(fault_in(step, fault, event));
            }
            Err(why) => {
                self.held = false;
                return Err(lost(step, why));
            }
            Ok(Err(fault)) => return Err(fault_in(step, fault, event)),
        }
        self.write(written, bearer, now)
    }

    fn write(&mut self, written: Box<Written>, bearer: &str, now: UnixMillis) -> Step {
        if owner_keys::same_keys(&written.before.attributes, &written.after.attributes) {
            return Ok(self.settle(&written.after, written.edited, bearer, now));
        }
        if !self.may_go_on(now) {
            return Err(ChangeError::Busy);
        }
        let user = written.after.to_value();
        let change = &self.change;
        let call = owner::write_call(&change.users_path, &change.owner_id, &user, bearer);
        Ok((State::Writing(written), self.call(call)))
    }

    pub(super) fn written(
        &mut self,
        mut written: Box<Written>,
        event: Event<'_>,
        bearer: &str,
    ) -> Step {
        match status(event) {
            // Keycloak may have carried out the write all the same: reading the user tells.
            Ok(status @ 500..) => written.lost = Some(format!("status {status}")),
            Err(why) => written.lost = Some(loggable(why)),
            // Another user has its name or address.
            Ok(status @ 409) => return Err(refused("the write", status, event)),
            Ok(status) => {
                owner::read_status(status).map_err(|fault| fault_in("the write", fault, event))?;
            }
        }
        self.writes += 1;
        Ok(self.read_user(State::ReadingAgain(written), bearer))
    }

    pub(super) fn read_again(
        &mut self,
        written: Written,
        event: Event<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> Step {
        let found = match (self.user(event), &written.lost) {
            (Ok(found), _) => found,
            // The write may still arrive: nobody may read before that.
            (Err(_), Some(why)) => {
                self.held = false;
                return Err(ChangeError::Unknown(why.clone()));
            }
            (Err(error), None) => return Err(error),
        };
        let is_made = owner_keys::same_keys(&found.attributes, &written.after.attributes) || {
            // Another's key may have been changed by hand meanwhile.
            let mut own = self.change.edit.ids().peekable();
            own.peek().is_some()
                && own.all(|id| {
                    owner_keys::same_key(&found.attributes, &written.after.attributes, id)
                })
        };
        if is_made {
            return Ok(self.settle(&found, written.edited, bearer, now));
        }
        if let Some(why) = written.lost {
            self.held = false;
            return Err(ChangeError::Unknown(why));
        }
        if self.writes >= WRITES_MAX || !self.may_go_on(now) {
            return Err(ChangeError::NotAsWritten);
        }
        // A writer without a lock wrote in between: the change is made anew on its data.
        Ok(self.read_user(State::ReadingUser, bearer))
    }

    /// The owner is as it was written: takes the link away where no key is left.
    fn settle(
        &mut self,
        found: &User,
        edited: Edited,
        bearer: &str,
        now: UnixMillis,
    ) -> (State, ChangeOutput) {
        let mut warnings = Vec::new();
        if !found.is_enabled() {
            warnings.push("the owner is disabled: keys are refused until it is enabled".to_owned());
        }
        let actions: Vec<&str> = found.required_actions().collect();
        if !actions.is_empty() {
            warnings.push(format!(
                "Keycloak waits for the owner to do {}: keys are refused until that is done",
                actions.join(", ")
            ));
        }
        let keys = owner_keys::list(&found.attributes, now);
        if self.link_made
            && keys
                .iter()
                .any(|key| Some(&key.id) != edited.added.as_ref())
        {
            warnings.push("the owner was linked again: its earlier keys work again".to_owned());
        }
        let changed = Changed {
            edited,
            username: found.username().to_owned(),
            keys,
            warnings,
            records_kept: None,
        };
        let holds_keys = owner_keys::key_ids(&found.attributes).next().is_some();
        if self.linked == Linked::Yes && !holds_keys && self.may_go_on(now) {
            let call = self.unlink(&self.change.identity_provider, bearer);
            return (State::Unlinking(Box::new(changed)), self.call(call));
        }
        self.unlock(Ok(changed), bearer, now)
    }

    pub(super) fn unlinked(
        &mut self,
        changed: Changed,
        event: Event<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> (State, ChangeOutput) {
        // The deletion may still be on its way: nobody may make a key and link before it
        // arrives.
        if status(event).is_ok_and(|status| status < 500) {
            self.unlock(Ok(changed), bearer, now)
        } else {
            (State::Over, done(Ok(changed)))
        }
    }
}

impl Changed {
    /// No key works any more, and their records are there.
    pub(super) fn all_ended(records_kept: ChangeError) -> Self {
        Self {
            edited: Edited::default(),
            username: String::new(),
            keys: Vec::new(),
            warnings: Vec::new(),
            records_kept: Some(records_kept),
        }
    }
}
