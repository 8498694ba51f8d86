//! One change of one owner's keys, under the owner's lock in Keycloak.
//!
//! Keycloak has no version of a user to compare: of six concurrent read-change-writes all six
//! are answered 204 and one survives. But it does make links to an identity provider, and
//! making one is an atomic test-and-set. So a link to the disabled provider [`LOCK_PROVIDER`]
//! is the lock of its user. Each of our writers, in a gateway or in the tool, takes it first:
//!
//! ```text
//! lock ─▶ read links ─▶ read user ─▶ edit ─▶ link? ─▶ write ─▶ read again ─▶ unlink? ─▶ unlock
//!  │ 409     │ not ours    ▲                           │        │ not as written
//!  ▼         ▼             └───────────────────────────┼────────┘
//! look at its holder: wait, or, when the holder is     ▼ refused
//! long gone, break it                                 take our own link away ─▶ unlock
//! ```
//!
//! [`Edit::RevokeAll`] takes the owner's link away before it reads the user. So it ends all
//! keys of an owner with an unreadable record, or of one that Keycloak refuses to write. The
//! records stay then, and [`Changed::records_kept`] says why.
//!
//! A lease without a fence rests on time. A holder begins nothing that rests on its lock (link,
//! write, unlink, unlock) later than [`HOLD_MS`] after it took it, and others break a lock no
//! sooner than [`STALE_MS`]. A holder that gets no answer does not give the lock back, because
//! Keycloak may still carry out its request: the lock then stays until it is stale.
//!
//! A writer breaks a lock by deleting a link, and the deletion hits any link that is there by
//! then. So a breaker first claims the right to break ([`BREAK_GROUP`]), looks again, and gives
//! the claim back only when the deletion has been answered. Claims get stale as locks do. They
//! are ended by their id, which hits no later claim (see [`crate::keycloak::claim`]).
//!
//! **Assumption:** a request takes effect once, within `STALE_MS - HOLD_MS` less the difference
//! between the writers' clocks, or never.
//!
//! **Changes that an administrator makes by hand** take no lock, and this one does not guard
//! them. A change saved between a writer's reading and its write is written over. A form opened
//! before a write and saved after it undoes that write. A change that is undone before it is
//! read again is made anew, or told as [`ChangeError::NotAsWritten`].
//!
//! [`OwnerChange`] is a state machine without I/O, like the exchange: the filter
//! drives it by callouts, the command-line tool by a plain HTTP client.

mod error;
mod lock;
mod steps;

use super::owner_keys::{Edit, Edited, KeySummary};
use crate::clock::UnixMillis;
use crate::keycloak::claim::Claim;
use crate::keycloak::owner::{self, Link, OwnerFault, User};
use crate::keycloak::refusal::Refusal;
use crate::keycloak::{Call, loggable};
use crate::machine::{Effect, Event};

pub use error::ChangeError;

/// The alias of the identity provider for locks: a user's link to it is the user's lock. The
/// provider is disabled, and nobody logs in by it.
pub const LOCK_PROVIDER: &str = "api-keys-lock";
/// The start of the name of the group that is held while a stale lock is broken; the owner's id
/// follows.
pub const BREAK_GROUP: &str = "api-keys-lock-break ";
/// A holder begins nothing that rests on its lock later than this after it took it.
pub const HOLD_MS: u64 = 10_000;
/// A lock of this age is stale: its holder has left it behind.
pub const STALE_MS: u64 = 45_000;
/// The most writes of one change: a write that is read back differently is repeated.
const WRITES_MAX: u32 = 3;
/// The shortest and longest wait for a lock that somebody holds, at first.
const WAIT_MS: std::ops::Range<u64> = 20..100;
/// The waits grow each time that so many are over, up to [`WAIT_FACTOR_MAX`] times the first: a
/// lock that was left behind is asked for only now and then.
const WAITS_ALIKE: u64 = 8;
/// See [`WAITS_ALIKE`].
const WAIT_FACTOR_MAX: u64 = 10;

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

fn is_within_hold(since: UnixMillis, now: UnixMillis) -> bool {
    // After a clock was set back, the age is unknown.
    since <= now && now.since_ms(since) < HOLD_MS
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

/// Whether a lock or a claim is stale, by its holder's text.
fn is_stale(text: &str, now: UnixMillis) -> bool {
    now.since_ms(taken_at(text)) >= STALE_MS
}

/// The instant at which a lock or a claim was taken. A text without an instant is not ours; it
/// counts as the oldest, or it would stay for ever.
fn taken_at(text: &str) -> UnixMillis {
    text.rsplit_once('@')
        .and_then(|(_, at)| at.parse().ok())
        .map_or(UnixMillis(0), UnixMillis)
}

#[cfg(test)]
mod tests;
