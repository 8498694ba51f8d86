//! The configuration of the service: one YAML or JSON file.
//!
//! An exchange has the filter's fields, and the core reads them. This module fills in the fields that
//! only a gateway needs: the service has its own addresses of Keycloak, and reads the signing key from
//! a file.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use apikeys_core::config::Config;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// The filter's fields for signing keys. The service refuses them: it reads keys from files.
const KEY_FIELDS: [&str; 4] = [
    "signing_key",
    "signing_key_property",
    "management_signing_key",
    "management_signing_key_property",
];
const NAME_BYTES_MAX: usize = 64;

/// Headers that cannot carry a key: the answers use them, or HTTP needs them.
const TAKEN_HEADERS: [&str; 6] = [
    "apikeys-key-id",
    "apikeys-owner-id",
    "apikeys-problem",
    "content-type",
    "date",
    "expect",
];

/// The file, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "default_listen")]
    listen: Vec<String>,
    #[serde(default)]
    listen_grpc: Vec<String>,
    #[serde(default)]
    listen_management: Vec<String>,
    #[serde(default = "default_listen_operations")]
    listen_operations: Vec<String>,
    signing_key_file: PathBuf,
    management_signing_key_file: Option<PathBuf>,
    #[serde(default)]
    keycloak_addresses: Vec<String>,
    keycloak_ca_file: Option<PathBuf>,
    #[serde(default)]
    removes_headers: bool,
    #[serde(default, deserialize_with = "trusted_hops")]
    trusted_hops: u8,
    exchange: Option<Map<String, Value>>,
    exchanges: Option<BTreeMap<String, Map<String, Value>>>,
    management: Option<Map<String, Value>>,
}

fn default_listen() -> Vec<String> {
    vec!["127.0.0.1:8181".to_owned()]
}

fn default_listen_operations() -> Vec<String> {
    vec!["127.0.0.1:8182".to_owned()]
}

/// Reads the field. Serde's own fault would not name it.
fn trusted_hops<'de, D: Deserializer<'de>>(value: D) -> Result<u8, D::Error> {
    let number = u8::deserialize(value);
    number.map_err(|_| D::Error::custom("trusted_hops: must be a whole number from 0 to 255"))
}

/// A valid configuration.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) listen: Vec<Address>,
    pub(crate) listen_grpc: Vec<Address>,
    pub(crate) listen_management: Vec<Address>,
    pub(crate) listen_operations: Vec<Address>,
    pub(crate) signing_key_file: PathBuf,
    pub(crate) management_signing_key_file: PathBuf,
    pub(crate) keycloak_ca_file: Option<PathBuf>,
    /// The gateways remove each header that an answer names.
    pub(crate) removes_headers: bool,
    /// The load balancers before the gateways that add an entry to `X-Forwarded-For` each, as in Envoy's
    /// `xff_num_trusted_hops`; see [`crate::request::forwarded_for`].
    pub(crate) trusted_hops: usize,
    pub(crate) exchanges: Exchanges,
    pub(crate) management: Option<Target>,
}

/// The exchanges, and how requests choose one.
#[derive(Debug)]
pub(crate) enum Exchanges {
    /// One, without a name.
    One(Target),
    /// Several, by name.
    Named(BTreeMap<String, Target>),
}

