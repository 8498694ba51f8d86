//! `apikeys serve`: the exchange as a separate service, for gateways that load no Wasm.
//!
//! A gateway asks it about each request: over HTTP (forward auth) or over gRPC (Envoy's `ext_authz`).
//! The core decides. This crate gives it clock, threads, memory and connections, as the filter does in
//! a gateway. All threads share one worker for each exchange, so a key is exchanged once and its token is
//! in one cache.

mod config;
mod forward_auth;
mod grpc;
mod key_files;
mod keycloak;
mod listen;
mod log;
mod management;
mod metrics;
mod operations;
mod request;
mod service;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use apikeys_core::build_info::BuildInfo;
use apikeys_native::background;
use hyper::service::service_fn;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use config::{Address, Settings};
use listen::{Ending, Listener, Version};
use service::Service;

/// The time for requests under way to end after SIGTERM.
const LAST_REQUESTS: Duration = Duration::from_secs(15);

/// Checks the configuration and its files. Opens no address and calls no server.
///
/// # Errors
/// The fault of the configuration, or of a file that it names.
pub fn check(path: &Path) -> Result<()> {
    Service::new(Settings::read(path)?).map(drop)
}

/// Serves until SIGTERM or SIGINT, and ends when the requests under way have their answers.
///
/// # Errors
/// The fault of the configuration, of a file that it names, or of an address to listen on.
pub fn serve(path: &Path) -> Result<()> {
    let settings = Settings::read(path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let guard = log::start();
    let ended = runtime.block_on(run(settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(guard);
    ended
}

async fn run(settings: Settings) -> Result<()> {
    raise_file_limit();
    let exchanges = settings.listen.clone();
    let grpc = settings.listen_grpc.clone();
    let management = settings.listen_management.clone();
    let operations = settings.listen_operations.clone();
    let service = Arc::new(Service::new(settings)?);
    tracing::info!("apikeys serve {BuildInfo}");

    let (end, ending) = Ending::new();
    let mut servers = JoinSet::new();
    for listener in open(&exchanges, "exchanges", true).await? {
        let service = Arc::clone(&service);
        let answers = service_fn(move |asked| forward_auth::answer(Arc::clone(&service), asked));
        servers.spawn(listen::serve(
            listener,
            Version::Http1,
            answers,
            ending.clone(),
        ));
    }
    for listener in open(&grpc, "ext_authz over gRPC", true).await? {
        let answers = grpc::Authorization::new(Arc::clone(&service));
        servers.spawn(listen::serve(
            listener,
            Version::Http2,
            answers,
            ending.clone(),
        ));
    }
    for listener in open(&management, "the management API", true).await? {
        let Some(route) = service.management.clone() else {
            continue;
        };
        let hops = service.trusted_hops;
        let answers = service_fn(move |asked| management::answer(Arc::clone(&route), hops, asked));
        servers.spawn(listen::serve(
            listener,
            Version::Http1,
            answers,
            ending.clone(),
        ));
    }
    for listener in open(&operations, "health and metrics", false).await? {
        let service = Arc::clone(&service);
        let answers = service_fn(move |asked| operations::answer(Arc::clone(&service), asked));
        servers.spawn(listen::serve(
            listener,
            Version::Http1,
            answers,
            ending.clone(),
        ));
    }
    drop(ending);

    let reread = Arc::new(Notify::new());
    for route in service.routes() {
        let (realm, config) = (&route.config.realm, &route.config);
        tracing::info!("{}: realm {} at {}", route.name, realm.name, realm.issuer);
        if !config.enabled {
            tracing::warn!(
                "{}: enabled is false: requests pass untouched, with any key they carry",
                route.name
            );
        }
        tokio::spawn(background::work(Arc::downgrade(route)));
    }
    tokio::spawn(key_files::watch(Arc::clone(&service), Arc::clone(&reread)));

    wait_for_the_end(&reread).await?;
    tracing::info!("ending: no new connections; requests under way are finished");
    // Fails if all servers have ended already.
    let _ = end.send(true);
    let all = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_REQUESTS, all).await.is_err() {
        tracing::warn!("ended with requests under way");
    }
    Ok(())
}

/// Opens addresses, and logs each. Warns of an address that other machines may reach.
async fn open(addresses: &[Address], what: &str, gives_tokens: bool) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let is_open = matches!(address, Address::Tcp(address) if !address.ip().is_loopback());
        if gives_tokens && is_open {
            tracing::warn!(
                "{address} is not a loopback address: each caller that reaches it gets tokens for \
                 the keys it holds, without a gateway in between"
            );
        }
        listeners.push(Listener::open(address).await?);
        tracing::info!("listening at {address}: {what}");
    }
    Ok(listeners)
}

/// Waits for SIGTERM or SIGINT. Each SIGHUP starts a check of the signing keys' files.
async fn wait_for_the_end(reread: &Notify) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot receive signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot receive signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot receive signals")?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => reread.notify_one(),
        }
    }
}

/// Raises the soft limit of open files to the hard limit.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(fault) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {fault}");
    }
}
