//! When an owner's keys were last used, from Keycloak's own events.

use apikeys_core::keycloak::user_events::LastUses;
use apikeys_core::manage::owner_keys::KeySummary;

use crate::admin_error::AdminError;
use crate::keycloak_admin::KeycloakAdmin;

/// The most pages of an owner's events to read, the latest first: 10,000 exchanges.
const PAGES_MAX: usize = 100;

/// Reads the last uses of these keys of an owner.
pub(crate) fn read(
    admin: &KeycloakAdmin,
    owner_id: &str,
    keys: &[KeySummary],
) -> Result<LastUses, AdminError> {
    let ids = keys.iter().map(|key| key.id.clone());
    let mut uses = LastUses::new(&admin.events_path(), owner_id, ids, PAGES_MAX);
    while let Some(call) = uses.next_call(&admin.bearer()) {
        let (status, body) = admin.send(&call)?;
        uses.read(status, body.as_bytes());
    }
    Ok(uses)
}
