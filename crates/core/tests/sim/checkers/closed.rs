//! Invariant 4: after any failure, the request is refused.
//!
//! A request that goes on to the service has a token that Keycloak gave, or carries no key and
//! may pass by policy, or carries a key that Keycloak does not know while the fallback lasts.

use apikeys_core::config::OnMissingKey;
use apikeys_core::exchange::Pass;

use super::{Checker, Seen, Word, holds};
use crate::request::{Credential, End};
use crate::truth::Truth;

pub struct Closed;

impl Checker for Closed {
    fn invariant(&self) -> u8 {
        4
    }

    fn see(&mut self, seen: &Seen<'_>, truth: &Truth) -> Word {
        let Seen::Ended(ended) = seen else {
            return Ok(());
        };
        let credential = ended.request.credential;
        let policy = ended.config.on_missing_key;
        match ended.end {
            End::Forwarded { .. } => holds(
                ended
                    .end
                    .token()
                    .is_some_and(|token| truth.tokens.contains_key(token)),
                || "forwarded without a token of Keycloak's".to_owned(),
            ),
            End::Passed {
                why: Pass::NoKey, ..
            } => {
                let may = match credential {
                    Credential::Bearer => policy != OnMissingKey::Reject,
                    Credential::Nothing => policy == OnMissingKey::Pass,
                    _ => false,
                };
                holds(may, || {
                    format!("passed with {credential:?} under {policy:?}")
                })
            }
            End::Passed {
                why: Pass::Fallback,
                ..
            } => {
                let until = ended.config.fallback_until.map_or(0, |until| until.0);
                holds(
                    ended.node_now < until && ended.request.key().is_some(),
                    || "passed as unknown after the fallback's end".to_owned(),
                )
            }
            End::Passed {
                why: Pass::Disabled,
                ..
            } => holds(!ended.config.enabled, || {
                "passed as if switched off".to_owned()
            }),
            End::Rejected { rejection, .. } => holds(rejection.status() >= 400, || {
                format!("refused with status {}", rejection.status())
            }),
        }
    }
}
