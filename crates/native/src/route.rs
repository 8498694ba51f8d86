//! A configuration, and the state of its requests.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use apikeys_core::config::Config;
use apikeys_core::metrics::Metrics;
use tokio::sync::Semaphore;

use crate::state::{Keys, State, threads};
use crate::store::Memory;
use crate::{Host, Level, lock};

/// The parts that exist once in the process.
#[derive(Debug)]
pub struct Shared {
    metrics: Mutex<Metrics>,
    /// One permit for each thread that may compute bcrypt.
    pub(crate) computing: Arc<Semaphore>,
}

impl Default for Shared {
    fn default() -> Self {
        Self::with_threads(threads())
    }
}

impl Shared {
    /// With so many threads for bcrypt.
    pub(crate) fn with_threads(count: usize) -> Self {
        Self {
            metrics: Mutex::default(),
            computing: Arc::new(Semaphore::new(count)),
        }
    }

    /// Reads or changes the metrics.
    pub fn count<T>(&self, act: impl FnOnce(&mut Metrics) -> T) -> T {
        act(&mut lock(&self.metrics))
    }
}

/// One exchange, or the management API: a configuration, and the state of its requests.
#[derive(Debug)]
pub struct Route<H> {
    /// Its name, for the log.
    pub name: String,
    /// Its configuration.
    pub config: Arc<Config>,
    /// The process around it.
    pub host: H,
    /// The parts that it shares with other routes.
    pub shared: Arc<Shared>,
    state: Mutex<State>,
    /// Grows by `audit_hits_per_1000` with each cache hit. Each full 1000 is one line in the audit log.
    hits: AtomicU32,
    /// The self-check has passed once.
    ready: AtomicBool,
    /// The warning about a request without a client address was logged.
    told_of_no_address: AtomicBool,
}

impl<H: Host> Route<H> {
    /// A route with this state.
    #[must_use]
    pub fn new(
        name: &str,
        config: &Arc<Config>,
        state: State,
        shared: &Arc<Shared>,
        host: H,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            config: Arc::clone(config),
            host,
            shared: Arc::clone(shared),
            state: Mutex::new(state),
            hits: AtomicU32::new(0),
            ready: AtomicBool::new(false),
            told_of_no_address: AtomicBool::new(false),
        })
    }

    /// The current state, for one request.
    pub fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// Gives all routes a new state and a new shared memory, because keys seal the memory's entries.
    /// `keys` gives each route's keys. Requests under way keep their state.
    pub fn renew<'a>(routes: impl IntoIterator<Item = &'a Arc<Self>>, keys: impl Fn(&Self) -> Keys)
    where
        Self: 'a,
    {
        let memory: Arc<Memory> = Arc::default();
        for route in routes {
            route.begin_anew(keys(route), &memory);
        }
    }

    /// Gives the route a new state with these keys, and this shared memory.
    pub fn begin_anew(&self, keys: Keys, memory: &Arc<Memory>) {
        let state = State::new(&self.config, keys, memory);
        *lock(&self.state) = state;
    }

    /// Whether the self-check has passed once.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub(crate) fn passed_check(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Logs once that a request came without a client address. Failures of such requests are not
    /// counted, and keys with `allowedAddresses` are refused.
    pub fn has_no_address(&self) {
        let counts = self.config.throttle_failures_per_minute > 0;
        if counts && !self.told_of_no_address.swap(true, Ordering::Relaxed) {
            let line = format!(
                "{}: a request came without the client's address: failures of such requests are not \
                 counted, so throttling does not work; let the gateway add the address to \
                 X-Forwarded-For, and compare trusted_hops with the load balancers before it",
                self.name
            );
            self.host.log(Level::Warning, &line);
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
