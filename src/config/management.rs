//! The fields of mode `manage`: the management API.

use super::fields::{RawConfig, signing_key_of};
use super::read::{ConfigError, error, name_or, one_of, required};
use super::{SigningKeySource, defaults};

/// What the management API is configured by, beside what it shares with the exchange.
#[derive(Debug, Clone)]
pub struct Management {
    /// The client that may write users.
    pub client_id: String,
    /// Its key, if that is another than the gateway's.
    pub signing_key: Option<SigningKeySource>,
    /// The realm role that lets a caller act for others.
    pub admin_role: String,
    /// The audience that a caller's token must name.
    pub audience: String,
    /// The origins that browsers may call from (CORS); without any, none may.
    pub cors_origins: Vec<String>,
}

/// Reads the fields of mode `manage`; none in mode `exchange`, which has none of them.
pub(super) fn management(raw: &RawConfig) -> Result<Option<Management>, ConfigError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mode {
        Exchange,
        Manage,
    }
    let modes = [("exchange", Mode::Exchange), ("manage", Mode::Manage)];
    if one_of(raw.mode.as_ref(), "mode", &modes)? == Mode::Exchange {
        for (field, value) in [
            ("admin_role", &raw.admin_role),
            ("audience", &raw.audience),
            ("cors_origins", &raw.cors_origins),
            ("management_client_id", &raw.management_client_id),
            ("management_signing_key", &raw.management_signing_key),
            (
                "management_signing_key_property",
                &raw.management_signing_key_property,
            ),
        ] {
            if value.is_some() {
                return error(field, "belongs to mode \"manage\" alone; remove it");
            }
        }
        return Ok(None);
    }
    let audience = match required(raw.audience.as_ref(), "audience") {
        Ok(audience) => audience,
        Err(_) if raw.audience.is_none() => {
            return error(
                "audience",
                "is required in mode \"manage\": what the aud of a caller's token must name, as \
                 \"account\" for the tokens that Keycloak gives to any client",
            );
        }
        Err(fault) => return Err(fault),
    };
    let client_id = name_or(
        raw.management_client_id.as_ref(),
        "management_client_id",
        defaults::MANAGEMENT_CLIENT_ID,
    )?;
    if client_id == name_or(raw.client_id.as_ref(), "client_id", defaults::CLIENT_ID)? {
        return error(
            "management_client_id",
            "must be another client than client_id: the gateway's own may change nothing",
        );
    }
    Ok(Some(Management {
        client_id,
        signing_key: signing_key_of(
            raw.management_signing_key.as_ref(),
            "management_signing_key",
            raw.management_signing_key_property.as_ref(),
            "management_signing_key_property",
        )?,
        admin_role: name_or(raw.admin_role.as_ref(), "admin_role", defaults::ADMIN_ROLE)?,
        audience,
        cors_origins: cors_origins(raw)?,
    }))
}

fn cors_origins(raw: &RawConfig) -> Result<Vec<String>, ConfigError> {
    const ORIGINS: &str = "must be a list of 1 to 16 origins, each once, as \
                           [\"https://console.example.com\"]; there is no wildcard";
    let Some(value) = &raw.cors_origins else {
        return Ok(Vec::new());
    };
    let listed = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut origins: Vec<String> = Vec::with_capacity(listed.len());
    for origin in listed {
        let origin = origin.as_str().unwrap_or_default();
        if !is_origin(origin) || origins.iter().any(|known| known == origin) {
            return error("cors_origins", ORIGINS);
        }
        origins.push(origin.to_owned());
    }
    if (1..=16).contains(&origins.len()) {
        Ok(origins)
    } else {
        error("cors_origins", ORIGINS)
    }
}

/// Whether a text is an origin as browsers write it (RFC 6454, 6.2): scheme, host in
/// lower case and perhaps a port.
fn is_origin(text: &str) -> bool {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or_default();
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b);
    (1..=255).contains(&host.len()) && host.bytes().all(allowed)
}
