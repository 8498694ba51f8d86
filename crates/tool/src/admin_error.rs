//! Errors of a call to Keycloak, each with advice.
//!
//! No error holds a token, a password or the body of an answer.

use apikeys_core::keycloak::refusal::Refusal;

/// A call to Keycloak that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// No answer: the address, the network, TLS or the time limit.
    #[error(
        "{method} {url}: no answer from Keycloak{}; check --keycloak-url, and that Keycloak runs{}",
        by_proxy(proxy.as_deref()),
        tls_hint(url)
    )]
    Unreachable {
        method: &'static str,
        url: String,
        /// The proxy of the call, and the variable that names it.
        proxy: Option<String>,
        source: Box<ureq::Error>,
    },
    /// Keycloak does not accept this user and password.
    #[error(
        "cannot sign in to realm {realm:?} as {username:?}: Keycloak answers {status} ({message}). \
         {}",
        sign_in_hint(*status)
    )]
    SignIn {
        username: String,
        realm: String,
        status: u16,
        message: String,
    },
    /// Keycloak refused the call.
    #[error("{method} {path}: Keycloak answers {status} ({message}){}", role_hint(*status))]
    Refused {
        method: &'static str,
        path: String,
        status: u16,
        message: String,
    },
    /// Keycloak's answer has an unexpected form.
    #[error("{method} {path}: the answer cannot be understood: {what}")]
    NotUnderstood {
        method: &'static str,
        path: String,
        what: &'static str,
    },
    /// The file given by `--ca-file` holds no certificates.
    #[error("--ca-file holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    Certificates,
    /// The variable that names the certificates to trust is set, and none can be read from there.
    #[error("{name} is set, and no certificate can be read from there")]
    TrustStore { name: &'static str },
    /// The environment names a proxy that cannot be used.
    #[error(
        "{name} names no proxy that can be used: it must be as http://proxy.example.com:3128 (or \
         https; SOCKS is not spoken here)"
    )]
    Proxy { name: &'static str },
}

impl AdminError {
    /// Whether Keycloak refused this request alone, and may accept the next one.
    pub(crate) fn concerns_one_request(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                *status >= 400 && !matches!(status, 401 | 403 | 408 | 429 | 502..=504)
            }
            _ => false,
        }
    }
}

fn by_proxy(proxy: Option<&str>) -> String {
    match proxy {
        Some(proxy) => {
            format!(" by way of the proxy {proxy} (to call without one, name the host in no_proxy)")
        }
        None => String::new(),
    }
}

fn tls_hint(url: &str) -> &'static str {
    if url.starts_with("https:") {
        " (certificates of your own authority are given by --ca-file or SSL_CERT_FILE)"
    } else {
        ""
    }
}

fn sign_in_hint(status: u16) -> &'static str {
    match status {
        // Keycloak answers a wrong password with 400 or 401, so this address serves no such realm.
        404 => {
            "Check --keycloak-url, with the path that Keycloak is under if it has one, and \
             --admin-realm"
        }
        _ => "Check --admin-realm, --admin-user and the password",
    }
}

fn role_hint(status: u16) -> &'static str {
    if status == 403 {
        ". The administrator lacks a role for this: see --admin-user"
    } else {
        ""
    }
}

/// Keycloak's words in the body of a refusal.
pub(crate) fn keycloak_words(status: u16, body: &str) -> String {
    Refusal::read(status, Some(body.as_bytes())).told()
}

/// Turns a foreign text into one short line without control characters.
pub(crate) fn one_line(text: &str) -> String {
    printable(text).chars().take(300).collect()
}

/// Removes the characters that would move a terminal's cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
