//! The gateway's own token: kept, and renewed before its end, once for all requests
//! of a worker.

use std::sync::Arc;

use super::ExchangeId;
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::keycloak::Endpoint;
use crate::keycloak::lightweight::is_lightweight;
use crate::keycloak::token::{AccessToken, read_token_answer};
use crate::keycloak::users::may_look_up;
use crate::rejection::Reason;

/// A token is renewed this long before its end, or at half of a shorter life.
const RENEWAL_MARGIN_MS: u64 = 30_000;
/// A token may have been made this long before it came, its whole second included.
const ON_ITS_WAY_MS: u64 = 5_000;

/// Reads the answer with the token. Without the role Keycloak answers a search with an
/// empty list: a known key would look like an unknown one.
///
/// # Errors
/// [`Reason`].
pub fn read_service_token(
    config: &Config,
    status: u16,
    body: &[u8],
    now: UnixMillis,
) -> Result<AccessToken, Reason> {
    let endpoint = Endpoint::ServiceToken;
    let token = read_token_answer(config, status, body, now)
        .map_err(|error| Reason::TokenFault { endpoint, error })?;
    match lacks_role(&token) {
        None => Ok(token),
        Some(reason) => Err(reason),
    }
}

/// Why a service token of the gateway's cannot look owners up, if it cannot.
#[must_use]
pub fn lacks_role(token: &AccessToken) -> Option<Reason> {
    if may_look_up(&token.management_roles) {
        return None;
    }
    Some(match is_lightweight(&token.jwt) {
        true => Reason::LightweightToken("gateway's"),
        false => Reason::MissingRole,
    })
}

/// What a request that needs the token is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Need {
    /// Use this one.
    Use(Arc<str>),
    /// Fetch it: nobody does.
    Fetch,
    /// Another request fetches it: wait and look again.
    Wait,
    /// Another request failed to fetch it while this one waited.
    Failed(Box<Reason>),
}

/// The token, or who fetches it.
#[derive(Default)]
pub struct ServiceToken {
    token: Option<Kept>,
    fetcher: Option<Fetcher>,
    failure: Option<(UnixMillis, Reason)>,
}

/// A token, and when it is used.
struct Kept {
    jwt: Arc<str>,
    /// When Keycloak was asked for it: it shows the roles of then.
    asked_at: UnixMillis,
    from: UnixMillis,
    until: UnixMillis,
    /// When it was made by Keycloak's clock, and when it came by ours.
    issued: Option<(UnixMillis, UnixMillis)>,
}

/// Who fetches a token.
#[derive(Debug, Clone, Copy)]
struct Fetcher {
    id: ExchangeId,
    asked_at: UnixMillis,
    lease_until: UnixMillis,
}

impl ServiceToken {
    /// Asks for the token, for a request that came at `started_at`. Whoever is told
    /// to fetch has until `lease_until`.
    pub fn need(
        &mut self,
        id: ExchangeId,
        started_at: UnixMillis,
        lease_until: UnixMillis,
        now: UnixMillis,
    ) -> Need {
        self.need_since(UnixMillis(0), id, started_at, lease_until, now)
    }

    /// The same, for a request that wants one that was asked for at `since` or later,
    /// for the roles that it shows. Others go on with the older one meanwhile.
    pub fn need_since(
        &mut self,
        since: UnixMillis,
        id: ExchangeId,
        started_at: UnixMillis,
        lease_until: UnixMillis,
        now: UnixMillis,
    ) -> Need {
        if let Some(token) = &self.token
            && (token.from..token.until).contains(&now)
            && token.asked_at >= since
            // Of a time that is yet to come, after a step backwards, nothing is newer.
            && (token.asked_at <= now || since == UnixMillis::default())
        {
            return Need::Use(Arc::clone(&token.jwt));
        }
        if let Some((failed_at, reason)) = &self.failure
            && started_at < *failed_at
            && *failed_at <= now
        {
            return Need::Failed(Box::new(reason.clone()));
        }
        match self.fetcher {
            Some(other) if other.id != id && now < other.lease_until => Need::Wait,
            _ => {
                self.fetcher = Some(Fetcher {
                    id,
                    asked_at: now,
                    lease_until,
                });
                Need::Fetch
            }
        }
    }

    /// Keeps a token that was fetched.
    pub fn fetched(&mut self, id: ExchangeId, token: &AccessToken, now: UnixMillis) -> Arc<str> {
        let life = token.expires_at.since_ms(now);
        let until = token.expires_at.minus_ms(RENEWAL_MARGIN_MS.min(life / 2));
        let jwt: Arc<str> = token.jwt.as_str().into();
        // Of one whose fetcher was succeeded it is not known when it was asked for.
        let fetcher = self.fetcher.filter(|fetcher| fetcher.id == id);
        self.token = Some(Kept {
            jwt: Arc::clone(&jwt),
            asked_at: fetcher.map_or_else(UnixMillis::default, |fetcher| fetcher.asked_at),
            // A clock that was set back a little is still within the token's life.
            from: now.minus_ms(life),
            until,
            issued: token.issued_at.map(|issued_at| (issued_at, now)),
        });
        self.give_up(id);
        self.failure = None;
        jwt
    }

    /// Keycloak's clock as far as the token shows it: it is past the first instant, and not
    /// past the second unless our own clock stood still.
    #[must_use]
    pub fn keycloak_clock(&self, now: UnixMillis) -> Option<(UnixMillis, UnixMillis)> {
        let (issued_at, came_at) = self.token.as_ref()?.issued?;
        let latest = issued_at.plus_ms(now.since_ms(came_at) + ON_ITS_WAY_MS);
        Some((issued_at, latest))
    }

