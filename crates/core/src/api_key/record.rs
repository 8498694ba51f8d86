//! The record of a key in Keycloak, on the user or service account that owns it.
//!
//! The names and the form of `apiKeys` come from the decision record on which the project is
//! based, so that records of other tools can be read. Administrators, tools and bugs write to an
//! owner in Keycloak: so each value is checked before it is believed, and a broken record is a
//! refusal.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hash::{StoredHash, UnusableHash};
use super::terms::{
    AllowedAddresses, LABELS_CHARS_MAX, NAME_CHARS_MAX, RateLimit, Terms, is_printable,
};
use crate::clock::UnixMillis;

/// The multivalued attribute that holds `key:<id>:<hash>` for each key.
pub const KEYS_ATTRIBUTE: &str = "apiKeys";
/// The multivalued attribute by which a key is found.
pub const INDEX_ATTRIBUTE: &str = "apiKeyIndex";
/// Characters of an index value: over 255, so that Keycloak's hash index on long
/// attribute values serves the search instead of a scan.
pub const INDEX_LENGTH: usize = 288;

/// A user's attributes, as Keycloak gives them: each name with its values.
pub type Attributes = BTreeMap<String, Vec<String>>;

/// A fact stored beside a key's hash, each under an attribute of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// A name for people.
    Name,
    /// When it was made; RFC 3339.
    Created,
    /// When it ends; RFC 3339.
    ExpiresAt,
    /// The OAuth scopes of its tokens, separated by spaces.
    Scopes,
    /// When a rotated key ends, if that is sooner; RFC 3339.
    GraceUntil,
    /// The id of the key that replaces a rotated one.
    ReplacedBy,
    /// The limit of its requests: [`RateLimit`].
    RateLimit,
    /// The networks that it may come from: [`AllowedAddresses`].
    AllowedAddresses,
    /// `true`: the key is switched off.
    Disabled,
    /// Free text for the place of its use.
    Environment,
    /// Free text.
    Labels,
}

impl Field {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Name,
        Self::Created,
        Self::ExpiresAt,
        Self::Scopes,
        Self::GraceUntil,
        Self::ReplacedBy,
        Self::RateLimit,
        Self::AllowedAddresses,
        Self::Disabled,
        Self::Environment,
        Self::Labels,
    ];

    /// The name of the attribute for this key, as `apiKey_<id>_expiresAt`.
    #[must_use]
    pub fn attribute(self, id: &str) -> String {
        let field = match self {
            Self::Name => "name",
            Self::Created => "created",
            Self::ExpiresAt => "expiresAt",
            Self::Scopes => "scopes",
            Self::GraceUntil => "graceUntil",
            Self::ReplacedBy => "replacedBy",
            Self::RateLimit => "rateLimit",
            Self::AllowedAddresses => "allowedAddresses",
            Self::Disabled => "disabled",
            Self::Environment => "environment",
            Self::Labels => "labels",
        };
        format!("apiKey_{id}_{field}")
    }
}

/// The value by which a key is found: its id, padded with dots.
#[must_use]
pub fn index_value(id: &str) -> String {
    format!("{id:.<INDEX_LENGTH$}")
}

/// The value of `apiKeys` for one key.
#[must_use]
pub fn key_value(id: &str, hash: &str) -> String {
    format!("key:{id}:{hash}")
}

/// A key's record, read and in bounds.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The hash, to verify against.
    pub hash: StoredHash,
    /// The hash as it is stored: a verification is remembered for this exact text.
    pub hash_text: String,
    /// The end of the key's life: the earlier of its expiry and its grace.
    pub ends_at: UnixMillis,
    /// The scopes of its tokens; none means the configured ones.
    pub scopes: Option<String>,
    /// It is switched off.
    pub disabled: bool,
    /// Its limit, its networks and its labels.
    pub terms: Arc<Terms>,
}

