//! The filter: the proxy-wasm shell around the core, for Kong Gateway and Envoy. It translates
//! between a host and [`apikeys_core`], and decides nothing.
//!
//! All calls to the host are made here, by the SDK's `hostcalls` and not by the methods of its
//! traits, which unwrap each result. Where the SDK reports a host's refusal, the request is
//! rejected. The SDK panics on unexpected statuses, so each call is made only where both hosts
//! give an expected one; docs/hosts.md lists the remaining traps. Each module handles the
//! differences between the hosts that concern it.

// Built only for Wasm: natively there is no host to call.
#![cfg(target_arch = "wasm32")]

mod audit;
mod callout;
mod gateway;
mod http_context;
mod identity;
mod manage_context;
mod metrics;
mod request_id;
mod root_context;
mod shared_store;
mod system;
mod wiping;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use log::LevelFilter;
use proxy_wasm::types::LogLevel;
use sha2::{Digest, Sha256};

use self::shared_store::HostStore;
use apikeys_core::background::Watch;
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::exchange::gate::Gate;
use apikeys_core::exchange::{Env, Worker};
use apikeys_core::signing_key::SigningKey;

/// The time between two ticks of a root context.
const TICK_PERIOD: Duration = Duration::from_millis(200);
/// Ticks of other root contexts within this time do nothing.
const TICK_MS_MIN: u64 = 150;

/// Registers the filter with the host.
pub(crate) fn start() {
    proxy_wasm::set_log_level(LogLevel::Info);
    log::set_max_level(LevelFilter::Info);
    proxy_wasm::set_root_context(|_| Box::<root_context::RootFilter>::default());
}

thread_local! {
    /// The state that all filters of this virtual machine share. Kong runs one machine per worker
    /// for all routes, each with a root context of its own.
    static MACHINE: RefCell<Machine> = RefCell::new(Machine::default());
}

#[derive(Default)]
struct Machine {
    gate: Gate,
    /// When the workers last looked for revocations.
    ticked_at: UnixMillis,
    /// The workers by the digest of their configuration text, which may hold secrets: routes with
    /// the same configuration share their caches.
    workers: HashMap<TextDigest, Weak<SharedWorker>>,
}

/// A worker and its watch: routes with the same configuration share them.
struct SharedWorker {
    worker: RefCell<Worker>,
    watch: RefCell<Watch>,
}

/// SHA-256 of a configuration's text.
type TextDigest = [u8; 32];

/// The worker for this configuration text, made if there is none.
fn worker_for(text: TextDigest, config: &Arc<Config>, key: &Arc<SigningKey>) -> Rc<SharedWorker> {
    MACHINE.with_borrow_mut(|machine| {
        if let Some(worker) = machine.workers.get(&text).and_then(Weak::upgrade) {
            return worker;
        }
        machine
            .workers
            .retain(|_, worker| worker.strong_count() > 0);
        let seed = system::nonce();
        let digest: [u8; 32] = Sha256::digest(&seed).into();
        metrics::has_worker(digest.first_chunk().copied().unwrap_or_default());
        let worker = Worker::new(Arc::clone(config), Arc::clone(key), &seed);
        let worker = Rc::new(SharedWorker {
            watch: RefCell::new(Watch::new(&worker)),
            worker: RefCell::new(worker),
        });
        machine.workers.insert(text, Rc::downgrade(&worker));
        worker
    })
}

/// Lets each worker of this machine look for revocations. A tick soon after another one does
/// nothing, because many root contexts tick.
fn tick() {
    let Some(now) = system::now() else {
        return;
    };
    MACHINE.with_borrow_mut(|machine| {
        if (machine.ticked_at..machine.ticked_at.plus_ms(TICK_MS_MIN)).contains(&now) {
            return;
        }
        machine.ticked_at = now;
        for shared in machine.workers.values().filter_map(Weak::upgrade) {
            let Ok(mut worker) = shared.worker.try_borrow_mut() else {
                continue;
            };
            if let Some(notice) = worker.tick(now, &mut HostStore) {
                log::warn!("realm {}: {notice}", worker.config.realm.name);
            }
        }
    });
}

/// Shows each worker of this machine; without workers, shows the gate that they share.
fn with_machine(mut show: impl FnMut(&Gate, Option<(&mut Worker, &Watch)>)) {
    MACHINE.with_borrow_mut(|machine| {
        show(&machine.gate, None);
        for shared in machine.workers.values().filter_map(Weak::upgrade) {
            if let (Ok(mut worker), Ok(watch)) =
                (shared.worker.try_borrow_mut(), shared.watch.try_borrow())
            {
                show(&machine.gate, Some((&mut worker, &watch)));
            }
        }
    });
}

/// Lends an exchange its environment: the worker, the machine's gate, the host.
fn with_env<T>(now: UnixMillis, worker: &mut Worker, act: impl FnOnce(&mut Env<'_>) -> T) -> T {
    with_host(now, worker, &system::source_address, &system::nonce, act)
}

/// The same outside of requests, where the address and the id of a request cannot be asked for.
fn with_background_env<T>(
    now: UnixMillis,
    worker: &mut Worker,
    act: impl FnOnce(&mut Env<'_>) -> T,
) -> T {
    with_host(now, worker, &|| None, &system::random_bytes, act)
}

fn with_host<T>(
    now: UnixMillis,
    worker: &mut Worker,
    source: &dyn Fn() -> Option<Vec<u8>>,
    nonce: &dyn Fn() -> Vec<u8>,
    act: impl FnOnce(&mut Env<'_>) -> T,
) -> T {
    MACHINE.with_borrow_mut(|machine| {
        act(&mut Env {
            now,
            worker,
            gate: &mut machine.gate,
            store: &mut HostStore,
            nonce,
            source,
        })
    })
}

/// The entry point that hosts call.
mod entry {
    #![allow(
        missing_docs,
        reason = "the macro's function is the host's, not ours to describe"
    )]
    proxy_wasm::main! {{ crate::start(); }}
}