    /// Leaves a failure for those that wait now.
    pub fn failed(&mut self, id: ExchangeId, now: UnixMillis, reason: Reason) {
        self.give_up(id);
        self.failure = Some((now, reason));
    }

    /// Lets another request fetch.
    pub fn give_up(&mut self, id: ExchangeId) {
        if self.fetcher.is_some_and(|fetcher| fetcher.id == id) {
            self.fetcher = None;
        }
    }

    /// Forgets the token: a newer one is wanted.
    pub fn forget(&mut self) {
        self.token = None;
    }

    /// Forgets the token, if it is still this one: Keycloak no longer takes it.
    pub fn reject(&mut self, refused: &str) {
        if self
            .token
            .as_ref()
            .is_some_and(|token| *token.jwt == *refused)
        {
            self.token = None;
        }
    }
}

impl std::fmt::Debug for ServiceToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceToken")
            .field("until", &self.token.as_ref().map(|token| token.until))
            .field("fetcher", &self.fetcher)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> UnixMillis {
        UnixMillis(10_000_000 + ms)
    }

    fn token(expires_at: UnixMillis) -> AccessToken {
        AccessToken {
            jwt: "a.b.c".into(),
            subject: "gateway".into(),
            expires_at,
            exp: expires_at,
            issued_at: None,
            management_roles: vec![],
        }
    }

    #[test]
    fn one_fetches_and_the_others_wait_and_then_use_it() {
        let mut service = ServiceToken::default();
        assert_eq!(service.need(1, at(0), at(100), at(0)), Need::Fetch);
        assert_eq!(service.need(2, at(0), at(100), at(1)), Need::Wait);
        service.fetched(1, &token(at(300_000)), at(2));
        assert_eq!(
            service.need(2, at(0), at(100), at(3)),
            Need::Use("a.b.c".into())
        );
        assert_eq!(
            service.need(2, at(0), at(100), at(269_999)),
            Need::Use("a.b.c".into())
        );
        assert_eq!(
            service.need(2, at(0), at(300_000), at(270_000)),
            Need::Fetch
        );
    }

    #[test]
    fn a_short_token_is_renewed_at_half_its_life() {
        let mut service = ServiceToken::default();
        service.fetched(1, &token(at(20_000)), at(0));
        assert!(matches!(
            service.need(1, at(0), at(100), at(9_999)),
            Need::Use(_)
        ));
        assert_eq!(service.need(1, at(0), at(20_000), at(10_000)), Need::Fetch);
    }

    #[test]
    fn a_fetcher_that_is_gone_is_succeeded() {
        let mut service = ServiceToken::default();
        assert_eq!(service.need(1, at(0), at(100), at(0)), Need::Fetch);
        assert_eq!(service.need(2, at(0), at(200), at(100)), Need::Fetch);
        service.give_up(1);
        assert_eq!(service.need(3, at(0), at(300), at(101)), Need::Wait);
        service.give_up(2);
        assert_eq!(service.need(3, at(0), at(300), at(101)), Need::Fetch);
    }

    #[test]
    fn a_failure_is_for_those_that_waited() {
        let mut service = ServiceToken::default();
        assert_eq!(service.need(1, at(0), at(100), at(0)), Need::Fetch);
        service.failed(1, at(5), Reason::MissingRole);
        let waited = service.need(2, at(4), at(100), at(6));
        assert_eq!(waited, Need::Failed(Box::new(Reason::MissingRole)));
        assert_eq!(service.need(3, at(5), at(100), at(6)), Need::Fetch);
    }

    #[test]
    fn who_wants_a_newer_one_fetches_it_while_the_others_use_the_older() {
        let mut service = ServiceToken::default();
        let since = |service: &mut ServiceToken, id, since| {
            service.need_since(at(since), id, at(0), at(900), at(20))
        };
        assert_eq!(service.need(1, at(0), at(100), at(5)), Need::Fetch);
        service.fetched(1, &token(at(300_000)), at(9));
        assert!(matches!(since(&mut service, 2, 5), Need::Use(_)));
        assert_eq!(since(&mut service, 2, 6), Need::Fetch);
        assert_eq!(since(&mut service, 3, 6), Need::Wait);
        assert!(matches!(
            service.need(4, at(0), at(900), at(20)),
            Need::Use(_)
        ));
        // Of one that came too late nobody knows when it was asked for.
        service.fetched(9, &token(at(300_000)), at(21));
        assert_eq!(since(&mut service, 2, 6), Need::Fetch);
        service.fetched(2, &token(at(300_000)), at(22));
        assert!(matches!(since(&mut service, 3, 20), Need::Use(_)));
    }

    #[test]
    fn keycloaks_clock_is_known_within_a_few_seconds() {
        let mut service = ServiceToken::default();
        assert_eq!(service.keycloak_clock(at(0)), None);
        let issued = AccessToken {
            issued_at: Some(at(100_000)),
            ..token(at(300_000))
        };
        service.fetched(1, &issued, at(50));
        let clock = Some((at(100_000), at(105_000)));
        assert_eq!(service.keycloak_clock(at(50)), clock);
        // Set back, a clock says nothing of how long that is ago.
        assert_eq!(service.keycloak_clock(at(0)), clock);
        let later = Some((at(100_000), at(107_000)));
        assert_eq!(service.keycloak_clock(at(2_050)), later);
    }

    #[test]
    fn a_refused_token_is_forgotten_unless_it_was_renewed_already() {
        let mut service = ServiceToken::default();
        service.fetched(1, &token(at(300_000)), at(0));
        service.reject("older.token.x");
        assert!(matches!(
            service.need(1, at(0), at(100), at(1)),
            Need::Use(_)
        ));
        service.reject("a.b.c");
        assert_eq!(service.need(1, at(0), at(100), at(1)), Need::Fetch);
    }
}
