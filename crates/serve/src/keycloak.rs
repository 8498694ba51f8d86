//! Keycloak over HTTP: pooled connections to one or several addresses.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use apikeys_core::config::Config;
use apikeys_core::keycloak::{ANSWER_BYTES_MAX, Call};
use apikeys_core::trace::TraceContext;
use apikeys_native::{Answer, clock};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

/// How long an address that did not answer is skipped, if there are others.
const LEFT_OUT_MS: u64 = 5_000;
/// The most idle connections to one address.
const IDLE_MAX: usize = 128;
/// Closes an idle connection before Keycloak does (after 60 s or more).
const IDLE: Duration = Duration::from_secs(30);

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(1);

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The client that all exchanges share.
#[derive(Debug)]
pub(crate) struct Keycloak {
    http: Http,
}

/// The addresses of one Keycloak.
#[derive(Debug)]
pub(crate) struct Addresses {
    all: Vec<AddressHealth>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct AddressHealth {
    /// The base URL, without a slash at its end.
    url: String,
    /// Skipped until this instant, in milliseconds.
    out_until: AtomicU64,
}

impl Addresses {
    pub(crate) fn new(urls: &[String]) -> Self {
        let all = urls.iter().map(|url| AddressHealth {
            url: url.clone(),
            out_until: AtomicU64::new(0),
        });
        Self {
            all: all.collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// The next address in turn, without the skipped ones. If all are skipped, the next of all.
    fn pick(&self, now_ms: u64) -> Option<&AddressHealth> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = || {
            let from = first.checked_rem(self.all.len()).unwrap_or_default();
            self.all.iter().cycle().skip(from).take(self.all.len())
        };
        // A longer wait means that the clock was set back.
        let answers = |address: &&AddressHealth| {
            let left = address
                .out_until
                .load(Ordering::Relaxed)
                .saturating_sub(now_ms);
            !(1..=LEFT_OUT_MS).contains(&left)
        };
        in_turn().find(answers).or_else(|| in_turn().next())
    }
}

impl Keycloak {
    /// A client that trusts the certificates of this file, or the system's without a file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no certificate.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self> {
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots(ca_file)?)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        // A name may have several addresses, and the first may be gone.
        tcp.set_connect_timeout(Some(CONNECT));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Ok(Self { http })
    }

    /// Makes a call, and gives up after `timeout_ms`.
    pub(crate) async fn send(
        &self,
        addresses: &Addresses,
        config: &Config,
        call: &Call,
        trace: Option<&TraceContext>,
        timeout_ms: u64,
    ) -> Answer {
        let Some(address) = addresses.pick(clock::now().0) else {
            return Answer::Failed("no address".to_owned());
        };
        let sent = self.exchange(&address.url, config, call, trace);
        let limit = Duration::from_millis(timeout_ms.max(1));
        let answer = tokio::time::timeout(limit, sent).await;
        let answer = answer.unwrap_or_else(|_| Answer::Failed("no answer in time".to_owned()));
        if let Answer::Failed(_) = answer {
            let until = clock::now().0.saturating_add(LEFT_OUT_MS);
            address.out_until.store(until, Ordering::Relaxed);
        }
        answer
    }

    async fn exchange(
        &self,
        url: &str,
        config: &Config,
        call: &Call,
        trace: Option<&TraceContext>,
    ) -> Answer {
        let request = match request(url, config, call, trace) {
            Ok(request) => request,
            Err(_) => return Answer::Failed("the request cannot be written".to_owned()),
        };
        let response = match self.http.request(request).await {
            Ok(response) => response,
            Err(fault) if fault.is_connect() => {
                return Answer::Failed(format!("not connected: {}", cause(&fault)));
            }
            Err(fault) => return Answer::Failed(cause(&fault)),
        };
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        match body.collect().await {
            Ok(body) => Answer::Given {
                status,
                body: Some(Zeroizing::new(body.to_bytes().to_vec())),
            },
            Err(fault) if fault.is::<LengthLimitError>() => Answer::Given { status, body: None },
            Err(_) => Answer::Failed("the answer broke off".to_owned()),
        }
    }
}

/// The innermost cause of a fault. It names neither path nor header.
fn cause(fault: &hyper_util::client::legacy::Error) -> String {
    let mut source: &dyn std::error::Error = fault;
    while let Some(inner) = source.source() {
        source = inner;
    }
    source.to_string()
}

fn request(
    url: &str,
    config: &Config,
    call: &Call,
    trace: Option<&TraceContext>,
) -> http::Result<http::Request<Full<Bytes>>> {
    let mut request = http::Request::builder()
        .method(call.method)
        .uri(format!("{url}{}", call.path))
        .header("host", &config.realm.authority);
    for (name, value) in call.headers(trace) {
        let mut value = http::HeaderValue::try_from(value.as_str())?;
        value.set_sensitive(name == "authorization");
        request = request.header(name, value);
    }
    request.body(Full::from(call.body().to_owned()))
}

/// The certificates to trust: the file's, or the system's without a file.
fn roots(ca_file: Option<&Path>) -> Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    let Some(path) = ca_file else {
        // Skips certificates that cannot be read. Without any certificate, each TLS connection fails.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let named = || format!("keycloak_ca_file {}", path.display());
    let certificates: Vec<CertificateDer<'_>> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(named)?;
    let (added, _) = roots.add_parsable_certificates(certificates);
    ensure!(added > 0, "{}: holds no certificate", named());
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_did_not_answer_is_left_out_as_long_as_another_answers() {
        let addresses = Addresses::new(&["http://a".into(), "http://b".into()]);
        let picked = |now| addresses.pick(now).unwrap().url.clone();
        assert_ne!(picked(1000), picked(1000));
        let out = |at: usize, until| addresses.all[at].out_until.store(until, Ordering::Relaxed);
        out(0, 1000 + LEFT_OUT_MS);
        assert_eq!(
            (picked(1000), picked(1000)),
            ("http://b".into(), "http://b".into())
        );
        assert_ne!(picked(1000 + LEFT_OUT_MS), picked(1000 + LEFT_OUT_MS));
        out(1, 1000 + LEFT_OUT_MS);
        assert_ne!(picked(1000), picked(1000));
        // The clock was set back by an hour.
        out(0, 3_600_000);
        out(1, 0);
        assert_ne!(picked(1000), picked(1000));
    }
}
