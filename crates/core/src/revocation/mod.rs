//! Revocation: cache entries from before an instant are dead, for one owner or for all.
//!
//! A worker answers warm requests from its memory, so it must know all revocations without asking
//! anybody. [`Revocations`] holds them: in the worker's memory an instant for each owner and a
//! floor for all ([`revoked`]), and in the host's shared data the same for all workers of the
//! node (`shared_log`), which each worker reads on its tick.
//!
//! Invariants: knowledge is only ever added, so news that are read late, twice or out of order
//! change nothing; an entry counts only if its owner was asked for *after* the last instant that
//! concerns it; a log that is gone or cannot be read counts as everything revoked. An instant is
//! by the clock of the node that learnt the revocation, and by no other clock.

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

/// An instant is dated this much ahead: workers of one node read one clock, but not at the same
/// moment (nginx caches the time during a pass of its event loop), and a clock is corrected.
pub const MARGIN_MS: u64 = 250;
/// Before it serves, a worker reads the log if its last read is older than this.
pub const LOOK_MS_MAX: u64 = 1000;
/// After this many reads in a row without a log, the log is lost.
const MISSES_MAX: u8 = 3;
/// After this many reads in a row with one copy behind, the log is written anew.
const LAGS_MAX: u8 = 5;
/// A poll may be this late: ticks of two workers and an answer.
const LATE_MS: u64 = 1000;
/// A worker that waits for a poll's answer says so again within this time.
const ASKING_MS: u64 = 2500;
/// The longest duration of a poll.
const POLL_LEASE_MS_MAX: u64 = 120_000;
/// Polls may fail for so long, or for three polls, until only young entries count. Until then a
/// Keycloak that is down changes nothing: keys in use go on for the usual TTL.
const UNSEEN_MS_MAX: u64 = 300_000;
/// The age of young entries.
const SHORT_AGE_MS: u64 = 60_000;
/// After a clock step backwards, shared entries from before may be this much younger than the
/// youngest that this worker knew of.
const SHARED_YOUNGER_MS: u64 = 5_000;

/// An event that the operator of the gateway should know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// No copy of the log holds its earlier content.
    #[error("the log of revocations is gone from shared data: all that was cached is dropped")]
    LogLost,
    /// The clock was set back.
    #[error("the clock was set back: all that was cached is dropped")]
    ClockSetBack,
}

/// A worker's knowledge of revocations, and the log that it shares with the other workers of its
/// node. One for each realm and signing key; other settings make no difference.
#[derive(Debug)]
pub struct Revocations {
    tagger: MacKey,
    known: Revoked,
    /// None without shared data: this worker then learns nothing from others.
    log: Option<SharedLog>,
    lease: Lease,
    /// The interval of polls; 0 is never.
    poll_ms: u64,
    /// When the worker last read the log.
    looked_at: Option<UnixMillis>,
    /// The latest instant that the clock showed.
    latest: UnixMillis,
    misses: u8,
    lags: u8,
    /// Changes with each new revocation.
    generation: u64,
    /// The worker may know of revocations that the log lacks.
    unshared: bool,
    notice: Option<Notice>,
    counts: Counts,
}

/// Revocations that were first learnt here, and not from the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Revocations of one owner.
    pub owners: u64,
    /// Revocations of all owners together.
    pub everybody: u64,
}

impl Revocations {
    /// Empty. `shared` is whether the host's shared data is used.
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

    /// The same, for a node that polls Keycloak at this interval; 0 is never.
    #[must_use]
    pub const fn polled_every(mut self, poll_ms: u64) -> Self {
        self.poll_ms = poll_ms;
        self
    }

    /// How far the changes in Keycloak are known.
    #[must_use]
    pub const fn watched(&self) -> &Watched {
        &self.known.watched
    }

    #[cfg(test)]
    pub(crate) const fn watched_mut(&mut self) -> &mut Watched {
        &mut self.known.watched
    }

