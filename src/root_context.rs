//! The root context: one for each configuration of the filter.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType};

use super::callout::{Answer, Callout};
use super::gateway::Gateway;
use super::http_context::HttpFilter;
use super::manage_context::ManageFilter;
use super::metrics;
use super::route::{Route, read_key};
use super::system;
use super::wiping::wiping;
use super::workers::{tick, with_background_env};
use apikeys_core::background::poller::Polling;
use apikeys_core::background::self_check::{Findings, Severity};
use apikeys_core::background::{Background, Renewed};
use apikeys_core::build_info::BuildInfo;
use apikeys_core::config::{Config, SigningKeySource};
use apikeys_core::machine::Event;

/// The time between two ticks of a root context.
const TICK_PERIOD: Duration = Duration::from_millis(200);

/// Reads the configuration and makes the context of each request.
#[derive(Default)]
pub(super) struct RootFilter {
    /// None if the configuration was refused: then each request is refused.
    route: Option<Rc<Route>>,
    /// The tick period is set: setting it again is a trap on Kong.
    ticking: bool,
    callout: Callout,
    /// The answer that waits for the next tick.
    answer: Option<Answer>,
    background: Background,
    /// Renewals that are already counted.
    renewed: Renewed,
}

impl RootFilter {
    /// Refuses the configuration: refuses every request where the host would let requests go on.
    fn refuse(&mut self, fault: &str) -> bool {
        self.route = None;
        let gateway = Gateway::here();
        if gateway.refuses_unconfigured() {
            log::error!("configuration refused: {fault}");
            return false;
        }
        log::error!("configuration refused, and so is every request to it: {fault}");
        true
    }

    fn configure(&mut self, size: usize) -> bool {
        let text = match hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size) {
            Ok(Some(text)) if size > 0 => text,
            _ => b"{}".to_vec(),
        };
        let config = match Config::from_json(&text) {
            Ok(config) => Arc::new(config),
            Err(fault) => return self.refuse(&fault.to_string()),
        };
        log::log!(
            Gateway::here().info(),
            "apikey-jwt-exchange {BuildInfo} for realm {} at {}, signing key: {:?}",
            config.realm.name,
            config.realm.issuer,
            config.signing_key,
        );
        if !config.enabled {
            log::warn!("enabled is false: requests pass untouched, with any key they carry");
        }
        let route = Route::new(config, &text);
        // On Envoy an unusable key is reported now, and not at the first request. Kong would let
        // all requests go on.
        let management = route.config.management.as_ref();
        let of_manager = management.and_then(|management| management.signing_key.as_ref());
        let at_hand = |source: &SigningKeySource| match source {
            SigningKeySource::Inline(_) => false,
            SigningKeySource::Property(path) => {
                Gateway::here().refuses_unconfigured()
                    && path.first().is_some_and(|first| first == "env")
            }
        };
        let checked = match at_hand(&route.config.signing_key) {
            true => route.worker().map(drop),
            false => Ok(()),
        };
        let checked = checked.and_then(|()| match of_manager {
            Some(source) if at_hand(source) => {
                read_key(source, "management_signing_key_property").map(drop)
            }
            _ => Ok(()),
        });
        if let Err(fault) = checked {
            return self.refuse(&fault);
        }
        self.route = Some(Rc::new(route));
        if !std::mem::replace(&mut self.ticking, true) {
            if !Gateway::here().acts_on_answers() {
                self.background = Background::at_ticks_alone();
            }
            // Without ticks each worker reads the log of revocations by itself, within a second.
            if hostcalls::set_tick_period(TICK_PERIOD).is_err() {
                log::error!("the host gives no ticks: revocations take up to a second longer");
            }
        }
        true
    }

    fn answered(&mut self, token: u32, headers: usize, body_bytes: usize) {
        // An answer that comes after its job was given up is not read. A root context is outside
        // of requests, where Kong does not give the reason for a failed callout.
        let Some(answer) = self.callout.read_answer(token, headers, body_bytes, false) else {
            return;
        };
        self.answer = Some(answer);
        if Gateway::here().acts_on_answers() {
            self.take_answer();
        }
    }

    /// Goes on with the waiting answer, if there is one.
    fn take_answer(&mut self) {
        if let Some(answer) = self.answer.take() {
            self.go_on(Some(answer.event()));
        }
    }

    /// Tells the background jobs of an answer, or of a tick, and sends their next call.
    fn go_on(&mut self, event: Option<Event<'_>>) {
        let Some(shared) = self.route.as_ref().and_then(|route| route.made()) else {
            return;
        };
        let (Some(now), Ok(mut worker), Ok(mut watch)) = (
            system::now(),
            shared.worker.try_borrow_mut(),
            shared.watch.try_borrow_mut(),
        ) else {
            return;
        };
        let (worker, watch) = (&mut *worker, &mut *watch);
        let background = &mut self.background;
        let mut call = with_background_env(now, worker, |env| match event {
            Some(event) => background.handle_event(event, watch, env),
            None => background.tick(watch, env),
        });
        while let Some(effect) = call {
            call = match self.callout.perform(&worker.config, &effect, None) {
                Ok(()) => None,
                // Ends within a few more steps: a failed callout is never repeated.
                Err(why) => with_background_env(now, worker, |env| {
                    background.handle_event(Event::Failed(&why), watch, env)
                }),
            };
        }
        let renewed = background.renewed();
        let before = std::mem::replace(&mut self.renewed, renewed);
        metrics::count(|metrics| metrics.renewed(before, renewed));
        let info = Gateway::here().info();
        let (realm, polling) = (worker.config.realm.name.clone(), watch.take_polling());
        match polling {
            Some(Polling::Good) => log::log!(info, "realm {realm}: {}", Polling::Good),
            Some(polling) => log::warn!("realm {realm}: {polling}"),
            None => {}
        }
        let findings = watch.take_findings();
        for (severity, line) in findings.iter().flat_map(Findings::lines) {
            match severity {
                Severity::Info => log::log!(info, "realm {realm}: {line}"),
                Severity::Warning => log::warn!("realm {realm}: {line}"),
                Severity::Error => log::error!("realm {realm}: {line}"),
            }
        }
    }
}

impl Context for RootFilter {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body_bytes: usize, _: usize) {
        wiping(|| self.answered(token, headers, body_bytes));
    }
}

impl RootContext for RootFilter {
    fn on_configure(&mut self, size: usize) -> bool {
        wiping(|| self.configure(size))
    }

    fn on_tick(&mut self) {
        wiping(|| {
            tick();
            self.take_answer();
            self.go_on(None);
            if let Some(now) = system::now() {
                metrics::tick(now);
            }
        });
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        match &self.route {
            Some(route) if route.config.management.is_some() => {
                Some(Box::new(ManageFilter::new(Rc::clone(route))))
            }
            route => Some(Box::new(HttpFilter::new(route.clone()))),
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
