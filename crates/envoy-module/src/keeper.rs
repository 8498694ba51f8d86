//! The parts that exist once in the process: the module's threads, the shared memory, and the
//! configurations with their routes and keys.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use apikeys_core::build_info::BuildInfo;
use apikeys_core::config::Config;
use apikeys_core::exchange::PENDING_MAX;
use apikeys_native::{Keys, Memory, Route, Shared, State, background, lock, threads};
use envoy_abi::{Level, MetricId, Outside, Stream, log};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval};
use zeroize::Zeroizing;

use crate::Exchange;
use crate::config::{Configuration, Secret};
use crate::outlets::{Envoy, Outlet, Outlets};

/// The time between two looks at keys, secrets and metrics.
const TICK: Duration = Duration::from_millis(200);
/// Keys are read again each so many ticks.
const SETTLES: u32 = 5;
/// The longest wait for the module's threads when the last configuration ends.
const THREADS_END: Duration = Duration::from_secs(5);

/// The keeper of this process, as long as there is a configuration.
static HERE: Mutex<Weak<Keeper>> = Mutex::new(Weak::new());

/// The parts that exist once in the process.
pub(crate) struct Keeper {
    keep: Arc<Keep>,
    /// Its threads end with it.
    runtime: Option<Runtime>,
}

/// The state of a keeper, which its tasks share.
struct Keep {
    shared: Arc<Shared>,
    envoy: Envoy,
    threads: Handle,
    memory: Mutex<Arc<Memory>>,
    tickets: Mutex<HashMap<[u8; 32], Weak<Ticket>>>,
    /// The texts of secrets, as Envoy has delivered them.
    secrets: Mutex<HashMap<Secret, Zeroizing<String>>>,
    /// Faults of keys that were logged.
    told: Mutex<Vec<String>>,
    /// This Envoy (1.38) takes metrics only from streams, and the latest values wait for one.
    waits_for_stream: AtomicBool,
}

/// A change of a metric.
enum Change {
    Grown(u64),
    Gauge(u64),
}

/// A configuration, and the route that it has once its signing key is there.
pub(crate) struct Ticket {
    configuration: Configuration,
    route: OnceLock<Arc<Route<Envoy>>>,
    /// Notified once `route` is set.
    starts: Notify,
    /// One permit for each request that may wait for it.
    waiting: Arc<Semaphore>,
    keep: Arc<Keep>,
}

impl Ticket {
    /// The route; none before its signing key is there.
    pub(crate) fn route(&self) -> Option<&Arc<Route<Envoy>>> {
        self.route.get()
    }

    /// Waits until it has a route.
    pub(crate) async fn started(&self) {
        let starts = self.starts.notified();
        if self.route().is_none() {
            starts.await;
        }
    }

    /// Admits a request that waits for the route, unless too many wait.
    pub(crate) fn admit_waiting(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.waiting).try_acquire_owned().ok()
    }

    /// The module's threads.
    pub(crate) fn threads(&self) -> &Handle {
        &self.keep.threads
    }

    /// Tells the metrics through a stream, where Envoy takes them from streams alone.
    pub(crate) fn tell_through(&self, outlet: &Outlet, stream: &Stream<'_, Exchange>) {
        if self.keep.waits_for_stream.swap(false, Ordering::Relaxed) {
            self.keep.tell(outlet, |metric, change| {
                match change {
                    Change::Grown(by) => stream.increment(metric, by),
                    Change::Gauge(value) => stream.set_gauge(metric, value),
                }
                true
            });
        }
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &Config {
        &self.configuration.config
    }

    /// Whether this is the management API.
    pub(crate) fn manages(&self) -> bool {
        self.configuration.config.management.is_some()
    }
}

