//! The revocations: an instant for each owner, and floors for all.
//!
//! They only ever grow. Two sets merge by taking the later instant of each, so the order of the
//! news, and repeated news, do not matter. The set is bounded: when it is full, the oldest
//! instant becomes the floor, and no entry from before the floor counts.

use std::collections::BTreeMap;

use crate::clock::UnixMillis;

/// Stands for an owner: the first bytes of an HMAC over its id. Two owners with one tag are
/// revoked together, at the cost of a look-up.
pub type OwnerTag = [u8; 8];

/// The most owners that are kept. With all of them the log takes 1.7 KB, which fits into an nginx
/// slab smaller than a page.
pub const OWNERS_MAX: usize = 100;
/// No cache entry is older than this: the longest TTL that a configuration may have, one day, and
/// an hour more.
const ENTRY_MS_MAX: u64 = 90_000_000;

/// How far a node knows the changes in Keycloak. All instants are by the node's clock, except the
/// last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watched {
    /// All changes before this are known.
    pub polled_at: UnixMillis,
    /// A poll found that Keycloak keeps no events.
    pub off_at: UnixMillis,
    /// A poll failed.
    pub failed_at: UnixMillis,
    /// A slow poll waited for its answer.
    pub asked_at: UnixMillis,
    /// The time of the newest event, by Keycloak's clock; 0 before the first good poll.
    pub newest_event_at: UnixMillis,
}

impl Watched {
    /// The last answer of Keycloak, whether it keeps events or not.
    #[must_use]
    pub fn answered_at(&self) -> UnixMillis {
        self.polled_at.max(self.off_at)
    }

    /// The later instant of each.
    fn max(self, other: Self) -> Self {
        Self {
            polled_at: self.polled_at.max(other.polled_at),
            off_at: self.off_at.max(other.off_at),
            failed_at: self.failed_at.max(other.failed_at),
            asked_at: self.asked_at.max(other.asked_at),
            newest_event_at: self.newest_event_at.max(other.newest_event_at),
        }
    }
}

/// The revocations of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    /// How far the changes in Keycloak are known.
    pub watched: Watched,
    floor: UnixMillis,
    shared_floor: UnixMillis,
    owners: BTreeMap<OwnerTag, UnixMillis>,
    newest: UnixMillis,
}

impl Revoked {
    /// Builds the set from the content of a log.
    #[must_use]
    pub fn new(
        watched: Watched,
        floor: UnixMillis,
        shared_floor: UnixMillis,
        owners: impl IntoIterator<Item = (OwnerTag, UnixMillis)>,
    ) -> Self {
        let mut revoked = Self {
            watched,
            ..Self::default()
        };
        revoked.revoke_all(floor);
        revoked.distrust_shared(shared_floor);
        for (owner, at) in owners {
            revoked.revoke(owner, at);
        }
        revoked
    }

    /// Entries cached at this instant or before are dead.
    #[must_use]
    pub const fn floor(&self) -> UnixMillis {
        self.floor
    }

    /// Entries in shared data that were cached at this instant or before are dead.
    #[must_use]
    pub const fn shared_floor(&self) -> UnixMillis {
        self.shared_floor
    }

    /// The latest instant, leaving out the shared floor: entries cached later are alive.
    #[must_use]
    pub const fn newest(&self) -> UnixMillis {
        self.newest
    }

    /// Entries cached for this owner at this instant or before are dead.
    #[must_use]
    pub fn of_owner(&self, owner: &OwnerTag) -> Option<UnixMillis> {
        self.owners.get(owner).copied()
    }

    /// The owners, each with its instant.
    pub fn owners(&self) -> impl ExactSizeIterator<Item = (&OwnerTag, UnixMillis)> {
        self.owners.iter().map(|(owner, at)| (owner, *at))
    }

    /// Revokes an owner.
    pub fn revoke(&mut self, owner: OwnerTag, at: UnixMillis) {
        if at <= self.floor {
            return;
        }
        let known = self.owners.entry(owner).or_insert(at);
        *known = at.max(*known);
        self.newest = self.newest.max(at);
        while self.owners.len() > OWNERS_MAX {
            let oldest = self.owners.values().min().copied();
            self.revoke_all(oldest.unwrap_or(self.newest));
        }
    }

    /// Revokes all owners.
    pub fn revoke_all(&mut self, at: UnixMillis) {
        self.floor = at.max(self.floor);
        self.newest = at.max(self.newest);
        let floor = self.floor;
        self.owners.retain(|_, revoked_at| *revoked_at > floor);
    }

    /// Lets no entry in shared data count that was cached at this instant or before.
    pub fn distrust_shared(&mut self, at: UnixMillis) {
        self.shared_floor = at.max(self.shared_floor);
    }

