//! Revocation: what was cached before an instant is dead, for one owner or for all.
//!
//! A worker answers warm requests from its memory, so it must know what was revoked
//! without asking anybody. [`Revocations`] is that knowledge: in the worker's memory an
//! instant for each owner and a floor for all ([`revoked`]), in the host's shared data
//! the same for all workers of the node (`shared_log`), which each of them reads on its tick.
//!
//! Invariants: knowledge is only ever added to, so that what is read late, twice or out
//! of order changes nothing; an entry counts only if its owner was asked for *after* the
//! last instant that concerns it; a log that is gone or cannot be read counts as
//! everything revoked. An instant is by the clock of the node, at which its revocation
//! was learnt: no other clock comes into it.

pub mod revoked;
mod shared_log;

use crate::clock::UnixMillis;
use crate::mac::MacKey;
use crate::signing_key::SigningKey;
use crate::store::lease::{Holder, Lease};
use crate::store::slots::SharedStore;
use revoked::{OwnerTag, Revoked, Watched};
pub use shared_log::NotShared;
use shared_log::SharedLog;

/// An instant is dated this much ahead: workers of one node read one clock, but not at
/// the same moment (nginx keeps the time of a turn), and a clock is corrected.
pub const MARGIN_MS: u64 = 250;
/// A worker whose last look at the log is older than this looks before it serves.
pub const LOOK_MS_MAX: u64 = 1000;
/// So many looks in a row that find no log: it is lost.
const MISSES_MAX: u8 = 3;
/// So many looks in a row that find a copy behind: it is written anew.
const LAGS_MAX: u8 = 5;
/// A poll may be this late: ticks of two workers and an answer.
const LATE_MS: u64 = 1000;
/// Who waits for a poll's answer says so again within this.
const ASKING_MS: u64 = 2500;
/// No poll takes longer.
const POLL_LEASE_MS_MAX: u64 = 120_000;
/// Polls may fail for so long, or for three polls, until only young entries count: a
/// Keycloak that is down changes nothing, and keys that are in use go on for the usual TTL.
const UNSEEN_MS_MAX: u64 = 300_000;
/// What counts as young then.
const SHORT_AGE_MS: u64 = 60_000;
/// After a step backwards, entries of the time before may be this much younger than the
/// youngest that this worker knew of.
const SHARED_YOUNGER_MS: u64 = 5_000;

/// Something that whoever runs the gateway should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// No copy of the log holds what was in it.
    #[error("the log of revocations is gone from shared data: all that was cached is dropped")]
    LogLost,
    /// The clock was set back.
    #[error("the clock was set back: all that was cached is dropped")]
    ClockSetBack,
}

/// What a worker knows of revocations, and the log that it shares with the others of its
/// node. One for each realm and signing key, whatever else a configuration says.
#[derive(Debug)]
pub struct Revocations {
    tagger: MacKey,
    known: Revoked,
    /// None where no shared data is used: this worker is told of nothing by others.
    log: Option<SharedLog>,
    lease: Lease,
    /// How often Keycloak is asked what was changed; 0 is never.
    poll_ms: u64,
    /// When it last looked at the log.
    looked_at: Option<UnixMillis>,
    /// The latest instant that the clock showed.
    latest: UnixMillis,
    misses: u8,
    lags: u8,
    /// Changes whenever something is learnt.
    generation: u64,
    /// It knows something that the log may not hold.
    unshared: bool,
    notice: Option<Notice>,
    counts: Counts,
}

/// Revocations that were learnt here first, and not from the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Owners, each time that one was revoked.
    pub owners: u64,
    /// Times that everybody was.
    pub everybody: u64,
}

impl Revocations {
    /// Knows nothing yet. `shared` is whether the host's shared data is used.
    #[must_use]
    pub fn new(issuer: &str, signing_key: &SigningKey, shared: bool) -> Self {
        let derive = |purpose: &[u8]| signing_key.derive(&[purpose, b":", issuer.as_bytes()]);
        Self {
            tagger: MacKey::new(&derive(b"revoked owner")),
            known: Revoked::default(),
            log: shared.then(|| SharedLog::new(&derive(b"revocations"))),
            lease: Lease::new(&derive(b"lease of polls"), POLL_LEASE_MS_MAX),
            poll_ms: 0,
            looked_at: None,
            latest: UnixMillis::default(),
            misses: 0,
            lags: 0,
            generation: 0,
            unshared: false,
            notice: None,
            counts: Counts::default(),
        }
    }

