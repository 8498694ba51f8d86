//! The gateway's own token: kept, and renewed before its end, once for all requests of a worker.

use std::sync::Arc;

use super::{ExchangeId, Ids};
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::keycloak::lightweight::is_lightweight;
use crate::keycloak::token::{self, AccessToken};
use crate::keycloak::users::may_look_up;
use crate::keycloak::{Call, Endpoint};
use crate::machine::Event;
use crate::rejection::Reason;
use crate::signing_key::SigningKey;

/// A token is renewed this long before its end, or at half of a shorter life.
const RENEWAL_MARGIN_MS: u64 = 30_000;
/// A token may have been issued this long before it came, its whole second included.
const ON_ITS_WAY_MS: u64 = 5_000;
/// The fetcher of a token keeps others from fetching this much longer than its call may take.
const LATE_MS: u64 = 1_000;

/// The reason why a service token of the gateway cannot look owners up, if it cannot.
#[must_use]
pub(crate) fn lacks_role(token: &AccessToken) -> Option<Reason> {
    if may_look_up(&token.management_roles) {
        return None;
    }
    Some(match is_lightweight(&token.jwt) {
        true => Reason::LightweightToken("gateway's"),
        false => Reason::MissingRole,
    })
}

/// Everything needed to get a client's token: the kept token, and the parts of a fetch.
pub(crate) struct Session<'a> {
    /// The instant.
    pub(crate) now: UnixMillis,
    /// The configuration.
    pub(crate) config: &'a Config,
    /// The client of the token.
    pub(crate) client_id: &'a str,
    /// That client's key.
    pub(crate) signing_key: &'a SigningKey,
    /// The reason why a token of the client is of no use, if it is not.
    pub(crate) lacks_role: fn(&AccessToken) -> Option<Reason>,
    /// The token that the worker keeps for the client.
    pub(crate) tokens: &'a mut ServiceToken,
    /// The ids of assertions.
    pub(crate) ids: &'a mut Ids,
    /// Gives bytes that no other request has; they need not be secret.
    pub(crate) nonce: &'a dyn Fn() -> Vec<u8>,
}

/// A request, poll or check that asks for the token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    /// Its name within the worker.
    pub(crate) id: ExchangeId,
    /// When it came: older failures do not concern it.
    pub(crate) started_at: UnixMillis,
    /// The token must have been asked for at this instant or later, because of the roles that it
    /// shows. Other askers use an older one meanwhile.
    pub(crate) since: UnixMillis,
}

/// The token, or the step towards it.
pub(crate) enum Token {
    /// Use this one.
    Ready(Arc<str>),
    /// Another asker fetches it: wait and ask again.
    Wait,
    /// Fetch it: make this call, and give its outcome to [`Session::answered`].
    Fetch(Call),
}

