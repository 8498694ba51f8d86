//! How an exchange ends that gets no token.

use crate::keycloak::{Endpoint, loggable};
use crate::rejection::{Reason, Refused};

/// An exchange's end other than with a token.
pub(super) enum End {
    Refused {
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
            reason,
            remember: Some(Refused::Invalid),
        }
    }

    /// The request is refused, and nothing is remembered of the key.
    pub(super) fn refused(reason: Reason) -> Self {
        Self::Refused {
            reason,
            remember: None,
        }
    }

    pub(super) fn callout(endpoint: Endpoint, failure: &str) -> Self {
        Self::refused(Reason::Callout {
            endpoint,
            failure: loggable(failure),
        })
    }
}
