//! The workers of this virtual machine: the state that all filters in it share.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::gateway::Gateway;
use super::shared_store::HostStore;
use super::system;
use apikeys_core::background::Watch;
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::exchange::gate::Gate;
use apikeys_core::exchange::{Env, Worker};
use apikeys_core::signing_key::SigningKey;

/// Ticks of other root contexts within this time do nothing.
const TICK_MS_MIN: u64 = 150;

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
    /// Bytes that tell this machine from the others of its node; set with the first worker.
    holder: Option<[u8; 16]>,
}

/// A worker and its watch: routes with the same configuration share them.
pub(super) struct SharedWorker {
    pub(super) worker: RefCell<Worker>,
    pub(super) watch: RefCell<Watch>,
}

/// SHA-256 of a configuration's text.
pub(super) type TextDigest = [u8; 32];

/// The worker for this configuration text, made if there is none.
pub(super) fn worker_for(
    text: TextDigest,
    config: &Arc<Config>,
    key: &Arc<SigningKey>,
) -> Rc<SharedWorker> {
    MACHINE.with_borrow_mut(|machine| {
        if let Some(worker) = machine.workers.get(&text).and_then(Weak::upgrade) {
            return worker;
        }
        machine
            .workers
            .retain(|_, worker| worker.strong_count() > 0);
        let seed = system::nonce();
        machine.holder.get_or_insert_with(|| {
            let digest: [u8; 32] = Sha256::digest(&seed).into();
            digest.first_chunk().copied().unwrap_or_default()
        });
        let worker = Worker::new(Arc::clone(config), Arc::clone(key), &seed);
        let worker = Rc::new(SharedWorker {
            watch: RefCell::new(Watch::new(&worker)),
            worker: RefCell::new(worker),
        });
        machine.workers.insert(text, Rc::downgrade(&worker));
        worker
    })
}

/// Lets each worker of this machine look for revocations, and tell its counts. A tick soon after
/// another one does nothing, because many root contexts tick.
pub(super) fn tick() {
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
            for used in worker.take_usage(now, &mut HostStore) {
                let line = apikeys_core::audit::usage(&used, &worker.config.realm.name);
                log::log!(Gateway::here().info(), "{line}");
            }
        }
    });
}

/// The bytes that tell this machine from the others of its node, once it has a worker.
pub(super) fn holder() -> Option<[u8; 16]> {
    MACHINE.with_borrow(|machine| machine.holder)
}

/// Shows each worker of this machine; without workers, shows the gate that they share.
pub(super) fn with_machine(mut show: impl FnMut(&Gate, Option<(&mut Worker, &Watch)>)) {
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
pub(super) fn with_env<T>(
    now: UnixMillis,
    worker: &mut Worker,
    act: impl FnOnce(&mut Env<'_>) -> T,
) -> T {
    with_host(now, worker, &system::source_address, &system::nonce, act)
}

/// The same outside of requests, where the address and the id of a request cannot be asked for.
pub(super) fn with_background_env<T>(
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
