//! The realm's public keys: the call for them, and the set that its answer holds.
//!
//! A caller's token is verified with one of these (RFC 7517). The answer comes from Keycloak
//! over the gateway's own connection. A key that is of no use here (for encryption, of another
//! kind, too small) is skipped, so that the usable keys stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::public_key::{Jwk, PublicKey};
use super::{Call, Endpoint};
use crate::config::Config;

/// Keys that are kept of one answer. A realm has two or three, and one more while it
/// rotates them.
pub const KEYS_MAX: usize = 32;

/// The call for the realm's public keys.
#[must_use]
pub fn jwks_call(config: &Config) -> Call {
    Call {
        endpoint: Endpoint::Jwks,
        method: "GET",
        path: config.realm.certs_path.clone(),
        bearer: None,
        form: None,
        json: None,
    }
}

/// Reasons an answer gave no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Not 200.
    #[error("Keycloak answered {0} when asked for the realm's public keys")]
    Status(u16),
    /// Not the JSON of a key set.
    #[error("an answer that is no set of public keys")]
    Malformed,
    /// A key set, and none of its keys can be used.
    #[error(
        "the realm has no signing key that is used here: RSA of 2048 to 4096 bits, EC on \
         P-256 or Ed25519; look at Realm settings, Keys"
    )]
    NoUsableKey,
}

/// The public keys of a realm, by name.
#[derive(Debug, Clone)]
pub struct KeySet(Vec<Arc<PublicKey>>);

impl KeySet {
    /// The key of this name.
    #[must_use]
    pub fn find(&self, kid: &str) -> Option<&Arc<PublicKey>> {
        self.0.iter().find(|key| key.kid() == kid)
    }
}

#[derive(Deserialize)]
struct Answer {
    keys: Vec<Value>,
}

