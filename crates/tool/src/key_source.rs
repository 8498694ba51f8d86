//! Reads keys and the index key from a file, standard input or the environment. Never from an
//! argument, which every process of the machine can read.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::args::{IndexKeyArgs, KeySourceArgs};
use crate::system;
use crate::wrong_usage::WrongUsage;

/// The variable of the index key, read when no file is named.
const INDEX_KEY_VARIABLE: &str = "API_KEY_INDEX_KEY";

/// Reads the key from the one source that the arguments name.
pub(crate) fn read_key(args: &KeySourceArgs) -> Result<Zeroizing<String>> {
    if !args.misplaced.is_empty() {
        bail!(WrongUsage(
            "a key is never given as an argument: it now stands in this shell's history and was \
             seen by every process of this machine, so revoke it if it works. Give a key on \
             standard input (apikeys inspect < key.txt), by --key-file FILE, or by --key-variable \
             NAME"
                .to_owned()
        ));
    }
    let text = match &args.key_variable {
        Some(name) => variable(name)?
            .with_context(|| format!("the environment variable {name} is not set"))?,
        None => return read_key_file(&args.key_file),
    };
    one_line(&text).context("the key")
}

/// Reads the index key, if one is given.
pub(crate) fn read_index_key(args: &IndexKeyArgs) -> Result<Option<Zeroizing<[u8; 32]>>> {
    let (text, place) = match &args.index_key_file {
        Some(path) => {
            let text = system::read_private(path)?
                .with_context(|| format!("there is no file {}", path.display()))?;
            (text, path.display().to_string())
        }
        None => match variable(INDEX_KEY_VARIABLE)? {
            Some(text) => (text, INDEX_KEY_VARIABLE.to_owned()),
            None => return Ok(None),
        },
    };
    let bytes = STANDARD.decode(text.trim()).map(Zeroizing::new);
    let bytes = bytes
        .ok()
        .and_then(|bytes| bytes.as_slice().try_into().ok());
    match bytes {
        Some(bytes) => Ok(Some(Zeroizing::new(bytes))),
        None => bail!(
            "the index key in {place} is not base64 of 32 bytes; it must be the index_key of the \
             gateway's configuration (make one with: openssl rand -base64 32)"
        ),
    }
}

fn variable(name: &str) -> Result<Option<Zeroizing<String>>> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // The variable's own error would show the value.
        Err(_) => Err(anyhow!("the environment variable {name} is no text")),
    }
}

/// Reads the key that a file holds as its one line.
pub(crate) fn read_key_file(path: &Path) -> Result<Zeroizing<String>> {
    one_line(&read_file(path)?).context("the key")
}

fn read_file(path: &Path) -> Result<Zeroizing<String>> {
    if path.as_os_str() == "-" {
        return system::read_text(io::stdin()).context("cannot read from standard input");
    }
    File::open(path)
        .and_then(system::read_text)
        .with_context(|| format!("cannot read {}", path.display()))
}

fn one_line(text: &str) -> Result<Zeroizing<String>> {
    let line = text.trim_end_matches(['\r', '\n']);
    ensure!(!line.is_empty(), "is empty");
    ensure!(!line.contains(['\r', '\n']), "is more than one line");
    Ok(Zeroizing::new(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_line_with_or_without_its_end() {
        for text in ["key", "key\n", "key\r\n", "key\n\n"] {
            assert_eq!(one_line(text).unwrap().as_str(), "key");
        }
        assert!(one_line("\n").is_err());
        let error = one_line("SECRET\nother").unwrap_err().to_string();
        assert!(!error.contains("SECRET"), "{error}");
    }

    #[test]
    fn an_index_key_is_32_bytes_in_base64_and_its_file_is_its_owners_alone() {
        let path = std::env::temp_dir().join(system::random_name().unwrap());
        let args = IndexKeyArgs {
            index_key_file: Some(path.clone()),
        };
        assert!(read_index_key(&args).is_err(), "no such file");
        let write = |text: &str| {
            let _ = std::fs::remove_file(&path);
            let file = system::create_private(&path).unwrap();
            system::write_private(file, &path, text).unwrap();
        };
        write(&format!("{}\n", STANDARD.encode([7; 32])));
        assert_eq!(*read_index_key(&args).unwrap().unwrap(), [7; 32]);
        write("U0VDUkVU");
        let error = read_index_key(&args).unwrap_err().to_string();
        assert!(error.contains("32 bytes") && !error.contains("U0VDUkVU"));
        std::fs::remove_file(&path).unwrap();
    }
}
