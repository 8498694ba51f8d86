//! The machine of one change, in the order of its steps.

use super::error::ChangeError;
use super::lock::{BREAK_GROUP, LOCK_PROVIDER, is_stale, is_within_hold, taken_at};
use crate::clock::UnixMillis;
use crate::keycloak::claim::{self, Claim};
use crate::keycloak::owner::{self, Link, OwnerFault, User};
use crate::keycloak::refusal::Refusal;
use crate::keycloak::{Call, loggable};
use crate::machine::{Effect, Event};
use crate::manage::owner_keys::{self, Edit, EditRefused, Edited, KeySummary};

/// The most writes of one change: a write that is read back differently is repeated.
pub(super) const WRITES_MAX: u32 = 3;
/// The shortest and longest wait for a lock that somebody holds, at first.
const WAIT_MS: std::ops::Range<u64> = 20..100;
/// The waits grow each time that so many are over, up to [`WAIT_FACTOR_MAX`] times the first: a
/// lock that was left behind is asked for only now and then.
const WAITS_ALIKE: u64 = 8;
/// See [`WAITS_ALIKE`].
const WAIT_FACTOR_MAX: u64 = 10;
/// The step that ends all keys of an owner.
const END_OF_ALL: &str = "the end of the owner's link";

/// A change: its owner, its edit and its limits.
#[derive(Debug, Clone)]
pub struct Change {
    /// The path of the realm's users, as in [`Realm`](crate::config::Realm).
    pub users_path: String,
    /// The provider that owners of keys are linked to.
    pub identity_provider: String,
    /// Keycloak's id of the owner.
    pub owner_id: String,
    /// The change to make.
    pub edit: Edit,
    /// Names of accounts that may hold no key: the gateway's own.
    pub gateway_accounts: Vec<String>,
    /// Whether a disabled owner may be given a key.
    pub disabled_owners: bool,
    /// Whether an owner that holds keys and has lost its link gets it again.
    pub relink: bool,
    /// A unique name of this change: at least 16 lower-case letters and digits.
    pub holder: String,
    /// The longest wait for the lock.
    pub wait_ms_max: u64,
    /// The longest wait for an answer.
    pub callout_timeout_ms: u64,
}

/// The next step for the shell.
#[derive(Debug)]
pub enum ChangeOutput {
    /// Carry out this effect and come back with its event.
    Await(Effect),
    /// It is over.
    Done(Box<Result<Changed, ChangeError>>),
}

/// A change that was made, or was not needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The result of the change.
    pub edited: Edited,
    /// The owner's name.
    pub username: String,
    /// The owner's keys as they are now, the newest first.
    pub keys: Vec<KeySummary>,
    /// Notes for the client: the owner is disabled, has actions left to do, or was linked
    /// again.
    pub warnings: Vec<String>,
    /// The reason that [`Edit::RevokeAll`] could not remove the records of the keys it ended.
    pub records_kept: Option<ChangeError>,
}

#[derive(Debug, Clone)]
enum State {
    New,
    /// The answer of the lock's making.
    Locking,
    /// After a lost answer or a refusal: the links, which name the lock's holder.
    Inspecting,
    /// The answer to the claim of the right to break it.
    Claiming,
    /// The claim, which names its holder.
    ReadingClaim,
    /// The links again, under the claim.
    InspectingAgain,
    /// The answer of a stale lock's end.
    Breaking,
    /// The answer of a claim's end.
    EndingClaim,
    /// A wait before the lock is tried again.
    Waiting,
    /// The links, with the lock held.
    ReadingLinks,
    /// The answer to the end of all keys.
    EndingAll,
    ReadingUser,
    /// Other users linked under the owner's id.
    ReadingHolders(Box<Written>),
    Linking(Box<Written>),
    Writing(Box<Written>),
    ReadingAgain(Box<Written>),
    Unlinking(Box<Changed>),
    /// The answer to the end of a link that this change made without a key to need it.
    TakingBack(Box<Result<Changed, ChangeError>>),
    Unlocking(Box<Result<Changed, ChangeError>>),
    Over,
}

/// Whether the owner is linked to the gateway's identity provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Linked {
    No,
    Yes,
    /// Under an id that is not its own.
    Foreign,
}

/// A user as it was, and as it is to be.
#[derive(Debug, Clone)]
struct Written {
    before: User,
    after: User,
    edited: Edited,
    /// The reason that the fate of the write is unknown.
    lost: Option<String>,
}

/// One change, from the lock to its release.
#[derive(Debug)]
pub struct OwnerChange {
    change: Change,
    state: State,
    began_at: UnixMillis,
    /// When the lock was taken, or asked for.
    locked_at: UnixMillis,
    /// The lock is to be given back.
    held: bool,
    /// The fault of the lock's making, if the lock is not there.
    lock_failure: Option<String>,
    /// When the right to break the lock was claimed.
    claimed_at: UnixMillis,
    /// The claim that is to be given back.
    claim: Option<Claim>,
    linked: Linked,
    /// This change made the owner's link.
    link_made: bool,
    /// The outcome of the end of the owner's link, once it was asked for.
    link_end: Option<Result<(), String>>,
    /// No key of the owner works any more, with their records or without.
    all_ended: bool,
    writes: u32,
    waits: u64,
}

