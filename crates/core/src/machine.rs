//! The vocabulary that each machine and its shell share.
//!
//! A machine decides and does no I/O. It gives an [`Effect`]; the shell performs it and comes
//! back with an [`Event`].

use crate::api_key::hash::BcryptJob;
use crate::clock::UnixMillis;
use crate::keycloak::Call;

/// The outcome of the latest [`Effect`].
#[derive(Clone, Copy)]
pub enum Event<'a> {
    /// It was answered.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The body; none if it is larger than
        /// [`ANSWER_BYTES_MAX`](crate::keycloak::ANSWER_BYTES_MAX).
        body: Option<&'a [u8]>,
    },
    /// The computation has ended. `true`: the key matches the hash.
    Computed(bool),
    /// It failed, for this reason, as far as the host gives one.
    Failed(&'a str),
}

impl<'a> Event<'a> {
    /// The end of a wait that needs no answer from a host.
    pub const TURN: Event<'static> = Event::Answer {
        status: 204,
        body: None,
    };

    /// Status and body.
    ///
    /// # Errors
    /// The reason why there are none.
    pub const fn answer(self) -> Result<(u16, &'a [u8]), &'a str> {
        match self {
            Self::Answer {
                status,
                body: Some(body),
            } => Ok((status, body)),
            Self::Answer { body: None, .. } => Err("the answer is too large"),
            Self::Computed(_) => Err("a computation instead of an answer"),
            Self::Failed(why) => Err(why),
        }
    }

    /// The status alone; the body may be of any size. None for a failed call.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(status),
            Self::Computed(_) | Self::Failed(_) => None,
        }
    }
}

impl std::fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Bodies hold tokens.
        match self {
            Self::Answer { status, .. } => write!(f, "Answer({status})"),
            Self::Computed(_) => f.write_str("Computed"),
            Self::Failed(_) => f.write_str("Failed"),
        }
    }
}

/// The effect that a machine waits for: the shell performs it and comes back with its [`Event`].
#[derive(Debug)]
pub enum Effect {
    /// Send this to Keycloak.
    Call {
        /// The request.
        call: Call,
        /// How long to wait for the answer.
        timeout_ms: u64,
    },
    /// Yield to other requests.
    Yield {
        /// The wait in milliseconds, roughly; none comes back at once.
        wait_ms: Option<u64>,
        /// How long to wait for the end of the yield.
        timeout_ms: u64,
    },
    /// Run this bcrypt to its end on another thread. Only a shell with a gate of
    /// [`Gate::apart`](crate::exchange::gate::Gate::apart) gets this effect.
    Compute {
        /// The verification.
        job: Box<BcryptJob>,
        /// The longest wait for its end.
        timeout_ms: u64,
    },
}

impl Effect {
    /// How long to wait for its event.
    #[must_use]
    pub const fn timeout_ms(&self) -> u64 {
        match self {
            Self::Call { timeout_ms, .. }
            | Self::Yield { timeout_ms, .. }
            | Self::Compute { timeout_ms, .. } => *timeout_ms,
        }
    }
}

/// How long something may take, by a clock that may be set back.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    started_at: UnixMillis,
    at: UnixMillis,
    seen_at: UnixMillis,
}

impl Deadline {
    /// A deadline at this instant, for a job that starts now.
    #[must_use]
    pub const fn new(at: UnixMillis, now: UnixMillis) -> Self {
        Self {
            started_at: now,
            at,
            seen_at: now,
        }
    }

    /// A deadline this many milliseconds from now.
    #[must_use]
    pub const fn after_ms(milliseconds: u64, now: UnixMillis) -> Self {
        Self::new(now.plus_ms(milliseconds), now)
    }

    /// When it started.
    #[must_use]
    pub const fn started_at(&self) -> UnixMillis {
        self.started_at
    }

    /// When it must be over.
    #[must_use]
    pub const fn at(&self) -> UnixMillis {
        self.at
    }

    /// Milliseconds until then.
    #[must_use]
    pub const fn left_ms(&self, now: UnixMillis) -> u64 {
        self.at.since_ms(now)
    }

    /// Whether the clock was set back to before the start: the duration so far is then unknown.
    #[must_use]
    pub fn is_ahead_of(&self, now: UnixMillis) -> bool {
        now < self.started_at
    }

    /// Moves it to a later instant; never to an earlier.
    pub fn extend(&mut self, at: UnixMillis) {
        self.at = self.at.max(at);
    }

    /// Moves the deadline along with a clock that was set back since the last look, so that no
    /// wait gets longer. Gives the milliseconds, for other instants that must move as well.
    pub const fn follow(&mut self, now: UnixMillis) -> u64 {
        let back_ms = self.seen_at.since_ms(now);
        self.at = self.at.minus_ms(back_ms);
        self.started_at = self.started_at.minus_ms(back_ms);
        self.seen_at = now;
        back_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_moves_with_a_clock_that_is_set_back_and_no_other() {
        let at = UnixMillis;
        let mut deadline = Deadline::after_ms(500, at(10_000));
        assert_eq!(
            (deadline.follow(at(10_100)), deadline.left_ms(at(10_100))),
            (0, 400)
        );
        assert_eq!(
            (deadline.follow(at(7_100)), deadline.left_ms(at(7_100))),
            (3_000, 400)
        );
        assert_eq!(deadline.started_at(), at(7_000));
        assert_eq!(
            (deadline.follow(at(8_000)), deadline.left_ms(at(8_000))),
            (0, 0)
        );
        deadline.extend(at(7_200));
        assert_eq!(deadline.at(), at(7_500));
        deadline.extend(at(9_000));
        assert_eq!(deadline.at(), at(9_000));
        assert!(deadline.is_ahead_of(at(6_999)) && !deadline.is_ahead_of(at(7_000)));
    }

    #[test]
    fn an_answer_without_its_body_has_a_status_alone() {
        let too_large = Event::Answer {
            status: 200,
            body: None,
        };
        assert_eq!(too_large.answer(), Err("the answer is too large"));
        assert_eq!(too_large.status(), Some(200));
        let failed = Event::Failed("reset");
        assert_eq!((failed.answer(), failed.status()), (Err("reset"), None));
    }
}
