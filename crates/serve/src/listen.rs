//! Listeners on TCP addresses and Unix sockets: they accept, serve and close connections.

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
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, join};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

use crate::config::Address;

const HEAD_BYTES_MAX: usize = 128 * 1024;
/// The most headers of a request. The core refuses more than 100 with its own answer.
const HEADERS_MAX: usize = 512;
/// The limit for a request's head to arrive, and for an idle connection. Gateways keep idle
/// connections for less (nginx 60 s, lua-resty-http 60 s), so they close them first.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// The length of the HTTP/2 client preface (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
/// The pause after an accept that failed, for example without free file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Gives a Unix socket mode 0660: the process's user and group may connect.
const SOCKET_UMASK: Mode = Mode::from_bits_truncate(0o117);

/// A body that is complete in memory.
pub(crate) type Body = Full<bytes::Bytes>;

/// An open listener.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Closes it. Removes a socket's file first, so that it never removes the next process's file.
    fn close(self) {
        if let Self::Unix(_, path) = &self {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Opens an address.
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

/// Removes the socket of an earlier process.
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

/// Tells listeners when to stop.
#[derive(Clone)]
pub(crate) struct Ending {
    ends: watch::Receiver<bool>,
}

impl Ending {
    /// The sender that ends all listeners, and their receiver.
    pub(crate) fn new() -> (watch::Sender<bool>, Self) {
        let (sender, ends) = watch::channel(false);
        (sender, Self { ends })
    }

    async fn wait(&mut self) {
        // A dropped sender means the end, too.
        let _ = self.ends.wait_for(|ends| *ends).await;
    }
}

/// The version of HTTP that a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    /// For gRPC: without TLS, with prior knowledge.
    Http2,
}

/// Serves a listener's connections until the end. Then lets the requests under way finish.
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
    // Only one version: detecting it on a silent connection would wait forever.
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
        // The peer is a gateway and passes on the resets of its clients. Closing the connection for
        // them would cancel the requests of all other clients.
        .max_pending_accept_reset_streams(usize::MAX)
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
                let mut ends = ending.clone();
                tokio::spawn(async move {
                    let begun = tokio::select! {
                        biased;
                        begun = tokio::time::timeout(HEAD_TIMEOUT, begin(stream, version)) => begun,
                        () = ends.wait() => return,
                    };
                    // Closes a connection that sends nothing, or only a part of the preface.
                    let Ok(Ok(stream)) = begun else {
                        return;
                    };
                    let connection = builder.serve_connection(TokioIo::new(stream), service);
                    // The gateway handles a connection that failed.
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

/// Waits for the client's first byte (HTTP/1) or its whole preface (HTTP/2). hyper has no limit for these,
/// so the caller sets one.
async fn begin(mut stream: Box<dyn Stream>, version: Version) -> io::Result<Box<dyn Connection>> {
    match version {
        Version::Http1 => {
            stream.readable().await?;
            Ok(stream)
        }
        Version::Http2 => {
            let mut preface = vec![0; PREFACE_BYTES];
            stream.read_exact(&mut preface).await?;
            let (rest, writer) = tokio::io::split(stream);
            Ok(Box::new(join(io::Cursor::new(preface).chain(rest), writer)))
        }
    }
}

/// A byte stream in both directions.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

type Readable<'a> = Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

/// A TCP or Unix stream.
trait Stream: Connection {
    /// Waits for the first byte.
    fn readable(&self) -> Readable<'_>;
}

impl Stream for TcpStream {
    fn readable(&self) -> Readable<'_> {
        Box::pin(Self::readable(self))
    }
}

impl Stream for UnixStream {
    fn readable(&self) -> Readable<'_> {
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
