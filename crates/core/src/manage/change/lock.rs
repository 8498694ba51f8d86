//! The steps that take an owner's lock, wait for it, break it and give it back.

use super::{
    BREAK_GROUP, ChangeError, ChangeOutput, Changed, LOCK_PROVIDER, OwnerChange, State, Step,
    WAIT_FACTOR_MAX, WAIT_MS, WAITS_ALIKE, answer, done, fault_in, find, is_stale, is_within_hold,
    read_links, status,
};
use crate::clock::UnixMillis;
use crate::keycloak::claim::{self, Claim};
use crate::keycloak::loggable;
use crate::keycloak::owner::{self, OwnerFault};
use crate::machine::{Effect, Event};

impl OwnerChange {
    pub(super) fn lock(&mut self, bearer: &str, now: UnixMillis) -> (State, ChangeOutput) {
        self.locked_at = now;
        let call = self.link(LOCK_PROVIDER, bearer, now);
        (State::Locking, self.call(call))
    }

    pub(super) fn locked(&mut self, event: Event<'_>, bearer: &str) -> Step {
        self.lock_failure = None;
        match status(event).map(owner::read_status) {
            Ok(Ok(())) => {
                self.held = true;
                return Ok(self.read_links(State::ReadingLinks, bearer));
            }
            Ok(Err(OwnerFault::Conflict)) => {}
            // It may be ours all the same.
            Ok(Err(OwnerFault::Status(status @ 500..))) => {
                self.lock_failure = Some(OwnerFault::Status(status).to_string());
            }
            Err(why) => self.lock_failure = Some(loggable(why)),
            Ok(Err(fault)) => return Err(fault_in("the lock", fault, event)),
        }
        Ok(self.read_links(State::Inspecting, bearer))
    }

    pub(super) fn inspected(&mut self, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
        let links = read_links(event)?;
        match find(&links, LOCK_PROVIDER) {
            Some(lock) if is_stale(&lock.name, now) => {
                self.claimed_at = now;
                let call = claim::claim_call(
                    &self.change.users_path,
                    &self.claim_name(),
                    &self.claim_text(),
                    bearer,
                );
                Ok((State::Claiming, self.call(call)))
            }
            Some(lock) if self.is_ours(lock) => self.links_read(event, bearer, now),
            // Free by now, or held.
            _ => self.wait(now),
        }
    }

    pub(super) fn claimed(&mut self, event: Event<'_>, bearer: &str) -> Step {
        match status(event).map(owner::read_status) {
            // Ours or another's: the answer may be lost, and does not name the claim's id.
            Ok(Ok(()) | Err(OwnerFault::Conflict | OwnerFault::Status(500..))) | Err(_) => {
                let call = claim::read_call(&self.change.users_path, &self.claim_name(), bearer);
                Ok((State::ReadingClaim, self.call(call)))
            }
            Ok(Err(fault)) => Err(fault_in("the breaking of a lock", fault, event)),
        }
    }

    pub(super) fn claim_read(&mut self, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
        let step = "the breaking of a lock";
        let (status, body) = answer(step, event)?;
        let found = claim::read(status, body, &self.claim_name());
        match found.map_err(|fault| fault_in(step, fault, event))? {
            Some(claim) if claim.holder == self.claim_text() => {
                self.claim = Some(claim);
                Ok(self.read_links(State::InspectingAgain, bearer))
            }
            // The claim's own holder is long gone.
            Some(claim) if is_stale(&claim.holder, now) => Ok(self.end_claim(&claim, bearer)),
            _ => self.wait(now),
        }
    }

