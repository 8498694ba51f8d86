//! Reasons for which a change is not made.

use super::lock::LOCK_PROVIDER;
use crate::keycloak::ANSWER_BYTES_MAX;
use crate::keycloak::refusal::Refusal;
use crate::manage::owner_keys::EditRefused;

/// Reasons a change was not made. Unless a variant says otherwise, nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The change itself.
    #[error(transparent)]
    Refused(#[from] EditRefused),
    /// There is no such user.
    #[error("the realm has no such user")]
    NoSuchOwner,
    /// The token is not accepted (any more).
    #[error("Keycloak answered 401: the token is not accepted")]
    Unauthorized,
    /// The account lacks a role.
    #[error(
        "Keycloak answered 403: the account lacks the role manage-users of client \
         realm-management; grant it, or run: apikeys setup"
    )]
    Forbidden,
    /// The lock's provider is missing, so nobody could see a lock.
    #[error("the realm has no identity provider {LOCK_PROVIDER}: run apikeys setup")]
    NoLockProvider,
    /// The owner is linked under an id that is not its own.
    #[error(
        "the owner is linked to {0:?} under another id than its own: delete that link (admin \
         console, user, Identity provider links) and find out who made it"
    )]
    ForeignLink(String),
    /// Another user is linked under the owner's id.
    #[error(
        "another user is linked to {0:?} under the owner's id: keys of the one could become \
         tokens of the other. Delete that link and find out who made it"
    )]
    IdLinkedElsewhere(String),
    /// Others held the lock until the wait was over.
    #[error("the owner's keys are being changed by others; try again")]
    Busy,
    /// Keycloak did not carry out a step.
    #[error("{step}: {failure}")]
    Keycloak {
        /// The step.
        step: &'static str,
        /// The fault in its answer.
        failure: String,
    },
    /// Keycloak refuses a step because of the owner's own data: a value that the realm's user
    /// profile does not allow any more, for example. Trying again is of no use.
    #[error("{step}: {refusal}; trying again is of no use until the user is corrected")]
    RefusedByKeycloak {
        /// The refused step.
        step: &'static str,
        /// Keycloak's words.
        refusal: Refusal,
    },
    /// The owner cannot be read, so it cannot be written either.
    #[error(
        "the owner's record is larger than a gateway reads ({} KiB): have less in the user's \
         attributes, or use apikeys, which reads more",
        ANSWER_BYTES_MAX / 1024
    )]
    OwnerUnreadable,
    /// The answer to the write was lost and the write may still take effect, or its result
    /// could not be read.
    #[error(
        "it is not known whether the change was made ({0}): look at the owner's keys before you \
         try again"
    )]
    Unknown(String),
    /// The owner read back differs from the owner written.
    #[error(
        "the owner was written, and is not as it was written: another program changes it at the \
         same time, or the realm's user profile drops what is written (run apikeys setup)"
    )]
    NotAsWritten,
}

impl ChangeError {
    /// The error as a log line may hold it.
    #[must_use]
    pub fn loggable(&self) -> String {
        match self {
            Self::RefusedByKeycloak { step, refusal } => format!("{step}: {}", refusal.loggable()),
            other => other.to_string(),
        }
    }
}
