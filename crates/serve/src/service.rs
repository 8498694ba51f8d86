//! The state of the service: its exchanges, the management API, and their shared parts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use apikeys_core::background::Watch;
use apikeys_core::config::Config;
use apikeys_core::exchange::gate::Gate;
use apikeys_core::exchange::{Env, Worker};
use apikeys_core::manage::Manager;
use apikeys_core::metrics::Metrics;
use apikeys_core::signing_key::SigningKey;

use tokio::sync::Semaphore;

use crate::clock;
use crate::config::{Exchanges, Settings, Target};
use crate::keycloak::{Addresses, Keycloak};
use crate::store::{Memory, View};

/// The parts that exist once in the process.
pub(crate) struct Shared {
    pub(crate) keycloak: Keycloak,
    /// Gateways over HTTP remove each header that an answer names.
    pub(crate) removes_headers: bool,
    /// The place of the client's address in `X-Forwarded-For`.
    pub(crate) trusted_hops: usize,
    metrics: Mutex<Metrics>,
    /// One permit for each thread that may compute bcrypt.
    pub(crate) computing: Arc<Semaphore>,
}

impl Shared {
    /// Changes the metrics.
    pub(crate) fn count(&self, act: impl FnOnce(&mut Metrics)) {
        act(&mut lock(&self.metrics));
    }
}

/// The service.
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
    routes: Routes,
    pub(crate) management: Option<Arc<Route>>,
}

enum Routes {
    One(Arc<Route>),
    Named(BTreeMap<String, Arc<Route>>),
}

/// One exchange, or the management API: a configuration, and the state of its requests.
pub(crate) struct Route {
    pub(crate) name: String,
    pub(crate) config: Arc<Config>,
    pub(crate) addresses: Addresses,
    pub(crate) shared: Arc<Shared>,
    pub(crate) keys: KeyFiles,
    state: Mutex<State>,
    /// Grows by `audit_hits_per_1000` with each cache hit. Each full 1000 is one line in the audit log.
    hits: AtomicU32,
    /// The self-check has passed once.
    pub(crate) ready: AtomicBool,
    /// The warning about a request without a client address was logged.
    told_of_no_address: AtomicBool,
}

/// The files of the signing keys.
#[derive(Debug, Clone)]
pub(crate) struct KeyFiles {
    pub(crate) signing_key: PathBuf,
    pub(crate) management_signing_key: PathBuf,
}

/// The state that the requests of a route share. A new signing key starts a new state. A request keeps
/// the state that it began with.
#[derive(Clone)]
pub(crate) struct State {
    inner: Arc<Mutex<Inner>>,
    /// Shared with the other routes: one route publishes revocations there for the others.
    memory: Arc<Memory>,
    /// The public ids of the signing keys.
    key_ids: [Arc<str>; 2],
}

/// The parts of a [`State`] behind its lock.
pub(crate) struct Inner {
    pub(crate) worker: Worker,
    pub(crate) watch: Watch,
    pub(crate) manager: Option<Manager>,
    pub(crate) gate: Gate,
}

impl Service {
    /// A service with these settings.
    ///
    /// # Errors
    /// A signing key or a file of certificates cannot be used.
    pub(crate) fn new(settings: Settings) -> Result<Self> {
        let shared = Arc::new(Shared {
            keycloak: Keycloak::new(settings.keycloak_ca_file.as_deref())?,
            removes_headers: settings.removes_headers,
            trusted_hops: settings.trusted_hops,
            metrics: Mutex::default(),
            computing: Arc::new(Semaphore::new(threads())),
        });
        let keys = KeyFiles {
            signing_key: settings.signing_key_file,
            management_signing_key: settings.management_signing_key_file,
        };
        let memory = Arc::default();
        let route = |name: &str, target: Target| {
            let state = State::read(&target.config, &keys, &memory)?;
            anyhow::Ok(Route::new(name, target, state, &keys, &shared))
        };
        let routes = match settings.exchanges {
            Exchanges::One(target) => Routes::One(route("exchange", target)?),
            Exchanges::Named(named) => {
                let routes = named.into_iter().map(|(name, target)| {
                    let made = route(&name, target)?;
                    Ok((name, made))
                });
                Routes::Named(routes.collect::<Result<_>>()?)
            }
        };
        let management = settings.management;
        let management = management.map(|target| route("management", target));
        Ok(Self {
            management: management.transpose()?,
            shared,
            routes,
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
            of_its_kind.any(|route| route.ready.load(Ordering::Relaxed))
        })
    }

    /// All metrics in Prometheus' text format.
    pub(crate) fn metrics(&self) -> String {
        let metrics = lock(&self.shared.metrics);
        crate::metrics::text(&metrics, self.routes())
    }
}

