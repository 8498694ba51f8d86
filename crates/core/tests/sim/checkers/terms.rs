//! Invariant 14: the terms of a key hold for each of its requests.
//!
//! A request that goes on with a token was served by the terms of the owner's record, as they were
//! within the bound of a revocation, and comes from one of the key's networks. A refusal by the
//! terms has the same ground: a key with a wrong secret has no record, so it is told nothing of them.

use apikeys_core::rejection::Rejection;

use super::revocation::within_bound;
use super::{Checker, Seen, Word, holds};
use crate::request::{Address, End};
use crate::truth::Truth;

pub struct Terms;

impl Checker for Terms {
    fn invariant(&self) -> u8 {
        14
    }

    fn see(&mut self, seen: &Seen<'_>, truth: &Truth) -> Word {
        let Seen::Ended(ended) = seen else {
            return Ok(());
        };
        let refused = match ended.end {
            End::Forwarded { .. } => None,
            End::Rejected { rejection, .. } => match rejection {
                Rejection::RateLimited(_) | Rejection::AddressNotAllowed => Some(*rejection),
                _ => return Ok(()),
            },
            End::Passed { .. } => return Ok(()),
        };
        let (Some(owner), Some(terms)) = (ended.owner, &ended.terms) else {
            return Err("served without the terms of its key".to_owned());
        };
        let key = ended.request.key().unwrap_or_default();
        let last = truth.last_terms(ended.realm, &key, owner, terms, ended.now);
        let last = last.ok_or_else(|| format!("{owner}'s record never had {terms:?}"))?;
        within_bound(ended, truth, owner, (last, last))?;
        let from = ended.request.from;
        let networks = terms.networks.as_deref();
        let allowed = networks.is_none_or(|networks| comes_from(from, networks));
        match refused {
            Some(Rejection::RateLimited(spent)) => {
                let same = terms.rate_limit == Some(spent.limit.to_string());
                holds(same, || {
                    format!("refused by {:?}, and {terms:?}", spent.limit)
                })
            }
            Some(_) => holds(!allowed, || {
                format!("{from:?} is not allowed, and {networks:?} are the key's networks")
            }),
            None => holds(allowed, || {
                format!("served from {from:?}, and {networks:?} are the key's networks")
            }),
        }
    }
}

/// Whether an address of a run lies in one of these networks of [`crate::setup::NETWORKS`]. Not by
/// the core's reader, which is under test.
fn comes_from(from: Address, networks: &str) -> bool {
    networks.split(' ').any(|network| match (network, from) {
        ("192.0.2.0/24", Address::Shared(_)) | ("2001:db8::/32", Address::Own(_)) => true,
        (network, Address::Shared(number)) => network == format!("192.0.2.{number}/32"),
        _ => false,
    })
}
