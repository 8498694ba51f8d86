//! One key of a file, as it stands there, and why one is refused.

use std::fmt;

use serde::de::{
    Deserialize, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use zeroize::Zeroizing;

/// A key of a file.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Where it stands, for people: `line 7`.
    pub(crate) place: String,
    /// Whose it is, as the file calls the owner.
    pub(crate) owner: String,
    pub(crate) key: Secret,
    pub(crate) name: Option<String>,
    pub(crate) expires_at: Option<String>,
    pub(crate) scopes: Option<String>,
}

/// A key that is not imported. It never holds the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) place: String,
    pub(crate) owner: Option<String>,
    pub(crate) reason: String,
}

impl Refused {
    pub(crate) fn new(place: &str, owner: Option<&str>, reason: impl Into<String>) -> Self {
        Self {
            place: place.to_owned(),
            owner: owner.map(str::to_owned),
            reason: reason.into(),
        }
    }
}

/// A text that is wiped, and that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    Text(Zeroizing<String>),
    /// Something else than a text stands in its place.
    NoText,
}

impl Secret {
    pub(crate) fn new(text: &str) -> Self {
        Self::Text(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

/// Takes what can stand for a key without an error, which would show it.
struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    // A number in YAML: its leading zeros are gone.
    fn visit_u64<E>(self, _: u64) -> Result<Secret, E> {
        Ok(Secret::NoText)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Secret, E> {
        Ok(Secret::NoText)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Secret, E> {
        Ok(Secret::NoText)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Secret, E> {
        Ok(Secret::NoText)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Secret, E> {
        Ok(Secret::NoText)
    }

    fn visit_unit<E>(self) -> Result<Secret, E> {
        Ok(Secret::NoText)
    }

    // YAML reads an unquoted `{{ … }}` so.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Secret::NoText)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Secret, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Secret::NoText)
    }

    // A text with a tag, as `!ENV NAME`: an order to put something else in its place.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Secret, A::Error> {
        let (IgnoredAny, value) = tagged.variant()?;
        value.newtype_variant::<IgnoredAny>()?;
        Ok(Secret::NoText)
    }
}
