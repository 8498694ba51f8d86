//! The exchange as a dynamic module of Envoy.
//!
//! Envoy loads the module into its own process, so all worker threads share one state of each
//! configuration (`crates/native`), bcrypt runs on threads of the module, and one poll serves the
//! process. `crates/envoy-abi` has all unsafe code.
//!
//! The way of a request: [`filter`] begins the exchange on the worker thread of its stream. A warm request
//! ends there. Any other is held, and a task on the module's own threads drives it to its end, then
//! wakes the stream. Its calls to Keycloak go through [`outlets`] to Envoy's main thread, which makes them.

mod config;
mod filter;
mod keeper;
mod outlets;

use std::sync::Arc;

use apikeys_core::metrics;
use apikeys_core::rejection::Rejection;
use envoy_abi::{Answer, Loading, Module, Outside, Reply};

use config::Configuration;
use filter::Filter;
use keeper::{Keeper, Ticket};
use outlets::Outlet;

envoy_abi::http_module!(Exchange);

/// A configuration of the filter in Envoy.
pub(crate) struct Exchange {
    /// Keeps the module's threads alive.
    keeper: Arc<Keeper>,
    ticket: Arc<Ticket>,
    outlet: Arc<Outlet>,
}

/// A configuration of a route in Envoy, in the place of the filter's.
pub(crate) struct RouteExchange {
    ticket: Arc<Ticket>,
    /// Keeps the module's threads alive.
    _keeper: Arc<Keeper>,
}

impl Module for Exchange {
    type Filter = Filter;
    type RouteConfig = RouteExchange;

    fn load(text: &[u8], loading: &mut Loading<'_>) -> Result<Self, String> {
        let configuration = Configuration::read(text)?;
        let mut secrets = Vec::new();
        for secret in configuration.secrets() {
            let id = loading
                .subscribe(&secret.name, &secret.source)
                .map_err(|fault| format!("signing_key_secret {}: {fault}", secret.name))?;
            secrets.push((secret.clone(), id));
        }
        let names = metrics::names();
        let counters = names.iter().map(|name| loading.define_counter(name));
        let counters = counters.collect();
        let names = metrics::gauges::names();
        let gauges = names.iter().map(|name| loading.define_gauge(name));
        let gauges = gauges.collect();
        let outlet = Arc::new(Outlet::new(loading.waker(), secrets, counters, gauges));
        let keeper = Keeper::here()?;
        let ticket = keeper.admit(configuration)?;
        keeper.outlets().open(&outlet);
        Ok(Self {
            keeper,
            ticket,
            outlet,
        })
    }

    fn load_route(text: &[u8]) -> Result<Self::RouteConfig, String> {
        let configuration = Configuration::read(text)?;
        let keeper = Keeper::here()?;
        let ticket = keeper.admit(configuration)?;
        Ok(RouteExchange {
            ticket,
            _keeper: keeper,
        })
    }

    fn filter(&self) -> Filter {
        Filter::new(&self.outlet, &self.ticket)
    }

    fn on_wake(&self, outside: &Outside<'_>) {
        self.outlet.send(outside);
        self.keeper.look(&self.outlet, outside);
    }

    fn on_answer(&self, call: u64, answer: Option<Answer<'_>>) {
        self.outlet.answered(call, answer);
    }

    fn on_end(&self) {
        self.keeper.outlets().close(&self.outlet);
    }

    fn panicked() -> Reply {
        filter::refusal(Rejection::IdentityProviderUnavailable, "", "-")
    }
}
