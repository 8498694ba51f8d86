//! The payload of an entry in the host's shared data, as bytes.

use std::sync::Arc;

use crate::rejection::Refused;
use crate::store::sealed::Entry;

/// A token in the cache.
#[derive(Clone)]
pub struct CachedToken {
    /// The value of the `Authorization` header.
    pub authorization: Arc<str>,
    /// Keycloak's id of the owner.
    pub owner_id: Arc<str>,
}

impl std::fmt::Debug for CachedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedToken")
            .field("owner_id", &self.owner_id)
            .finish_non_exhaustive()
    }
}

/// The length of the owner's id (one byte), the id, the header's value.
pub(super) fn write_token(token: &CachedToken) -> Vec<u8> {
    let owner = token.owner_id.as_bytes();
    let mut payload = Vec::with_capacity(1 + owner.len() + token.authorization.len());
    payload.push(u8::try_from(owner.len()).unwrap_or(0));
    payload.extend_from_slice(owner);
    payload.extend_from_slice(token.authorization.as_bytes());
    payload
}

pub(super) fn read_token(entry: &Entry<&[u8]>) -> Option<Entry<CachedToken>> {
    let (&length, rest) = entry.payload.split_first()?;
    let (owner, authorization) = rest.split_at_checked(usize::from(length))?;
    let payload = CachedToken {
        authorization: std::str::from_utf8(authorization).ok()?.into(),
        owner_id: std::str::from_utf8(owner).ok()?.into(),
    };
    Some(Entry {
        cached_at: entry.cached_at,
        ends_at: entry.ends_at,
        payload,
    })
}

pub(super) fn refused_byte(refused: Refused) -> u8 {
    match refused {
        Refused::Unknown => 1,
        Refused::Invalid => 2,
        Refused::Unseen => 3,
    }
}

pub(super) fn read_refused(entry: &Entry<&[u8]>) -> Option<Entry<Refused>> {
    let payload = match entry.payload {
        [1] => Refused::Unknown,
        [2] => Refused::Invalid,
        [3] => Refused::Unseen,
        _ => return None,
    };
    Some(Entry {
        cached_at: entry.cached_at,
        ends_at: entry.ends_at,
        payload,
    })
}