/// One exchange's configuration, and the addresses of its Keycloak.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) config: Arc<Config>,
    /// Base URLs without a path: `https://host:port`.
    pub(crate) keycloak: Vec<String>,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Settings {
    /// Reads a file. Relative paths in it start at the file's folder.
    ///
    /// # Errors
    /// The first fault, with its field. No message repeats a value of an exchange.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).with_context(|| path.display().to_string())
    }

    fn parse(text: &str, folder: &Path) -> Result<Self> {
        // Parsing into a YAML value first refuses duplicate fields.
        let value: serde_norway::Value = serde_norway::from_str(text)
            .map_err(|fault| anyhow::anyhow!("is neither YAML nor JSON{}", place(&fault)))?;
        let written: Written = serde_norway::from_value(value)?;
        let at = |path: PathBuf| -> Result<PathBuf> {
            let is_key = path.to_string_lossy().contains("-----");
            ensure!(!is_key, "give the path of a file, not the key itself");
            Ok(folder.join(path))
        };
        let keycloak = |fields: &Map<String, Value>| -> Result<Vec<String>> {
            match written.keycloak_addresses.as_slice() {
                [] => Ok(vec![keycloak_of(fields)?]),
                given => given.iter().map(|url| base_url(url)).collect(),
            }
        };
        let target = |name: &str, mut fields: Map<String, Value>| -> Result<Target> {
            let read = || -> Result<Target> {
                let keycloak = keycloak(&fields)?;
                fill_in(&mut fields)?;
                let config = Config::from_json(Value::Object(fields).to_string().as_bytes())?;
                let taken = |name: &&String| TAKEN_HEADERS.contains(&name.as_str());
                if let Some(name) = config.headers.iter().find(taken) {
                    bail!("headers: {name} cannot carry a key here; choose another name");
                }
                let config = Arc::new(config);
                Ok(Target { config, keycloak })
            };
            read().with_context(|| name.to_owned())
        };
        let exchanges = match (written.exchange, written.exchanges) {
            (Some(fields), None) => Exchanges::One(target("exchange", fields)?),
            (None, Some(named)) if !named.is_empty() => {
                let mut exchanges = BTreeMap::new();
                for (name, fields) in named {
                    check_name(&name)?;
                    let target = target(&format!("exchanges.{name}"), fields)?;
                    exchanges.insert(name, target);
                }
                Exchanges::Named(exchanges)
            }
            _ => bail!("give either exchange, or exchanges with at least one"),
        };
        let each = match &exchanges {
            Exchanges::One(target) => vec![target],
            Exchanges::Named(named) => named.values().collect(),
        };
        ensure!(
            each.iter().all(|target| target.config.management.is_none()),
            "mode manage belongs under management"
        );
        let management = written.management.map(|mut fields| {
            fields
                .entry("mode")
                .or_insert_with(|| Value::from("manage"));
            target("management", fields)
        });
        let management = management.transpose()?;
        if let Some(target) = &management {
            ensure!(
                target.config.management.is_some(),
                "management: mode must be manage"
            );
        }
        if management.is_some() && each.iter().any(|target| target.config.l2_slots == 0) {
            bail!(
                "l2_slots: must not be 0 in an exchange beside management: it would miss its revocations"
            );
        }
        let listen_management = addresses(&written.listen_management, folder)?;
        ensure!(
            listen_management.is_empty() == management.is_none(),
            "listen_management and management belong together: give both, or none"
        );
        let signing_key_file = at(written.signing_key_file).context("signing_key_file")?;
        let management_signing_key_file = written.management_signing_key_file.map(at).transpose();
        let management_signing_key_file =
            management_signing_key_file.context("management_signing_key_file")?;
        let listen = addresses(&written.listen, folder)?;
        let listen_grpc = addresses(&written.listen_grpc, folder)?;
        let listen_operations = addresses(&written.listen_operations, folder)?;
        ensure!(
            !(listen.is_empty() && listen_grpc.is_empty()),
            "listen and listen_grpc are empty: no gateway could reach an exchange"
        );
        let all = [
            &listen,
            &listen_grpc,
            &listen_management,
            &listen_operations,
        ];
        let all: Vec<&Address> = all.into_iter().flatten().collect();
        for (at, address) in all.iter().enumerate() {
            ensure!(
                !all.iter().take(at).any(|known| known == address),
                "{address} is given twice"
            );
        }
        Ok(Self {
            listen,
            listen_grpc,
            listen_management,
            listen_operations,
            management_signing_key_file: management_signing_key_file
                .unwrap_or_else(|| signing_key_file.clone()),
            signing_key_file,
            keycloak_ca_file: written.keycloak_ca_file.map(at).transpose()?,
            removes_headers: written.removes_headers,
            trusted_hops: written.trusted_hops.into(),
            exchanges,
            management,
        })
    }
}

