//! The made-up Keycloak of `tests/model/` behind callouts: the one file that knows it.
//!
//! Reads a callout as a request to one realm, answers it, verifies the signature of each
//! assertion, and remembers every one and every token that went by, since each is a secret
//! that may stand nowhere else.

use apikey_jwt_exchange::clock::UnixMillis;
use apikey_jwt_exchange::keycloak::Call;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePrivateKey;
use serde_json::Value;

use super::abi::{Pairs, pairs, value_of};
use super::host::Answer;
use super::keys::SIGNING_KEY;
use super::node::Sent;

#[path = "../model/keycloak/mod.rs"]
mod keycloak;

pub use keycloak::{FakeKeycloak, ISSUER, User, bcrypt_of, claims, jwt, sha256_of};

/// What a callout asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    ServiceToken,
    Lookup,
    Grant,
    /// A turn at once.
    Yield,
    /// A turn after a while.
    Wait,
}

pub fn asked(sent: &Sent) -> Asked {
    let path = header(&sent.headers, ":path");
    match (path.as_str(), header(&sent.headers, ":method").as_str()) {
        ("/yield", _) => Asked::Yield,
        ("/wait", _) => Asked::Wait,
        (_, "GET") => Asked::Lookup,
        _ if sent.body.windows(11).any(|part| part == b"&assertion=") => Asked::Grant,
        _ => Asked::ServiceToken,
    }
}

/// Secrets that went by.
#[derive(Default)]
pub struct Traffic {
    pub owner_tokens: Vec<String>,
    pub service_tokens: Vec<String>,
    pub assertions: Vec<String>,
    /// The ids of all assertions, in their order.
    pub jtis: Vec<String>,
}

/// The realms of one Keycloak.
#[derive(Default)]
pub struct Keycloaks {
    pub realms: Vec<FakeKeycloak>,
    pub traffic: Traffic,
}

impl Keycloaks {
    pub fn realm(&mut self, name: &str) -> &mut FakeKeycloak {
        let found = self.realms.iter_mut().find(|realm| realm.realm == name);
        found.unwrap_or_else(|| panic!("no realm {name}"))
    }

    pub fn answer(&mut self, sent: &Sent, now: UnixMillis) -> Answer {
        let path = header(&sent.headers, ":path");
        let realm = path.split_once("realms/").unwrap().1;
        let realm = realm.split('/').next().unwrap().to_owned();
        let bearer = value_of(&sent.headers, "authorization").map(|value| {
            let text = std::str::from_utf8(value).unwrap();
            text.strip_prefix("Bearer ").unwrap().to_owned()
        });
        let is_get = header(&sent.headers, ":method") == "GET";
        let call = Call {
            method: if is_get { "GET" } else { "POST" },
            path,
            bearer,
            form: (!is_get).then(|| String::from_utf8(sent.body.clone()).unwrap()),
            json: None,
        };
        if !is_get {
            self.note_assertions(&call);
        }
        let (status, body) = self.realm(&realm).answer(&call, now);
        self.note_token(asked(sent), &body);
        response(status, &body)
    }

    fn note_assertions(&mut self, call: &Call) {
        let form = keycloak::form(call);
        for name in ["client_assertion", "assertion"] {
            if let Some(assertion) = form.get(name) {
                assert_signed(assertion);
                let jti = claims(assertion)["jti"].as_str().unwrap().to_owned();
                self.traffic.jtis.push(jti);
                self.traffic.assertions.push(assertion.clone());
            }
        }
    }

    fn note_token(&mut self, asked: Asked, body: &[u8]) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        if let Some(token) = body["access_token"].as_str() {
            let tokens = match asked {
                Asked::Grant => &mut self.traffic.owner_tokens,
                _ => &mut self.traffic.service_tokens,
            };
            tokens.push(token.to_owned());
        }
    }
}

/// The gateway's key signed it: the model of Keycloak does not look.
fn assert_signed(assertion: &str) {
    let der = STANDARD.decode(SIGNING_KEY).unwrap();
    let key = p256::SecretKey::from_pkcs8_der(&der).unwrap();
    let key = VerifyingKey::from(key.public_key());
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let signature = Signature::from_slice(&signature).unwrap();
    key.verify(signed.as_bytes(), &signature)
        .expect("an assertion is signed by the gateway's key");
}

pub fn response(status: u16, body: &[u8]) -> Answer {
    Answer::Response {
        headers: pairs(&[
            (":status", &status.to_string()),
            ("content-type", "application/json"),
        ]),
        body: body.to_vec(),
    }
}

fn header(pairs: &Pairs, name: &str) -> String {
    let value = value_of(pairs, name).unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}
