//! The words that each machine and its shell share.
//!
//! A machine decides and does no I/O. It gives an [`Effect`]; the shell has it done and comes
//! back with an [`Event`].

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
    /// It failed; why, as far as the host says.
    Failed(&'a str),
}

impl<'a> Event<'a> {
    /// The end of a wait that no host has to answer.
    pub const TURN: Event<'static> = Event::Answer {
        status: 204,
        body: None,
    };

    /// Status and body.
    ///
    /// # Errors
    /// Why there are none.
    pub const fn answer(self) -> Result<(u16, &'a [u8]), &'a str> {
        match self {
            Self::Answer {
                status,
                body: Some(body),
            } => Ok((status, body)),
            Self::Answer { body: None, .. } => Err("the answer is too large"),
            Self::Failed(why) => Err(why),
        }
    }

    /// The status alone, for which the body may be of any size. None where it failed.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(status),
            Self::Failed(_) => None,
        }
    }
}

impl std::fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Bodies hold tokens.
        match self {
            Self::Answer { status, .. } => write!(f, "Answer({status})"),
            Self::Failed(_) => f.write_str("Failed"),
        }
    }
}

/// What a machine waits for: the shell does it and comes back with its [`Event`].
#[derive(Debug)]
pub enum Effect {
    /// Send this to Keycloak.
    Call {
        /// The request.
        call: Call,
        /// How long to wait for the answer.
        timeout_ms: u64,
    },
    /// Let others have the worker.
    Yield {
        /// None: come back at once. Else about so many milliseconds later.
        wait_ms: Option<u64>,
        /// How long to wait for the turn.
        timeout_ms: u64,
    },
}

impl Effect {
    /// How long to wait for its event.
    #[must_use]
    pub const fn timeout_ms(&self) -> u64 {
        match self {
            Self::Call { timeout_ms, .. } | Self::Yield { timeout_ms, .. } => *timeout_ms,
        }
    }
}
