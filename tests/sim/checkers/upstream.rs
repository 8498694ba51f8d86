//! Invariant 6: no key reaches the service, save one that Keycloak does not know
//! while the fallback lasts.

use apikey_jwt_exchange::exchange::Pass;

use super::{Checker, Seen, Word, holds};
use crate::keys::MARK;
use crate::request::End;
use crate::truth::Truth;

/// How long after it became good a key may still be taken for an unknown one, beside
/// what a refusal is remembered for: an exchange that was under way.
const UNDER_WAY_MS: u64 = 60_000;

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
        let known_since = truth.good_since(ended.realm, &key).map(|hold| hold.from);
        let set_back = ended.clock.backwards_since(0);
        let late = ended.config.negative_ttl_ms + UNDER_WAY_MS + set_back;
        holds(
            known_since.is_none_or(|from| ended.now < from + late),
            || "a key that Keycloak has known for long goes to the service as unknown".to_owned(),
        )
    }
}
