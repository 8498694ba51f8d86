//! Refusals of the management API, as its callers see them.
//!
//! The format is the exchange's (RFC 9457). Each refusal has a `code` that programs can rely on
//! and a `detail` for people. A detail repeats nothing of the request but the names of its
//! members, and holds no secret.

use std::borrow::Cow;

use serde_json::json;

use super::change::ChangeError;
use super::owner_keys::EditRefused;
use crate::keycloak::loggable;
use crate::rejection::{Rejection, Spent};

/// A refusal: its kind and its detail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The kind.
    pub code: Code,
    /// The fault and its remedy, for people; the kind's title where it is empty.
    pub detail: Cow<'static, str>,
}

/// The kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// No token was sent.
    MissingCredentials,
    /// The token is not accepted here.
    InvalidToken,
    /// The caller may not do this.
    Forbidden,
    /// There is nothing at this path.
    NotFound,
    /// The owner has no such key.
    KeyNotFound,
    /// The realm has no such user.
    UserNotFound,
    /// The path exists, but does not take this method.
    MethodNotAllowed(&'static str),
    /// The request's body or query is not valid.
    InvalidRequest,
    /// The request does not tell the length of its body.
    LengthRequired,
    /// The body is too large.
    PayloadTooLarge,
    /// The body is not JSON.
    UnsupportedMediaType,
    /// A scope that the gateway's tokens cannot have.
    InvalidScope,
    /// The owner holds as many keys as it may.
    KeyLimitReached,
    /// The key cannot be rotated: it has a replacement already.
    KeyRotating,
    /// The key cannot be rotated: it is switched off.
    KeyDisabled,
    /// The key cannot be rotated: it has ended, or its record is broken.
    KeyEnded,
    /// The owner cannot be given a key.
    OwnerNotEligible,
    /// Keycloak refuses to write the owner, or its record is too large to be read.
    OwnerRecordUnusable,
    /// The owner's keys are being changed by others.
    Busy,
    /// Nobody knows whether the change was made.
    OutcomeUnknown,
    /// A rejection of the exchange.
    Exchange(Rejection),
}

impl Code {
    /// All codes, with one method and one rejection in place of all.
    pub const ALL: [Self; 26] = [
        Self::MissingCredentials,
        Self::InvalidToken,
        Self::Forbidden,
        Self::NotFound,
        Self::KeyNotFound,
        Self::UserNotFound,
        Self::MethodNotAllowed("GET"),
        Self::InvalidRequest,
        Self::LengthRequired,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidScope,
        Self::KeyLimitReached,
        Self::KeyRotating,
        Self::KeyDisabled,
        Self::KeyEnded,
        Self::OwnerNotEligible,
        Self::OwnerRecordUnusable,
        Self::Busy,
        Self::OutcomeUnknown,
        Self::Exchange(Rejection::InvalidApiKey),
        Self::Exchange(Rejection::Throttled),
        Self::Exchange(Rejection::IdentityProviderUnavailable),
        Self::Exchange(Rejection::Overloaded),
        Self::Exchange(Rejection::RateLimited(Spent::ANY)),
        Self::Exchange(Rejection::AddressNotAllowed),
    ];

    /// The `code` member of the body.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::MissingCredentials => "missing_credentials",
            Self::InvalidToken => "invalid_token",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::KeyNotFound => "key_not_found",
            Self::UserNotFound => "user_not_found",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::InvalidRequest => "invalid_request",
            Self::LengthRequired => "length_required",
            Self::PayloadTooLarge => "payload_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::InvalidScope => "invalid_scope",
            Self::KeyLimitReached => "key_limit_reached",
            Self::KeyRotating => "key_rotating",
            Self::KeyDisabled => "key_disabled",
            Self::KeyEnded => "key_ended",
            Self::OwnerNotEligible => "owner_not_eligible",
            Self::OwnerRecordUnusable => "owner_record_unusable",
            Self::Busy => "busy",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Exchange(rejection) => rejection.code(),
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::MissingCredentials | Self::InvalidToken => 401,
            Self::Forbidden => 403,
            Self::NotFound | Self::KeyNotFound | Self::UserNotFound => 404,
            Self::MethodNotAllowed(_) => 405,
            Self::InvalidRequest | Self::InvalidScope => 400,
            Self::LengthRequired => 411,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::KeyLimitReached
            | Self::KeyRotating
            | Self::KeyDisabled
            | Self::KeyEnded
            | Self::OwnerNotEligible
            | Self::OwnerRecordUnusable => 409,
            Self::Busy | Self::OutcomeUnknown => 503,
            Self::Exchange(rejection) => rejection.status(),
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::MissingCredentials => "The request carries no token",
            Self::InvalidToken => "The token is not valid here",
            Self::Forbidden => "The caller may not do this",
            Self::NotFound => "There is nothing at this path",
            Self::KeyNotFound => "The owner has no such key",
            Self::UserNotFound => "The realm has no such user",
            Self::MethodNotAllowed(_) => "The path does not take this method",
            Self::InvalidRequest => "The request is not what it should be",
            Self::LengthRequired => "The request does not say how long its body is",
            Self::PayloadTooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The body is not application/json",
            Self::InvalidScope => "A scope does not exist for API keys",
            Self::KeyLimitReached => "The owner holds as many keys as it may",
            Self::KeyRotating => "The key has a replacement already",
            Self::KeyDisabled => "The key is disabled",
            Self::KeyEnded => "The key has ended",
            Self::OwnerNotEligible => "The owner cannot be given a key",
            Self::OwnerRecordUnusable => "The owner's record cannot be read or written",
            Self::Busy => "The owner's keys are being changed by others",
            Self::OutcomeUnknown => "It is not known whether the change was made",
            Self::Exchange(rejection) => rejection.title(),
        }
    }

    /// Seconds for `Retry-After`, if another try can help.
    fn retry_after_seconds(self) -> Option<u32> {
        match self {
            Self::Busy => Some(2),
            Self::OutcomeUnknown => Some(60),
            Self::Exchange(rejection) => rejection.retry_after_seconds(),
            _ => None,
        }
    }
}