impl Route {
    fn new(
        name: &str,
        target: Target,
        state: State,
        keys: &KeyFiles,
        shared: &Arc<Shared>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            addresses: Addresses::new(&target.keycloak),
            config: target.config,
            shared: Arc::clone(shared),
            keys: keys.clone(),
            state: Mutex::new(state),
            hits: AtomicU32::new(0),
            ready: AtomicBool::new(false),
            told_of_no_address: AtomicBool::new(false),
        })
    }

    /// The current state, for one request.
    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// Reads the signing keys of all routes again, and returns whether one has changed. If so, all
    /// routes get a new state and a new shared memory, because the keys seal its entries. Requests
    /// under way keep their state.
    ///
    /// # Errors
    /// A key cannot be used. The keys in use stay.
    pub(crate) fn read_keys_again(routes: &[Arc<Self>]) -> Result<bool> {
        let memory = Arc::default();
        let read = |route: &Arc<Self>| State::read(&route.config, &route.keys, &memory);
        let states: Vec<State> = routes.iter().map(read).collect::<Result<_>>()?;
        let pairs = || routes.iter().zip(&states);
        let changed = pairs().any(|(route, state)| lock(&route.state).key_ids != state.key_ids);
        for (route, state) in pairs().filter(|_| changed) {
            *lock(&route.state) = state.clone();
        }
        Ok(changed)
    }

    /// Logs once that a request came without a client address. Failures of such requests are not
    /// counted, and keys with `allowedAddresses` are refused.
    pub(crate) fn has_no_address(&self) {
        let counts = self.config.throttle_failures_per_minute > 0;
        if counts && !self.told_of_no_address.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{}: a request came without the client's address (trusted_hops is {}): failures of such \
                 requests are not counted, so throttling does not work; let the gateway add the address \
                 to X-Forwarded-For",
                self.name,
                self.shared.trusted_hops
            );
        }
    }

    /// Whether the audit log gets a line for this cache hit.
    pub(crate) fn samples_hit(&self) -> bool {
        let rate = self.config.audit_hits_per_1000;
        if rate == 0 {
            return false;
        }
        let before = self.hits.fetch_add(rate, Ordering::Relaxed);
        before / 1000 != before.wrapping_add(rate) / 1000
    }
}

impl State {
    /// An empty state, with the keys of these files.
    fn read(config: &Arc<Config>, keys: &KeyFiles, memory: &Arc<Memory>) -> Result<Self> {
        let key = Arc::new(read_key(&keys.signing_key, "signing_key_file")?);
        let mut key_ids = [Arc::from(key.kid()), Arc::from("")];
        let manager = match config.management {
            None => None,
            Some(_) => {
                let path = &keys.management_signing_key;
                let key = Arc::new(read_key(path, "management_signing_key_file")?);
                key_ids[1] = Arc::from(key.kid());
                Some(Manager::new(key, &nonce()))
            }
        };
        let worker = Worker::new(Arc::clone(config), key, &nonce());
        // The management API's machine can compute bcrypt only in slices.
        let gate = match manager {
            None => Gate::apart(threads()),
            Some(_) => Gate::new(),
        };
        let inner = Inner {
            watch: Watch::new(&worker),
            worker,
            manager,
            gate,
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            memory: Arc::clone(memory),
            key_ids,
        })
    }

    /// Whether both are the same state.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Locks the state.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Lends a machine its environment for one step.
    pub(crate) fn with_env<T>(
        &self,
        source: Option<&str>,
        act: impl FnOnce(&mut Env<'_>, &mut Watch, Option<&mut Manager>) -> T,
    ) -> T {
        let inner = &mut *self.lock();
        let mut env = Env {
            now: clock::now(),
            worker: &mut inner.worker,
            gate: &mut inner.gate,
            store: &mut View(&self.memory),
            nonce: &nonce,
            source: &|| source.map(|text| text.as_bytes().to_vec()),
        };
        act(&mut env, &mut inner.watch, inner.manager.as_mut())
    }
}

/// The number of threads for bcrypt: one per core.
pub(crate) fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Reads a signing key. No error repeats any of its text.
fn read_key(path: &PathBuf, field: &str) -> Result<SigningKey> {
    let named = || format!("{field} {}", path.display());
    let text = std::fs::read_to_string(path).with_context(named)?;
    let text = zeroize::Zeroizing::new(text);
    SigningKey::parse(&text).with_context(named)
}

/// Unique bytes; they need not be secret.
fn nonce() -> Vec<u8> {
    let mut bytes = vec![0_u8; 16];
    // If this fails, the zeros stay. The core adds the time and a counter.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

/// Locks a mutex. A panic ends the process (`panic = "abort"`), so no lock holds a half-made change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
