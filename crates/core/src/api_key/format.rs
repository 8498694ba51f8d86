//! The text of a key: parsed, checked and made, with no I/O.
//!
//! A key of ours is `<prefix><id>_<secret><checksum>`: 12 base36, `_`, 32 and 6
//! base62 characters. The checksum (CRC-32 over all before it) refuses typing
//! errors, truncation and guesses before anything is asked of Keycloak. Any other
//! string of 16 to 72 visible characters can be an *imported* key, brought in
//! from an older system, where an index key is configured: its id is derived.

use std::fmt;

use memchr::memchr_iter;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::mac::MacKey;

/// Characters of the public id of a key made here.
pub const ID_LENGTH: usize = 12;
/// Characters of the id derived for an imported key.
pub const IMPORTED_ID_LENGTH: usize = 24;
/// Characters of the secret part.
pub const SECRET_LENGTH: usize = 32;
/// Characters of the checksum.
pub const CHECKSUM_LENGTH: usize = 6;
/// The longest key: bcrypt reads no further than this many bytes.
pub const KEY_BYTES_MAX: usize = 72;
/// The shortest imported key.
pub const IMPORTED_BYTES_MIN: usize = 16;
/// The longest prefix: leaves room for the rest below [`KEY_BYTES_MAX`].
pub const PREFIX_LENGTH_MAX: usize = 16;

const BASE36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key as a client presents it, with the id it is stored under.
///
/// Its text is a secret: `Debug` prints the id alone, and the text is wiped when
/// the value is dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ApiKey {
    text: String,
    #[zeroize(skip)]
    id: String,
}

impl ApiKey {
    /// The public id: lower-case letters and digits, 12 of them or, for an
    /// imported key, 24.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The whole key. A secret: hash it, compare it, never log or store it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The key format of one configuration: its prefix, and the index key that lets
/// foreign strings be keys.
#[derive(Clone)]
pub struct KeyFormat {
    prefix: String,
    mark: Mark,
    index_key: Option<MacKey>,
}

/// The byte of a prefix by which other text is searched for it.
#[derive(Debug, Clone, Copy)]
struct Mark {
    byte: u8,
    at: usize,
}

impl Mark {
    /// No letter, if the prefix has another character: headers hold mostly letters.
    fn of(prefix: &str) -> Self {
        let bytes = || prefix.bytes().enumerate();
        let rare = bytes().find(|(_, byte)| !byte.is_ascii_alphabetic());
        let (at, byte) = rare.or_else(|| bytes().next()).unwrap_or_default();
        Self { byte, at }
    }
}

impl KeyFormat {
    /// A format with this prefix, of 1 to 16 letters, digits, `_` and `-`.
    ///
    /// # Errors
    /// [`InvalidPrefix`] for any other prefix.
    pub fn new(prefix: &str) -> Result<Self, InvalidPrefix> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if prefix.is_empty() || prefix.len() > PREFIX_LENGTH_MAX || !prefix.bytes().all(allowed) {
            return Err(InvalidPrefix);
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            mark: Mark::of(prefix),
            index_key: None,
        })
    }

    /// The same format, with imported keys allowed: their ids are derived by
    /// HMAC-SHA256 under this key.
    #[must_use]
    pub fn with_index_key(self, index_key: &[u8; 32]) -> Self {
        Self {
            index_key: Some(MacKey::new(index_key)),
            ..self
        }
    }

    /// The prefix of the keys made here.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The length of a key made here, in bytes.
    #[must_use]
    pub fn key_bytes(&self) -> usize {
        self.prefix.len() + ID_LENGTH + 1 + SECRET_LENGTH + CHECKSUM_LENGTH
    }

    /// Whether the text begins like a key made here. Tells a key from a JWT in an
    /// `Authorization: Bearer` header.
    #[must_use]
    pub fn has_prefix(&self, text: &[u8]) -> bool {
        text.starts_with(self.prefix.as_bytes())
    }

    /// Where the prefix of the keys made here stands in a text; such places may overlap.
    fn prefixes_in(&self, text: &[u8]) -> impl Iterator<Item = usize> {
        memchr_iter(self.mark.byte, text)
            .filter_map(|at| at.checked_sub(self.mark.at))
            .filter(|&start| text.get(start..).is_some_and(|rest| self.has_prefix(rest)))
    }

    /// Whether the prefix of the keys made here stands anywhere in a text.
    #[must_use]
    pub fn has_prefix_within(&self, text: &[u8]) -> bool {
        self.prefixes_in(text).next().is_some()
    }

    /// The parts of a text that begin like a key made here and are as long as one. They may
    /// overlap, so a key that begins within a mere look-alike is among them.
    pub fn parts_like_keys<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let length = self.key_bytes();
        // Most values are shorter, and not searched.
        let searched = if text.len() < length { &[] } else { text };
        let starts = self.prefixes_in(searched);
        starts.filter_map(move |start| text.get(start..start + length))
    }

    /// Whether keys of older systems are taken.
    #[must_use]
    pub const fn takes_imported(&self) -> bool {
        self.index_key.is_some()
    }

    /// Reads a presented key.
    ///
    /// A string of the shape of our own keys must carry the right checksum, even
    /// where imported keys are allowed: a typing error is told without I/O.
    ///
    /// # Errors
    /// [`MalformedKey`] when it cannot be a key at all.
    pub fn parse(&self, text: &[u8]) -> Result<ApiKey, MalformedKey> {
        if text.len() > KEY_BYTES_MAX {
            return Err(MalformedKey::Length);
        }
        // A comma joins the values of a header field (RFC 9110, 5.3).
        if !text
            .iter()
            .all(|&byte| byte.is_ascii_graphic() && byte != b',')
        {
            return Err(MalformedKey::Character);
        }
        let text = std::str::from_utf8(text).map_err(|_| MalformedKey::Character)?;
        if let Some(id) = self.id_of_own_shape(text) {
            let (body, checksum) = text
                .split_at_checked(text.len().saturating_sub(CHECKSUM_LENGTH))
                .ok_or(MalformedKey::Length)?;
            if checksum.as_bytes() != checksum_of(&[body.as_bytes()]) {
                return Err(MalformedKey::Checksum);
            }
            return Ok(ApiKey {
                text: text.to_owned(),
                id: id.to_owned(),
            });
        }
        match &self.index_key {
            None => Err(MalformedKey::Shape),
            Some(_) if text.len() < IMPORTED_BYTES_MIN => Err(MalformedKey::Length),
            Some(index_key) => {
                let id = imported_id(index_key, text.as_bytes());
                Ok(ApiKey {
                    text: text.to_owned(),
                    id,
                })
            }
        }
    }

    /// Makes a new key from cryptographic random bytes, which `fill_random` gives
    /// as often as asked.
    pub fn generate(&self, mut fill_random: impl FnMut(&mut [u8])) -> ApiKey {
        let id = draw(BASE36, ID_LENGTH, &mut fill_random);
        let secret = Zeroizing::new(draw(BASE62, SECRET_LENGTH, &mut fill_random));
        let mut text = String::with_capacity(KEY_BYTES_MAX);
        for part in [self.prefix.as_str(), &id, "_", &secret] {
            text.push_str(part);
        }
        for character in checksum_of(&[text.as_bytes()]) {
            text.push(char::from(character));
        }
        ApiKey { text, id }
    }

    /// The id, if the text has the shape of a key made here.
    fn id_of_own_shape<'a>(&self, text: &'a str) -> Option<&'a str> {
        let rest = text.strip_prefix(&self.prefix)?;
        let (id, tail) = rest.split_at_checked(ID_LENGTH)?;
        let secret = tail.strip_prefix('_')?;
        let shaped = is_id(id)
            && secret.len() == SECRET_LENGTH + CHECKSUM_LENGTH
            && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        shaped.then_some(id)
    }
}

