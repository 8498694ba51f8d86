//! The keys that the made-up realm signs with, and tokens that are really signed.
//!
//! Verification needs real signatures: here is one key of each kind, all made for tests
//! and used nowhere else. A test decides which of them the realm shows.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rsa::pkcs8::DecodePrivateKey;
use rsa::signature::{RandomizedSigner, SignatureEncoding, Signer};
use rsa::traits::PublicKeyParts;
use serde_json::{Value, json};
use sha2::Sha256;
use std::sync::LazyLock;

/// Reading it takes longer than signing with it.
static RSA: LazyLock<rsa::PrivateKey> = LazyLock::new(|| {
    let text: String = include_str!("realm_rsa.txt").split_whitespace().collect();
    rsa::PrivateKey::from_pkcs8_der(&STANDARD.decode(text).unwrap()).unwrap()
});

/// A key of the realm's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RealmKey {
    Rs256,
    Ps256,
    Es256,
    EdDsa,
    /// One more on P-256, to take another's place.
    Later,
}

impl RealmKey {
    pub const OF_EACH_KIND: [Self; 4] = [Self::Rs256, Self::Ps256, Self::Es256, Self::EdDsa];

    pub const fn algorithm(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 | Self::Later => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    pub fn kid(self) -> String {
        format!("realm-{self:?}")
    }

    /// As the realm shows it, with the certificate that Keycloak adds.
    pub fn jwk(self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match self {
            Self::Rs256 | Self::Ps256 => json!({
                "kty": "RSA", "n": text(&RSA.n().to_be_bytes()), "e": text(&RSA.e().to_be_bytes_trimmed_vartime()),
            }),
            Self::Es256 | Self::Later => {
                let point = self.p256().verifying_key().to_sec1_point(false);
                let (x, y) = (point.x().unwrap(), point.y().unwrap());
                json!({ "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y) })
            }
            Self::EdDsa => {
                let public = self.ed25519().verifying_key();
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(public.as_bytes()) })
            }
        };
        for (name, value) in [
            ("kid", json!(self.kid())),
            ("alg", json!(self.algorithm())),
            ("use", json!("sig")),
            ("x5c", json!(["MIICmzCCAYMCBgGX".repeat(60)])),
            ("x5t", json!("ZXhhbXBsZSBvZiBhIHRodW1icHJpbnQ")),
        ] {
            jwk[name] = value;
        }
        jwk
    }

    /// A token of these claims.
    pub fn sign(self, claims: &Value) -> String {
        let header = json!({ "alg": self.algorithm(), "typ": "JWT", "kid": self.kid() });
        self.sign_as(&header, claims)
    }

    /// The same with another header.
    pub fn sign_as(self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let bytes = message.as_bytes();
        let signature = match self {
            Self::Rs256 => {
                let key = rsa::pkcs1v15::SigningKey::<Sha256>::new(RSA.clone());
                key.sign(bytes).to_vec()
            }
            Self::Ps256 => {
                let key = rsa::pss::SigningKey::<Sha256>::new(RSA.clone());
                // Salts that are the same in each run.
                let mut salts = ChaCha8Rng::seed_from_u64(1);
                key.sign_with_rng(&mut salts, bytes).to_vec()
            }
            Self::Es256 | Self::Later => {
                let signature: p256::ecdsa::Signature = self.p256().sign(bytes);
                signature.to_vec()
            }
            Self::EdDsa => self.ed25519().sign(bytes).to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn p256(self) -> &'static p256::ecdsa::SigningKey {
        static KEYS: LazyLock<[p256::ecdsa::SigningKey; 2]> = LazyLock::new(|| {
            [6, 7].map(|byte| p256::ecdsa::SigningKey::from_slice(&[byte; 32]).unwrap())
        });
        &KEYS[usize::from(self == Self::Later)]
    }

    fn ed25519(self) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&[5; 32])
    }
}

/// The keys that the realm shows: these, and one for encryption, which no verifier may
/// use.
pub(super) fn jwks(keys: &[RealmKey]) -> Value {
    let mut shown: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    let mut encryption = RealmKey::Rs256.jwk();
    for (name, value) in [("kid", "realm-enc"), ("alg", "RSA-OAEP"), ("use", "enc")] {
        encryption[name] = json!(value);
    }
    shown.push(encryption);
    json!({ "keys": shown })
}