impl Keeper {
    /// The keeper of this process, made if there is none.
    ///
    /// # Errors
    /// The process cannot start threads.
    pub(crate) fn here() -> Result<Arc<Self>, String> {
        let mut here = HERE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = here.upgrade() {
            return Ok(keeper);
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(threads())
            .thread_name("apikeys")
            .enable_time()
            .build()
            .map_err(|fault| format!("cannot start threads: {fault}"))?;
        let keep = Arc::new(Keep {
            shared: Arc::default(),
            envoy: Envoy::default(),
            threads: runtime.handle().clone(),
            memory: Mutex::default(),
            tickets: Mutex::default(),
            secrets: Mutex::default(),
            told: Mutex::default(),
            waits_for_stream: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&keep);
        runtime.spawn(background::again(move || keep_up(weak.clone())));
        let keeper = Arc::new(Self {
            keep,
            runtime: Some(runtime),
        });
        *here = Arc::downgrade(&keeper);
        Ok(keeper)
    }

    /// The configurations through which calls can go.
    pub(crate) fn outlets(&self) -> &Outlets {
        &self.keep.envoy.0
    }

    /// The ticket of a configuration: that of another one with the same text, which so keeps its caches
    /// when Envoy loads a listener anew.
    ///
    /// # Errors
    /// Its signing key cannot be read.
    pub(crate) fn admit(&self, configuration: Configuration) -> Result<Arc<Ticket>, String> {
        let keep = &self.keep;
        let mut tickets = lock(&keep.tickets);
        if let Some(known) = tickets.get(&configuration.digest).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let keys = configuration.read_keys(&|secret| keep.secret(secret))?;
        if !configuration.config.enabled {
            log(
                Level::Warn,
                "enabled is false: requests pass untouched, with any key they carry",
            );
        }
        let ticket = Arc::new(Ticket {
            route: OnceLock::new(),
            starts: Notify::new(),
            waiting: Arc::new(Semaphore::new(PENDING_MAX)),
            keep: Arc::clone(keep),
            configuration,
        });
        if let Some(keys) = keys {
            keep.start(&ticket, keys);
        }
        tickets.retain(|_, ticket| ticket.strong_count() > 0);
        tickets.insert(ticket.configuration.digest, Arc::downgrade(&ticket));
        Ok(ticket)
    }

    /// Looks at the secrets, and tells the metrics through the latest configuration. Runs on the main thread.
    pub(crate) fn look(&self, outlet: &Outlet, outside: &Outside<'_>) {
        let keep = &self.keep;
        for (secret, id) in &outlet.secrets {
            let text = outside.secret(*id).map(std::str::from_utf8);
            let Some(Ok(text)) = text else {
                continue;
            };
            let mut secrets = lock(&keep.secrets);
            if secrets
                .get(secret)
                .is_none_or(|known| known.as_str() != text)
            {
                secrets.insert(secret.clone(), Zeroizing::new(text.to_owned()));
            }
        }
        if !self.outlets().is_latest(outlet) {
            return;
        }
        keep.tell(outlet, |metric, change| match change {
            Change::Grown(by) => outside.increment(metric, by),
            Change::Gauge(value) => outside.set_gauge(metric, value),
        });
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The last configuration may end within its wake, on one of these threads.
            match Handle::try_current() {
                Ok(_) => runtime.shutdown_background(),
                Err(_) => runtime.shutdown_timeout(THREADS_END),
            }
        }
    }
}

impl Keep {
    fn secret(&self, secret: &Secret) -> Option<Zeroizing<String>> {
        lock(&self.secrets).get(secret).cloned()
    }

    fn routes(&self) -> Vec<Arc<Route<Envoy>>> {
        let tickets = self.tickets();
        tickets
            .iter()
            .filter_map(|ticket| ticket.route().cloned())
            .collect()
    }

    /// Whether a route waits for its signing key.
    fn waits_for_keys(&self) -> bool {
        let tickets = self.tickets();
        tickets.iter().any(|ticket| ticket.route().is_none())
    }

