//! The service: its exchanges, the management API, and their shared parts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use apikeys_core::config::Config;
use apikeys_core::keycloak::Call;
use apikeys_core::signing_key::SigningKey;
use apikeys_core::trace::TraceContext;
use apikeys_native::exchange::Removal;
use apikeys_native::{Answer, Host, Keys, Level, Memory, Shared, State};

use crate::config::{Exchanges, Settings, Target};
use crate::keycloak::{Addresses, Keycloak};
use crate::log;

/// An exchange, or the management API.
pub(crate) type Route = apikeys_native::Route<Outside>;

/// The process around a route.
#[derive(Debug)]
pub(crate) struct Outside {
    keycloak: Arc<Keycloak>,
    addresses: Addresses,
}

impl Host for Outside {
    async fn call(
        &self,
        config: &Config,
        call: &Call,
        trace: Option<&TraceContext>,
        timeout_ms: u64,
    ) -> Answer {
        let addresses = &self.addresses;
        let sent = self
            .keycloak
            .send(addresses, config, call, trace, timeout_ms);
        sent.await
    }

    fn log(&self, level: Level, line: &str) {
        match level {
            Level::Info => tracing::info!("{line}"),
            Level::Warning => tracing::warn!("{line}"),
            Level::Error => tracing::error!("{line}"),
        }
    }

    fn audit(&self, _: Level, line: &str) {
        log::audit(line);
    }
}

/// The service.
pub(crate) struct Service {
    shared: Arc<Shared>,
    /// How gateways over HTTP remove the headers that an answer names.
    pub(crate) removal: Removal,
    /// The place of the client's address in `X-Forwarded-For`.
    pub(crate) trusted_hops: usize,
    pub(crate) keys: KeyFiles,
    routes: Routes,
    pub(crate) management: Option<Arc<Route>>,
}

enum Routes {
    One(Arc<Route>),
    Named(BTreeMap<String, Arc<Route>>),
}

/// The files of the signing keys.
#[derive(Debug, Clone)]
pub(crate) struct KeyFiles {
    pub(crate) signing_key: PathBuf,
    pub(crate) management_signing_key: PathBuf,
}

impl KeyFiles {
    /// Reads the keys.
    ///
    /// # Errors
    /// A key cannot be used. No error repeats any of its text.
    pub(crate) fn read(&self) -> Result<Keys> {
        let read = |path: &PathBuf, field: &str| {
            let named = || format!("{field} {}", path.display());
            let text = std::fs::read_to_string(path).with_context(named)?;
            let text = zeroize::Zeroizing::new(text);
            SigningKey::parse(&text).map(Arc::new).with_context(named)
        };
        Ok(Keys {
            gateway: read(&self.signing_key, "signing_key_file")?,
            management: read(&self.management_signing_key, "management_signing_key_file")?,
        })
    }
}

impl Service {
    /// A service with these settings.
    ///
    /// # Errors
    /// A signing key or a file of certificates cannot be used.
    pub(crate) fn new(settings: Settings) -> Result<Self> {
        let keycloak = Arc::new(Keycloak::new(settings.keycloak_ca_file.as_deref())?);
        let shared = Arc::default();
        let files = KeyFiles {
            signing_key: settings.signing_key_file,
            management_signing_key: settings.management_signing_key_file,
        };
        let keys = files.read()?;
        let memory: Arc<Memory> = Arc::default();
        let route = |name: &str, target: Target| {
            let state = State::new(&target.config, keys.clone(), &memory);
            let outside = Outside {
                keycloak: Arc::clone(&keycloak),
                addresses: Addresses::new(&target.keycloak),
            };
            Route::new(name, &target.config, state, &shared, outside)
        };
        let routes = match settings.exchanges {
            Exchanges::One(target) => Routes::One(route("exchange", target)),
            Exchanges::Named(named) => {
                let routes = named.into_iter().map(|(name, target)| {
                    let made = route(&name, target);
                    (name, made)
                });
                Routes::Named(routes.collect())
            }
        };
        let management = settings.management;
        let management = management.map(|target| route("management", target));
        Ok(Self {
            shared,
            removal: match settings.removes_headers {
                true => Removal::ListedUnseen,
                false => Removal::Configured,
            },
            trusted_hops: settings.trusted_hops,
            keys: files,
            routes,
            management,
        })
    }

    /// The exchange for the path after `/exchange`: the only exchange, or the exchange that the
    /// first segment names. A client's path cannot choose another one.
    pub(crate) fn exchange_of_path(&self, rest: &str) -> Option<&Arc<Route>> {
        let name = rest.strip_prefix('/');
        match &self.routes {
            Routes::One(route) => (rest.is_empty() || name.is_some()).then_some(route),
            Routes::Named(routes) => routes.get(name?.split('/').next()?),
        }
    }

    /// The exchange of this name; without a name, the only exchange.
    pub(crate) fn exchange(&self, name: Option<&str>) -> Option<&Arc<Route>> {
        match (&self.routes, name) {
            (Routes::One(route), None) => Some(route),
            (Routes::Named(routes), Some(name)) => routes.get(name),
            _ => None,
        }
    }

    /// All routes, with the management API.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let (one, named) = match &self.routes {
            Routes::One(route) => (Some(route), None),
            Routes::Named(routes) => (None, Some(routes.values())),
        };
        one.into_iter()
            .chain(named.into_iter().flatten())
            .chain(&self.management)
    }

    /// Whether each route has passed its self-check once. Routes with the same fingerprint and mode
    /// take turns, so one of them is enough.
    pub(crate) fn is_ready(&self) -> bool {
        self.routes().all(|route| {
            let alike = |other: &&Arc<Route>| {
                other.config.fingerprint == route.config.fingerprint
                    && other.config.management.is_some() == route.config.management.is_some()
            };
            let mut of_its_kind = self.routes().filter(alike);
            of_its_kind.any(|route| route.is_ready())
        })
    }

    /// All metrics in Prometheus' text format.
    pub(crate) fn metrics(&self) -> String {
        self.shared
            .count(|metrics| crate::metrics::text(metrics, self.routes()))
    }
}
