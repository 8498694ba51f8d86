//! The gateway's one secret: an EC key on P-256.
//!
//! It signs the assertions (RFC 7523) by which Keycloak knows the gateway. All other secrets of
//! the gateway (the keys of its caches) are derived from it, so no secret is ever drawn from a
//! host's random source, which on Kong is not cryptographic.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hkdf::Hkdf;
use jsonwebtoken::{Algorithm, Header};
use p256::SecretKey;
use p256::ecdsa::{self, Signature, signature::Signer};
use p256::pkcs8::DecodePrivateKey;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The length of the part of a key's name that the ids of assertions hold.
pub const SHORT_KID_BYTES: usize = 8;

/// A private key on P-256, ready to sign.
#[derive(Clone)]
pub struct SigningKey {
    /// Kept ready: reading it anew for each signature, as `jsonwebtoken::encode` does, takes
    /// longer than signing.
    key: ecdsa::SigningKey,
    kid: String,
    /// The encoded header of every assertion.
    header: String,
    x: String,
    y: String,
    secret: Zeroizing<[u8; 32]>,
}

impl SigningKey {
    /// Reads a PKCS#8 key in PEM (RFC 7468), or the base64 inside it. Line ends may be missing,
    /// spaces, or written as `\n`: configuration formats and nginx variables do that to them.
    ///
    /// # Errors
    /// [`UnusableSigningKey`], which holds no part of the text.
    pub fn parse(text: &str) -> Result<Self, UnusableSigningKey> {
        let body = pem_body(text)?;
        let encoded: Zeroizing<String> =
            Zeroizing::new(body.replace("\\n", "").split_ascii_whitespace().collect());
        let der = Zeroizing::new(
            STANDARD
                .decode(encoded.as_bytes())
                .map_err(|_| UnusableSigningKey::Encoding)?,
        );
        let key = SecretKey::from_pkcs8_der(&der).map_err(|_| UnusableSigningKey::NotP256)?;
        let secret = Zeroizing::new(key.to_bytes().into());
        // Computes the public half, once.
        let key = ecdsa::SigningKey::from(key);
        let point = key.verifying_key().to_sec1_point(false);
        let (Some(x), Some(y)) = (point.x(), point.y()) else {
            return Err(UnusableSigningKey::NotP256);
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let kid = thumbprint(&x, &y);
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid.clone());
        let header = serde_json::to_vec(&header).map_err(|_| UnusableSigningKey::Encoding)?;
        Ok(Self {
            secret,
            key,
            kid,
            header: URL_SAFE_NO_PAD.encode(header),
            x,
            y,
        })
    }

    /// The key's name: its thumbprint (RFC 7638).
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The first [`SHORT_KID_BYTES`] bytes of the key's name, which tell two keys of one realm
    /// apart: 48 bits of the thumbprint.
    #[must_use]
    pub fn short_kid(&self) -> &str {
        self.kid.get(..SHORT_KID_BYTES).unwrap_or(&self.kid)
    }

    /// The public half as a JWK (RFC 7517), for signatures with ES256.
    #[must_use]
    pub fn public_jwk(&self) -> Value {
        json!({
            "kty": "EC", "crv": "P-256", "x": self.x, "y": self.y,
            "use": "sig", "alg": "ES256", "kid": self.kid(),
        })
    }

    /// Signs the claims as a JWT with ES256 (RFC 7515, 7518). Deterministic (RFC 6979): no random
    /// source is used.
    ///
    /// # Errors
    /// [`SigningFailed`]; not seen with a key that was parsed.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, SigningFailed> {
        let claims = serde_json::to_vec(claims).map_err(|_| SigningFailed)?;
        let mut jwt = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims));
        let signature: Signature = self
            .key
            .try_sign(jwt.as_bytes())
            .map_err(|_| SigningFailed)?;
        jwt.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.to_bytes(), &mut jwt);
        Ok(jwt)
    }

    /// A secret for one purpose, by HKDF-SHA256 (RFC 5869). Different purposes
    /// give independent secrets.
    #[must_use]
    pub fn derive(&self, purpose: &[&[u8]]) -> [u8; 32] {
        let mut derived = [0_u8; 32];
        let hkdf = Hkdf::<Sha256>::new(Some(b"apikey-jwt-exchange v1"), self.secret.as_slice());
        // Fails only for more than 8,160 bytes; 32 are asked for.
        let _ = hkdf.expand_multi_info(purpose, &mut derived);
        derived
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid())
            .finish_non_exhaustive()
    }
}