    pub(super) fn inspected_again(
        &mut self,
        event: Event<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> Step {
        let links = read_links(event)?;
        match find(&links, LOCK_PROVIDER) {
            // After that time another writer may have broken the lock, and a third may hold it.
            Some(lock) if is_stale(&lock.name, now) && is_within_hold(self.claimed_at, now) => {
                let call = self.unlink(LOCK_PROVIDER, bearer);
                Ok((State::Breaking, self.call(call)))
            }
            _ => self.give_up_claim(bearer, now),
        }
    }

    pub(super) fn broken(&mut self, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
        match status(event).map(owner::read_status) {
            Ok(Ok(()) | Err(OwnerFault::Absent)) => self.give_up_claim(bearer, now),
            // The deletion may still be on its way, and would hit the lock of the next holder.
            // So nobody may break that lock until the claim is stale.
            Ok(Err(OwnerFault::Status(500..))) | Err(_) => {
                self.claim = None;
                self.wait(now)
            }
            Ok(Err(fault)) => Err(fault_in("the breaking of a lock", fault, event)),
        }
    }

    fn give_up_claim(&mut self, bearer: &str, now: UnixMillis) -> Step {
        match self.claim.take() {
            Some(claim) => Ok(self.end_claim(&claim, bearer)),
            None => self.wait(now),
        }
    }

    fn end_claim(&self, claim: &Claim, bearer: &str) -> (State, ChangeOutput) {
        let call = claim::end_call(&self.change.users_path, claim, bearer);
        (State::EndingClaim, self.call(call))
    }

    fn claim_name(&self) -> String {
        format!("{BREAK_GROUP}{}", self.change.owner_id)
    }

    /// The claim's text, new for each attempt: a text used before belongs to another claim.
    fn claim_text(&self) -> String {
        let (holder, number, at) = (&self.change.holder, self.waits, self.claimed_at.0);
        format!("{holder}.{number}@{at}")
    }

    /// Waits before the next try for the lock. Waits differ between writers, so that they do
    /// not come back together.
    pub(super) fn wait(&mut self, now: UnixMillis) -> Step {
        if now.since_ms(self.began_at) >= self.change.wait_ms_max {
            return Err(match self.lock_failure.take() {
                None => ChangeError::Busy,
                Some(failure) => ChangeError::Keycloak {
                    step: "the lock",
                    failure,
                },
            });
        }
        self.waits += 1;
        let mut spread = crc32fast::Hasher::new();
        spread.update(self.change.holder.as_bytes());
        spread.update(&self.waits.to_be_bytes());
        let within = u64::from(spread.finalize()) % (WAIT_MS.end - WAIT_MS.start);
        let longer = (1 + self.waits / WAITS_ALIKE).min(WAIT_FACTOR_MAX);
        let wait = (WAIT_MS.start + within) * longer;
        let turn = Effect::Yield {
            wait_ms: Some(wait),
            timeout_ms: wait + self.change.callout_timeout_ms,
        };
        Ok((State::Waiting, ChangeOutput::Await(turn)))
    }

    /// Gives back all that is held, after any error.
    pub(super) fn give_back(
        &mut self,
        error: ChangeError,
        bearer: &str,
        now: UnixMillis,
    ) -> (State, ChangeOutput) {
        let error = match error {
            error @ (ChangeError::Unknown(_)
            | ChangeError::NotAsWritten
            | ChangeError::NoSuchOwner) => error,
            // Whatever the error, the change may have been made.
            error if self.writes > 0 => ChangeError::Unknown(error.loggable()),
            error => error,
        };
        let result = match error {
            // The link is gone, and with it the keys: the change is made.
            error if self.all_ended && error != ChangeError::NoSuchOwner => {
                Ok(Changed::all_ended(error))
            }
            error => Err(error),
        };
        if let Some(claim) = self.claim.take() {
            let (_, output) = self.end_claim(&claim, bearer);
            return (State::Unlocking(Box::new(result)), output);
        }
        // After a write of unknown fate, a key may be there that needs the link.
        if self.link_made && self.writes == 0 && self.held && self.may_go_on(now) {
            let call = self.unlink(&self.change.identity_provider, bearer);
            return (State::TakingBack(Box::new(result)), self.call(call));
        }
        self.unlock(result, bearer, now)
    }

    pub(super) fn taken_back(
        &mut self,
        result: Result<Changed, ChangeError>,
        event: Event<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> (State, ChangeOutput) {
        // The deletion may still be on its way: nobody may make a key and link before it
        // arrives.
        self.held &= status(event).is_ok_and(|status| status < 500);
        self.unlock(result, bearer, now)
    }

    pub(super) fn unlock(
        &mut self,
        result: Result<Changed, ChangeError>,
        bearer: &str,
        now: UnixMillis,
    ) -> (State, ChangeOutput) {
        // Otherwise the lock stays until another writer finds it stale. By the time that the
        // unlock takes effect the lock may be another's, or a request begun under it may still
        // be under way.
        if !std::mem::take(&mut self.held) || !self.may_go_on(now) {
            return (State::Over, done(result));
        }
        let call = self.unlink(LOCK_PROVIDER, bearer);
        (State::Unlocking(Box::new(result)), self.call(call))
    }
}
