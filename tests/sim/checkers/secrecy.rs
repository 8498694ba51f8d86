//! Invariant 5: no key, hash, assertion, token or signing key is said anywhere.
//!
//! All secrets of a run hold a mark; what is looked for is each mark in plain, in
//! base64 at each of its three alignments, in hexadecimal digits and URL-encoded.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

use super::{Checker, Seen, Word, holds};
use crate::sweep::{self, forms};
use crate::truth::Truth;

/// Keys, hashes and signing keys: they may stand nowhere at all.
static NOWHERE: LazyLock<AhoCorasick> = LazyLock::new(|| finder(&sweep::NOWHERE));
/// Tokens and assertions: with those they may stand in no text that anybody reads.
static UNSAID: LazyLock<AhoCorasick> = LazyLock::new(|| finder(&sweep::UNSAID));

fn finder(marks: &[&str]) -> AhoCorasick {
    let all: Vec<Vec<u8>> = marks.iter().flat_map(|mark| forms(mark)).collect();
    AhoCorasick::new(&all).unwrap()
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
