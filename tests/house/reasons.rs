//! The reasons of the log, one row for each cure, in the order of `docs/troubleshooting.md`.

use apikeys_core::api_key::format::MalformedKey;
use apikeys_core::api_key::hash::UnusableHash;
use apikeys_core::api_key::record::RecordError;
use apikeys_core::api_key::terms::RateLimit;
use apikeys_core::keycloak::Endpoint;
use apikeys_core::keycloak::token::TokenError;
use apikeys_core::keycloak::users::{LookupError, LookupRefusal};
use apikeys_core::rejection::{Reason, Refused, Rejection, Spent};
use test_kit::pattern::matches;

/// Stands in a row for any number.
const NUMBER: u16 = 599;

/// The text of each row, with `…` for the parts that differ from line to line, and the rejections.
pub(crate) fn told() -> Vec<(String, Vec<Rejection>)> {
    let varies = [
        NUMBER.to_string(),
        Endpoint::ServiceToken.to_string(),
        MalformedKey::Length.to_string(),
    ];
    let rows = rows();
    rows.iter().flatten().for_each(has_a_row);
    let told = rows.iter().map(|row| {
        let text = row[0].to_string();
        let text = varies
            .iter()
            .fold(text, |text, part| text.replace(part, "…"));
        for reason in row {
            let line = reason.to_string();
            assert!(matches(&text, &line), "not in the row of {text}: {line}");
        }
        let mut rejections: Vec<_> = row.iter().map(Reason::rejection).collect();
        rejections.dedup();
        (text, rejections)
    });
    told.collect()
}

fn rows() -> Vec<Vec<Reason>> {
    let any = || "…".to_owned();
    let record = |error: RecordError| vec![Reason::Lookup(error.into())];
    let token = |error| {
        let endpoint = Endpoint::ServiceToken;
        Reason::TokenFault { endpoint, error }
    };
    vec![
        vec![Reason::Preflight],
        vec![Reason::NoCredentials],
        vec![Reason::HeaderTwice(any())],
        vec![Reason::TwoCredentials],
        vec![Reason::TooManyHeaders],
        vec![Reason::KeyBeyondReach(any())],
        vec![Reason::KeyElsewhere(any())],
        vec![
            MalformedKey::Length.into(),
            MalformedKey::Character.into(),
            MalformedKey::Shape.into(),
            MalformedKey::Checksum.into(),
        ],
        vec![
            Reason::Remembered(Refused::Unknown),
            Reason::Remembered(Refused::Unseen),
        ],
        vec![Reason::Remembered(Refused::Invalid)],
        vec![Reason::Unknown],
        vec![Reason::Lookup(LookupRefusal::SeveralOwners)],
        record(RecordError::Absent),
        record(RecordError::Twice),
        record(RecordError::NotIndexed),
        record(RecordError::Several),
        record(RecordError::NoExpiry),
        record(RecordError::Date),
        record(RecordError::Scopes),
        record(RecordError::RateLimit),
        record(RecordError::AllowedAddresses),
        record(RecordError::Disabled),
        record(RecordError::Words),
        record(RecordError::Hash(UnusableHash::Scheme)),
        record(RecordError::Hash(UnusableHash::Malformed)),
        record(RecordError::Hash(UnusableHash::Cost(NUMBER.into()))),
        vec![Reason::Expired],
        vec![Reason::Disabled],
        vec![Reason::WrongSecret],
        vec![
            Reason::OwnerRefused("owner disabled"),
            Reason::Lookup(LookupRefusal::OwnerDisabled),
        ],
        vec![Reason::OwnerRefused("owner has a required action")],
        vec![Reason::OwnerRefused("owner unlinked or deleted")],
        vec![Reason::Callout {
            endpoint: Endpoint::ServiceToken,
            failure: any(),
        }],
        vec![Reason::LookupFault(LookupError::Unauthorized)],
        vec![Reason::LookupFault(LookupError::Forbidden)],
        vec![Reason::LookupFault(LookupError::Status(NUMBER))],
        vec![Reason::LookupFault(LookupError::Malformed)],
        vec![token(TokenError::OwnerRefused("…"))],
        vec![token(TokenError::Refused {
            status: NUMBER,
            error: any(),
            description: any(),
        })],
        vec![
            token(TokenError::Unusable {
                status: NUMBER,
                what: "…",
            }),
            token(TokenError::Expired),
        ],
        vec![token(TokenError::TooLarge)],
        vec![token(TokenError::Issuer)],
        vec![Reason::MissingRole],
        vec![Reason::LightweightToken("gateway's")],
        vec![Reason::LightweightToken("management")],
        vec![Reason::MissingManageRole],
        vec![Reason::ForeignSubject],
        vec![Reason::TokenOutlivesKey],
        vec![Reason::Signing],
        vec![Reason::Deadline, Reason::VerificationDeadline],
        vec![Reason::QueueFull],
        vec![Reason::TooManyPending],
        vec![Reason::Throttled],
        vec![Reason::RateLimited(Spent {
            limit: RateLimit {
                requests: NUMBER.into(),
                seconds: NUMBER.into(),
            },
            wait_ms: 1,
        })],
        vec![Reason::AddressNotAllowed],
        vec![Reason::BreakerOpen],
        vec![Reason::TooManyReturn],
        vec![Reason::NoKeyAtHand],
        vec![Reason::TooManyNewKeys],
        vec![Reason::YieldFailed(any())],
    ]
}