    /// Adds another set; true if it held anything new.
    pub fn merge(&mut self, other: &Self) -> bool {
        let before = self.clone();
        self.revoke_all(other.floor);
        self.distrust_shared(other.shared_floor);
        self.watched = self.watched.max(other.watched);
        for (owner, at) in other.owners() {
            self.revoke(*owner, at);
        }
        *self != before
    }

    /// Whether this set holds all of another.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.floor >= other.floor
            && self.shared_floor >= other.shared_floor
            && self.watched == self.watched.max(other.watched)
            && other.owners().all(|(owner, at)| {
                at <= self.floor || self.of_owner(owner).is_some_and(|known| at <= known)
            })
    }

    /// Drops instants that are older than any entry can be.
    pub fn forget(&mut self, now: UnixMillis) {
        self.owners.retain(|_, at| at.plus_ms(ENTRY_MS_MAX) >= now);
    }

    /// Moves each instant beyond `latest` back to it, except the shared floor.
    pub fn clamp(&mut self, latest: UnixMillis) {
        self.floor = self.floor.min(latest);
        self.newest = self.newest.min(latest);
        let watched = &mut self.watched;
        for at in [
            &mut watched.polled_at,
            &mut watched.off_at,
            &mut watched.failed_at,
            &mut watched.asked_at,
        ] {
            *at = latest.min(*at);
        }
        for at in self.owners.values_mut() {
            *at = latest.min(*at);
        }
        let floor = self.floor;
        self.owners.retain(|_, at| *at > floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + ms)
    }

    fn owner(number: u64) -> OwnerTag {
        number.to_be_bytes()
    }

    #[test]
    fn the_later_instant_counts_in_whichever_order_they_come() {
        let (mut one, mut other) = (Revoked::default(), Revoked::default());
        for ms in [1, 3, 2] {
            one.revoke(owner(1), at(ms));
        }
        for ms in [3, 2, 1, 3] {
            other.revoke(owner(1), at(ms));
        }
        assert_eq!(one, other);
        assert_eq!(one.of_owner(&owner(1)), Some(at(3)));
        other.revoke_all(at(2));
        assert!(one.merge(&other) && !one.merge(&other));
        assert!(one.covers(&other) && other.covers(&one));
        assert_eq!((one.floor(), one.newest()), (at(2), at(3)));
        one.revoke_all(at(3));
        assert_eq!((one.floor(), one.owners().len()), (at(3), 0));
        assert!(one.covers(&other) && !other.covers(&one));
        one.revoke(owner(1), at(3));
        assert_eq!(one.owners().len(), 0);
    }

    #[test]
    fn where_it_is_full_the_oldest_instant_becomes_the_floor() {
        let mut revoked = Revoked::default();
        for number in 0..100 {
            revoked.revoke(owner(number), at(1000 - number));
        }
        assert_eq!(
            (revoked.floor(), revoked.owners().len()),
            (UnixMillis(0), 100)
        );
        revoked.revoke(owner(100), at(2000));
        assert_eq!((revoked.floor(), revoked.owners().len()), (at(901), 100));
        assert_eq!(revoked.of_owner(&owner(99)), None);
        assert_eq!(revoked.of_owner(&owner(98)), Some(at(902)));
        // Owners with the same instant leave together.
        let same = (0..101).map(|number| (owner(number), at(5)));
        let full = Revoked::new(Watched::default(), at(0), at(0), same);
        assert_eq!((full.floor(), full.owners().len()), (at(5), 0));
    }

    #[test]
    fn an_owner_is_kept_for_as_long_as_any_entry() {
        let mut revoked = Revoked::default();
        revoked.revoke(owner(1), at(0));
        revoked.forget(at(90_000_000));
        assert_eq!(revoked.owners().len(), 1);
        revoked.forget(at(90_000_001));
        assert_eq!(revoked.owners().len(), 0);
    }

    #[test]
    fn an_instant_that_is_yet_to_come_counts_as_now() {
        let owners = [(owner(1), at(9)), (owner(2), at(4))];
        let watched = Watched {
            polled_at: at(9),
            off_at: at(8),
            failed_at: at(1),
            asked_at: at(7),
            newest_event_at: at(99),
        };
        let mut revoked = Revoked::new(watched, at(3), at(50), owners);
        revoked.clamp(at(5));
        assert_eq!(revoked.of_owner(&owner(1)), Some(at(5)));
        assert_eq!(revoked.of_owner(&owner(2)), Some(at(4)));
        assert_eq!((revoked.newest(), revoked.shared_floor()), (at(5), at(50)));
        let clamped = Watched {
            polled_at: at(5),
            off_at: at(5),
            asked_at: at(5),
            ..watched
        };
        assert_eq!(revoked.watched, clamped);
        revoked.clamp(at(2));
        assert_eq!((revoked.floor(), revoked.newest()), (at(2), at(2)));
        assert_eq!(revoked.owners().len(), 0);
    }
}
