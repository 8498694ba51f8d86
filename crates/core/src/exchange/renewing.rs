//! Renews the token of a busy key before it ends, while no request waits.
//!
//! A request with a cached token that is due ([`Age::Due`](crate::cache::renewal::Age)) leaves
//! the key's digest and public id here. The root context takes the keys up one after the other,
//! by the same exchange as a request's, without the steps that need the key itself. So no key is
//! stored for it; a key whose stored hash was changed waits for its next request.

use std::collections::{HashSet, VecDeque};

use crate::clock::UnixMillis;
use crate::store::sealed::KeyDigest;

/// Keys that may wait to be renewed.
pub const DUE_MAX: usize = 1024;
/// After a failed renewal, none begins for this long: Keycloak is in trouble.
const PAUSE_MS: u64 = 1000;

/// Keys with a token to renew, in the order of their requests.
#[derive(Debug, Default)]
pub struct Renewing {
    due: VecDeque<Due>,
    waiting: HashSet<KeyDigest>,
    paused_at: Option<UnixMillis>,
}

/// The digest and id of a key with a token to renew.
pub(super) struct Due {
    pub(super) digest: KeyDigest,
    pub(super) key_id: String,
}

impl std::fmt::Debug for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Due")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl Renewing {
    /// Notes that a key's token is due. Ignored when the queue is full: a request then renews the
    /// token.
    pub fn note(&mut self, digest: &KeyDigest, key_id: &str) {
        if self.due.len() < DUE_MAX && self.waiting.insert(*digest) {
            let (digest, key_id) = (*digest, key_id.to_owned());
            self.due.push_back(Due { digest, key_id });
        }
    }

    /// The number of keys that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Whether no key waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Lets no renewal begin for a while.
    pub const fn pause(&mut self, now: UnixMillis) {
        self.paused_at = Some(now);
    }

    /// Takes the next key, unless renewals pause.
    pub(super) fn next(&mut self, now: UnixMillis) -> Option<Due> {
        let paused = self
            .paused_at
            .is_some_and(|at| (at..at.plus_ms(PAUSE_MS)).contains(&now));
        if paused {
            return None;
        }
        let due = self.due.pop_front()?;
        self.waiting.remove(&due.digest);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_waits_once_and_no_more_than_may() {
        let mut renewing = Renewing::default();
        let digest = |number: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            digest
        };
        for number in 0..2 * DUE_MAX {
            renewing.note(&digest(number / 2), "abc123def456");
        }
        assert_eq!(renewing.len(), DUE_MAX);
        renewing.note(&digest(DUE_MAX), "abc123def456");
        assert_eq!(renewing.len(), DUE_MAX);
        let next = renewing.next(UnixMillis(5)).unwrap();
        assert_eq!(next.digest, digest(0));
        renewing.note(&digest(0), "abc123def456");
        assert_eq!(renewing.len(), DUE_MAX);
    }

    #[test]
    fn after_a_failure_none_begins_for_a_second() {
        let mut renewing = Renewing::default();
        renewing.note(&[1; 32], "abc123def456");
        renewing.pause(UnixMillis(5_000));
        assert!(renewing.next(UnixMillis(5_999)).is_none());
        // Set back, a clock holds nothing up.
        assert!(renewing.next(UnixMillis(4_999)).is_some());
        renewing.note(&[1; 32], "abc123def456");
        assert!(renewing.next(UnixMillis(6_000)).is_some());
    }
}