/// Does not compile when a reason is added, so that it gets a row above.
fn has_a_row(reason: &Reason) {
    match reason {
        Reason::NoCredentials
        | Reason::Preflight
        | Reason::HeaderTwice(_)
        | Reason::TwoCredentials
        | Reason::TooManyHeaders
        | Reason::KeyElsewhere(_)
        | Reason::KeyBeyondReach(_)
        | Reason::Remembered(Refused::Unknown | Refused::Invalid | Refused::Unseen)
        | Reason::Unknown
        | Reason::Expired
        | Reason::Disabled
        | Reason::RateLimited(_)
        | Reason::AddressNotAllowed
        | Reason::WrongSecret
        | Reason::OwnerRefused(_)
        | Reason::Callout { .. }
        | Reason::MissingRole
        | Reason::LightweightToken(_)
        | Reason::MissingManageRole
        | Reason::ForeignSubject
        | Reason::TokenOutlivesKey
        | Reason::Signing
        | Reason::Deadline
        | Reason::VerificationDeadline
        | Reason::QueueFull
        | Reason::TooManyPending
        | Reason::Throttled
        | Reason::TooManyNewKeys
        | Reason::NoKeyAtHand
        | Reason::BreakerOpen
        | Reason::TooManyReturn
        | Reason::YieldFailed(_)
        | Reason::Malformed(
            MalformedKey::Length
            | MalformedKey::Character
            | MalformedKey::Shape
            | MalformedKey::Checksum,
        )
        | Reason::Lookup(
            LookupRefusal::SeveralOwners
            | LookupRefusal::OwnerDisabled
            | LookupRefusal::Record(
                RecordError::Absent
                | RecordError::Twice
                | RecordError::NotIndexed
                | RecordError::Several
                | RecordError::NoExpiry
                | RecordError::Date
                | RecordError::Scopes
                | RecordError::RateLimit
                | RecordError::AllowedAddresses
                | RecordError::Disabled
                | RecordError::Words
                | RecordError::Hash(
                    UnusableHash::Scheme | UnusableHash::Malformed | UnusableHash::Cost(_),
                ),
            ),
        )
        | Reason::LookupFault(
            LookupError::Unauthorized
            | LookupError::Forbidden
            | LookupError::Status(_)
            | LookupError::Malformed,
        )
        | Reason::TokenFault {
            error:
                TokenError::OwnerRefused(_)
                | TokenError::Refused { .. }
                | TokenError::Unusable { .. }
                | TokenError::TooLarge
                | TokenError::Expired
                | TokenError::Issuer,
            ..
        } => {}
    }
}
