//! A key for a token, for gateways that cannot load the filter: the exchange itself.
//!
//! The key takes the same way through machine and caches as one in a request's header.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::json;

use super::body::ValidateBody;
use super::problem::Code;
use super::{Answer, End, Manage, ManageEnv, Output, State, Step};
use crate::clock::UnixMillis;
use crate::exchange::credentials::AUTHORIZATION;
use crate::exchange::{self, Exchange, Pass};
use crate::machine::Event;
use crate::rejection::{Reason, Rejection};

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    preferred_username: Option<String>,
}

impl Manage {
    pub(super) fn start_exchange(
        &mut self,
        body: &ValidateBody,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let config = Arc::clone(&env.exchange.worker.config);
        // A JSON text may have spaces at its ends; a header's value has none.
        let key = match config.key_format.parse(body.api_key.as_bytes()) {
            Ok(key) => key,
            Err(fault) => return Err(malformed(fault, env)),
        };
        self.report.key_id = Some(key.id().to_owned());
        let name = config.headers.first().map_or(AUTHORIZATION, |name| name);
        let value = if name == AUTHORIZATION {
            format!("ApiKey {}", *body.api_key)
        } else {
            body.api_key.to_string()
        };
        let headers = [(name.to_owned(), value.into_bytes())];
        let mut exchange = Box::new(Exchange::new());
        let output = exchange.begin(&headers, env.exchange);
        let [(_, mut value)] = headers;
        zeroize::Zeroize::zeroize(&mut value);
        self.exchanged(exchange, output, env)
    }

    pub(super) fn exchange(
        &mut self,
        mut exchange: Box<Exchange>,
        event: Event<'_>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let output = exchange.handle_event(event, env.exchange);
        self.exchanged(exchange, output, env)
    }

    fn exchanged(
        &mut self,
        exchange: Box<Exchange>,
        output: exchange::Output,
        env: &ManageEnv<'_, '_>,
    ) -> Step {
        match output {
            exchange::Output::Await(effect) => {
                Ok((State::Exchanging(exchange), Output::Await(effect)))
            }
            exchange::Output::Forward(forward) => {
                let key_id = self.report.key_id.clone().unwrap_or_default();
                let told = token(&forward.authorization, &key_id, env.exchange.now)?;
                Ok((State::Over, Output::Respond(told)))
            }
            exchange::Output::Pass(why) => Err(passed(why)),
            exchange::Output::Reject { rejection, reason } => {
                // Nothing was presented but a malformed key.
                let rejection = match rejection {
                    Rejection::MissingCredentials | Rejection::AmbiguousCredentials => {
                        Rejection::InvalidApiKey
                    }
                    rejection => rejection,
                };
                Err(End::new(Code::Exchange(rejection), reason))
            }
        }
    }
}

/// A malformed key counts as it does in the exchange, which never sees it.
fn malformed(fault: impl std::fmt::Display, env: &mut ManageEnv<'_, '_>) -> End {
    let source = env.exchange.source();
    if source.is_some_and(|source| env.exchange.count_failure(source)) {
        return End::new(Code::Exchange(Rejection::Throttled), Reason::Throttled);
    }
    End::new(Code::Exchange(Rejection::InvalidApiKey), fault)
}

/// The exchange would let the request pass to an upstream; here there is none.
fn passed(why: Pass) -> End {
    End::new(
        Code::Exchange(Rejection::InvalidApiKey),
        format!("a request that would pass ({why:?})"),
    )
}

fn token(authorization: &str, key_id: &str, now: UnixMillis) -> Result<Answer, End> {
    let jwt = authorization.strip_prefix("Bearer ").unwrap_or_default();
    let claims = jwt
        .split('.')
        .nth(1)
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok())
        .and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok())
        .ok_or_else(|| End::unavailable("the owner's token cannot be read"))?;
    let expires_in = UnixMillis::from_seconds(claims.exp).since_ms(now) / 1000;
    Ok(Answer::token(&json!({
        "access_token": jwt,
        "token_type": "Bearer",
        "expires_in": expires_in,
        "user_id": claims.sub,
        "username": claims.preferred_username,
        "key_id": key_id,
    })))
}
