//! The fields of mode `manage`: the management API.

use super::fields::signing_key_of;
use super::read::{ConfigError, error};
use super::table::RawConfig;
use super::values::{Mode, SigningKeySource};

/// The configuration of the management API, beside the fields that it shares with the exchange.
#[derive(Debug, Clone)]
pub struct Management {
    /// The client that may write users.
    pub client_id: String,
    /// Its signing key, if it differs from the gateway's.
    pub signing_key: Option<SigningKeySource>,
    /// The realm role that lets a caller act for others.
    pub admin_role: String,
    /// The audience that a caller's token must name.
    pub audience: String,
    /// The origins that browsers may call from (CORS); without any, none may.
    pub cors_origins: Vec<String>,
}

/// Reads the fields of mode `manage`; none in mode `exchange`.
pub(super) fn management(raw: &RawConfig) -> Result<Option<Management>, ConfigError> {
    if raw.mode()? == Mode::Exchange {
        return match raw.first_of_mode_manage() {
            Some(field) => error(field, "belongs to mode \"manage\" alone; remove it"),
            None => Ok(None),
        };
    }
    let Some(audience) = raw.audience()? else {
        return error(
            "audience",
            "is required in mode \"manage\": what the aud of a caller's token must name, as \
             \"account\" for the tokens that Keycloak gives to any client",
        );
    };
    let client_id = raw.management_client_id()?;
    if client_id == raw.client_id()? {
        return error(
            "management_client_id",
            "must be another client than client_id: the gateway's own may change nothing",
        );
    }
    Ok(Some(Management {
        client_id,
        signing_key: signing_key_of(
            raw.management_signing_key()?,
            "management_signing_key",
            raw.management_signing_key_property()?,
            "management_signing_key_property",
        )?,
        admin_role: raw.admin_role()?,
        audience,
        cors_origins: raw.cors_origins()?,
    }))
}
