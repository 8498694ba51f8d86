//! The command line: what can be asked for, and in which bounds.

use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use apikey_jwt_exchange::config::defaults;
use clap::{Args, Parser, Subcommand, ValueEnum};
use zeroize::Zeroizing;

use crate::keycloak_admin::{Credentials, KeycloakAdmin};
use crate::{output, system};

/// Where the administrator's password is taken from, when no file is named.
const PASSWORD_VARIABLE: &str = "KEYCLOAK_ADMIN_PASSWORD";

/// Prepares Keycloak realms for API keys, and makes the keys.
#[derive(Debug, Parser)]
#[command(name = "apikeys", version, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  export KEYCLOAK_ADMIN_PASSWORD=…
  apikeys setup  --keycloak-url https://id.example.com --realm shop --signing-key-file key.pem
  apikeys create --keycloak-url https://id.example.com --realm shop --owner alice --name Laptop

The password is read from KEYCLOAK_ADMIN_PASSWORD or --admin-password-file, never from an
argument, since arguments can be read by every process of the machine.
Exit status: 0 done, 1 failed, 2 wrong usage, 3 changes are pending (setup --dry-run --exit-code).")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prepares a realm: shows what differs from what the gateway needs, and changes that.
    Setup(SetupArgs),
    /// Makes an API key for a user or a service account, and prints it, once.
    Create(CreateArgs),
}

/// Where Keycloak is, and who asks.
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
    /// The administrator. setup takes the roles of realm-admin; create takes manage-users,
    /// view-clients and view-identity-providers (all of client realm-management).
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
    /// A file whose first line is the administrator's password; - is standard input.
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

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  See what would change, without changing it:
    apikeys setup --keycloak-url https://id.example.com --realm shop \\
      --signing-key-file key.pem --dry-run
  Change it; run again at any time, only what differs is touched:
    apikeys setup --keycloak-url https://id.example.com --realm shop --signing-key-file key.pem
  The password from a secret store:
    vault read … | apikeys setup … --admin-password-file -")]
pub(crate) struct SetupArgs {
    /// The gateway's signing key (PEM, PKCS#8, P-256); made, readable by you alone, if it is
    /// not there.
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key_file: PathBuf,
    /// Trust the key of --signing-key-file in place of the one the realm trusts now. Gateways
    /// that sign with the old one are refused from then on.
    #[arg(long)]
    pub(crate) replace_signing_key: bool,
    /// Issuer of the gateway's assertions; Keycloak takes https URLs alone.
    #[arg(long, value_name = "URL", default_value = defaults::ASSERTION_ISSUER,
          value_parser = issuer)]
    pub(crate) assertion_issuer: String,
    /// Show what would change, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// With --dry-run: exit with status 3 when changes are pending.
    #[arg(long, requires = "dry_run")]
    pub(crate) exit_code: bool,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// The names of the gateway's objects in the realm.
#[derive(Debug, Args)]
#[command(next_help_heading = "Names in the realm")]
pub(crate) struct Names {
    /// The gateway's client.
    #[arg(long, value_name = "ID", default_value = defaults::CLIENT_ID, value_parser = object_name)]
    pub(crate) client_id: String,
    /// Alias of the identity provider that stands for the gateway.
    #[arg(long, value_name = "ALIAS", default_value = defaults::IDENTITY_PROVIDER,
          value_parser = object_name)]
    pub(crate) identity_provider: String,
}

/// How the hash of a new key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HashAlgorithm {
    Bcrypt,
    Sha256,
}

/// What the key is printed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// The key alone on standard output, what is known of it on standard error.
    Text,
    /// One JSON object on standard output.
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  A key of alice's for a year:
    apikeys create --keycloak-url https://id.example.com --realm shop --owner alice --name Laptop
  A key of a client's service account, for two scopes, into a file:
    apikeys create … --service-account billing-service --name Nightly \\
      --scopes 'orders:read orders:write' --expires-days 90 --output-file billing.key
  For a script:
    apikeys create … --owner alice --name CI --output json | jq -r .api_key")]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) owner: OwnerArgs,
    /// What the key is for, for people: 1 to 100 characters.
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: String,
    /// Days until the key ends.
    #[arg(long, value_name = "DAYS", default_value_t = 365, conflicts_with = "expires_at",
          value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) expires_days: u32,
    /// When the key ends, as 2027-01-28T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_at: Option<String>,
    /// OAuth scopes of the key's tokens, separated by spaces; without, the gateway's own.
    #[arg(long, value_name = "SCOPES")]
    pub(crate) scopes: Option<String>,
    /// What the key begins with; must be the key_prefix of the gateway's configuration.
    #[arg(long, value_name = "PREFIX", default_value = defaults::KEY_PREFIX)]
    pub(crate) key_prefix: String,
    /// How the key is hashed.
    #[arg(long, value_enum, default_value_t = HashAlgorithm::Bcrypt)]
    pub(crate) hash_algorithm: HashAlgorithm,
    /// bcrypt's cost, 4 to 14: each step doubles the time that a key's first use takes.
    #[arg(long, value_name = "COST", default_value_t = defaults::BCRYPT_COST,
          value_parser = clap::value_parser!(u64).range(4..=14))]
    pub(crate) bcrypt_cost: u64,
    /// Keys that an owner may hold, expired ones included.
    #[arg(long, value_name = "COUNT", default_value_t = defaults::MAX_KEYS_PER_USER,
          value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) max_keys_per_user: u64,
    /// What the key is printed as.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
    /// Write the key to this new file, readable by you alone, and not to standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) output_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Whose key it is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct OwnerArgs {
    /// The owner: a user's name, e-mail address or Keycloak id.
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<String>,
    /// The owner: the service account of this client.
    #[arg(long, value_name = "CLIENT_ID")]
    pub(crate) service_account: Option<String>,
}

