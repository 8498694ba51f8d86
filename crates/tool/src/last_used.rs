//! When keys were last used, from Keycloak's own events.
//!
//! Each exchange is a `JWT_AUTHORIZATION_GRANT` event of the owner, and its
//! `client_assertion_id` begins with the key's id. Between exchanges the gateway serves a key
//! from its cache, so the time is exact to `cache_ttl_seconds`.

use std::collections::BTreeMap;

use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::user_events::{EVENTS_PER_PAGE, exchanges_call, read_exchanges};

use crate::admin_error::AdminError;
use crate::keycloak_admin::KeycloakAdmin;
use crate::summary::LastUsed;

/// The most pages of an owner's events to read, the latest first.
const PAGES_MAX: usize = 10;

/// Reads when the keys of this owner were last used; `None` if the administrator may not
/// read events.
pub(crate) fn read(admin: &KeycloakAdmin, owner_id: &str) -> Result<LastUsed, AdminError> {
    let mut used: BTreeMap<String, UnixMillis> = BTreeMap::new();
    for page in 0..PAGES_MAX {
        let call = exchanges_call(&admin.events_path(), owner_id, page, &admin.bearer());
        let (status, body) = admin.send(&call)?;
        let Some((exchanges, events)) = read_exchanges(status, body.as_bytes()) else {
            return Ok(None);
        };
        for seen in exchanges {
            let latest = used.entry(seen.key_id).or_insert(seen.at);
            *latest = seen.at.max(*latest);
        }
        if events < EVENTS_PER_PAGE {
            break;
        }
    }
    Ok(Some(used))
}
