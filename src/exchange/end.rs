//! How an exchange ends that gets no token.

use crate::keycloak::Endpoint;
use crate::rejection::Refused;
use crate::rejection::{Reason, Rejection};

/// An exchange's end other than with a token.
pub(super) enum End {
    Refused {
        rejection: Rejection,
        reason: Reason,
        /// To be remembered of the key.
        remember: Option<Refused>,
    },
    Fallback,
}

impl End {
    /// The key is no good, and will not be for a while.
    pub(super) fn invalid(reason: Reason) -> Self {
        Self::Refused {
            rejection: Rejection::InvalidApiKey,
            reason,
            remember: Some(Refused::Invalid),
        }
    }

    /// The request is refused, and nothing is remembered of the key.
    pub(super) fn refused(rejection: Rejection, reason: Reason) -> Self {
        Self::Refused {
            rejection,
            reason,
            remember: None,
        }
    }

    /// Nothing can be said of the key now.
    pub(super) fn unavailable(reason: Reason) -> Self {
        Self::refused(Rejection::IdentityProviderUnavailable, reason)
    }

    /// There is no room for the key now.
    pub(super) fn overloaded(reason: Reason) -> Self {
        Self::refused(Rejection::Overloaded, reason)
    }

    pub(super) fn callout(endpoint: Endpoint, failure: &str) -> Self {
        Self::unavailable(Reason::callout(endpoint, failure))
    }
}
