//! The certificates that the tool trusts for Keycloak.
//!
//! Those of `--ca-file`; without it, those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name;
//! without them, the system's. If the system has none, as in a bare container, the library's
//! own list of public authorities counts.

use std::path::PathBuf;

use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};
use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

use crate::admin_error::AdminError;

const FILE: &str = "SSL_CERT_FILE";
const FOLDER: &str = "SSL_CERT_DIR";

/// The certificates to trust for this address.
pub(crate) fn roots(
    url: &str,
    ca_pem: Option<&[u8]>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<RootCerts, AdminError> {
    if let Some(pem) = ca_pem {
        return Ok(RootCerts::from(of_file(pem)?));
    }
    if !url.starts_with("https:") {
        return Ok(RootCerts::WebPki);
    }
    let named = |name| {
        variable(name)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    };
    let (file, folder) = (named(FILE), named(FOLDER));
    let is_named = match (&file, &folder) {
        (Some(_), _) => Some(FILE),
        (None, Some(_)) => Some(FOLDER),
        (None, None) => None,
    };
    // Unreadable certificates do no harm as long as others can be read.
    let CertificateResult { certs, .. } = match is_named {
        Some(_) => load_certs_from_paths(file.as_deref(), folder.as_deref()),
        None => load_native_certs(),
    };
    match (certs.is_empty(), is_named) {
        (false, _) => {
            Ok(RootCerts::from(certs.iter().map(|certificate| {
                Certificate::from_der(certificate).to_owned()
            })))
        }
        (true, Some(name)) => Err(AdminError::TrustStore { name }),
        (true, None) => Ok(RootCerts::WebPki),
    }
}

fn of_file(pem: &[u8]) -> Result<Vec<Certificate<'static>>, AdminError> {
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|_| AdminError::Certificates)? {
            certificates.push(certificate);
        }
    }
    match certificates.is_empty() {
        true => Err(AdminError::Certificates),
        false => Ok(certificates),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system;

    /// Self-signed, in nobody's use.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBQDCB86ADAgECAhQGBisVPHigAA6dT0TCCpw7zD11yDAFBgMrZXAwFTETMBEG
A1UEAwwKdHJ1c3QgdGVzdDAgFw0yNjExMzAwMDM1MTNaGA8yMTI2MTEwNjAwMzUx
M1owFTETMBEGA1UEAwwKdHJ1c3QgdGVzdDAqMAUGAytlcAMhAIcfN6ACdaBf8D6C
Z5PDMWPDO7Ls29ISUW9z3GZEytQ0o1MwUTAdBgNVHQ4EFgQU2kTGKOVi5NzdUUI3
zqZKL2nvBtAwHwYDVR0jBBgwFoAU2kTGKOVi5NzdUUI3zqZKL2nvBtAwDwYDVR0T
AQH/BAUwAwEB/zAFBgMrZXADQQCbNMkDm32QPTt/8LLKleCCynAN5xPmzhJTvh+E
hNcYsper6edMjxPc3jIX77oQRYlGwdqqtYw8lURqWQyhFbQL
-----END CERTIFICATE-----
";

    fn count(roots: &RootCerts) -> Option<usize> {
        match roots {
            RootCerts::Specific(certificates) => Some(certificates.len()),
            _ => None,
        }
    }

    fn named(name: &'static str, path: &str) -> impl Fn(&str) -> Option<String> {
        let path = path.to_owned();
        move |asked| (asked == name).then(|| path.clone())
    }

    #[test]
    fn the_file_and_the_folder_that_the_environment_names_are_trusted_alone() {
        let folder = std::env::temp_dir().join(system::random_name().unwrap());
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("ca.pem");
        std::fs::write(&file, CERTIFICATE).unwrap();
        for (name, path) in [(FILE, &file), (FOLDER, &folder)] {
            let roots = roots("https://id", None, named(name, path.to_str().unwrap()));
            assert_eq!(count(&roots.unwrap()), Some(1), "{name}");
        }
        // --ca-file counts before both.
        let nowhere = named(FILE, "/nonexistent/ca.pem");
        let given = roots("https://id", Some(CERTIFICATE.as_bytes()), nowhere);
        assert_eq!(count(&given.unwrap()), Some(1));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_variable_that_leads_to_no_certificate_is_told() {
        for name in [FILE, FOLDER] {
            let error = roots("https://id", None, named(name, "/nonexistent/ca")).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            let unused = roots("http://id", None, named(name, "/nonexistent/ca"));
            assert!(unused.is_ok(), "no TLS, no certificates");
        }
    }

    #[test]
    fn without_a_variable_the_systems_are_trusted_or_else_the_librarys() {
        let roots = roots("https://id", None, |_| None).unwrap();
        let of_the_system = load_native_certs().certs.len();
        let expected = (of_the_system > 0).then_some(of_the_system);
        assert_eq!(count(&roots), expected);
    }

    #[test]
    fn a_ca_file_without_certificates_is_refused() {
        assert!(matches!(
            roots("https://id", Some(b"nothing"), |_| None),
            Err(AdminError::Certificates)
        ));
    }
}
