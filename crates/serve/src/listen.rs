//! Listeners: TCP addresses and Unix sockets, their connections, and their end.

use std::future::Future;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use rustix::fs::Mode;
use rustix::process::umask;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

use crate::config::Address;

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// The most headers that are read; the core refuses above 100 with an answer of its own.
const HEADERS_MAX: usize = 512;
/// The time in which a head must come, and in which an idle connection is closed: longer than
/// gateways keep one (nginx 60 s, lua-resty-http 60 s), so that they close it and not we.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// A pause after a connection could not be accepted, as where file descriptors run out.
const PAUSE: Duration = Duration::from_millis(100);

/// A Unix socket is for the process's user and group: 0660.
const SOCKET_UMASK: Mode = Mode::from_bits_truncate(0o117);

/// A body that is at hand.
pub(crate) type Body = Full<bytes::Bytes>;

/// A listener that is open.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Ends it. The file of a socket goes first, so that it is never the next process's.
    fn close(self) {
        if let Self::Unix(_, path) = &self {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Opens one.
    ///
    /// # Errors
    /// The address cannot be used.
    pub(crate) async fn open(address: &Address) -> Result<Self> {
        match address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).await;
                let listener = listener.with_context(|| format!("cannot listen at {address}"))?;
                Ok(Self::Tcp(listener))
            }
            Address::Unix(path) => {
                let open = || -> Result<UnixListener> {
                    remove_stale(path)?;
                    let before = umask(SOCKET_UMASK);
                    let bound = UnixListener::bind(path);
                    umask(before);
                    Ok(bound?)
                };
                let listener = open().with_context(|| format!("cannot listen at {address}"))?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }
}

/// Removes the socket that an earlier process left behind.
fn remove_stale(path: &Path) -> Result<()> {
    let Ok(there) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !there.file_type().is_socket() {
        bail!("a file that is no socket is there");
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("another process listens there");
    }
    std::fs::remove_file(path).context("the socket of an earlier process cannot be removed")
}

/// The way to end all connections.
#[derive(Clone)]
pub(crate) struct Ending {
    ends: watch::Receiver<bool>,
}

impl Ending {
    /// The means to end, and the way to hear of it.
    pub(crate) fn new() -> (watch::Sender<bool>, Self) {
        let (sender, ends) = watch::channel(false);
        (sender, Self { ends })
    }

    async fn wait(&mut self) {
        // A sender that is gone means the end as well.
        let _ = self.ends.wait_for(|ends| *ends).await;
    }
}

/// The version of HTTP that a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    /// Without TLS, from the first byte on (gRPC).
    Http2,
}

/// Serves a listener's connections until the end, and then the requests that are under way.
pub(crate) async fn serve<S, B>(
    listener: Listener,
    version: Version,
    service: S,
    mut ending: Ending,
) where
    S: hyper::service::Service<http::Request<Incoming>, Response = http::Response<B>>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = Builder::new(TokioExecutor::new());
    // One version alone: a connection that does not show its version would wait without an end.
    builder = match version {
        Version::Http1 => builder.http1_only(),
        Version::Http2 => builder.http2_only(),
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        // The peer is a gateway, which passes its clients' resets on: ending the connection for them
        // would end the questions of all other clients with it.
        .max_pending_accept_reset_streams(None)
        .max_local_error_reset_streams(None)
        .keep_alive_interval(HEAD_TIMEOUT);
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = ending.wait() => break,
        };
        match accepted {
            Ok(stream) => {
                told = false;
                let watcher = graceful.watcher();
                let (builder, service) = (Arc::clone(&builder), service.clone());
                tokio::spawn(async move {
                    // A connection that says nothing.
                    let first = tokio::time::timeout(HEAD_TIMEOUT, stream.readable()).await;
                    if !first.is_ok_and(|readable| readable.is_ok()) {
                        return;
                    }
                    let connection = builder.serve_connection(TokioIo::new(stream), service);
                    // A connection that fails is its gateway's matter.
                    let _ = watcher.watch(connection.into_owned()).await;
                });
            }
            Err(fault) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!("a connection cannot be accepted: {fault}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    listener.close();
    graceful.shutdown().await;
}

/// Both kinds of streams.
trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {
    /// Waits for a first byte.
    fn readable(&self) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>>;
}

impl Stream for TcpStream {
    fn readable(&self) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>> {
        Box::pin(Self::readable(self))
    }
}

impl Stream for UnixStream {
    fn readable(&self) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>> {
        Box::pin(Self::readable(self))
    }
}

async fn accept(listener: &Listener) -> io::Result<Box<dyn Stream>> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        Listener::Unix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            Ok(Box::new(stream))
        }
    }
}