impl Session<'_> {
    /// Asks for the token. `context` names the assertion in Keycloak's log of events.
    ///
    /// # Errors
    /// The reason why another asker failed to fetch it meanwhile, or why it cannot be asked for.
    pub(crate) fn need(&mut self, asker: Asker, context: &str) -> Result<Token, Reason> {
        let lease_until = self.now.plus_ms(self.config.callout_timeout_ms + LATE_MS);
        match self.tokens.need(asker, lease_until, self.now) {
            Need::Use(token) => Ok(Token::Ready(token)),
            Need::Wait => Ok(Token::Wait),
            Need::Failed(reason) => Err(*reason),
            Need::Fetch => {
                let jti = self.ids.jti(context, &(self.nonce)(), self.now);
                let (config, key) = (self.config, self.signing_key);
                let assertion =
                    token::client_assertion_of(self.client_id, config, key, &jti, self.now)
                        .map_err(|_| Reason::Signing)?;
                Ok(Token::Fetch(token::service_token_call(config, &assertion)))
            }
        }
    }

    /// Takes the outcome of the call: the token for all askers that wait for it, or the failure.
    ///
    /// # Errors
    /// The reason why there is no token.
    pub(crate) fn answered(
        &mut self,
        id: ExchangeId,
        event: Event<'_>,
    ) -> Result<Arc<str>, Reason> {
        let read = match event.answer() {
            Ok((status, body)) => self.read(status, body),
            Err(why) => Err(Reason::callout(Endpoint::ServiceToken, why)),
        };
        self.take(id, read.as_ref())
    }

    /// Reads the answer to the call.
    ///
    /// # Errors
    /// The fault of the answer.
    pub(crate) fn read(&self, status: u16, body: &[u8]) -> Result<AccessToken, Reason> {
        token::read_token_answer(self.config, status, body, self.now).map_err(|error| {
            let endpoint = Endpoint::ServiceToken;
            Reason::TokenFault { endpoint, error }
        })
    }

    /// Keeps a token, unless it is of no use. Without its role Keycloak answers a search with an
    /// empty list: a known key would look like an unknown one.
    ///
    /// # Errors
    /// The reason why the token is of no use; left for all askers that wait.
    pub(crate) fn take(
        &mut self,
        id: ExchangeId,
        read: Result<&AccessToken, &Reason>,
    ) -> Result<Arc<str>, Reason> {
        let taken = read.map_err(Reason::clone).and_then(|token| {
            let lacks_role = (self.lacks_role)(token);
            lacks_role.map_or(Ok(token), Err)
        });
        match taken {
            Ok(token) => Ok(self.tokens.fetched(id, token, self.now)),
            Err(reason) => {
                self.tokens.failed(id, self.now, reason.clone());
                Err(reason)
            }
        }
    }
}

/// The answer of [`ServiceToken`] to an asker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Use this one.
    Use(Arc<str>),
    /// Fetch it: no other request does.
    Fetch,
    /// Another request fetches it: wait and ask again.
    Wait,
    /// Another request failed to fetch it while this one waited.
    Failed(Box<Reason>),
}

/// The token, or the request that fetches it.
#[derive(Default)]
pub struct ServiceToken {
    token: Option<Kept>,
    fetcher: Option<Fetcher>,
    failure: Option<(UnixMillis, Reason)>,
}

/// A token, and the time in which it is used.
struct Kept {
    jwt: Arc<str>,
    /// When Keycloak was asked for it: it shows the roles at that time.
    asked_at: UnixMillis,
    from: UnixMillis,
    until: UnixMillis,
    /// When it was issued by Keycloak's clock, and when it came by ours.
    issued: Option<(UnixMillis, UnixMillis)>,
}

/// The request that fetches a token.
#[derive(Debug, Clone, Copy)]
struct Fetcher {
    id: ExchangeId,
    asked_at: UnixMillis,
    lease_until: UnixMillis,
}

