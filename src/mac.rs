//! HMAC-SHA256 (RFC 2104) under a 32-byte key: the one keyed hash used here.
//!
//! Cache keys, seals, derived ids and assertion ids are all made with it, each
//! under a key of its own (see [`crate::signing_key::SigningKey::derive`]).

use std::fmt;

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroize;

/// A key with its first block already hashed, so that each use costs less.
#[derive(Clone)]
pub struct MacKey(Hmac<Sha256>);

impl MacKey {
    /// Prepares a key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        // HMAC pads a key shorter than its block with zeros (RFC 2104, 2); padded
        // by hand it has the one length that the infallible constructor takes.
        let mut block = [0_u8; 64];
        for (to, from) in block.iter_mut().zip(key) {
            *to = *from;
        }
        let mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        block.zeroize();
        Self(mac)
    }

    /// The tag over all the parts, one after the other.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Whether the tag is that of the parts; takes the same time wherever they
    /// differ.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac.verify_slice(tag).is_ok()
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_hmac_under_a_key_of_any_length() {
        let key = [0xaa; 32];
        let mut reference = <Hmac<Sha256> as KeyInit>::new_from_slice(&key).unwrap();
        reference.update(b"what do ya want for nothing?");
        let expected: [u8; 32] = reference.finalize().into_bytes().into();
        let ours = MacKey::new(&key);
        assert_eq!(ours.tag(&[b"what do ya want ", b"for nothing?"]), expected);
        assert!(ours.verify(&[b"what do ya want for nothing?"], &expected));
        assert!(!ours.verify(&[b"what do ya want for nothing!"], &expected));
        assert!(!ours.verify(&[b"what do ya want for nothing?"], &expected[..31]));
    }
}