    /// The age beyond which no token is served from a cache. It depends on the last look at the
    /// changes in Keycloak; while that is recent, only the TTL limits the age.
    #[must_use]
    pub fn age_max_ms(&self, now: UnixMillis) -> u64 {
        let (poll_ms, watched) = (self.poll_ms, &self.known.watched);
        let unseen_ms = now.since_ms(watched.answered_at());
        if poll_ms == 0 || unseen_ms <= poll_ms + LATE_MS {
            return u64::MAX;
        }
        let asking = now < watched.asked_at.plus_ms(ASKING_MS);
        if watched.failed_at <= watched.answered_at() && !asking {
            // Nobody even tried: the node was paused, or has only just begun.
            return poll_ms + LATE_MS;
        }
        if unseen_ms <= UNSEEN_MS_MAX.max(3 * poll_ms) {
            return u64::MAX;
        }
        SHORT_AGE_MS.max(poll_ms + LATE_MS)
    }

    /// Whether this owner's token is dead; Keycloak was asked for the owner at `cached_at`.
    #[must_use]
    pub fn kills(&self, owner_id: &str, cached_at: UnixMillis) -> bool {
        cached_at <= self.known.newest()
            && (cached_at <= self.known.floor()
                || self
                    .known
                    .of_owner(&self.tag(owner_id))
                    .is_some_and(|at| cached_at <= at))
    }

    /// The same for a token found in shared data. After the clock was set back, entries that
    /// others stored before the step look like newer ones.
    #[must_use]
    pub fn kills_shared(&self, owner_id: &str, cached_at: UnixMillis) -> bool {
        self.distrusts_shared(cached_at) || self.kills(owner_id, cached_at)
    }

    /// Whether no entry of shared data of that time counts.
    #[must_use]
    pub fn distrusts_shared(&self, cached_at: UnixMillis) -> bool {
        cached_at <= self.known.shared_floor()
    }

    /// Changes with each new revocation: earlier answers of Keycloak may be stale.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The latest event that is worth a line in the log, since the last call.
    pub fn take_notice(&mut self) -> Option<Notice> {
        self.notice.take()
    }

    /// The revocations first learnt here, since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Whether the log was last read too long ago to serve.
    #[must_use]
    pub fn is_behind(&self, now: UnixMillis) -> bool {
        self.looked_at
            .is_none_or(|at| now >= at.plus_ms(LOOK_MS_MAX) || now < at)
    }

    /// Takes note of the time. True if the clock was set back: entries in the worker's memory
    /// then seem to come from the future.
    pub fn watch_clock(&mut self, now: UnixMillis) -> bool {
        if now.plus_ms(MARGIN_MS) >= self.latest {
            self.latest = self.latest.max(now);
            return false;
        }
        // The memory is emptied, so no instant need lie ahead for it. Shared data keeps entries
        // from before the step, which must not count when that time comes again.
        self.known.clamp(now.plus_ms(MARGIN_MS));
        self.known
            .distrust_shared(self.latest.plus_ms(SHARED_YOUNGER_MS));
        self.latest = now;
        self.unshared = true;
        self.learnt(Some(Notice::ClockSetBack));
        true
    }

    /// Reads the log, and learns the revocations of other workers.
    pub fn look(&mut self, now: UnixMillis, store: &mut dyn SharedStore) {
        let first = self.looked_at.replace(now).is_none();
        self.known.forget(now);
        let Some(log) = &mut self.log else {
            return;
        };
        let Some(read) = log.read(store) else {
            self.misses = self.misses.saturating_add(1);
            if first {
                // Nobody can say whether there was a log before. So entries that others cached
                // until now do not count; later readers will find a log.
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
            // It lay in the past when it was written: the clock was set back since.
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

    /// Revokes an owner: the entries that any worker of this node has cached for it are dead.
    /// Holds for this worker in any case, and for the others within a tick if the result is `Ok`.
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

    /// Notes the result of a poll: the changed owners, and how far the changes are known.
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
        // Workers that are not told learn it from Keycloak themselves.
        let _ = self.publish(now, store);
    }

    /// Takes the lease of a poll until an instant. Without shared data each worker polls for
    /// itself.
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
