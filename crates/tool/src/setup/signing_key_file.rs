//! The file of a signing key: reads it, or makes it if it is missing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use apikeys_core::signing_key::SigningKey;
use p256::SecretKey;
use p256::pkcs8::{EncodePrivateKey, LineEnding};
use zeroize::Zeroizing;

use crate::system;

/// A signing key and its file.
pub(crate) struct SigningKeyFile {
    path: PathBuf,
    key: SigningKey,
    /// The text to write, for a new key.
    unsaved: Option<Zeroizing<String>>,
}

impl SigningKeyFile {
    /// Reads the key, or makes one in memory.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let stored = system::read_private(path)?;
        let is_new = stored.is_none();
        let text = match stored {
            Some(text) => text,
            None => generate()?,
        };
        let key = SigningKey::parse(&text)
            .map_err(|error| anyhow!("the signing key in {} {error}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            key,
            unsaved: is_new.then_some(text),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Whether the key has still to be saved.
    pub(crate) fn is_new(&self) -> bool {
        self.unsaved.is_some()
    }

    /// Writes a new key to its file; does nothing for a key that was read.
    pub(crate) fn save(&self) -> Result<()> {
        let Some(text) = &self.unsaved else {
            return Ok(());
        };
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        // Give the file its name once it is whole: an interrupted run leaves no file or a
        // complete one.
        let mut unfinished = self.path.clone().into_os_string();
        unfinished.push(format!(".{}", system::random_name()?));
        let unfinished = PathBuf::from(unfinished);
        let file = system::create_private(&unfinished)?;
        system::write_private(file, &unfinished, text)?;
        let named = fs::hard_link(&unfinished, &self.path);
        let _ = fs::remove_file(&unfinished);
        named.with_context(|| format!("cannot make {}; it is not overwritten", self.path.display()))
    }
}

/// Generates a private key on P-256, as PKCS#8 in PEM.
fn generate() -> Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    loop {
        system::fill_random(bytes.as_mut_slice())?;
        // One number in 2^32 is not below the curve's order: draw again.
        if let Ok(key) = SecretKey::from_slice(bytes.as_slice()) {
            return key
                .to_pkcs8_pem(LineEnding::LF)
                .context("the new signing key could not be written as PEM");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_key_is_made_and_read_back_the_same() {
        let folder = std::env::temp_dir().join(system::random_name().unwrap());
        let path = folder.join("below").join("key.pem");
        let made = SigningKeyFile::open(&path).unwrap();
        assert!(
            made.is_new() && !path.exists(),
            "nothing is written before save"
        );
        made.save().unwrap();
        let read = SigningKeyFile::open(&path).unwrap();
        assert!(!read.is_new());
        assert_eq!(read.key().kid(), made.key().kid());
        assert!(made.save().is_err(), "a key is never overwritten");
        let files = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1, "and nothing else is left");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn two_keys_are_never_the_same() {
        assert_ne!(generate().unwrap().as_str(), generate().unwrap().as_str());
    }
}
