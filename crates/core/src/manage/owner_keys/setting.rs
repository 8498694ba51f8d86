//! The settings of a key: the values that can be changed while it lives.

use crate::api_key::record::{Attributes, Field};
use crate::api_key::terms::{AllowedAddresses, RateLimit};

/// A setting with its new value; none takes it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Its name for people.
    Name(String),
    /// The limit of its requests.
    RateLimit(Option<RateLimit>),
    /// The networks that it may come from.
    AllowedAddresses(Option<AllowedAddresses>),
    /// Whether it is switched off.
    Disabled(bool),
    /// Free text for the place of its use.
    Environment(Option<String>),
    /// Free text.
    Labels(Option<String>),
}

/// The fields that a rotation gives to the new key as they are.
pub(super) const INHERITED: [Field; 4] = [
    Field::RateLimit,
    Field::AllowedAddresses,
    Field::Environment,
    Field::Labels,
];

impl Setting {
    /// Its name in the management API.
    #[must_use]
    pub const fn member(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::RateLimit(_) => "rate_limit",
            Self::AllowedAddresses(_) => "allowed_addresses",
            Self::Disabled(_) => "disabled",
            Self::Environment(_) => "environment",
            Self::Labels(_) => "labels",
        }
    }

    /// Stores it at the key `id`; tells whether that changed anything.
    pub(super) fn store(&self, attributes: &mut Attributes, id: &str) -> bool {
        let (field, value) = match self {
            Self::Name(name) => (Field::Name, Some(name.clone())),
            Self::RateLimit(limit) => (Field::RateLimit, limit.map(|limit| limit.to_string())),
            Self::AllowedAddresses(allowed) => (
                Field::AllowedAddresses,
                allowed.as_ref().map(ToString::to_string),
            ),
            Self::Disabled(disabled) => (Field::Disabled, disabled.then(|| "true".to_owned())),
            Self::Environment(text) => (Field::Environment, text.clone()),
            Self::Labels(text) => (Field::Labels, text.clone()),
        };
        let name = field.attribute(id);
        let values = Vec::from_iter(value);
        let before = if values.is_empty() {
            attributes.remove(&name)
        } else {
            attributes.insert(name, values.clone())
        };
        before.unwrap_or_default() != values
    }
}
