//! Keyed hashes under 32-byte keys, each for a purpose of its own (see
//! [`crate::signing_key::SigningKey::derive`]).
//!
//! [`MacKey`] is HMAC-SHA256 (RFC 2104), for derived ids, assertion ids and all rare uses.
//! [`FastMacKey`] is keyed BLAKE2b (RFC 7693), for the hashes on the path of a warm request: the
//! digest of its key and the seal of its entry. Both are pseudo-random functions of as many bits.
//! BLAKE2b takes 128 bytes at a time, in words of 64 bits, which Wasm has.

use std::fmt;

use blake2::Blake2bMac;
use hmac::digest::KeyInit;
use hmac::digest::consts::U32;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A key padded with zeros to the one length that the infallible constructor of either hash
/// takes.
fn padded(key: &[u8; 32]) -> Zeroizing<[u8; 64]> {
    let mut block = Zeroizing::new([0; 64]);
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    block
}

/// A key with its first block already hashed, so that each use costs less.
#[derive(Clone)]
pub struct MacKey(Hmac<Sha256>);

impl MacKey {
    /// Prepares a key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        // HMAC pads a key shorter than its block with zeros (RFC 2104, 2).
        Self(<Hmac<Sha256> as KeyInit>::new(&(*padded(key)).into()))
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

/// Each text begins with this byte. BLAKE2b hashes a block only when more bytes follow, so the
/// block of the key is hashed once, when the key is prepared, and not for each text.
const BEGINNING: &[u8] = &[1];

/// A key of BLAKE2b-256 in its keyed mode (RFC 7693, 2.9), with its block already hashed.
#[derive(Clone)]
pub struct FastMacKey(Blake2bMac<U32>);

impl FastMacKey {
    /// Prepares a key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        let mut mac = <Blake2bMac<U32> as KeyInit>::new(&(*padded(key)).into());
        mac.update(BEGINNING);
        Self(mac)
    }

    /// The tag over `01` and the text.
    #[must_use]
    pub fn tag(&self, text: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(text);
        mac.finalize().into_bytes().into()
    }

    /// Whether the tag is that of the text; takes the same time wherever they differ.
    #[must_use]
    pub fn verify(&self, text: &[u8], tag: &[u8; 32]) -> bool {
        let mut mac = self.0.clone();
        mac.update(text);
        mac.verify(tag.into()).is_ok()
    }
}

impl fmt::Debug for FastMacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FastMacKey(..)")
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

    #[test]
    fn agrees_with_keyed_blake2b_over_what_a_text_is_begun_with() {
        // Computed apart, by Python: blake2b(b"\x01" + text, key=key, digest_size=32), the key
        // of 64 bytes.
        let short = "552f2828cacc7ffecf7d582d2eae5b099ab75a2e4ce75af72cb5abf8b9d4a84d";
        let three_blocks = "92ab0e7583e3df2a28b4f4e677b5d5e96748da4b70bf6b46aeaad59815e8f039";
        let ours = FastMacKey::new(&[0xaa; 32]);
        for (text, expected) in [
            (&b"what do ya want for nothing?"[..], short),
            (&[b'x'; 300], three_blocks),
        ] {
            let tag = ours.tag(text);
            let hex: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected);
            assert!(ours.verify(text, &tag));
            let other = [tag.as_slice()[1..].to_vec(), vec![tag[0]]].concat();
            assert!(!ours.verify(text, &other.try_into().unwrap()));
            assert!(!ours.verify(&text[1..], &tag));
        }
    }
}
