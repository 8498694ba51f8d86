//! Arguments: Keycloak's address, the administrator, and the names of the gateway's objects.

use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use apikeys_core::config::defaults;
use clap::Args;
use zeroize::Zeroizing;

use super::values::{admin_realm, base_url, is_private, object_name, realm};
use crate::keycloak_admin::{Credentials, KeycloakAdmin};
use crate::{output, system};

/// The variable of the administrator's password, read when no file is named.
const PASSWORD_VARIABLE: &str = "KEYCLOAK_ADMIN_PASSWORD";

/// Keycloak's address and the administrator.
#[derive(Debug, Args)]
#[command(next_help_heading = "Keycloak")]
pub(crate) struct Connection {
    /// Keycloak's address, as https://id.example.com or with a path below it.
    #[arg(long, value_name = "URL", env = "KEYCLOAK_URL", value_parser = base_url)]
    pub(crate) keycloak_url: String,
    /// The realm that the owners of keys belong to.
    #[arg(long, value_name = "REALM", env = "KEYCLOAK_REALM", value_parser = realm)]
    pub(crate) realm: String,
    /// The realm that the administrator belongs to.
    #[arg(long, value_name = "REALM", default_value = "master", value_parser = admin_realm)]
    pub(crate) admin_realm: String,
    /// The administrator. Roles of client realm-management that suffice: realm-admin to set up;
    /// view-users to look (view-events for the last use), manage-users to revoke, and
    /// view-identity-providers and view-clients too for all else that writes; doctor takes
    /// the four that view.
    #[arg(
        long,
        value_name = "USER",
        env = "KEYCLOAK_ADMIN_USER",
        default_value = "admin"
    )]
    pub(crate) admin_user: String,
    /// The client that the administrator signs in by; it must allow direct access grants.
    #[arg(long, value_name = "ID", default_value = "admin-cli")]
    pub(crate) admin_client_id: String,
    /// A file with the administrator's password as its first line; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_password_file: Option<PathBuf>,
    /// Certificates (PEM) to trust for Keycloak in place of the public authorities'.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}

impl Connection {
    /// Signs in to Keycloak.
    pub(crate) fn sign_in(&self) -> Result<KeycloakAdmin> {
        if !is_private(&self.keycloak_url) {
            output::warning(&format!(
                "{} is not https: the administrator's password crosses the network in the clear",
                self.keycloak_url
            ));
        }
        let ca = match &self.ca_file {
            None => None,
            Some(path) => Some(
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
            ),
        };
        let credentials = Credentials {
            realm: self.admin_realm.clone(),
            client_id: self.admin_client_id.clone(),
            username: self.admin_user.clone(),
            password: self.password()?,
        };
        let admin =
            KeycloakAdmin::sign_in(&self.keycloak_url, &self.realm, credentials, ca.as_deref())?;
        Ok(admin)
    }

    fn password(&self) -> Result<Zeroizing<String>> {
        let text = match &self.admin_password_file {
            None => std::env::var(PASSWORD_VARIABLE)
                .map(Zeroizing::new)
                .map_err(|_| {
                    anyhow!(
                        "no password for {:?}: set {PASSWORD_VARIABLE}, or give \
                         --admin-password-file FILE (- for standard input)",
                        self.admin_user
                    )
                })?,
            Some(path) if path.as_os_str() == "-" => system::read_text(io::stdin())
                .context("cannot read the password from standard input")?,
            Some(path) => std::fs::File::open(path)
                .and_then(system::read_text)
                .with_context(|| format!("cannot read {}", path.display()))?,
        };
        let password = text.lines().next().unwrap_or_default();
        ensure!(
            !password.is_empty(),
            "the administrator's password is empty"
        );
        Ok(Zeroizing::new(password.to_owned()))
    }
}

/// The names of the gateway's objects in the realm.
#[derive(Debug, Args)]
#[command(next_help_heading = "Names in the realm")]
pub(crate) struct Names {
    /// The gateway's client.
    #[arg(long, value_name = "ID", default_value = defaults::CLIENT_ID, value_parser = object_name)]
    pub(crate) client_id: String,
    /// The client that the management API works by.
    #[arg(long, value_name = "ID", default_value = defaults::MANAGEMENT_CLIENT_ID,
          value_parser = object_name)]
    pub(crate) management_client_id: String,
    /// Alias of the identity provider that stands for the gateway.
    #[arg(long, value_name = "ALIAS", default_value = defaults::IDENTITY_PROVIDER,
          value_parser = object_name)]
    pub(crate) identity_provider: String,
}