/// An absolute http(s) address without what a base address cannot have, and
/// without a slash at its end.
fn base_url(text: &str) -> Result<String> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or_else(|| anyhow!("must begin with https:// or http://"))?;
    let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
    ensure!(!host.is_empty(), "names no host");
    ensure!(
        !host.contains('@'),
        "must hold no user name: see --admin-user"
    );
    ensure!(
        text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['?', '#', '\\']),
        "must be a plain address such as https://id.example.com"
    );
    Ok(text.trim_end_matches('/').to_owned())
}

/// Whether what is sent there cannot be read on the way: https, or this machine.
fn is_private(base_url: &str) -> bool {
    let Some(rest) = base_url.strip_prefix("http://") else {
        return true;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn realm(text: &str) -> Result<String> {
    let realm = admin_realm(text)?;
    if realm == "master" {
        bail!(
            "is Keycloak's realm of administrators: a key of theirs would manage every realm. \
             Use a realm of your own"
        );
    }
    Ok(realm)
}

fn admin_realm(text: &str) -> Result<String> {
    let allowed = !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\\']);
    ensure!(
        allowed && !text.chars().any(char::is_control),
        "is no name of a realm"
    );
    Ok(text.to_owned())
}

fn object_name(text: &str) -> Result<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ensure!(
        (1..=100).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != "..",
        "must be 1 to 100 letters, digits, '-', '_' and '.'"
    );
    Ok(text.to_owned())
}

fn issuer(text: &str) -> Result<String> {
    let host = text.strip_prefix("https://").unwrap_or_default();
    ensure!(
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic()),
        "must be an https URL such as {}: Keycloak takes no other issuer",
        defaults::ASSERTION_ISSUER
    );
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    const CREATE: &[&str] = &[
        "apikeys",
        "create",
        "--keycloak-url",
        "http://127.0.0.1:1/",
        "--realm",
        "demo",
        "--name",
        "n",
    ];

    fn create(extra: &[&str]) -> Result<CreateArgs, clap::Error> {
        match Cli::try_parse_from(CREATE.iter().chain(extra))?.command {
            Command::Create(args) => Ok(args),
            Command::Setup(_) => unreachable!(),
        }
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_defaults_apply() {
        let args = create(&["--owner", "alice"]).unwrap();
        assert_eq!(args.connection.keycloak_url, "http://127.0.0.1:1");
        assert_eq!(args.connection.admin_realm, "master");
        assert_eq!(args.expires_days, 365);
        assert_eq!(args.names.client_id, "api-key-gateway");
        assert_eq!(args.names.identity_provider, "api-keys");
        assert_eq!((args.bcrypt_cost, args.max_keys_per_user), (10, 5));
    }

    #[test]
    fn an_owner_is_named_exactly_once() {
        assert!(create(&[]).is_err());
        assert!(create(&["--owner", "a", "--service-account", "b"]).is_err());
        assert!(create(&["--service-account", "b"]).is_ok());
    }

    #[test]
    fn what_is_out_of_bounds_is_wrong_usage() {
        for extra in [
            ["--bcrypt-cost", "3"],
            ["--bcrypt-cost", "15"],
            ["--expires-days", "0"],
            ["--max-keys-per-user", "0"],
            ["--hash-algorithm", "md5"],
            ["--client-id", "a/b"],
            ["--identity-provider", ".."],
        ] {
            let error = create(&["--owner", "a", extra[0], extra[1]]).unwrap_err();
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::ValueValidation | ErrorKind::InvalidValue
                ),
                "{extra:?}: {error}"
            );
        }
        let both = ["--owner", "a", "--expires-days", "3", "--expires-at", "x"];
        assert_eq!(
            create(&both).unwrap_err().kind(),
            ErrorKind::ArgumentConflict
        );
    }

    #[test]
    fn a_password_is_no_argument() {
        for name in ["--admin-password", "--password"] {
            let error = create(&["--owner", "a", name, "x"]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnknownArgument);
        }
    }

    #[test]
    fn addresses_that_cannot_be_keycloaks_are_refused() {
        for wrong in [
            "",
            "id.example.com",
            "ftp://x",
            "https://",
            "https:///realms",
            "https://a:b@host",
            "https://host?x",
            "https://ho st",
        ] {
            assert!(base_url(wrong).is_err(), "{wrong}");
        }
        assert_eq!(base_url("https://h:1/auth//").unwrap(), "https://h:1/auth");
    }

    #[test]
    fn the_password_is_kept_from_the_open_network() {
        for private in [
            "https://id.example.com",
            "http://127.0.0.1:8080",
            "http://localhost",
            "http://[::1]:8080/a",
        ] {
            assert!(is_private(private), "{private}");
        }
        for open in [
            "http://id.example.com",
            "http://10.0.0.1:8080",
            "http://127.0.0.1.example.com",
        ] {
            assert!(!is_private(open), "{open}");
        }
    }

    #[test]
    fn issuers_that_keycloak_refuses_and_the_master_realm_are_refused_first() {
        assert!(issuer("urn:api-key-gateway").is_err());
        assert!(issuer("http://gateway.example.com").is_err());
        assert!(issuer(defaults::ASSERTION_ISSUER).is_ok());
        assert!(realm("master").is_err());
        assert!(realm("..").is_err());
        assert!(realm("démo 2").is_ok());
    }
}
