//! The steps between the taking of the lock and its end: read, edit, link, write,
//! read again.

use super::{
    ChangeError, ChangeInput, ChangeOutput, Changed, HOLD_MS, LOCK_PROVIDER, Linked, OwnerChange,
    State, Step, WRITES_MAX, Written, answer, fault_in, find, lost, read_links, status, taken_at,
};
use crate::clock::UnixMillis;
use crate::keycloak::loggable;
use crate::keycloak::owner::{self, Link, User};
use crate::manage::owner_keys::{self, EditRefused};

impl OwnerChange {
    pub(super) fn links_read(
        &mut self,
        input: &ChangeInput<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> Step {
        let links = read_links(input)?;
        match find(&links, LOCK_PROVIDER) {
            Some(lock) if self.is_ours(lock) => {
                self.held = true;
                // An earlier one of ours, whose answer was lost, may be the one.
                self.locked_at = self.locked_at.min(taken_at(lock));
            }
            // Somebody broke it, as slow as we were.
            Some(_) => {
                self.held = false;
                return self.wait(now);
            }
            None => return Err(ChangeError::NoLockProvider),
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
        Ok(self.read_user(State::ReadingUser, bearer))
    }

    pub(super) fn user_read(
        &mut self,
        input: &ChangeInput<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> Step {
        let before = self.user(input)?;
        if self.change.edit.gives_a_key() {
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
            return Ok((State::ReadingHolders(written), ChangeOutput::Call(call)));
        }
        self.write(written, bearer, now)
    }

    pub(super) fn holders_read(
        &mut self,
        written: Box<Written>,
        input: &ChangeInput<'_>,
        bearer: &str,
    ) -> Step {
        let step = "the search for links";
        let (status, body) = answer(step, input)?;
        let holders = owner::read_holders(status, body).map_err(|fault| fault_in(step, fault))?;
        if holders.iter().any(|id| *id != self.change.owner_id) {
            return Err(ChangeError::IdLinkedElsewhere(
                self.change.identity_provider.clone(),
            ));
        }
        let link = Link {
            provider: self.change.identity_provider.clone(),
            id: self.change.owner_id.clone(),
            name: written.before.username().to_owned(),
        };
        let change = &self.change;
        let call = owner::link_call(&change.users_path, &change.owner_id, &link, bearer);
        Ok((State::Linking(written), ChangeOutput::Call(call)))
    }

    pub(super) fn link_made(
        &mut self,
        written: Box<Written>,
        input: &ChangeInput<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> Step {
        let status = status(input).map_err(|why| lost("the link", why))?;
        owner::read_status(status).map_err(|fault| fault_in("the link", fault))?;
        self.linked = Linked::Yes;
        self.write(written, bearer, now)
    }

    fn write(&mut self, written: Box<Written>, bearer: &str, now: UnixMillis) -> Step {
        if owner_keys::same_keys(&written.before.attributes, &written.after.attributes) {
            return Ok(self.settle(*written, bearer, now));
        }
        if now.since_ms(self.locked_at) >= HOLD_MS || now < self.locked_at {
            return Err(ChangeError::Busy);
        }
        self.writes += 1;
        let user = written.after.to_value();
        let change = &self.change;
        let call = owner::write_call(&change.users_path, &change.owner_id, &user, bearer);
        Ok((State::Writing(written), ChangeOutput::Call(call)))
    }

    pub(super) fn written(
        &mut self,
        mut written: Box<Written>,
        input: &ChangeInput<'_>,
        bearer: &str,
    ) -> Step {
        match status(input) {
            // Keycloak may have taken it all the same: the user is read to see.
            Ok(status @ 500..) => written.lost = Some(format!("status {status}")),
            Err(why) => written.lost = Some(loggable(why)),
            Ok(status) => {
                owner::read_status(status).map_err(|fault| fault_in("the write", fault))?;
            }
        }
        Ok(self.read_user(State::ReadingAgain(written), bearer))
    }

    pub(super) fn read_again(
        &mut self,
        written: Written,
        input: &ChangeInput<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> Step {
        let found = match (self.user(input), &written.lost) {
            (Ok(found), _) => found,
            (Err(_), Some(why)) => return Err(ChangeError::Unknown(why.clone())),
            // With the owner all of it is gone.
            (Err(ChangeError::NoSuchOwner), None) => return Err(ChangeError::NoSuchOwner),
            // Written, as Keycloak said; that it could not be read again is another matter.
            (Err(error), None) => return Err(ChangeError::Unknown(loggable(&error.to_string()))),
        };
        if owner_keys::same_keys(&found.attributes, &written.after.attributes) {
            return Ok(self.settle(written, bearer, now));
        }
        if let Some(why) = written.lost {
            return Err(ChangeError::Unknown(why));
        }
        if self.writes >= WRITES_MAX {
            return Err(ChangeError::NotAsWritten);
        }
        // Somebody who takes no lock wrote in between: the change is made anew on that.
        Ok(self.read_user(State::ReadingUser, bearer))
    }

    /// The owner is as it should be: takes the link away where no key is left.
    fn settle(&mut self, written: Written, bearer: &str, now: UnixMillis) -> (State, ChangeOutput) {
        let Written { after, edited, .. } = written;
        let mut warnings = Vec::new();
        if !after.is_enabled() {
            warnings.push("the owner is disabled: keys are refused until it is enabled".to_owned());
        }
        let actions: Vec<&str> = after.required_actions().collect();
        if !actions.is_empty() {
            warnings.push(format!(
                "Keycloak waits for the owner to do {}: keys are refused until that is done",
                actions.join(", ")
            ));
        }
        let changed = Changed {
            edited,
            username: after.username().to_owned(),
            keys: owner_keys::list(&after.attributes, now),
            warnings,
        };
        let holds_keys = owner_keys::key_ids(&after.attributes).next().is_some();
        if self.linked == Linked::Yes && !holds_keys {
            let call = self.unlink(&self.change.identity_provider, bearer);
            return (
                State::Unlinking(Box::new(changed)),
                ChangeOutput::Call(call),
            );
        }
        self.unlock(Ok(changed), bearer, now)
    }
}
