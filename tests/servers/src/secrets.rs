//! Every secret of a run, so that none is printed and none may stand in a log.
//!
//! Keys, tokens, assertions and passwords are registered where they come up. All output
//! of the suite goes through [`redact`]; the last trial searches all logs for the
//! registered secrets.

use std::collections::BTreeSet;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Shorter texts occur by chance.
const LENGTH_MIN: usize = 8;

/// Remembers a secret.
pub fn register(secret: &str) {
    if secret.len() >= LENGTH_MIN {
        KNOWN.lock().unwrap().insert(secret.to_owned());
    }
}

/// The number of registered secrets.
pub fn count() -> usize {
    KNOWN.lock().unwrap().len()
}

/// All forms that the registered secrets could have in a log.
pub fn forms() -> BTreeSet<String> {
    let known = KNOWN.lock().unwrap();
    known
        .iter()
        .flat_map(|secret| {
            [
                secret.clone(),
                STANDARD.encode(secret),
                STANDARD_NO_PAD.encode(secret),
                URL_SAFE_NO_PAD.encode(secret),
                utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
            ]
        })
        .collect()
}

/// The text without any secret: neither a registered one nor a word that looks like
/// one.
pub fn redact(text: &str) -> String {
    let mut text = text.to_owned();
    for form in forms() {
        if text.contains(&form) {
            text = text.replace(&form, "[secret]");
        }
    }
    let mut clean = String::with_capacity(text.len());
    let mut word = String::new();
    for character in text.chars().chain(['\n']) {
        if character.is_ascii_alphanumeric() || "_-.$/+".contains(character) {
            word.push(character);
            continue;
        }
        clean.push_str(if looks_secret(&word) {
            "[secret]"
        } else {
            &word
        });
        clean.push(character);
        word.clear();
    }
    clean.pop();
    clean
}

fn looks_secret(word: &str) -> bool {
    word.len() > 20
        && ["eyJ", "sk_live_", "$2a$", "$2b$", "$2y$", "$sha256$"]
            .iter()
            .any(|mark| word.contains(mark))
}