/// The base64 between a PEM's markers, or the whole text where there are none.
fn pem_body(text: &str) -> Result<&str, UnusableSigningKey> {
    let Some((_, from_label)) = text.split_once("-----BEGIN ") else {
        return Ok(text);
    };
    let (label, rest) = from_label
        .split_once("-----")
        .ok_or(UnusableSigningKey::Encoding)?;
    if label != "PRIVATE KEY" {
        return Err(UnusableSigningKey::Label);
    }
    let (body, _) = rest
        .split_once("-----END ")
        .ok_or(UnusableSigningKey::Encoding)?;
    Ok(body)
}

/// SHA-256 over the JWK's required members in lexical order (RFC 7638, 3).
fn thumbprint(x: &str, y: &str) -> String {
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(members))
}

/// Reasons why a text is not a signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableSigningKey {
    /// Another kind of PEM: a public key, a SEC1 key, an encrypted one.
    #[error(
        "must be an unencrypted PKCS#8 key (-----BEGIN PRIVATE KEY-----); \
         convert with: openssl pkcs8 -topk8 -nocrypt"
    )]
    Label,
    /// Not base64, or cut off.
    #[error("must be a PEM text; this one is cut off or not base64")]
    Encoding,
    /// A key of another kind or curve.
    #[error(
        "must be an EC key on P-256; make one with: \
         openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
    )]
    NotP256,
}

/// The signature could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the assertion could not be signed")]
pub struct SigningFailed;

#[cfg(test)]
mod tests {
    use super::*;

    use crate::test_support::SIGNING_KEY_PEM as PEM;

    #[test]
    fn reads_the_forms_that_configurations_make_of_a_pem() {
        let kid = SigningKey::parse(PEM).unwrap().kid().to_owned();
        let body: String = PEM.lines().filter(|line| !line.starts_with("--")).collect();
        for form in [PEM.replace('\n', "\\n"), PEM.replace('\n', " "), body] {
            assert_eq!(SigningKey::parse(&form).unwrap().kid(), kid);
        }
    }

    #[test]
    fn a_keys_name_is_its_thumbprint() {
        // RFC 7638, computed apart.
        let key = SigningKey::parse(PEM).unwrap();
        assert_eq!(key.kid(), "DXEzWNr5ha2zYK7t77nmBuQlUb-RwFQeY4qtrhHvzlw");
    }

    #[test]
    fn signs_what_the_public_half_verifies() {
        let key = SigningKey::parse(PEM).unwrap();
        let jwt = key
            .sign(&json!({"sub": "alice", "exp": 4_102_444_800_u64}))
            .unwrap();
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.public_jwk()).unwrap();
        let decoding = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        let validation = jsonwebtoken::Validation::new(Algorithm::ES256);
        let decoded = jsonwebtoken::decode::<Value>(&jwt, &decoding, &validation).unwrap();
        assert_eq!(decoded.claims["sub"], "alice");
        assert_eq!(decoded.header.kid.as_deref(), Some(key.kid()));
    }

    #[test]
    fn signs_byte_for_byte_as_the_jwt_library_does() {
        let key = SigningKey::parse(PEM).unwrap();
        let claims = json!({"sub": "alice", "exp": 4_102_444_800_u64});
        let body: String = PEM.lines().filter(|line| !line.starts_with("--")).collect();
        let der = STANDARD.decode(body).unwrap();
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(key.kid().to_owned());
        let encoding = jsonwebtoken::EncodingKey::from_ec_der(&der);
        let reference = jsonwebtoken::encode(&header, &claims, &encoding).unwrap();
        assert_eq!(key.sign(&claims).unwrap(), reference);
    }

    #[test]
    fn derived_secrets_differ_by_purpose_and_by_key() {
        let key = SigningKey::parse(PEM).unwrap();
        assert_eq!(key.derive(&[b"seal", b"1"]), key.derive(&[b"seal1"]));
        assert_ne!(key.derive(&[b"seal"]), key.derive(&[b"digest"]));
        assert_ne!(key.derive(&[b"seal"]), [0; 32]);
    }

    #[test]
    fn refuses_other_keys_without_showing_them() {
        let cases = [
            (
                PEM.replace("PRIVATE KEY", "EC PRIVATE KEY"),
                UnusableSigningKey::Label,
            ),
            (PEM[..80].to_owned(), UnusableSigningKey::Encoding),
            ("not a key!".to_owned(), UnusableSigningKey::Encoding),
            ("AAAA".to_owned(), UnusableSigningKey::NotP256),
            (String::new(), UnusableSigningKey::NotP256),
        ];
        for (text, reason) in cases {
            assert_eq!(SigningKey::parse(&text).err(), Some(reason));
        }
        let shown = format!("{:?}", SigningKey::parse(PEM).unwrap());
        assert!(shown.contains("kid") && !shown.contains("secret: ["));
    }
}