/// Reads an answer to [`jwks_call`]. Signing keys that share a name are not used, since a
/// token's `kid` could mean either.
///
/// # Errors
/// [`JwksError`] when it holds no key that can be used.
pub fn read_jwks_answer(status: u16, body: &[u8]) -> Result<KeySet, JwksError> {
    if status != 200 {
        return Err(JwksError::Status(status));
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|_| JwksError::Malformed)?;
    let listed: Vec<Jwk> = answer.keys.iter().filter_map(Jwk::read).collect();
    let mut bearers: BTreeMap<&str, usize> = BTreeMap::new();
    for kid in listed.iter().filter_map(Jwk::signing_kid) {
        *bearers.entry(kid).or_default() += 1;
    }
    let is_alone = |key: &&Jwk| {
        let kid = key.signing_kid();
        kid.is_some_and(|kid| bearers.get(kid) == Some(&1))
    };
    let keys: Vec<Arc<PublicKey>> = listed
        .iter()
        .filter(is_alone)
        .filter_map(PublicKey::from_jwk)
        .map(Arc::new)
        .take(KEYS_MAX)
        .collect();
    if keys.is_empty() {
        return Err(JwksError::NoUsableKey);
    }
    Ok(KeySet(keys))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::keycloak::public_key::Algorithm;
    use crate::test_support::{config, signed_by_openssl};

    fn key(name: &str) -> Value {
        signed_by_openssl()["keys"][name].clone()
    }

    fn with(name: &str, member: &str, value: Value) -> Value {
        let mut key = key(name);
        if value.is_null() {
            key.as_object_mut().unwrap().remove(member);
        } else {
            key[member] = value;
        }
        key
    }

    fn read(keys: &[Value]) -> Result<KeySet, JwksError> {
        read_jwks_answer(200, json!({ "keys": keys }).to_string().as_bytes())
    }

    /// The names that are kept of these and a usable one, `ec`.
    fn kept(keys: &[Value]) -> Vec<String> {
        let all = [keys, &[key("ec")]].concat();
        let KeySet(kept) = read(&all).unwrap();
        kept.iter().map(|key| key.kid().to_owned()).collect()
    }

    #[test]
    fn asks_the_realm_for_its_keys() {
        let call = jwks_call(&config());
        assert_eq!(
            (call.method, call.path.as_str()),
            ("GET", "/realms/demo/protocol/openid-connect/certs")
        );
        assert_eq!((call.bearer, call.form), (None, None));
    }

    #[test]
    fn keeps_signing_keys_of_each_kind() {
        let names = ["rsa2048", "rsa4096", "ed", "ec"];
        let keys = read(&names.map(key)).unwrap();
        let fits = names.map(|name| {
            let key = keys.find(name).unwrap();
            let all = [
                Algorithm::Rs256,
                Algorithm::Ps256,
                Algorithm::Es256,
                Algorithm::EdDsa,
            ];
            all.map(|algorithm| key.is_for(algorithm))
        });
        assert_eq!(
            fits,
            [
                [true, true, false, false],
                [true, true, false, false],
                [false, false, false, true],
                [false, false, true, false],
            ]
        );
        assert!(keys.find("").is_none() && keys.find("other").is_none());
        assert!(kept(&[with("ed", "use", Value::Null)]).contains(&"ed".into()));
        for (name, alg) in [("rsa2048", "PS256"), ("ed", "EdDSA"), ("rsa4096", "RS256")] {
            assert_eq!(kept(&[with(name, "alg", json!(alg))]), [name, "ec"]);
        }
    }

    #[test]
    fn passes_keys_over_that_are_of_no_use_here() {
        let ed = || with("ed", "kid", json!("other"));
        for (why, unused) in [
            ("small", key("rsa1024")),
            ("for encryption", with("rsa2048", "use", json!("enc"))),
            ("for encryption", with("rsa2048", "alg", json!("RSA-OAEP"))),
            ("another hash", with("rsa2048", "alg", json!("RS512"))),
            ("another kind's alg", with("rsa2048", "alg", json!("ES256"))),
            ("another kind's alg", with("ed", "alg", json!("HS256"))),
            ("a low exponent", with("rsa2048", "e", json!("Aw"))),
            ("an even exponent", with("rsa2048", "e", json!("AQAC"))),
            ("a huge exponent", with("rsa2048", "e", json!("AQAAAAE"))),
            ("no exponent", with("rsa2048", "e", Value::Null)),
            ("no name", with("rsa2048", "kid", Value::Null)),
            ("an empty name", with("rsa2048", "kid", json!(""))),
            ("a long name", with("ed", "kid", json!("x".repeat(256)))),
            ("a number as name", with("rsa2048", "kid", json!(1))),
            ("another curve", with("ed", "crv", json!("Ed448"))),
            ("another curve", with("ed", "crv", json!("X25519"))),
            ("another kind", with("ed", "kty", json!("oct"))),
            ("another kind", with("ed", "kty", json!("AKP"))),
            ("short", with("ed", "x", json!("AAAA"))),
            ("weak", with("ed", "x", json!("A".repeat(43)))),
            ("not base64", with("rsa2048", "n", json!("?"))),
            ("no object", json!(7)),
        ] {
            assert_eq!(kept(&[unused]), ["ec"], "{why}");
        }
        assert_eq!(kept(&[ed()]), ["other", "ec"]);
        let off_the_curve = with("ec", "y", key("ec")["x"].clone());
        assert_eq!(read(&[off_the_curve]).err(), Some(JwksError::NoUsableKey));
    }

    #[test]
    fn an_rsa_key_is_of_2048_to_4096_bits() {
        let of_bits = |bits: usize| {
            use base64::Engine;
            let mut modulus = vec![0_u8; bits.div_ceil(8)];
            *modulus.first_mut().unwrap() = 1 << ((bits - 1) % 8);
            *modulus.last_mut().unwrap() |= 1;
            let modulus = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(modulus);
            kept(&[with("rsa2048", "n", json!(modulus))]).len() == 2
        };
        assert_eq!(
            [2047, 2048, 4096, 4097].map(of_bits),
            [false, true, true, false]
        );
    }

    #[test]
    fn of_signing_keys_with_one_name_none_is_used() {
        let twin = with("ed", "kid", json!("rsa2048"));
        assert_eq!(kept(&[key("rsa2048"), twin.clone()]), ["ec"]);
        // Even where the other could not be used; an encryption key is no twin.
        let unusable = with("ed", "x", json!("AAAA"));
        assert_eq!(kept(&[key("ed"), unusable]), ["ec"]);
        let mut encryption = twin;
        encryption["use"] = json!("enc");
        assert_eq!(kept(&[key("rsa2048"), encryption]), ["rsa2048", "ec"]);
    }

    #[test]
    fn keeps_a_bounded_number_of_keys() {
        let many = |count: usize| -> Vec<Value> {
            let named = |at| with("ed", "kid", json!(format!("key-{at}")));
            (0..count).map(named).collect()
        };
        assert_eq!(kept(&many(KEYS_MAX - 1)).len(), KEYS_MAX);
        let KeySet(keys) = read(&many(KEYS_MAX + 5)).unwrap();
        assert_eq!(keys.len(), KEYS_MAX);
    }

    #[test]
    fn an_answer_without_a_usable_key_is_an_error() {
        for keys in [vec![], vec![key("rsa1024")], vec![key("ed"), key("ed")]] {
            assert_eq!(read(&keys).err(), Some(JwksError::NoUsableKey));
        }
        for body in [
            "",
            "{}",
            "[]",
            "null",
            "{\"keys\":{}}",
            "{\"keys\":[}",
            "<html>",
        ] {
            let read = read_jwks_answer(200, body.as_bytes());
            assert_eq!(read.err(), Some(JwksError::Malformed), "{body}");
        }
        let body = json!({ "keys": [key("ec")] }).to_string();
        for status in [0, 204, 302, 404, 500] {
            let read = read_jwks_answer(status, body.as_bytes());
            assert_eq!(read.err(), Some(JwksError::Status(status)));
        }
    }
}