type Step = Result<(State, ChangeOutput), ChangeError>;

impl OwnerChange {
    /// A change that has not begun.
    #[must_use]
    pub fn new(change: Change, now: UnixMillis) -> Self {
        Self {
            change,
            state: State::New,
            began_at: now,
            locked_at: now,
            held: false,
            lock_failure: None,
            claimed_at: now,
            claim: None,
            linked: Linked::No,
            link_made: false,
            link_end: None,
            all_ended: false,
            writes: 0,
            waits: 0,
        }
    }

    /// The owner.
    #[must_use]
    pub fn owner_id(&self) -> &str {
        &self.change.owner_id
    }

    /// Whether it waits for the answer to its first call. A refusal of that call means that
    /// nothing was changed.
    #[must_use]
    pub const fn is_at_its_first_call(&self) -> bool {
        matches!(self.state, State::Locking) && self.waits == 0
    }

    /// Gives the first effect. `bearer` is the token for the calls.
    pub fn begin(&mut self, bearer: &str, now: UnixMillis) -> ChangeOutput {
        self.handle_event(Event::TURN, bearer, now)
    }

    /// Takes the outcome of the latest effect and gives the next one.
    pub fn handle_event(
        &mut self,
        event: Event<'_>,
        bearer: &str,
        now: UnixMillis,
    ) -> ChangeOutput {
        let state = std::mem::replace(&mut self.state, State::Over);
        let step = self.step(state, event, bearer, now);
        let (state, output) = step.unwrap_or_else(|error| self.give_back(error, bearer, now));
        self.state = state;
        output
    }

    fn step(&mut self, state: State, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
        match state {
            State::New | State::Waiting => Ok(self.lock(bearer, now)),
            State::Locking => self.locked(event, bearer),
            State::Inspecting => self.inspected(event, bearer, now),
            State::Claiming => self.claimed(event, bearer),
            State::ReadingClaim => self.claim_read(event, bearer, now),
            State::InspectingAgain => self.inspected_again(event, bearer, now),
            State::Breaking => self.broken(event, bearer, now),
            State::EndingClaim => self.wait(now),
            State::ReadingLinks => self.links_read(event, bearer, now),
            State::EndingAll => self.all_ended(event, bearer),
            State::ReadingUser => self.user_read(event, bearer, now),
            State::ReadingHolders(written) => self.holders_read(written, event, bearer, now),
            State::Linking(written) => self.link_made(written, event, bearer, now),
            State::Writing(written) => self.written(written, event, bearer),
            State::ReadingAgain(written) => self.read_again(*written, event, bearer, now),
            State::Unlinking(changed) => Ok(self.unlinked(*changed, event, bearer, now)),
            State::TakingBack(result) => Ok(self.taken_back(*result, event, bearer, now)),
            State::Unlocking(result) => Ok((State::Over, done(*result))),
            State::Over => Err(ChangeError::Keycloak {
                step: "after the end",
                failure: "an input that belongs to nothing".to_owned(),
            }),
        }
    }

    // ---- the lock ---------------------------------------------------------------

    fn lock(&mut self, bearer: &str, now: UnixMillis) -> (State, ChangeOutput) {
        self.locked_at = now;
        let call = self.link(LOCK_PROVIDER, bearer, now);
        (State::Locking, self.call(call))
    }