    fn tickets(&self) -> Vec<Arc<Ticket>> {
        lock(&self.tickets)
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// Tells the changes of all metrics. `tell` is false where Envoy does not take them there.
    fn tell(&self, outlet: &Outlet, tell: impl Fn(MetricId, Change) -> bool) {
        let mut taken = true;
        for (at, value) in background::gauges(self.routes().iter()).iter() {
            if let Some(id) = outlet.gauges.get(at).copied().flatten() {
                taken &= tell(id, Change::Gauge(value));
            }
        }
        // Reading a counter's growth resets it. So the gauges go first: they show whether Envoy takes
        // metrics here.
        if taken {
            self.shared.count(|metrics| {
                metrics.grown(|at, by| {
                    if let Some(id) = outlet.counters.get(at).copied().flatten() {
                        tell(id, Change::Grown(by));
                    }
                });
            });
        }
        self.waits_for_stream.store(!taken, Ordering::Relaxed);
    }

    /// Starts the route of a ticket with these keys.
    fn start(&self, ticket: &Ticket, keys: Keys) {
        let config = &ticket.configuration.config;
        let name = match ticket.manages() {
            false => "exchange",
            true => "management",
        };
        let realm = &config.realm;
        log(
            Level::Info,
            &format!(
                "{BuildInfo}: {name}, realm {} at {}",
                realm.name, realm.issuer
            ),
        );
        let memory = Arc::clone(&lock(&self.memory));
        let state = State::new(config, keys, &memory);
        let route = Route::new(name, config, state, &self.shared, self.envoy.clone());
        let weak = Arc::downgrade(&route);
        self.threads
            .spawn(background::again(move || background::work(weak.clone())));
        // Set once: only this function sets it, under the lock of the tickets or on one task.
        let _ = ticket.route.set(route);
        ticket.starts.notify_waiters();
    }

    /// Starts routes whose key has come, and gives all routes a new state when a key has changed, or
    /// when a panic has broken one.
    fn settle(&self) {
        let (mut changed, mut broken, mut faults) = (false, false, Vec::new());
        let mut keys_of: HashMap<[u8; 32], Keys> = HashMap::new();
        let tickets = self.tickets();
        for ticket in &tickets {
            let is_broken = |route: &Arc<Route<Envoy>>| route.state().is_broken();
            broken |= ticket.route().is_some_and(is_broken);
            let read = ticket
                .configuration
                .read_keys(&|secret| self.secret(secret));
            let keys = match read {
                Ok(Some(keys)) => keys,
                Ok(None) => continue,
                Err(fault) => {
                    faults.push(fault);
                    continue;
                }
            };
            match ticket.route() {
                None => self.start(ticket, keys),
                Some(route) => {
                    changed |= !route.state().has_keys(&keys);
                    keys_of.insert(ticket.configuration.digest, keys);
                }
            }
        }
        self.tell_faults(faults);
        if changed {
            log(
                Level::Warn,
                "the signing key has changed: all caches begin anew",
            );
        }
        if broken {
            log(
                Level::Error,
                "a panic has broken a state: all caches begin anew",
            );
        }
        if !changed && !broken {
            return;
        }
        // Under this lock, no route starts with the old memory.
        let tickets = lock(&self.tickets);
        let memory: Arc<Memory> = Arc::default();
        *lock(&self.memory) = Arc::clone(&memory);
        for ticket in tickets.values().filter_map(Weak::upgrade) {
            if let Some(route) = ticket.route() {
                let keys = keys_of.get(&ticket.configuration.digest).cloned();
                let keys = keys.unwrap_or_else(|| route.state().keys().clone());
                route.begin_anew(keys, &memory);
            }
        }
    }

    /// Logs the faults of keys that are new.
    fn tell_faults(&self, faults: Vec<String>) {
        let mut told = lock(&self.told);
        for fault in faults.iter().filter(|fault| !told.contains(fault)) {
            log(
                Level::Error,
                &format!("{fault}; a key before it stays in use"),
            );
        }
        *told = faults;
    }
}

/// Looks after keys, secrets and metrics until the keeper is gone.
async fn keep_up(keep: Weak<Keep>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut now = 0_u32;
    loop {
        ticks.tick().await;
        let Some(keep) = keep.upgrade() else {
            return;
        };
        if now.is_multiple_of(SETTLES) || keep.waits_for_keys() {
            keep.settle();
        }
        now = now.wrapping_add(1);
        keep.envoy.0.wake();
    }
}
