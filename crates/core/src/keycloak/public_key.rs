//! A public key of the realm, and the check of signatures with it.
//!
//! Each key is held as the type of its own kind, so that no token can have it used
//! as another: an RSA key is never the secret of an HMAC, nor bytes of a curve.
//! There is no `none` and no symmetric algorithm to choose here at all.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Verifier;
use rsa::BoxedUint;
use serde_json::Value;
use sha2::Sha256;

/// Bits of the smallest RSA modulus that is used (RFC 7518, 3.3).
const RSA_BITS_MIN: u32 = 2048;
/// Bits of the largest: a larger one would hold the worker for too long.
const RSA_BITS_MAX: u32 = 4096;
/// The smallest public exponent (FIPS 186-5, 5.1), and the one that Keycloak makes.
const RSA_EXPONENT_MIN: u32 = 65_537;
/// Bytes of the longest name of a key.
const KID_BYTES_MAX: usize = 255;

/// The signature algorithms that a token may name (RFC 7518, 3.1; RFC 8037, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// The algorithm of this name; `None` for all others, such as `none` and those with a
    /// shared secret.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "PS256" => Some(Self::Ps256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// The members of a JWK (RFC 7517, 4) that matter here.
pub(super) struct Jwk {
    kty: String,
    kid: Option<String>,
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    /// Reads it; `None` without a kind, or if a member is not a text. It reads member by
    /// member, because the reader that serde derives for a [`Value`] is 30 KB of Wasm.
    pub(super) fn read(jwk: &Value) -> Option<Self> {
        let member = |name| match jwk.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(Value::String(text)) => Some(Some(text.clone())),
            Some(_) => None,
        };
        Some(Self {
            kty: member("kty")??,
            kid: member("kid")?,
            usage: member("use")?,
            alg: member("alg")?,
            crv: member("crv")?,
            n: member("n")?,
            e: member("e")?,
            x: member("x")?,
            y: member("y")?,
        })
    }

    /// The key's name, if the key can verify signatures. An encryption key cannot; a key
    /// without a name cannot either, since tokens find keys by name.
    pub(super) fn signing_kid(&self) -> Option<&str> {
        let kid = self.kid.as_deref()?;
        let signs = self.usage.as_deref().is_none_or(|usage| usage == "sig");
        (signs && (1..=KID_BYTES_MAX).contains(&kid.len())).then_some(kid)
    }
}

enum Material {
    /// Modulus and exponent. The key is built for each use: building a set of many keys at once
    /// would hold the worker.
    Rsa {
        n: BoxedUint,
        e: u32,
    },
    P256(p256::ecdsa::VerifyingKey),
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
}

/// A public key that signatures are verified with.
pub struct PublicKey {
    kid: String,
    /// The one algorithm that the realm names for it.
    only: Option<Algorithm>,
    material: Material,
}

impl PublicKey {
    /// Makes the key of a JWK; `None` for a kind, size or algorithm that is not used.
    pub(super) fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let only = match &jwk.alg {
            None => None,
            Some(name) => Some(Algorithm::from_name(name)?),
        };
        let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => rsa_numbers(jwk)?,
            ("EC", Some("P-256")) => Material::P256(p256_key(jwk)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(Box::new(ed25519_key(jwk)?)),
            _ => return None,
        };
        let key = Self {
            kid: jwk.signing_kid()?.to_owned(),
            only,
            material,
        };
        only.is_none_or(|only| key.is_for(only)).then_some(key)
    }

    /// The name by which tokens refer to it.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Whether a signature of this algorithm may be verified with it.
    #[must_use]
    pub fn is_for(&self, algorithm: Algorithm) -> bool {
        let fits = match &self.material {
            Material::Rsa { .. } => matches!(algorithm, Algorithm::Rs256 | Algorithm::Ps256),
            Material::P256(_) => algorithm == Algorithm::Es256,
            Material::Ed25519(_) => algorithm == Algorithm::EdDsa,
        };
        fits && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether this is the key's signature over the message, by exactly this
    /// algorithm.
    #[must_use]
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.is_for(algorithm) {
            return false;
        }
        match &self.material {
            Material::Rsa { n, e } => {
                let Ok(key) = rsa::PublicKey::new(n.clone(), (*e).into()) else {
                    return false;
                };
                let verified = if algorithm == Algorithm::Ps256 {
                    // The salt is as long as the hash (RFC 7518, 3.5).
                    key.pss_verify::<Sha256>(message, signature)
                } else {
                    key.pkcs1v15_verify::<Sha256>(message, signature)
                };
                verified.is_ok()
            }
            Material::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Material::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey")
            .field("kid", &self.kid)
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}

fn decoded(member: Option<&String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(member?).ok()
}

fn rsa_numbers(jwk: &Jwk) -> Option<Material> {
    let modulus = decoded(jwk.n.as_ref())?;
    let n = BoxedUint::from_be_slice_vartime(&modulus);
    let exponent = decoded(jwk.e.as_ref())?;
    let e: u32 = exponent.iter().try_fold(0_u32, |value, &byte| {
        value.checked_mul(256)?.checked_add(u32::from(byte))
    })?;
    let is_used = (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&n.bit_width())
        && modulus.last().is_some_and(|byte| byte % 2 == 1)
        && e >= RSA_EXPONENT_MIN
        && e % 2 == 1;
    is_used.then_some(Material::Rsa { n, e })
}

fn p256_key(jwk: &Jwk) -> Option<p256::ecdsa::VerifyingKey> {
    let coordinate = |member| -> Option<[u8; 32]> { decoded(member)?.try_into().ok() };
    let (x, y) = (coordinate(jwk.x.as_ref())?, coordinate(jwk.y.as_ref())?);
    let point = p256::Sec1Point::from_affine_coordinates(&x.into(), &y.into(), false);
    p256::ecdsa::VerifyingKey::from_sec1_point(&point).ok()
}

fn ed25519_key(jwk: &Jwk) -> Option<ed25519_dalek::VerifyingKey> {
    let bytes: [u8; 32] = decoded(jwk.x.as_ref())?.try_into().ok()?;
    let key = ed25519_dalek::VerifyingKey::from_bytes(&bytes).ok()?;
    // With a weak key anybody could sign.
    (!key.is_weak()).then_some(key)
}
