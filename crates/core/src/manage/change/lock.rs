//! The terms of an owner's lock: its names in Keycloak, and its times.
//!
//! [`super`] says why these times keep two writers apart.

use crate::clock::UnixMillis;

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

/// Whether the holder of a lock or a claim may still begin a step that rests on it.
pub(super) fn is_within_hold(since: UnixMillis, now: UnixMillis) -> bool {
    // After a clock was set back, the age is unknown.
    since <= now && now.since_ms(since) < HOLD_MS
}

/// Whether a lock or a claim is stale, by its holder's text.
pub(super) fn is_stale(text: &str, now: UnixMillis) -> bool {
    now.since_ms(taken_at(text)) >= STALE_MS
}

/// The instant at which a lock or a claim was taken. A text without an instant is not ours; it
/// counts as the oldest, or it would stay for ever.
pub(super) fn taken_at(text: &str) -> UnixMillis {
    text.rsplit_once('@')
        .and_then(|(_, at)| at.parse().ok())
        .map_or(UnixMillis(0), UnixMillis)
}
