//! Finds secrets in texts, in each form that a secret can have there.
//!
//! The forms: plain, base64 (both alphabets, at each of the three alignments, so within
//! a longer text as well, padded or not), hexadecimal in both cases, percent-encoded
//! (reserved bytes alone or all, in both cases). Pure: secrets and texts go in, and
//! findings come out, which name a secret and never show it.

#![allow(
    dead_code,
    reason = "each suite that takes this module uses a part of it"
)]

use std::collections::HashMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Shorter texts occur by chance.
const LENGTH_MIN: usize = 12;

/// The number of bytes that are compared first.
const HEAD: usize = 8;

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Looks for secrets.
pub struct Sweeper {
    names: Vec<String>,
    /// Whether a form begins with these two bytes: most places are skipped at once.
    begins: Vec<bool>,
    /// The forms by their first bytes.
    forms: HashMap<[u8; HEAD], Vec<Form>>,
}

/// A form of the secret with this index, and the name of that form.
struct Form {
    secret: usize,
    name: &'static str,
    bytes: Vec<u8>,
}

/// The place of a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub secret: String,
    pub form: &'static str,
    pub place: String,
}

impl Default for Sweeper {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            begins: vec![false; 1 << 16],
            forms: HashMap::new(),
        }
    }
}

impl Sweeper {
    /// Adds a secret, with its name for findings.
    pub fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(
            secret.len() >= LENGTH_MIN,
            "{name} is too short to look for"
        );
        let secret_index = self.names.len();
        self.names.push(name.to_owned());
        for (name, bytes) in forms(secret) {
            let head = bytes[..HEAD].try_into().unwrap();
            self.begins[first_two(&bytes)] = true;
            self.forms.entry(head).or_default().push(Form {
                secret: secret_index,
                name,
                bytes,
            });
        }
    }

    /// All findings in a text.
    pub fn sweep(&self, place: &str, text: &[u8]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for at in 0..text.len().saturating_sub(HEAD - 1) {
            let rest = &text[at..];
            if !self.begins[first_two(rest)] {
                continue;
            }
            let head: [u8; HEAD] = rest[..HEAD].try_into().unwrap();
            for form in self.forms.get(&head).into_iter().flatten() {
                if rest.starts_with(&form.bytes) {
                    findings.push(Finding {
                        secret: self.names[form.secret].clone(),
                        form: form.name,
                        place: place.to_owned(),
                    });
                }
            }
        }
        findings
    }
}

fn first_two(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// Every form in which a secret can stand in a text, each with its name.
pub fn forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut hex = String::new();
    let mut all = String::new();
    for byte in secret {
        write!(hex, "{byte:02x}").unwrap();
        write!(all, "%{byte:02x}").unwrap();
    }
    let reserved = percent_encode(secret, UNRESERVED).to_string();
    let strict = percent_encode(secret, NON_ALPHANUMERIC).to_string();
    let mut found = vec![
        ("plain", secret.to_vec()),
        ("URL-encoded", lower_escapes(&strict).into_bytes()),
        ("URL-encoded", strict.into_bytes()),
        ("hex", hex.to_uppercase().into_bytes()),
        ("hex", hex.into_bytes()),
        ("URL-encoded", lower_escapes(&reserved).into_bytes()),
        ("URL-encoded", reserved.into_bytes()),
        ("URL-encoded", all.to_uppercase().into_bytes()),
        ("URL-encoded", all.into_bytes()),
    ];
    for before in 0..3 {
        let mut padded = vec![0; before];
        padded.extend(secret);
        // The part without bits of a neighbour: whole groups of six bits of the secret.
        let (first, end) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
        for text in [
            STANDARD_NO_PAD.encode(&padded),
            URL_SAFE_NO_PAD.encode(&padded),
        ] {
            found.push(("base64", text.as_bytes()[first..end].to_vec()));
        }
    }
    found.sort();
    found.dedup_by(|a, b| a.1 == b.1);
    found
}

/// `%2F` as `%2f`, and nothing else in lower case.
fn lower_escapes(text: &str) -> String {
    let mut parts = text.split('%');
    let mut lower = parts.next().unwrap().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        lower.push('%');
        lower.push_str(&digits.to_lowercase());
        lower.push_str(rest);
    }
    lower
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    /// Has bytes that both alphabets of base64 and percent-encoding tell apart.
    const SECRET: &[u8] = b"sk_live_?>~/+ \xff\xfe\xfbsecret\x00value";

    fn sweeper() -> Sweeper {
        let mut sweeper = Sweeper::default();
        sweeper.add("the marked one", SECRET);
        sweeper
    }

    #[track_caller]
    fn expect(form: &str, text: &[u8]) {
        let findings = sweeper().sweep("here", text);
        assert!(
            findings.iter().any(|found| found.form == form),
            "{form} is not found in {}: {findings:?}",
            String::from_utf8_lossy(text)
        );
    }

    #[test]
    fn a_planted_secret_is_found_in_every_form() {
        let hex: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
        let all: String = SECRET.iter().map(|byte| format!("%{byte:02X}")).collect();
        let strict = percent_encode(SECRET, NON_ALPHANUMERIC).to_string();
        let around = |text: &[u8]| [b"before ", text, b" after"].concat();
        expect("plain", &around(SECRET));
        expect("hex", &around(hex.as_bytes()));
        expect("hex", &around(hex.to_uppercase().as_bytes()));
        expect("URL-encoded", &around(all.as_bytes()));
        expect("URL-encoded", &around(all.to_lowercase().as_bytes()));
        let unreserved = percent_encode(SECRET, UNRESERVED).to_string();
        expect("URL-encoded", unreserved.as_bytes());
        expect("URL-encoded", lower_escapes(&unreserved).as_bytes());
        expect("URL-encoded", strict.as_bytes());
        expect("URL-encoded", lower_escapes(&strict).as_bytes());
    }

    #[test]
    fn a_planted_secret_is_found_in_base64_at_every_alignment_and_padding() {
        for before in 0..6 {
            for after in 0..4 {
                let text = [&b"abcdef"[..before], SECRET, &b"wxyz"[..after]].concat();
                expect("base64", STANDARD.encode(&text).as_bytes());
                expect("base64", URL_SAFE.encode(&text).as_bytes());
                expect("base64", STANDARD_NO_PAD.encode(&text).as_bytes());
                expect("base64", URL_SAFE_NO_PAD.encode(&text).as_bytes());
            }
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let near = &SECRET[..SECRET.len() - 1];
        assert_eq!(sweeper().sweep("here", near), []);
        assert_eq!(sweeper().sweep("here", b""), []);
        let other = STANDARD.encode(&SECRET[1..]);
        assert_eq!(sweeper().sweep("here", other.as_bytes()), []);
    }

    #[test]
    fn a_finding_names_the_secret_and_does_not_show_it() {
        let findings = sweeper().sweep("the log", SECRET);
        let shown = format!("{findings:?}");
        assert!(shown.contains("the marked one") && shown.contains("the log"));
        assert!(!shown.contains("sk_live_"));
    }
}
