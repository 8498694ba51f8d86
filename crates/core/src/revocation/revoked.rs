//! What is revoked: an instant for each owner, and floors for all.
//!
//! It only ever grows: to merge two of them is to take the later instant of each, so the
//! order in which news come, and how often, does not matter. It is bounded: where it is
//! full the oldest instant becomes the floor, under which nobody's entry counts.

use std::collections::BTreeMap;

use crate::clock::UnixMillis;

/// What stands for an owner: the first bytes of an HMAC over its id. Two owners with one
/// tag are revoked together, which costs a look-up.
pub type OwnerTag = [u8; 8];

/// Owners that are kept. With all of them the log takes 1.7 KB, which fits into a slab of
/// nginx's smaller than a page.
pub const OWNERS_MAX: usize = 100;
/// No entry is older than this: the longest TTL that a configuration may have, one day,
/// and an hour more.
const ENTRY_MS_MAX: u64 = 90_000_000;

/// How far a node knows what was changed in Keycloak. Instants by the node's clock but
/// for the last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watched {
    /// What was changed before was seen.
    pub polled_at: UnixMillis,
    /// Keycloak was seen to keep no events.
    pub off_at: UnixMillis,
    /// It could not be asked.
    pub failed_at: UnixMillis,
    /// A poll waited for its answer, and that took long.
    pub asked_at: UnixMillis,
    /// The time of the newest event that was seen, by Keycloak's clock; 0 if none was
    /// ever asked for.
    pub newest_event_at: UnixMillis,
}

impl Watched {
    /// When Keycloak answered last, whatever it keeps.
    #[must_use]
    pub fn answered_at(&self) -> UnixMillis {
        self.polled_at.max(self.off_at)
    }

    /// The later of each.
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

/// What is revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    /// How far what was changed is known.
    pub watched: Watched,
    floor: UnixMillis,
    shared_floor: UnixMillis,
    owners: BTreeMap<OwnerTag, UnixMillis>,
    newest: UnixMillis,
}

impl Revoked {
    /// What is kept of a log that was read.
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

    /// Everything cached at this instant or before is dead.
    #[must_use]
    pub const fn floor(&self) -> UnixMillis {
        self.floor
    }

    /// Everything cached at this instant or before is dead that lies in shared data.
    #[must_use]
    pub const fn shared_floor(&self) -> UnixMillis {
        self.shared_floor
    }

    /// The latest instant of all but the shared floor: what was cached later lives.
    #[must_use]
    pub const fn newest(&self) -> UnixMillis {
        self.newest
    }

    /// Everything cached for this owner at this instant or before is dead.
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

    /// Lets nothing count any more that lies in shared data.
    pub fn distrust_shared(&mut self, at: UnixMillis) {
        self.shared_floor = at.max(self.shared_floor);
    }

    /// Adds what another knows; whether anything was new.
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

    /// Whether it holds all that another holds.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.floor >= other.floor
            && self.shared_floor >= other.shared_floor
            && self.watched == self.watched.max(other.watched)
            && other.owners().all(|(owner, at)| {
                at <= self.floor || self.of_owner(owner).is_some_and(|known| at <= known)
            })
    }

    /// Drops what no entry can be older than.
    pub fn forget(&mut self, now: UnixMillis) {
        self.owners.retain(|_, at| at.plus_ms(ENTRY_MS_MAX) >= now);
    }

    /// Takes each instant for `latest` that lies beyond it, but for the shared floor.
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
        // Many with one instant leave together.
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
