//! Outgoing texts made of texts from outside: forms and queries read back, a log line is one
//! line without a token, a signing key is read or refused without being shown.
//!
//! Each line of the input is a text; `{pem}` stands for a signing key.

use std::sync::LazyLock;

use apikeys_core::config::Config;
use apikeys_core::keycloak::loggable;
use apikeys_core::keycloak::token::grant_call;
use apikeys_core::keycloak::users::lookup_call;
use apikeys_core::signing_key::SigningKey;
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{filled, first_line};

// Made for tests, used nowhere else.
pub const SIGNING_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg53C48x8+QE4ZxcdCcxlyCnLV+M8sg0pb\
    H91S4P2ZT2GhRANCAARztE3UlgHHa978qferI/VOamSBp0DyhC9PxPKuIP3RtmK1JtiNd9Q3OD/oPT3DjRszw97Lp6VQXMRn7iqhhhHE";

pub static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let config = json!({
        "keycloak_url": "https://login.example.com", "realm": "demo",
        "keycloak_upstream": "keycloak", "yield_upstream": "yield",
        "signing_key": SIGNING_KEY,
    });
    Config::from_json(config.to_string().as_bytes()).unwrap()
});

pub fn holds(data: &[u8]) {
    let (first, rest) = first_line(data);
    let (first, second) = (
        String::from_utf8_lossy(first),
        String::from_utf8_lossy(rest),
    );
    assert_loggable(&loggable(&first));
    assert_loggable(&loggable(&second));
    assert_form_reads_back(&first, &second);
    let call = lookup_call(&CONFIG, &first, &second);
    assert!(
        call.path.bytes().all(|byte| (0x21..=0x7e).contains(&byte)),
        "{}",
        call.path
    );
    let (_, query) = call.path.split_once("&q=").unwrap();
    let asked = percent_decode_str(query).decode_utf8().unwrap();
    assert!(asked.starts_with(&format!("apiKeyIndex:{second}")) && !query.contains('&'));
    signing_key(data);
}

/// A text that has been through [`loggable`].
pub fn assert_loggable(text: &str) {
    assert!(text.len() <= 120 && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    assert!(words.all(|word| word.len() <= 30), "{text}");
    assert_eq!(loggable(text), text, "twice is as once");
}

fn assert_form_reads_back(first: &str, second: &str) {
    let call = grant_call(&CONFIG, first, second, Some(first));
    let form = call.form.clone().unwrap();
    assert!(form.bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
    let pairs: Vec<(&str, String)> = form
        .split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| {
            (
                name,
                percent_decode_str(value)
                    .decode_utf8()
                    .unwrap()
                    .into_owned(),
            )
        })
        .collect();
    let value = |wanted: &str| {
        let mut found = pairs.iter().filter(|(name, _)| *name == wanted);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{wanted} twice");
        value
    };
    assert_eq!(pairs.len(), 5);
    assert_eq!(value("assertion"), Some(first));
    assert_eq!(value("client_assertion"), Some(second));
    assert_eq!(value("scope"), Some(first));
    // The form and bearer of a `Call` stay out of its debug line.
    assert!(!format!("{call:?}").contains("client_assertion"));
}

/// A text is no key, or each of its forms is the same key; it is never shown.
fn signing_key(data: &[u8]) {
    let text = filled(data, &[("{pem}", SIGNING_KEY.as_bytes())]);
    let text = String::from_utf8_lossy(&text);
    match SigningKey::parse(&text) {
        Err(error) => {
            let message = error.to_string();
            assert!(text.len() < 40 || !message.contains(text.as_ref()));
        }
        Ok(key) => {
            let body = match text.split_once("-----BEGIN PRIVATE KEY-----") {
                Some((_, rest)) => rest.split("-----END ").next().unwrap().to_owned(),
                None => text.into_owned(),
            };
            let body: String = body.replace("\\n", "").split_ascii_whitespace().collect();
            for form in [
                body.clone(),
                format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"),
            ] {
                assert_eq!(SigningKey::parse(&form).unwrap().kid(), key.kid());
            }
            assert_eq!(key.kid().len(), 43);
            assert!(!format!("{key:?} {}", key.public_jwk()).contains(&body));
            assert_eq!(key.sign(&json!({})).unwrap().split('.').count(), 3);
        }
    }
}
