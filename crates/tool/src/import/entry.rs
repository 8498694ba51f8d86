//! One key of a file, as it stands there, and why a key is refused.

use std::fmt;

use serde::de::{
    Deserialize, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use zeroize::Zeroizing;

/// A key of a file.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The place in the file, for people: `line 7`.
    pub(crate) place: String,
    /// The owner, as the file names it.
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

/// A secret text: wiped at its end, and shown by no message.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    Text(Zeroizing<String>),
    /// A value of another type stands in its place.
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

/// Accepts every type in a key's place, because serde's error would show the value.
struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    // A number in YAML has lost its leading zeros.
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

    // YAML reads an unquoted `{{ … }}` as a map.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Secret::NoText)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Secret, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Secret::NoText)
    }

    // A text with a tag, as `!ENV NAME`: a tool was to replace it.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Secret, A::Error> {
        let (IgnoredAny, value) = tagged.variant()?;
        value.newtype_variant::<IgnoredAny>()?;
        Ok(Secret::NoText)
    }
}
