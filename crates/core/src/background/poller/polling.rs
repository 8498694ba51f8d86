//! The state of polling, in words for the log.

use std::fmt;

use crate::keycloak::admin_events::EventsError;
use crate::rejection::Reason;

/// The state of polling; the log tells each change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Polling {
    /// Changes are seen.
    Good,
    /// Changes are seen, except events that cannot be read, for this reason.
    Unread(String),
    /// The realm keeps no events.
    Off,
    /// Keycloak cannot be asked.
    Failing(PollError),
}

impl fmt::Display for Polling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str(
                "admin events are polled: what is revoked is refused within \
                 revocation_poll_seconds and a second",
            ),
            Self::Unread(why) => write!(
                f,
                "admin events are polled, and not all of them can be read: {why}; what was \
                 cached was dropped for everybody. With adminEventsDetailsEnabled an event is as \
                 large as what was changed: turn it off in the realm, or have less in one user"
            ),
            Self::Off => f.write_str(
                "the realm keeps no admin events: what is revoked is refused only after \
                 cache_ttl_seconds; turn them on in the realm's settings, or run: apikeys setup",
            ),
            Self::Failing(error) => write!(
                f,
                "admin events cannot be polled: {error}; what is revoked may be in use for \
                 cache_ttl_seconds, and after five minutes of this for a minute",
            ),
        }
    }
}

/// The reason for a poll without result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PollError {
    /// There is no service token.
    #[error("{0}")]
    Token(Box<Reason>),
    /// The call was not answered.
    #[error("{0}")]
    Call(String),
    /// The answer was not the expected one.
    #[error("{0}")]
    Events(#[from] EventsError),
}
