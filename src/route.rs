//! One configuration of the filter, with the worker and the manager that its requests share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::system;
use super::workers::{SharedWorker, TextDigest, worker_for};
use apikeys_core::config::{Config, SigningKeySource};
use apikeys_core::manage::Manager;
use apikeys_core::signing_key::SigningKey;

/// One configuration of the filter and its worker.
pub(super) struct Route {
    pub(super) config: Arc<Config>,
    text: TextDigest,
    /// Cache hits times the sampling rate: thousandths of the next line in the audit log.
    hits: Cell<u32>,
    worker: RefCell<Option<Rc<SharedWorker>>>,
    manager: RefCell<Option<Rc<RefCell<Manager>>>>,
}

impl Route {
    /// A route without a worker, from its configuration and the text of that.
    pub(super) fn new(config: Arc<Config>, text: &[u8]) -> Self {
        Self {
            config,
            text: Sha256::digest(text).into(),
            hits: Cell::new(0),
            worker: RefCell::new(None),
            manager: RefCell::new(None),
        }
    }

    /// The worker. Made at first use: Kong reads the variable with the signing key only within a
    /// request.
    ///
    /// # Errors
    /// The fault of the signing key, without any of its text.
    pub(super) fn worker(&self) -> Result<Rc<SharedWorker>, String> {
        if let Some(worker) = self.worker.borrow().as_ref() {
            return Ok(Rc::clone(worker));
        }
        let key = read_key(&self.config.signing_key, "signing_key_property")?;
        let worker = worker_for(self.text, &self.config, &Arc::new(key));
        *self.worker.borrow_mut() = Some(Rc::clone(&worker));
        Ok(worker)
    }

    /// Whether the audit log gets a line for this cache hit.
    pub(super) fn samples_hit(&self) -> bool {
        let hits = self.hits.get() + self.config.audit_hits_per_1000;
        self.hits.set(hits % 1000);
        hits >= 1000
    }

    /// The worker, if it was made already.
    pub(super) fn made(&self) -> Option<Rc<SharedWorker>> {
        self.worker.borrow().as_ref().map(Rc::clone)
    }

    /// The state that the management requests of this configuration share; made at first use.
    ///
    /// # Errors
    /// The fault of the management client's key, without any of its text.
    pub(super) fn manager(&self) -> Result<Rc<RefCell<Manager>>, String> {
        if let Some(manager) = self.manager.borrow().as_ref() {
            return Ok(Rc::clone(manager));
        }
        let management = self.config.management.as_ref();
        let key = match management.and_then(|management| management.signing_key.as_ref()) {
            Some(source) => Arc::new(read_key(source, "management_signing_key_property")?),
            None => Arc::clone(&self.worker()?.worker.borrow().signing_key),
        };
        let manager = Manager::new(key, &system::nonce());
        let manager = Rc::new(RefCell::new(manager));
        *self.manager.borrow_mut() = Some(Rc::clone(&manager));
        Ok(manager)
    }
}

/// Reads a key from its configured source.
pub(super) fn read_key(source: &SigningKeySource, field: &str) -> Result<SigningKey, String> {
    match source {
        SigningKeySource::Inline(key) => Ok(SigningKey::clone(key)),
        SigningKeySource::Property(path) => {
            let name = path.join(".");
            let pem = system::property(path).ok_or_else(|| {
                format!("{field}: the host has no property {name}, or it is empty")
            })?;
            SigningKey::parse(&pem).map_err(|fault| format!("{field} {name}: {fault}"))
        }
    }
}