impl std::fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The text of the hash stays out.
        f.debug_struct("KeyRecord")
            .field("hash", &self.hash)
            .field("ends_at", &self.ends_at)
            .field("scopes", &self.scopes)
            .field("disabled", &self.disabled)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl KeyRecord {
    /// Finds the record of the key `id` among an owner's attributes.
    ///
    /// # Errors
    /// [`RecordError`]: no such record, or one that cannot be trusted.
    pub fn find(attributes: &Attributes, id: &str) -> Result<Self, RecordError> {
        let mut found = attributes
            .get(KEYS_ATTRIBUTE)
            .into_iter()
            .flatten()
            .filter_map(|value| {
                let (stored_id, hash) = value.strip_prefix("key:")?.split_once(':')?;
                (stored_id == id).then_some(hash)
            });
        let hash_text = found.next().ok_or(RecordError::Absent)?;
        if found.next().is_some() {
            return Err(RecordError::Twice);
        }
        let indexed = attributes.get(INDEX_ATTRIBUTE).into_iter().flatten();
        let index = index_value(id);
        if !indexed.into_iter().any(|value| *value == index) {
            return Err(RecordError::NotIndexed);
        }
        let one = |field: Field| single(attributes, &field.attribute(id));
        let instant = |field: Field| -> Result<Option<UnixMillis>, RecordError> {
            one(field)?
                .map(|text| UnixMillis::parse_rfc3339(text).map_err(|_| RecordError::Date))
                .transpose()
        };
        let expires_at = instant(Field::ExpiresAt)?.ok_or(RecordError::NoExpiry)?;
        let grace_until = instant(Field::GraceUntil)?.unwrap_or(expires_at);
        let scopes = one(Field::Scopes)?
            .map(|text| owned_if(is_scope(text), text).ok_or(RecordError::Scopes))
            .transpose()?;
        let disabled = match one(Field::Disabled)? {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(RecordError::Disabled),
        };
        Ok(Self {
            hash: StoredHash::parse(hash_text)?,
            hash_text: hash_text.to_owned(),
            ends_at: expires_at.min(grace_until),
            scopes,
            disabled,
            terms: Arc::new(terms(attributes, id)?),
        })
    }
}

/// Reads the terms of the key `id`.
fn terms(attributes: &Attributes, id: &str) -> Result<Terms, RecordError> {
    let one = |field: Field| single(attributes, &field.attribute(id));
    let words = |field: Field, chars_max| {
        one(field)?
            .map(|text| owned_if(is_printable(text, chars_max), text).ok_or(RecordError::Words))
            .transpose()
    };
    // A name decides nothing, and another tool may have stored any text.
    let name = one(Field::Name).ok().flatten();
    Ok(Terms {
        name: name.and_then(|name| owned_if(is_printable(name, NAME_CHARS_MAX), name)),
        environment: words(Field::Environment, NAME_CHARS_MAX)?,
        labels: words(Field::Labels, LABELS_CHARS_MAX)?,
        rate_limit: one(Field::RateLimit)?
            .map(|text| RateLimit::parse(text).ok_or(RecordError::RateLimit))
            .transpose()?,
        allowed_addresses: one(Field::AllowedAddresses)?
            .map(|text| AllowedAddresses::parse(text).ok_or(RecordError::AllowedAddresses))
            .transpose()?,
    })
}

fn owned_if(holds: bool, text: &str) -> Option<String> {
    holds.then(|| text.to_owned())
}

/// The one value of an attribute that has one value, if it is there.
fn single<'a>(attributes: &'a Attributes, name: &str) -> Result<Option<&'a str>, RecordError> {
    match attributes.get(name).map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([value]) => Ok(Some(value)),
        Some(_) => Err(RecordError::Several),
    }
}

/// Whether the text is a list of scopes (RFC 6749, 3.3): visible ASCII but `"`
/// and `\`, with single spaces between.
#[must_use]
pub fn is_scope(text: &str) -> bool {
    text.len() <= 1024
        && text.split(' ').all(|scope| {
            !scope.is_empty()
                && scope
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
        })
}

