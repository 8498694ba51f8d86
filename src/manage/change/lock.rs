//! The steps that take an owner's lock, wait for it, break it and give it back.

use super::{
    BREAK_PROVIDER, ChangeError, ChangeInput, ChangeOutput, Changed, LOCK_PROVIDER, OwnerChange,
    STALE_MS, State, Step, WAIT_MS, done, fault_in, find, is_stale, read_links, status,
};
use crate::clock::UnixMillis;
use crate::keycloak::owner::{self, OwnerFault};

impl OwnerChange {
    pub(super) fn lock(&mut self, bearer: &str, now: UnixMillis) -> (State, ChangeOutput) {
        self.locked_at = now;
        let call = self.link(LOCK_PROVIDER, bearer, now);
        (State::Locking, ChangeOutput::Call(call))
    }

    pub(super) fn locked(&mut self, input: &ChangeInput<'_>, bearer: &str) -> Step {
        match status(input) {
            Ok(status) => match owner::read_status(status) {
                Ok(()) => {
                    self.held = true;
                    Ok(self.read_links(State::ReadingLinks, bearer))
                }
                Err(OwnerFault::Conflict) => Ok(self.read_links(State::Inspecting, bearer)),
                Err(fault) => Err(fault_in("the lock", fault)),
            },
            // It may be ours all the same.
            Err(_) => Ok(self.read_links(State::Inspecting, bearer)),
        }
    }

    pub(super) fn inspected(
        &mut self,
        input: &ChangeInput<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> Step {
        let links = read_links(input)?;
        match find(&links, LOCK_PROVIDER) {
            Some(lock) if self.is_ours(lock) => self.links_read(input, bearer, now),
            Some(lock) if is_stale(lock, now) => {
                let call = self.link(BREAK_PROVIDER, bearer, now);
                Ok((State::TakingBreak, ChangeOutput::Call(call)))
            }
            // Free by now, or held.
            _ => {
                if let Some(stuck) = find(&links, BREAK_PROVIDER)
                    && is_stale(stuck, now)
                {
                    return Ok(self.end_break(bearer));
                }
                self.wait(now)
            }
        }
    }

    pub(super) fn break_taken(
        &mut self,
        input: &ChangeInput<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> Step {
        match status(input).map(owner::read_status) {
            Ok(Ok(())) => Ok(self.read_links(State::InspectingAgain, bearer)),
            Ok(Err(OwnerFault::Conflict)) => Ok(self.read_links(State::InspectingAgain, bearer)),
            Ok(Err(fault)) => Err(fault_in("the lock", fault)),
            Err(_) => self.wait(now),
        }
    }

    pub(super) fn inspected_again(
        &mut self,
        input: &ChangeInput<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> Step {
        let links = read_links(input)?;
        match find(&links, BREAK_PROVIDER) {
            Some(breaking) if self.is_ours(breaking) => {}
            // Its own holder is long gone.
            Some(stuck) if is_stale(stuck, now) => return Ok(self.end_break(bearer)),
            Some(_) => return self.wait(now),
            None => return Err(ChangeError::NoLockProvider),
        }
        match find(&links, LOCK_PROVIDER) {
            Some(lock) if is_stale(lock, now) => {
                let call = self.unlink(LOCK_PROVIDER, bearer);
                Ok((State::Breaking, ChangeOutput::Call(call)))
            }
            _ => Ok(self.end_break(bearer)),
        }
    }

    pub(super) fn end_break(&self, bearer: &str) -> (State, ChangeOutput) {
        let call = self.unlink(BREAK_PROVIDER, bearer);
        (State::EndingBreak, ChangeOutput::Call(call))
    }

    /// Waits before the lock is tried again: a while that differs between those that
    /// wait, so that they do not come back together.
    pub(super) fn wait(&mut self, now: UnixMillis) -> Step {
        if now.since_ms(self.began_at) >= self.change.wait_ms_max {
            return Err(ChangeError::Busy);
        }
        self.waits += 1;
        let mut spread = crc32fast::Hasher::new();
        spread.update(self.change.holder.as_bytes());
        spread.update(&self.waits.to_be_bytes());
        let within = u64::from(spread.finalize()) % (WAIT_MS.end - WAIT_MS.start);
        Ok((State::Waiting, ChangeOutput::Wait(WAIT_MS.start + within)))
    }

    pub(super) fn unlock(
        &self,
        result: Result<Changed, ChangeError>,
        bearer: &str,
        now: UnixMillis,
    ) -> (State, ChangeOutput) {
        // Past this somebody else may hold it: it is left to whoever finds it stale.
        if now.since_ms(self.locked_at) >= STALE_MS / 2 {
            return (State::Over, done(result));
        }
        let call = self.unlink(LOCK_PROVIDER, bearer);
        (State::Unlocking(Box::new(result)), ChangeOutput::Call(call))
    }
}
