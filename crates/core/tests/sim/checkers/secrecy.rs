//! Invariant 5: no key, hash, assertion, token or signing key appears in any text.
//!
//! All secrets of a run hold a mark. The checker looks for each mark in plain, in base64 at
//! each of its three alignments, in hexadecimal digits and URL-encoded.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

use super::{Checker, Seen, Word, holds};
use crate::keycloak::SIGNATURE;
use crate::keys::MARK;
use crate::setup::SIGNING_KEY;
use crate::sweep::forms;
use crate::truth::Truth;

/// A part of the signing key's text.
const KEY_BODY: &str = SIGNING_KEY.split_at(48).1;
/// The encoded head of each assertion of ours.
const ASSERTION: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiI";

/// Keys, hashes and the signing key: they may appear nowhere at all.
static NOWHERE: LazyLock<AhoCorasick> =
    LazyLock::new(|| finder(&[MARK, KEY_BODY, "$2b$04$", "$2b$05$", "$sha256$"]));
/// Tokens and assertions: like those, they may not appear in a text that anybody reads.
static UNSAID: LazyLock<AhoCorasick> = LazyLock::new(|| finder(&[SIGNATURE, ASSERTION]));

fn finder(marks: &[&str]) -> AhoCorasick {
    let forms = marks.iter().flat_map(|mark| forms(mark.as_bytes()));
    // Short forms would be found by chance.
    let forms = forms.filter(|(_, form)| form.len() >= 7);
    let forms: Vec<Vec<u8>> = forms.map(|(_, form)| form).collect();
    AhoCorasick::new(&forms).unwrap()
}

pub struct Secrecy;

impl Checker for Secrecy {
    fn invariant(&self) -> u8 {
        5
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Truth) -> Word {
        match seen {
            Seen::Said(text) => holds(!NOWHERE.is_match(text) && !UNSAID.is_match(text), || {
                "a secret in a log or an answer".to_owned()
            }),
            Seen::Shared { name, value, .. } => {
                holds(!NOWHERE.is_match(name) && !UNSAID.is_match(name), || {
                    "a secret in the name of an entry".to_owned()
                })?;
                holds(!NOWHERE.is_match(value), || {
                    "a key, a hash or a signing key in shared data".to_owned()
                })
            }
            _ => Ok(()),
        }
    }
}
