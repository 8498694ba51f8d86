//! What the log and the metrics may know of an exchange.

use super::{Exchange, State};

impl Exchange {
    /// The id of the key, for the log; it is public. None where no key was read.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Keycloak's id of the key's owner, for the log. None where that was not learnt.
    #[must_use]
    pub fn owner_id(&self) -> Option<&str> {
        self.owner_id.as_deref()
    }

    /// Whether a verification is being computed, in slices.
    #[must_use]
    pub const fn is_verifying(&self) -> bool {
        matches!(self.state, State::Verifying { .. })
    }
}