/// The reason why a record is not used. The client is told none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The owner holds no key of this id.
    #[error("the owner holds no key of this id")]
    Absent,
    /// The owner holds two keys of this id.
    #[error("the owner holds two keys of this id")]
    Twice,
    /// The owner's index does not name this very id.
    #[error("the owner's index does not name this id")]
    NotIndexed,
    /// An attribute that should have one value has several.
    #[error("an attribute of the key has several values")]
    Several,
    /// No end is stored.
    #[error("the key has no expiresAt")]
    NoExpiry,
    /// A date is not RFC 3339.
    #[error("a date of the key is not RFC 3339")]
    Date,
    /// The scopes are not a list of scopes.
    #[error("the key's scopes are malformed")]
    Scopes,
    /// The rate limit is not two numbers in bounds.
    #[error("the key's rateLimit is not <requests>/<seconds> in bounds")]
    RateLimit,
    /// The networks cannot be read.
    #[error("the key's allowedAddresses are not 1 to 16 networks with single spaces between")]
    AllowedAddresses,
    /// The switch is neither on nor off.
    #[error("the key's disabled is neither true nor false")]
    Disabled,
    /// The environment or the labels are too long, or hold invisible characters.
    #[error("the key's environment or labels are too long or not printable")]
    Words,
    /// The hash cannot be verified against.
    #[error(transparent)]
    Hash(#[from] UnusableHash),
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "abc123def456";

    fn owner() -> Attributes {
        let hash = format!("$2b$10${}", ".".repeat(53));
        [
            (
                KEYS_ATTRIBUTE.into(),
                vec!["key:zzz999zzz999:$2x$".into(), key_value(ID, &hash)],
            ),
            (
                INDEX_ATTRIBUTE.into(),
                vec![index_value("zzz999zzz999"), index_value(ID)],
            ),
            (
                Field::ExpiresAt.attribute(ID),
                vec!["2026-01-28T00:00:00Z".into()],
            ),
            (Field::Name.attribute(ID), vec!["Production".into()]),
        ]
        .into()
    }

    fn with(name: String, values: &[&str]) -> Attributes {
        let mut attributes = owner();
        attributes.insert(name, values.iter().map(|&value| value.to_owned()).collect());
        attributes
    }

    #[test]
    fn finds_the_record_of_that_very_id() {
        let record = KeyRecord::find(&owner(), ID).unwrap();
        assert_eq!(record.hash.rounds(), 1024);
        assert_eq!(record.ends_at.to_rfc3339(), "2026-01-28T00:00:00Z");
        assert_eq!(record.scopes, None);
        for other in ["abc123def45", "ABC123DEF456", "abc123def4567", ""] {
            assert_eq!(
                KeyRecord::find(&owner(), other),
                Err(RecordError::Absent),
                "{other}"
            );
        }
    }

    #[test]
    fn the_index_value_is_longer_than_what_keycloak_scans() {
        assert_eq!(index_value(ID).len(), 288);
        assert!(index_value(ID).starts_with("abc123def456..."));
    }

    #[test]
    fn a_rotated_key_ends_at_the_earlier_of_grace_and_expiry() {
        let grace = |at: &str| {
            let owner = with(Field::GraceUntil.attribute(ID), &[at]);
            KeyRecord::find(&owner, ID).unwrap().ends_at.to_rfc3339()
        };
        assert_eq!(grace("2026-01-01T00:00:00Z"), "2026-01-01T00:00:00Z");
        assert_eq!(grace("2027-01-01T00:00:00Z"), "2026-01-28T00:00:00Z");
    }

    #[test]
    fn refuses_records_that_cannot_be_trusted() {
        let hash = format!("$2b$10${}", ".".repeat(53));
        let twice = [key_value(ID, &hash), key_value(ID, &hash)];
        let (first, second) = (twice[0].as_str(), twice[1].as_str());
        let upper = index_value(ID).to_uppercase();
        let cases = [
            (
                with(KEYS_ATTRIBUTE.into(), &[first, second]),
                RecordError::Twice,
            ),
            (with(KEYS_ATTRIBUTE.into(), &[]), RecordError::Absent),
            (with(INDEX_ATTRIBUTE.into(), &[ID]), RecordError::NotIndexed),
            (
                with(INDEX_ATTRIBUTE.into(), &[&upper]),
                RecordError::NotIndexed,
            ),
            (
                with(Field::ExpiresAt.attribute(ID), &[]),
                RecordError::NoExpiry,
            ),
            (
                with(Field::ExpiresAt.attribute(ID), &["never"]),
                RecordError::Date,
            ),
            (
                with(Field::ExpiresAt.attribute(ID), &["a", "b"]),
                RecordError::Several,
            ),
            (
                with(Field::GraceUntil.attribute(ID), &["soon"]),
                RecordError::Date,
            ),
            (
                with(Field::Scopes.attribute(ID), &["a  b"]),
                RecordError::Scopes,
            ),
            (
                with(Field::Scopes.attribute(ID), &["a\"b"]),
                RecordError::Scopes,
            ),
            (
                with(Field::RateLimit.attribute(ID), &["many"]),
                RecordError::RateLimit,
            ),
            (
                with(
                    Field::AllowedAddresses.attribute(ID),
                    &["10.0.0.0/8", "::1"],
                ),
                RecordError::Several,
            ),
            (
                with(Field::AllowedAddresses.attribute(ID), &["anywhere"]),
                RecordError::AllowedAddresses,
            ),
            (
                with(Field::Disabled.attribute(ID), &["yes"]),
                RecordError::Disabled,
            ),
            (
                with(Field::Labels.attribute(ID), &["a\nb"]),
                RecordError::Words,
            ),
            (
                with(KEYS_ATTRIBUTE.into(), &["key:abc123def456:$1$md5"]),
                UnusableHash::Scheme.into(),
            ),
        ];
        for (attributes, reason) in cases {
            assert_eq!(KeyRecord::find(&attributes, ID), Err(reason));
        }
    }

    #[test]
    fn terms_are_read_and_none_of_them_is_needed() {
        let mut owner = owner();
        let named = Terms {
            name: Some("Production".into()),
            ..Terms::default()
        };
        let record = KeyRecord::find(&owner, ID).unwrap();
        assert_eq!((&*record.terms, record.disabled), (&named, false));
        for (field, value) in [
            (Field::RateLimit, "100/60"),
            (Field::AllowedAddresses, "10.0.0.0/8 ::1/128"),
            (Field::Disabled, "true"),
            (Field::Environment, "live"),
            (Field::Labels, "team=pay"),
        ] {
            owner.insert(field.attribute(ID), vec![value.into()]);
        }
        let record = KeyRecord::find(&owner, ID).unwrap();
        assert!(record.disabled);
        let terms = Terms {
            environment: Some("live".into()),
            labels: Some("team=pay".into()),
            rate_limit: RateLimit::parse("100/60"),
            allowed_addresses: AllowedAddresses::parse("10.0.0.0/8 ::1/128"),
            ..named
        };
        assert_eq!(*record.terms, terms);
        owner.insert(Field::Disabled.attribute(ID), vec!["false".into()]);
        assert!(!KeyRecord::find(&owner, ID).unwrap().disabled);
    }

    #[test]
    fn a_name_of_another_tool_refuses_no_key() {
        for names in [&["a", "b"][..], &["a\nb"][..]] {
            let owner = with(Field::Name.attribute(ID), names);
            let record = KeyRecord::find(&owner, ID).unwrap();
            assert_eq!(record.terms.name, None);
        }
    }

    #[test]
    fn scopes_are_given_on_as_stored() {
        let owner = with(Field::Scopes.attribute(ID), &["orders:read profile"]);
        let record = KeyRecord::find(&owner, ID).unwrap();
        assert_eq!(record.scopes.as_deref(), Some("orders:read profile"));
    }
}