impl Problem {
    /// A refusal with a detail.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }

    /// Keycloak cannot be asked, or gives a bad answer; only the log holds the details.
    #[must_use]
    pub fn unavailable() -> Self {
        Code::Exchange(Rejection::IdentityProviderUnavailable).into()
    }

    /// The owner cannot be written or read.
    fn record_unusable(error: &ChangeError) -> Self {
        let detail = format!(
            "{} Nothing was changed: an administrator has to correct the user. DELETE of \
             /api/v1/api-keys?all=true ends all keys of the owner without it.",
            of_the_record(error)
        );
        Self::new(Code::OwnerRecordUnusable, detail)
    }

    /// A request with too many headers to look through.
    #[must_use]
    pub fn too_many_headers() -> Self {
        Self::new(Code::InvalidRequest, "There are too many headers.")
    }

    /// The headers of the answer, `cache-control` not among them.
    #[must_use]
    pub fn headers(&self, realm: &str) -> Vec<(&'static str, String)> {
        let mut headers = vec![("content-type", "application/problem+json".to_owned())];
        match self.code {
            // RFC 6750, 3: no error code where nothing was sent.
            Code::MissingCredentials => {
                headers.push(("www-authenticate", format!("Bearer realm=\"{realm}\"")));
            }
            Code::InvalidToken => headers.push((
                "www-authenticate",
                format!("Bearer realm=\"{realm}\", error=\"invalid_token\""),
            )),
            // RFC 9110, 15.5.2: a challenge with every 401.
            code if code.status() == 401 => {
                headers.push(("www-authenticate", format!("ApiKey realm=\"{realm}\"")));
            }
            Code::MethodNotAllowed(allow) => headers.push(("allow", allow.to_owned())),
            _ => {}
        }
        if let Some(seconds) = self.code.retry_after_seconds() {
            headers.push(("retry-after", seconds.to_string()));
        }
        if let Code::Exchange(Rejection::RateLimited(spent)) = self.code {
            headers.extend(spent.headers());
        }
        headers
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self, request_id: &str) -> String {
        let code = self.code;
        let mut body = json!({
            "type": format!("urn:api-key-gateway:problem:{}", code.word()),
            "title": code.title(),
            "status": code.status(),
            "code": code.word(),
            "request_id": request_id,
        });
        if let (Some(members), false) = (body.as_object_mut(), self.detail.is_empty()) {
            members.insert("detail".to_owned(), json!(self.detail));
        }
        body.to_string()
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code, "")
    }
}

impl From<&ChangeError> for Problem {
    fn from(error: &ChangeError) -> Self {
        match error {
            ChangeError::Refused(refused) => (*refused).into(),
            ChangeError::NoSuchOwner => Code::UserNotFound.into(),
            ChangeError::Busy => Self::new(
                Code::Busy,
                "Nothing was changed. Another change of the same owner's keys is under way, or \
                 one was cut off within the last minute.",
            ),
            ChangeError::Unknown(_) | ChangeError::NotAsWritten => {
                Self::new(Code::OutcomeUnknown, "List the keys before you try again.")
            }
            ChangeError::RefusedByKeycloak { .. } | ChangeError::OwnerUnreadable => {
                Self::record_unusable(error)
            }
            // All these are for the operator of the gateway: the log tells them apart.
            ChangeError::Unauthorized
            | ChangeError::Forbidden
            | ChangeError::NoLockProvider
            | ChangeError::ForeignLink(_)
            | ChangeError::IdLinkedElsewhere(_)
            | ChangeError::Keycloak { .. } => Self::unavailable(),
        }
    }
}

/// The reason that an owner's record cannot be written, for callers. It names attributes; their
/// values and Keycloak's words are for the log.
pub(super) fn of_the_record(error: &ChangeError) -> String {
    match error {
        ChangeError::RefusedByKeycloak { refusal, .. } => {
            let fields: Vec<String> = refusal.fields().into_iter().map(loggable).collect();
            match fields.as_slice() {
                [] => "Keycloak refuses to write the owner.".to_owned(),
                fields => format!(
                    "Keycloak refuses to write the owner because of: {}.",
                    fields.join(", ")
                ),
            }
        }
        ChangeError::OwnerUnreadable => {
            "The owner has more in its attributes than a gateway reads.".to_owned()
        }
        _ => "The owner could not be read or written.".to_owned(),
    }
}

impl From<EditRefused> for Problem {
    fn from(refused: EditRefused) -> Self {
        let code = match refused {
            EditRefused::TooMany { .. } => Code::KeyLimitReached,
            EditRefused::NoSuchKey => return Code::KeyNotFound.into(),
            EditRefused::AlreadyRotating => Code::KeyRotating,
            EditRefused::Disabled => Code::KeyDisabled,
            EditRefused::Expired | EditRefused::Unusable(_) | EditRefused::EndsBeforeItBegins => {
                Code::KeyEnded
            }
            EditRefused::OwnerDisabled
            | EditRefused::Unlinked
            | EditRefused::OwnerTooLarge
            | EditRefused::OwnerNotFound
            | EditRefused::GatewayAccount => Code::OwnerNotEligible,
            // A chance of 1 in 2^62; trying again makes another.
            EditRefused::IdTaken => Code::Busy,
        };
        Self::new(code, refused.to_string())
    }
}