    /// The same, for a node that asks Keycloak every so many milliseconds what was
    /// changed; 0 is never.
    #[must_use]
    pub const fn polled_every(mut self, poll_ms: u64) -> Self {
        self.poll_ms = poll_ms;
        self
    }

    /// How far what was changed in Keycloak is known.
    #[must_use]
    pub const fn watched(&self) -> &Watched {
        &self.known.watched
    }

    #[cfg(test)]
    pub(crate) const fn watched_mut(&mut self) -> &mut Watched {
        &mut self.known.watched
    }

    /// The age past which no token is served from a cache, by how long ago what was
    /// changed in Keycloak was seen. None but the TTL's as long as that is recent.
    #[must_use]
    pub fn age_max_ms(&self, now: UnixMillis) -> u64 {
        let (poll_ms, watched) = (self.poll_ms, &self.known.watched);
        let unseen_ms = now.since_ms(watched.answered_at());
        if poll_ms == 0 || unseen_ms <= poll_ms + LATE_MS {
            return u64::MAX;
        }
        let asking = now < watched.asked_at.plus_ms(ASKING_MS);
        if watched.failed_at <= watched.answered_at() && !asking {
            // Nobody even tried: the node was paused, or has only begun.
            return poll_ms + LATE_MS;
        }
        if unseen_ms <= UNSEEN_MS_MAX.max(3 * poll_ms) {
            return u64::MAX;
        }
        SHORT_AGE_MS.max(poll_ms + LATE_MS)
    }

    /// Whether a token for this owner, who was asked for at `cached_at`, is dead.
    #[must_use]
    pub fn kills(&self, owner_id: &str, cached_at: UnixMillis) -> bool {
        cached_at <= self.known.newest()
            && (cached_at <= self.known.floor()
                || self
                    .known
                    .of_owner(&self.tag(owner_id))
                    .is_some_and(|at| cached_at <= at))
    }

    /// The same for one that was found in shared data: after the clock was set back, what
    /// others stored before cannot be told from what comes.
    #[must_use]
    pub fn kills_shared(&self, owner_id: &str, cached_at: UnixMillis) -> bool {
        let distrusted = cached_at <= self.known.shared_floor();
        distrusted || self.kills(owner_id, cached_at)
    }

    /// Changes whenever a revocation is learnt: what was asked for before may be stale.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// What happened since it was last asked, if it is worth a line in the log.
    pub fn take_notice(&mut self) -> Option<Notice> {
        self.notice.take()
    }

    /// What was learnt here first since it was last asked.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Whether the last look at the log is too long ago to serve by.
    #[must_use]
    pub fn is_behind(&self, now: UnixMillis) -> bool {
        self.looked_at
            .is_none_or(|at| now >= at.plus_ms(LOOK_MS_MAX) || now < at)
    }

    /// Takes note of the time. True if the clock was set back: what the worker's memory
    /// holds is of a time that is yet to come.
    pub fn watch_clock(&mut self, now: UnixMillis) -> bool {
        if now.plus_ms(MARGIN_MS) >= self.latest {
            self.latest = self.latest.max(now);
            return false;
        }
        // The memory is emptied, so no instant need lie ahead for it. Shared data keeps
        // entries of the time before, which must not count when that time comes again.
        self.known.clamp(now.plus_ms(MARGIN_MS));
        self.known
            .distrust_shared(self.latest.plus_ms(SHARED_YOUNGER_MS));
        self.latest = now;
        self.unshared = true;
        self.learnt(Some(Notice::ClockSetBack));
        true
    }