/// The line and column of a fault. The parser's own message may repeat a secret.
fn place(fault: &serde_norway::Error) -> String {
    let place = fault.location();
    place.map_or_else(String::new, |place| {
        format!(" (line {}, column {})", place.line(), place.column())
    })
}

/// Fills in the fields that the core requires and only a gateway needs.
fn fill_in(fields: &mut Map<String, Value>) -> Result<()> {
    if let Some(field) = KEY_FIELDS.iter().find(|field| fields.contains_key(**field)) {
        bail!(
            "{field}: not a field of the service; put the path of the key's file into signing_key_file"
        );
    }
    let unused = Value::from("unused");
    for field in ["keycloak_upstream", "yield_upstream"] {
        fields.entry(field).or_insert_with(|| unused.clone());
    }
    fields.insert(
        "signing_key_property".to_owned(),
        Value::from("file.signing_key"),
    );
    Ok(())
}

/// The address of an exchange's Keycloak, by its own fields.
fn keycloak_of(fields: &Map<String, Value>) -> Result<String> {
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    if let Some(upstream) = text("keycloak_upstream") {
        let url = match upstream.contains("://") {
            true => upstream.to_owned(),
            false => format!("http://{upstream}"),
        };
        return base_url(&url).context("keycloak_upstream");
    }
    let url = text("keycloak_url").context("keycloak_url: is required")?;
    let host = url.split('/').take(3).collect::<Vec<_>>().join("/");
    base_url(&host).context("keycloak_url")
}

/// Checks a base URL without a path.
fn base_url(url: &str) -> Result<String> {
    let parsed: http::Uri = url.parse().ok().context(NO_BASE_URL)?;
    let is_http = matches!(parsed.scheme_str(), Some("http" | "https"));
    let has_path = !matches!(parsed.path(), "" | "/") || parsed.query().is_some();
    let port = parsed.authority().is_some_and(|text| {
        let port = text.as_str().rsplit_once(':');
        port.is_none_or(|(_, port)| port.ends_with(']') || parsed.port_u16().is_some())
    });
    let names_user = parsed
        .authority()
        .is_some_and(|text| text.as_str().contains('@'));
    let has_host = parsed.host().is_some_and(|host| !host.is_empty());
    ensure!(
        is_http && has_host && port && !has_path && !names_user && !url.contains('#'),
        NO_BASE_URL
    );
    Ok(url.trim_end_matches('/').to_owned())
}

const NO_BASE_URL: &str =
    "an address of Keycloak must be a URL without a path, as https://kc-1.internal:8443";

fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    ensure!(
        (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed),
        "exchanges: a name must be 1 to {NAME_BYTES_MAX} letters, digits, '-' or '_'"
    );
    Ok(())
}

fn addresses(texts: &[String], folder: &Path) -> Result<Vec<Address>> {
    texts.iter().map(|text| address(text, folder)).collect()
}

