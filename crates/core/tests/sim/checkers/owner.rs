//! Invariant 1: a request leaves with a token of its key's owner, or is refused.

use super::{Checker, Seen, Word, holds};
use crate::truth::Truth;

pub struct Owner;

impl Checker for Owner {
    fn invariant(&self) -> u8 {
        1
    }

    fn see(&mut self, seen: &Seen<'_>, truth: &Truth) -> Word {
        let Seen::Ended(ended) = seen else {
            return Ok(());
        };
        let Some(token) = ended.end.token() else {
            return Ok(());
        };
        let issued = truth.tokens.get(token);
        let issued = issued.ok_or("forwarded with a token that Keycloak never gave an owner")?;
        let key = ended.request.key().ok_or("forwarded without a key")?;
        holds(issued.realm == ended.realm, || {
            "forwarded with a token of another realm".to_owned()
        })?;
        holds(truth.was_ever(ended.realm, &key, &issued.subject), || {
            let subject = &issued.subject;
            format!("forwarded with a token of {subject}, who never held this key")
        })
    }
}