impl ServiceToken {
    /// Asks for the token. An asker that is told to fetch has until `lease_until`.
    pub(crate) fn need(&mut self, asker: Asker, lease_until: UnixMillis, now: UnixMillis) -> Need {
        let Asker {
            id,
            started_at,
            since,
        } = asker;
        if let Some(token) = &self.token
            && (token.from..token.until).contains(&now)
            && token.asked_at >= since
            // After a clock step backwards, a token that seems to come from the future does not
            // count as newer than `since`.
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

    /// Keeps a fetched token.
    pub(crate) fn fetched(
        &mut self,
        id: ExchangeId,
        token: &AccessToken,
        now: UnixMillis,
    ) -> Arc<str> {
        let life = token.expires_at.since_ms(now);
        let until = token.expires_at.minus_ms(RENEWAL_MARGIN_MS.min(life / 2));
        let jwt: Arc<str> = token.jwt.as_str().into();
        // If another fetcher has taken over, the time at which this token was asked for is
        // unknown.
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

    /// Keycloak's clock, as far as the token shows it: past the first instant, and not past the
    /// second unless our own clock stood still.
    #[must_use]
    pub fn keycloak_clock(&self, now: UnixMillis) -> Option<(UnixMillis, UnixMillis)> {
        let (issued_at, came_at) = self.token.as_ref()?.issued?;
        let latest = issued_at.plus_ms(now.since_ms(came_at) + ON_ITS_WAY_MS);
        Some((issued_at, latest))
    }

    /// Leaves a failure for the askers that wait now.
    pub(crate) fn failed(&mut self, id: ExchangeId, now: UnixMillis, reason: Reason) {
        self.give_up(id);
        self.failure = Some((now, reason));
    }

    /// Lets another request fetch.
    pub fn give_up(&mut self, id: ExchangeId) {
        if self.fetcher.is_some_and(|fetcher| fetcher.id == id) {
            self.fetcher = None;
        }
    }

    /// Forgets the token, to get a newer one.
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

    fn asker(id: ExchangeId, started_at: u64) -> Asker {
        Asker {
            id,
            started_at: at(started_at),
            since: UnixMillis::default(),
        }
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
        assert_eq!(service.need(asker(1, 0), at(100), at(0)), Need::Fetch);
        assert_eq!(service.need(asker(2, 0), at(100), at(1)), Need::Wait);
        service.fetched(1, &token(at(300_000)), at(2));
        assert_eq!(
            service.need(asker(2, 0), at(100), at(3)),
            Need::Use("a.b.c".into())
        );
        assert_eq!(
            service.need(asker(2, 0), at(100), at(269_999)),
            Need::Use("a.b.c".into())
        );
        assert_eq!(
            service.need(asker(2, 0), at(300_000), at(270_000)),
            Need::Fetch
        );
    }

    #[test]
    fn a_short_token_is_renewed_at_half_its_life() {
        let mut service = ServiceToken::default();
        service.fetched(1, &token(at(20_000)), at(0));
        assert!(matches!(
            service.need(asker(1, 0), at(100), at(9_999)),
            Need::Use(_)
        ));
        assert_eq!(
            service.need(asker(1, 0), at(20_000), at(10_000)),
            Need::Fetch
        );
    }

    #[test]
    fn a_fetcher_that_is_gone_is_succeeded() {
        let mut service = ServiceToken::default();
        assert_eq!(service.need(asker(1, 0), at(100), at(0)), Need::Fetch);
        assert_eq!(service.need(asker(2, 0), at(200), at(100)), Need::Fetch);
        service.give_up(1);
        assert_eq!(service.need(asker(3, 0), at(300), at(101)), Need::Wait);
        service.give_up(2);
        assert_eq!(service.need(asker(3, 0), at(300), at(101)), Need::Fetch);
    }

    #[test]
    fn a_failure_is_for_those_that_waited() {
        let mut service = ServiceToken::default();
        assert_eq!(service.need(asker(1, 0), at(100), at(0)), Need::Fetch);
        let reason = Reason::MissingRole;
        service.failed(1, at(5), reason.clone());
        let waited = service.need(asker(2, 4), at(100), at(6));
        assert_eq!(waited, Need::Failed(Box::new(reason)));
        assert_eq!(service.need(asker(3, 5), at(100), at(6)), Need::Fetch);
    }

    #[test]
    fn who_wants_a_newer_one_fetches_it_while_the_others_use_the_older() {
        let mut service = ServiceToken::default();
        let since = |service: &mut ServiceToken, id, since| {
            let since = at(since);
            service.need(
                Asker {
                    since,
                    ..asker(id, 0)
                },
                at(900),
                at(20),
            )
        };
        assert_eq!(service.need(asker(1, 0), at(100), at(5)), Need::Fetch);
        service.fetched(1, &token(at(300_000)), at(9));
        assert!(matches!(since(&mut service, 2, 5), Need::Use(_)));
        assert_eq!(since(&mut service, 2, 6), Need::Fetch);
        assert_eq!(since(&mut service, 3, 6), Need::Wait);
        assert!(matches!(
            service.need(asker(4, 0), at(900), at(20)),
            Need::Use(_)
        ));
        // For a token that came too late, the time of asking is unknown.
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
        // After a clock step backwards the token's age is unknown.
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
            service.need(asker(1, 0), at(100), at(1)),
            Need::Use(_)
        ));
        service.reject("a.b.c");
        assert_eq!(service.need(asker(1, 0), at(100), at(1)), Need::Fetch);
    }
}