fn address(text: &str, folder: &Path) -> Result<Address> {
    if let Some(path) = text.strip_prefix("unix:") {
        ensure!(!path.is_empty(), "unix: needs the path of a socket");
        return Ok(Address::Unix(folder.join(path)));
    }
    let address = text.parse().ok();
    address.map(Address::Tcp).with_context(|| {
        format!("{text:?} is not an address to listen on: give IP:PORT, or unix:/path/to/socket")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "
signing_key_file: key.pem
exchange:
  keycloak_url: https://login.example.com/auth
  realm: demo
";

    fn parse(text: &str) -> Result<Settings> {
        Settings::parse(text, Path::new("/etc/apikeys"))
    }

    fn fault(text: &str) -> String {
        format!("{:#}", parse(text).unwrap_err())
    }

    #[test]
    fn a_file_with_the_least_listens_on_loopback_and_asks_the_public_keycloak() {
        let settings = parse(ONE).unwrap();
        assert_eq!(
            settings.listen,
            [Address::Tcp(([127, 0, 0, 1], 8181).into())]
        );
        assert_eq!(settings.signing_key_file, Path::new("/etc/apikeys/key.pem"));
        assert_eq!(settings.trusted_hops, 0);
        let Exchanges::One(target) = &settings.exchanges else {
            panic!("one exchange")
        };
        assert_eq!(target.keycloak, ["https://login.example.com"]);
        assert_eq!(
            target.config.realm.issuer,
            "https://login.example.com/auth/realms/demo"
        );
    }

    #[test]
    fn a_file_in_json_is_read_as_well() {
        let text = r#"{"signing_key_file": "k", "listen": ["unix:run/s"],
            "keycloak_addresses": ["https://a:8443", "http://b/"], "trusted_hops": 2,
            "exchanges": {"orders": {"keycloak_url": "https://l", "realm": "demo"}}}"#;
        let settings = parse(text).unwrap();
        assert_eq!(
            settings.listen,
            [Address::Unix("/etc/apikeys/run/s".into())]
        );
        let Exchanges::Named(named) = &settings.exchanges else {
            panic!("names")
        };
        assert_eq!(named["orders"].keycloak, ["https://a:8443", "http://b"]);
        assert_eq!(settings.trusted_hops, 2);
    }

    #[test]
    fn a_fault_names_its_field_and_repeats_no_value() {
        let with = |line: &str| fault(&format!("{ONE}{line}"));
        assert!(
            with("colour: red").contains("unknown field `colour`"),
            "{}",
            with("colour: red")
        );
        assert!(with("  colour: red").contains("exchange: configuration: unknown field"));
        assert!(with("  signing_key: SECRET").contains("signing_key: not a field"));
        assert!(!with("  index_key: SECRET").contains("SECRET"));
        assert!(with("  mode: manage").contains("audience"));
        assert!(
            with("  realm: other").contains("line"),
            "{}",
            with("  realm: other")
        );
        assert!(with("listen: ['localhost']").contains("\"localhost\" is not an address"));
        assert!(with("listen_management: ['127.0.0.1:1']").contains("belong together"));
        for url in [
            "https://kc/auth",
            "http://kc:1/#x",
            "http://kc:99999",
            "http://a@kc",
            "kc",
        ] {
            let said = with(&format!("keycloak_addresses: ['{url}']"));
            assert!(said.contains("without a path"), "{said}");
        }
        parse(&format!(
            "{ONE}keycloak_addresses: ['http://[::1]:80', 'https://[::1]']"
        ))
        .unwrap();
        assert!(with("listen: []").contains("no gateway could"));
        assert!(with("trusted_hops: -1").contains("trusted_hops: must be"));
        assert!(with("listen: ['127.0.0.1:8182']").contains("127.0.0.1:8182 is given twice"));
        assert!(with("  headers: [expect]").contains("expect cannot carry a key"));
        let pem = ONE.replace("key.pem", "'-----BEGIN PRIVATE KEY-----SECRET'");
        assert!(
            fault(&pem).contains("signing_key_file: give the path"),
            "{}",
            fault(&pem)
        );
        assert!(!fault(&pem).contains("SECRET"));
        assert!(with("exchanges: {}").contains("either exchange, or exchanges"));
        assert!(fault("signing_key_file: [").contains("neither YAML nor JSON (line"));
        let named = ONE.replace("exchange:\n", "exchanges:\n a/b:\n");
        assert!(
            fault(&named).contains("a name must be"),
            "{}",
            fault(&named)
        );
    }
}