impl fmt::Debug for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFormat")
            .field("prefix", &self.prefix)
            .field("imported_keys", &self.takes_imported())
            .finish()
    }
}

/// Whether the text can be the id of a key: only lower-case letters and digits,
/// since Keycloak's search ignores case.
#[must_use]
pub fn is_id(text: &str) -> bool {
    matches!(text.len(), ID_LENGTH | IMPORTED_ID_LENGTH)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The prefix is not 1 to 16 of the characters allowed in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 16 letters, digits, '_' or '-'")]
pub struct InvalidPrefix;

/// Reasons why a string is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedKey {
    /// Longer than bcrypt reads, or too short to be imported.
    #[error("wrong length")]
    Length,
    /// A character that no key has: white space, a comma, a control, non-ASCII.
    #[error("a character that no key has")]
    Character,
    /// Not of the shape of our keys, and imported keys are off.
    #[error("not the shape of a key")]
    Shape,
    /// The shape is right and the checksum wrong: mistyped, cut or guessed.
    #[error("wrong checksum")]
    Checksum,
}

/// `HMAC-SHA256(index_key, key)`, as a number in base36, cut to its first 24
/// digits (of 50).
fn imported_id(index_key: &MacKey, key: &[u8]) -> String {
    let mut number = index_key.tag(&[key]);
    let mut digits = [b'0'; 50];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in &mut number {
            let value = remainder * 256 + u32::from(*byte);
            *byte = u8::try_from(value / 36).unwrap_or(u8::MAX);
            remainder = value % 36;
        }
        *digit = digit_of(BASE36, remainder);
    }
    digits
        .iter()
        .take(IMPORTED_ID_LENGTH)
        .map(|&digit| char::from(digit))
        .collect()
}

/// CRC-32 (ISO-HDLC, as in zip) of the parts, as six base62 digits.
fn checksum_of(parts: &[&[u8]]) -> [u8; CHECKSUM_LENGTH] {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut rest = hasher.finalize();
    let mut digits = [b'0'; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = digit_of(BASE62, rest % 62);
        rest /= 62;
    }
    digits
}

fn digit_of(alphabet: &[u8], value: u32) -> u8 {
    usize::try_from(value)
        .ok()
        .and_then(|at| alphabet.get(at))
        .copied()
        .unwrap_or(b'0')
}

/// `length` characters of the alphabet, each equally likely: bytes that would favour some
/// characters are drawn again.
fn draw(alphabet: &[u8], length: usize, fill_random: &mut impl FnMut(&mut [u8])) -> String {
    let fair = 256 - 256 % alphabet.len();
    let mut drawn = String::with_capacity(length);
    let mut random = Zeroizing::new([0_u8; 64]);
    while drawn.len() < length {
        fill_random(random.as_mut_slice());
        let fair_bytes = random
            .iter()
            .map(|&byte| usize::from(byte))
            .filter(|&byte| byte < fair);
        for byte in fair_bytes.take(length - drawn.len()) {
            drawn.extend(alphabet.get(byte % alphabet.len()).map(|&c| char::from(c)));
        }
    }
    drawn
}

#[cfg(test)]
mod tests;
