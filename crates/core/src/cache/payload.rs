//! The payload of an entry in the host's shared data, as bytes.

use std::sync::Arc;

use crate::api_key::terms::{AllowedAddresses, RateLimit, Terms};
use crate::rejection::Refused;
use crate::store::sealed::Entry;

/// A token in the cache.
#[derive(Clone)]
pub struct CachedToken {
    /// The value of the `Authorization` header.
    pub authorization: Arc<str>,
    /// Keycloak's id of the owner.
    pub owner_id: Arc<str>,
    /// The terms of the key that it was given for.
    pub terms: Arc<Terms>,
}

impl std::fmt::Debug for CachedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedToken")
            .field("owner_id", &self.owner_id)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

/// A refusal in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedRefusal {
    /// Its kind.
    pub refused: Refused,
    /// Keycloak's id of the owner, if the key has one.
    pub owner_id: Option<Arc<str>>,
}

/// Writes the owner's id and the terms in their order, each after its length (two bytes, most
/// significant first), and then the header's value. An empty text stands for a missing term.
pub(super) fn write_token(token: &CachedToken) -> Vec<u8> {
    let Terms {
        name,
        environment,
        labels,
        rate_limit,
        allowed_addresses,
    } = &*token.terms;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut payload = Vec::with_capacity(128 + token.authorization.len());
    push_text(&mut payload, &token.owner_id);
    for text in [
        text(name),
        text(environment),
        text(labels),
        rate_limit
            .map(|limit| limit.to_string())
            .unwrap_or_default(),
        (allowed_addresses.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default(),
    ] {
        push_text(&mut payload, &text);
    }
    payload.extend_from_slice(token.authorization.as_bytes());
    payload
}

fn push_text(payload: &mut Vec<u8>, text: &str) {
    // None is longer than the bounds of its kind. A reader would take a text of length 0 and go
    // astray in the rest, so a longer one makes the whole payload unreadable.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    payload.extend_from_slice(&length.to_be_bytes());
    payload.extend_from_slice(text.as_bytes());
}

/// Takes the next text.
fn take_text<'a>(payload: &mut &'a [u8]) -> Option<&'a str> {
    let (length, rest) = payload.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *payload = rest;
    std::str::from_utf8(text).ok()
}

/// Terms that cannot be read are a miss: the key must not lose its limits.
pub(super) fn read_token(entry: &Entry<&[u8]>) -> Option<Entry<CachedToken>> {
    let mut rest = entry.payload;
    let owner_id = take_text(&mut rest)?;
    let mut text = || Some(Some(take_text(&mut rest)?).filter(|text| !text.is_empty()));
    let words = |text: Option<&str>| text.map(str::to_owned);
    let terms = Terms {
        name: words(text()?),
        environment: words(text()?),
        labels: words(text()?),
        rate_limit: match text()? {
            Some(text) => Some(RateLimit::parse(text)?),
            None => None,
        },
        allowed_addresses: match text()? {
            Some(text) => Some(AllowedAddresses::parse(text)?),
            None => None,
        },
    };
    let payload = CachedToken {
        authorization: std::str::from_utf8(rest).ok()?.into(),
        owner_id: owner_id.into(),
        terms: Arc::new(terms),
    };
    Some(Entry {
        cached_at: entry.cached_at,
        ends_at: entry.ends_at,
        payload,
    })
}

/// One byte for the kind, and the owner's id, if there is one.
pub(super) fn write_refusal(refusal: &CachedRefusal) -> Vec<u8> {
    let kind = match refusal.refused {
        Refused::Unknown => 1,
        Refused::Invalid => 2,
        Refused::Unseen => 3,
    };
    let owner_id = refusal.owner_id.as_deref().unwrap_or_default();
    [&[kind], owner_id.as_bytes()].concat()
}

pub(super) fn read_refusal(entry: &Entry<&[u8]>) -> Option<Entry<CachedRefusal>> {
    let (kind, owner_id) = entry.payload.split_first()?;
    let refused = match kind {
        1 => Refused::Unknown,
        2 => Refused::Invalid,
        3 => Refused::Unseen,
        _ => return None,
    };
    let owner_id = Some(std::str::from_utf8(owner_id).ok()?).filter(|id| !id.is_empty());
    let payload = CachedRefusal {
        refused,
        owner_id: owner_id.map(Into::into),
    };
    Some(Entry {
        cached_at: entry.cached_at,
        ends_at: entry.ends_at,
        payload,
    })
}
