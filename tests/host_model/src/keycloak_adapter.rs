//! The made-up Keycloak of `tests/kit/src/` behind callouts: the only file that knows it.
//!
//! Reads a callout as a request to one realm, answers it, and verifies the signature of
//! each assertion. It remembers every assertion and every token, since each is a secret
//! that may stand nowhere else.

use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::{Call, Endpoint};
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
use test_kit::keycloak;

pub use keycloak::{EventFate, FakeKeycloak, ISSUER, RealmKey, User, bcrypt_of, claims, sha256_of};

/// The purpose of a callout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    ServiceToken,
    Lookup,
    Grant,
    /// The changes by administrators, or whether the realm keeps them.
    Events,
    /// The realm's discovery document or profile: only the self-check asks for these.
    Realm,
    /// A call that only the management API makes, by the model's word for it.
    Managing(&'static str),
    /// A yield without a wait.
    Yield,
    /// A yield with a wait.
    Wait,
}

pub fn asked(sent: &Sent) -> Asked {
    match header(&sent.headers, ":path").as_str() {
        "/yield" => Asked::Yield,
        "/wait" => Asked::Wait,
        _ => match keycloak::asked(&call_of(sent)) {
            "look-up" => Asked::Lookup,
            "grant" => Asked::Grant,
            "token" => Asked::ServiceToken,
            "changes" => Asked::Events,
            "discovery" | "profile" => Asked::Realm,
            other => Asked::Managing(other),
        },
    }
}

/// The call to Keycloak that a callout carries.
fn call_of(sent: &Sent) -> Call {
    let method = header(&sent.headers, ":method");
    let methods = ["GET", "POST", "PUT", "DELETE"];
    let method = methods.into_iter().find(|known| *known == method);
    let kind = header(&sent.headers, "content-type");
    let text = || Some(String::from_utf8(sent.body.clone()).unwrap());
    let bearer = value_of(&sent.headers, "authorization").map(|value| {
        let text = std::str::from_utf8(value).unwrap();
        text.strip_prefix("Bearer ").unwrap().to_owned()
    });
    Call {
        // The host's border does not carry it.
        endpoint: Endpoint::Lookup,
        method: method.expect("a method of Keycloak's"),
        path: header(&sent.headers, ":path"),
        bearer,
        form: text().filter(|_| kind == "application/x-www-form-urlencoded"),
        json: text().filter(|_| kind == "application/json"),
    }
}

/// Secrets of the traffic.
#[derive(Default)]
pub struct Traffic {
    /// Tokens of the management API's callers.
    pub caller_tokens: Vec<String>,
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
        let call = call_of(sent);
        let realm = call.path.split_once("realms/").unwrap().1;
        let realm = realm.split('/').next().unwrap().to_owned();
        if call.form.is_some() {
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

/// The gateway's key signed it: the made-up Keycloak verifies no signature.
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
