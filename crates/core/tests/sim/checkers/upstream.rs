//! Invariant 6: no key reaches the service, save one that Keycloak does not know
//! while the fallback lasts.

use apikeys_core::exchange::Pass;

use super::answered::longest_ms;
use super::{Checker, Seen, Word, holds};
use crate::keys::MARK;
use crate::request::End;
use crate::truth::Truth;

pub struct Upstream;

impl Checker for Upstream {
    fn invariant(&self) -> u8 {
        6
    }

    fn see(&mut self, seen: &Seen<'_>, truth: &Truth) -> Word {
        let Seen::Ended(ended) = seen else {
            return Ok(());
        };
        let Some(headers) = ended.end.upstream() else {
            return Ok(());
        };
        let mark = MARK.as_bytes();
        let holding = headers
            .iter()
            .find(|(_, value)| value.windows(mark.len()).any(|window| window == mark));
        let Some((name, _)) = holding else {
            return Ok(());
        };
        holds(
            matches!(
                ended.end,
                End::Passed {
                    why: Pass::Fallback,
                    ..
                }
            ),
            || format!("a key goes to the service in the header {name}"),
        )?;
        let key = ended.request.key().unwrap_or_default();
        let id = key.get(8..20).unwrap_or_default().to_owned();
        let said_at = truth.nobody.get(&(ended.realm, id)).copied();
        let remembered = ended.config.negative_ttl_ms + 2 * longest_ms(ended);
        let late = remembered + ended.clock.backwards_since(0);
        holds(
            said_at.is_some_and(|said_at| ended.now <= said_at + late),
            || {
                "a key goes to the service as unknown, and Keycloak did not say that it is"
                    .to_owned()
            },
        )
    }
}
