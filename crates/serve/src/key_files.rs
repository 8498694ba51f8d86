//! Watching the files of the signing keys.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::service::{KeyFiles, Route, Service};

/// The time between two reads of the files.
const PERIOD: Duration = Duration::from_secs(1);

/// Watches the files. A key that cannot be used is logged once, and the key before it stays in use.
/// `reread` asks for a check without delay.
pub(crate) async fn watch(service: Arc<Service>, reread: Arc<Notify>) {
    let files = &service.keys;
    let mut known = digest(files).await;
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = reread.notified() => {}
        }
        let seen = digest(files).await;
        if seen == known {
            continue;
        }
        known = seen;
        match files.read() {
            Ok(keys) if service.routes().all(|route| route.state().has_keys(&keys)) => {
                tracing::info!("the signing key's file has changed, and holds the key in use");
            }
            Ok(keys) => {
                Route::renew(service.routes(), |_| keys.clone());
                tracing::info!("the signing key has changed and is in use");
            }
            Err(fault) => tracing::error!(
                "the signing key has changed and cannot be used, so the one before stays: {fault:#}"
            ),
        }
    }
}

/// A digest of the files, to notice a change. A file that cannot be read counts as empty.
async fn digest(files: &KeyFiles) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for path in [&files.signing_key, &files.management_signing_key] {
        let bytes = tokio::fs::read(path).await.map(zeroize::Zeroizing::new);
        let bytes = bytes.unwrap_or_default();
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(&*bytes);
    }
    hasher.finalize().into()
}