    /// Looks at the log, and learns what others wrote there.
    pub fn look(&mut self, now: UnixMillis, store: &mut dyn SharedStore) {
        let first = self.looked_at.replace(now).is_none();
        self.known.forget(now);
        let Some(log) = &mut self.log else {
            return;
        };
        let Some(read) = log.read(store) else {
            self.misses = self.misses.saturating_add(1);
            if first {
                // Whether there ever was a log nobody can say: what others cached so far
                // does not count, and those that come will know.
                self.known.distrust_shared(now.minus_ms(1));
                let _ = self.publish(now, store);
            } else if self.misses >= MISSES_MAX {
                self.counts.everybody += 1;
                self.known.revoke_all(now.plus_ms(MARGIN_MS));
                self.learnt(Some(Notice::LogLost));
                let _ = self.publish(now, store);
            }
            return;
        };
        self.misses = 0;
        self.lags = if read.lags { self.lags + 1 } else { 0 };
        if let Some(mut news) = read.news {
            // It was the past when it was written: the clock was set back since.
            news.clamp(now.plus_ms(MARGIN_MS));
            if self.known.merge(&news) {
                self.learnt(None);
            }
        }
        if self.lags >= LAGS_MAX || self.unshared {
            self.lags = 0;
            let _ = self.publish(now, store);
        }
    }

    /// Revokes an owner: what any worker of this node cached for it until now is dead.
    /// Holds for this worker in any case, and for the others within a tick if it is `Ok`.
    ///
    /// # Errors
    /// [`NotShared`] when the others could not be told.
    pub fn revoke_owner(
        &mut self,
        owner_id: &str,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Result<(), NotShared> {
        let tag = self.tag(owner_id);
        self.counts.owners += 1;
        self.known.revoke(tag, now.plus_ms(MARGIN_MS));
        self.learnt(None);
        self.publish(now, store)
    }

    /// The same for all owners.
    ///
    /// # Errors
    /// [`NotShared`] when the others could not be told.
    pub fn revoke_all(
        &mut self,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> Result<(), NotShared> {
        self.counts.everybody += 1;
        self.known.revoke_all(now.plus_ms(MARGIN_MS));
        self.learnt(None);
        self.publish(now, store)
    }

    /// Notes what a poll showed: who was changed, and how far what was changed is known.
    pub(crate) fn polled(
        &mut self,
        owners: &[String],
        everybody: bool,
        watched: Watched,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) {
        let at = now.plus_ms(MARGIN_MS);
        self.counts.owners += owners.len() as u64;
        self.counts.everybody += u64::from(everybody);
        for owner in owners {
            self.known.revoke(self.tag(owner), at);
        }
        if everybody {
            self.known.revoke_all(at);
        }
        self.known.watched = watched;
        self.learnt(None);
        // What others are not told of they ask Keycloak themselves.
        let _ = self.publish(now, store);
    }

    /// Takes the lease of a poll until an instant. Where nothing is shared each worker
    /// polls for itself.
    pub(crate) fn take_lease(
        &self,
        holder: &Holder,
        until: UnixMillis,
        now: UnixMillis,
        store: &mut dyn SharedStore,
    ) -> bool {
        self.log.is_none() || self.lease.take(holder, until, now, store)
    }

    pub(crate) fn give_lease_back(&self, holder: &Holder, store: &mut dyn SharedStore) {
        if self.log.is_some() {
            self.lease.give_back(holder, store);
        }
    }

    fn publish(&mut self, now: UnixMillis, store: &mut dyn SharedStore) -> Result<(), NotShared> {
        let log = self.log.as_mut().ok_or(NotShared::Off)?;
        let before = self.known.clone();
        let published = log.publish(&mut self.known, now.plus_ms(MARGIN_MS), store);
        self.unshared = published.is_err();
        if published.is_ok() {
            self.misses = 0;
        }
        if self.known != before {
            self.learnt(None);
        }
        published
    }

    fn learnt(&mut self, notice: Option<Notice>) {
        self.generation += 1;
        self.notice = notice.or(self.notice);
    }

    fn tag(&self, owner_id: &str) -> OwnerTag {
        let [a, b, c, d, e, f, g, h, ..] = self.tagger.tag(&[owner_id.as_bytes()]);
        [a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests;
