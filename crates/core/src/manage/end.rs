//! A request's early end: its answer, and the reason for the log.

use super::problem::Problem;
use crate::keycloak::Endpoint;
use crate::rejection::Reason;

/// A request's early end: a refusal or a fault.
#[derive(Debug)]
pub(super) struct End {
    pub(super) problem: Problem,
    /// The reason, for the log.
    pub(super) reason: String,
}

impl End {
    pub(super) fn new(problem: impl Into<Problem>, reason: impl std::fmt::Display) -> Self {
        Self {
            problem: problem.into(),
            reason: reason.to_string(),
        }
    }

    /// Keycloak cannot be asked, or does not answer as it should.
    pub(super) fn unavailable(reason: impl std::fmt::Display) -> Self {
        Self::new(Problem::unavailable(), reason)
    }

    pub(super) fn callout(endpoint: Endpoint, failure: &str) -> Self {
        Self::unavailable(Reason::callout(endpoint, failure))
    }
}
