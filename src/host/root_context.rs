//! The root context: one for each configuration of the filter.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType};

use super::http_context::HttpFilter;
use super::{TICK_PERIOD, system, tick, worker_for};
use crate::config::{Config, SigningKeySource};
use crate::exchange::Worker;
use crate::signing_key::SigningKey;

/// Reads the configuration and makes the context of each request.
#[derive(Default)]
pub(super) struct RootFilter {
    route: Option<Rc<Route>>,
    /// The tick period is set: to set it again is a trap on Kong.
    ticking: bool,
}

/// One configuration of the filter and its worker.
pub(super) struct Route {
    pub(super) config: Arc<Config>,
    text: Vec<u8>,
    worker: RefCell<Option<Rc<RefCell<Worker>>>>,
}

impl Route {
    /// The worker. Made at first use: Kong reads the variable that holds the
    /// signing key only within a request.
    ///
    /// # Errors
    /// What is wrong with the signing key, with no word of it.
    pub(super) fn worker(&self) -> Result<Rc<RefCell<Worker>>, String> {
        if let Some(worker) = self.worker.borrow().as_ref() {
            return Ok(Rc::clone(worker));
        }
        let key = match &self.config.signing_key {
            SigningKeySource::Inline(key) => SigningKey::clone(key),
            SigningKeySource::Property(path) => {
                let name = path.join(".");
                let pem = system::property(path).ok_or_else(|| {
                    format!("signing_key_property: the host has no property {name}, or it is empty")
                })?;
                SigningKey::parse(&pem)
                    .map_err(|fault| format!("signing_key_property {name}: {fault}"))?
            }
        };
        let worker = worker_for(&self.text, &self.config, &Arc::new(key));
        *self.worker.borrow_mut() = Some(Rc::clone(&worker));
        Ok(worker)
    }
}

impl Context for RootFilter {}

impl RootContext for RootFilter {
    fn on_configure(&mut self, size: usize) -> bool {
        let text = match hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size) {
            Ok(Some(text)) if size > 0 => text,
            _ => b"{}".to_vec(),
        };
        let config = match Config::from_json(&text) {
            Ok(config) => Arc::new(config),
            Err(fault) => {
                log::error!("configuration refused: {fault}");
                return false;
            }
        };
        log::info!(
            "apikey-jwt-exchange {} for realm {} at {}, signing key: {:?}",
            env!("CARGO_PKG_VERSION"),
            config.realm.name,
            config.realm.issuer,
            config.signing_key,
        );
        if !config.enabled {
            log::warn!("enabled is false: requests pass untouched, with any key they carry");
        }
        let route = Route {
            config,
            text,
            worker: RefCell::new(None),
        };
        // On Envoy a key that cannot be used is told now, and not by the first request.
        if let SigningKeySource::Property(path) = &route.config.signing_key
            && path.first().is_some_and(|first| first == "env")
            && let Err(fault) = route.worker()
        {
            log::error!("configuration refused: {fault}");
            return false;
        }
        self.route = Some(Rc::new(route));
        // Without ticks each worker looks within a second of its own.
        if !std::mem::replace(&mut self.ticking, true)
            && hostcalls::set_tick_period(TICK_PERIOD).is_err()
        {
            log::error!("the host gives no ticks: revocations take up to a second longer");
        }
        true
    }

    fn on_tick(&mut self) {
        tick();
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(HttpFilter::new(self.route.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
