//! Calls to Keycloak, made by Envoy's main thread for tasks of the module's own threads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apikeys_core::config::Config;
use apikeys_core::keycloak::{ANSWER_BYTES_MAX, Call};
use apikeys_core::trace::TraceContext;
use apikeys_native::{Answer, Host, Level, lock};
use envoy_abi::{MetricId, Outside, SecretId, Waker};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::config::Secret;

/// The time that a call may take longer than its own limit: Envoy's main thread may be busy.
const LATE: Duration = Duration::from_secs(2);

/// All configurations through which calls can go.
#[derive(Default)]
pub(crate) struct Outlets(Mutex<Vec<Arc<Outlet>>>);

/// One configuration of the filter in Envoy, with its calls.
pub(crate) struct Outlet {
    waker: Waker,
    /// Calls that the main thread has not made yet.
    asked: Mutex<Vec<Asked>>,
    /// Calls under way, by Envoy's id.
    under_way: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    pub(crate) secrets: Vec<(Secret, SecretId)>,
    pub(crate) counters: Vec<Option<MetricId>>,
    pub(crate) gauges: Vec<Option<MetricId>>,
}

/// A call that a task asks for.
struct Asked {
    cluster: String,
    headers: Vec<(&'static str, Zeroizing<String>)>,
    body: Zeroizing<String>,
    timeout: Duration,
    answer: oneshot::Sender<Answer>,
}

impl Outlets {
    /// Calls go through this configuration from now on.
    pub(crate) fn open(&self, outlet: &Arc<Outlet>) {
        lock(&self.0).push(Arc::clone(outlet));
    }

    /// A configuration ends. Its calls that were not made go through another one; those under way fail.
    pub(crate) fn close(&self, outlet: &Arc<Outlet>) {
        let next = {
            let mut all = lock(&self.0);
            all.retain(|known| !Arc::ptr_eq(known, outlet));
            let asked = std::mem::take(&mut *lock(&outlet.asked));
            if let Some(next) = all.last() {
                lock(&next.asked).extend(asked);
            }
            all.last().cloned()
        };
        lock(&outlet.under_way).clear();
        if let Some(next) = next {
            next.waker.wake();
        }
    }

    /// Wakes the latest configuration, and those with secrets. Not under the lock: a configuration may end
    /// within its wake.
    pub(crate) fn wake(&self) {
        let woken: Vec<_> = {
            let all = lock(&self.0);
            let is_latest = |at: usize| at + 1 == all.len();
            let all = all.iter().enumerate();
            let woken = all.filter(|(at, outlet)| is_latest(*at) || !outlet.secrets.is_empty());
            woken.map(|(_, outlet)| Arc::clone(outlet)).collect()
        };
        for outlet in woken {
            outlet.waker.wake();
        }
    }

    /// Whether calls go through this configuration.
    pub(crate) fn is_latest(&self, outlet: &Outlet) -> bool {
        let all = lock(&self.0);
        all.last()
            .is_some_and(|latest| std::ptr::eq(&raw const **latest, outlet))
    }

    fn ask(&self, asked: Asked) {
        let outlet = {
            // Under this lock, the outlet cannot close. Without an outlet, the call fails at once.
            let all = lock(&self.0);
            let Some(outlet) = all.last() else {
                return;
            };
            lock(&outlet.asked).push(asked);
            Arc::clone(outlet)
        };
        outlet.waker.wake();
    }
}

impl Outlet {
    pub(crate) fn new(
        waker: Waker,
        secrets: Vec<(Secret, SecretId)>,
        counters: Vec<Option<MetricId>>,
        gauges: Vec<Option<MetricId>>,
    ) -> Self {
        Self {
            waker,
            asked: Mutex::default(),
            under_way: Mutex::default(),
            secrets,
            counters,
            gauges,
        }
    }

    /// Makes the calls that tasks have asked for. Runs on the main thread.
    pub(crate) fn send(&self, outside: &Outside<'_>) {
        let asked = std::mem::take(&mut *lock(&self.asked));
        for asked in asked {
            // The task may be gone.
            if asked.answer.is_closed() {
                continue;
            }
            let headers = asked.headers.iter();
            let headers: Vec<(&str, &str)> = headers
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let body = asked.body.as_bytes();
            match outside.call(&asked.cluster, &headers, body, asked.timeout) {
                Ok(id) => {
                    lock(&self.under_way).insert(id, asked.answer);
                }
                Err(why) => {
                    // The task may be gone.
                    let _ = asked.answer.send(Answer::Failed(why.to_owned()));
                }
            }
        }
    }

    /// The answer to a call came, or none.
    pub(crate) fn answered(&self, call: u64, answer: Option<envoy_abi::Answer<'_>>) {
        let Some(waiting) = lock(&self.under_way).remove(&call) else {
            return;
        };
        let answer = match answer {
            None => Answer::Failed("no answer: unreachable, reset or timed out".to_owned()),
            Some(given) => {
                let fits =
                    given.body.iter().map(|part| part.len()).sum::<usize>() <= ANSWER_BYTES_MAX;
                Answer::Given {
                    status: given.status,
                    body: fits.then(|| Zeroizing::new(given.body.concat())),
                }
            }
        };
        // The task may be gone.
        let _ = waiting.send(answer);
    }
}

/// The process around a route: Envoy.
#[derive(Clone, Default)]
pub(crate) struct Envoy(pub(crate) Arc<Outlets>);

impl Host for Envoy {
    async fn call(
        &self,
        config: &Config,
        call: &Call,
        trace: Option<&TraceContext>,
        timeout_ms: u64,
    ) -> Answer {
        let text = |value: &str| Zeroizing::new(value.to_owned());
        let upstream = &config.keycloak_upstream;
        let mut headers = vec![
            (":method", text(call.method)),
            (":path", text(&call.path)),
            (":authority", text(&config.realm.authority)),
            (":scheme", text(if upstream.tls { "https" } else { "http" })),
        ];
        headers.extend(call.headers(trace));
        let timeout = Duration::from_millis(timeout_ms.max(1));
        let (answer, answered) = oneshot::channel();
        self.0.ask(Asked {
            cluster: upstream.name.clone(),
            headers,
            body: text(call.body()),
            timeout,
            answer,
        });
        match tokio::time::timeout(timeout + LATE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Answer::Failed("the configuration of Envoy has changed".to_owned()),
            Err(_) => Answer::Failed("Envoy's main thread does not answer".to_owned()),
        }
    }

    fn log(&self, level: Level, line: &str) {
        let level = match level {
            Level::Info => envoy_abi::Level::Info,
            Level::Warning => envoy_abi::Level::Warn,
            Level::Error => envoy_abi::Level::Error,
        };
        envoy_abi::log(level, line);
    }

    fn audit(&self, level: Level, line: &str) {
        self.log(level, line);
    }
}