    fn locked(&mut self, event: Event<'_>, bearer: &str) -> Step {
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

    fn inspected(&mut self, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
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

    fn claimed(&mut self, event: Event<'_>, bearer: &str) -> Step {
        match status(event).map(owner::read_status) {
            // Ours or another's: the answer may be lost, and does not name the claim's id.
            Ok(Ok(()) | Err(OwnerFault::Conflict | OwnerFault::Status(500..))) | Err(_) => {
                let call = claim::read_call(&self.change.users_path, &self.claim_name(), bearer);
                Ok((State::ReadingClaim, self.call(call)))
            }
            Ok(Err(fault)) => Err(fault_in("the breaking of a lock", fault, event)),
        }
    }

    fn claim_read(&mut self, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
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

    fn inspected_again(&mut self, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
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

    fn broken(&mut self, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
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
    fn wait(&mut self, now: UnixMillis) -> Step {
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

    // ---- the change, with the lock held -----------------------------------------

    fn links_read(&mut self, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
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
    fn all_ended(&mut self, event: Event<'_>, bearer: &str) -> Step {
        self.link_end = Some(match status(event).map(owner::read_status) {
            Ok(Ok(()) | Err(OwnerFault::Absent)) => Ok(()),
            Ok(Err(fault @ OwnerFault::Status(500..))) => Err(fault.to_string()),
            Err(why) => Err(why.to_owned()),
            Ok(Err(fault)) => return Err(fault_in(END_OF_ALL, fault, event)),
        });
        self.held = self.link_end == Some(Ok(()));
        Ok(self.read_links(State::ReadingLinks, bearer))
    }

    fn user_read(&mut self, event: Event<'_>, bearer: &str, now: UnixMillis) -> Step {
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
        let is_update = matches!(self.change.edit, Edit::Update { .. });
        let may_grow = edited.added.is_some() || is_update && !before.is_too_large();
        if may_grow && after.is_too_large() {
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

    fn holders_read(
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

    fn link_made(
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

    fn written(&mut self, mut written: Box<Written>, event: Event<'_>, bearer: &str) -> Step {
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

    fn read_again(
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

    fn unlinked(
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

    // ---- the end ----------------------------------------------------------------

    /// Gives back all that is held, after any error.
    fn give_back(
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

    fn taken_back(
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

    fn unlock(
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

    // ---- calls, and their answers -----------------------------------------------

    fn call(&self, call: Call) -> ChangeOutput {
        let timeout_ms = self.change.callout_timeout_ms;
        ChangeOutput::Await(Effect::Call { call, timeout_ms })
    }

    fn read_links(&self, state: State, bearer: &str) -> (State, ChangeOutput) {
        let call = owner::links_call(&self.change.users_path, &self.change.owner_id, bearer);
        (state, self.call(call))
    }

    fn read_user(&self, state: State, bearer: &str) -> (State, ChangeOutput) {
        let call = owner::read_call(&self.change.users_path, &self.change.owner_id, bearer);
        (state, self.call(call))
    }

    fn user(&self, event: Event<'_>) -> Result<User, ChangeError> {
        let step = "the owner's reading";
        if matches!(event, Event::Answer { body: None, .. }) {
            return Err(ChangeError::OwnerUnreadable);
        }
        let (status, body) = answer(step, event)?;
        User::read(status, body, &self.change.owner_id)
            .map_err(|fault| fault_in(step, fault, event))
    }

    fn link(&self, provider: &str, bearer: &str, now: UnixMillis) -> Call {
        let link = Link {
            provider: provider.to_owned(),
            id: self.change.holder.clone(),
            name: format!("{}@{}", self.change.holder, now.0),
        };
        owner::link_call(
            &self.change.users_path,
            &self.change.owner_id,
            &link,
            bearer,
        )
    }

    fn unlink(&self, provider: &str, bearer: &str) -> Call {
        owner::unlink_call(
            &self.change.users_path,
            &self.change.owner_id,
            provider,
            bearer,
        )
    }

    fn is_ours(&self, link: &Link) -> bool {
        link.id.eq_ignore_ascii_case(&self.change.holder)
    }

    /// Whether a step begun now is over before another writer may hold the lock.
    fn may_go_on(&self, now: UnixMillis) -> bool {
        is_within_hold(self.locked_at, now)
    }
}

impl Changed {
    /// No key works any more, and their records are there.
    fn all_ended(records_kept: ChangeError) -> Self {
        Self {
            edited: Edited::default(),
            username: String::new(),
            keys: Vec::new(),
            warnings: Vec::new(),
            records_kept: Some(records_kept),
        }
    }
}

fn done(result: Result<Changed, ChangeError>) -> ChangeOutput {
    ChangeOutput::Done(Box::new(result))
}

fn status(event: Event<'_>) -> Result<u16, &'static str> {
    event.status().ok_or("no answer")
}

fn answer<'a>(step: &'static str, event: Event<'a>) -> Result<(u16, &'a [u8]), ChangeError> {
    event.answer().map_err(|why| lost(step, why))
}

fn lost(step: &'static str, why: &str) -> ChangeError {
    ChangeError::Keycloak {
        step,
        failure: loggable(why),
    }
}

fn fault_in(step: &'static str, fault: OwnerFault, event: Event<'_>) -> ChangeError {
    match fault {
        OwnerFault::Absent => ChangeError::NoSuchOwner,
        OwnerFault::Unauthorized => ChangeError::Unauthorized,
        OwnerFault::Forbidden => ChangeError::Forbidden,
        OwnerFault::Status(status) if is_final(status) => refused(step, status, event),
        fault => ChangeError::Keycloak {
            step,
            failure: fault.to_string(),
        },
    }
}

/// Whether Keycloak would refuse the same request at any later time.
const fn is_final(status: u16) -> bool {
    matches!(status, 400..=499) && !matches!(status, 408 | 429)
}

fn refused(step: &'static str, status: u16, event: Event<'_>) -> ChangeError {
    let body = event.answer().ok().map(|(_, body)| body);
    let refusal = Refusal::read(status, body);
    ChangeError::RefusedByKeycloak { step, refusal }
}

fn read_links(event: Event<'_>) -> Result<Vec<Link>, ChangeError> {
    let step = "the reading of the owner's links";
    let (status, body) = answer(step, event)?;
    owner::read_links(status, body).map_err(|fault| fault_in(step, fault, event))
}

fn find<'a>(links: &'a [Link], provider: &str) -> Option<&'a Link> {
    links.iter().find(|link| link.provider == provider)
}
