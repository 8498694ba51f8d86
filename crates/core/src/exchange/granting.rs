//! The steps that get the owner's token: two signatures, the grant, its checks.

use std::sync::Arc;

use super::calling::answer;
use super::steps::WAIT_MS_MIN;
use super::{End, Env, Forward, Input, Output, Pending, Source, State, Step};
use crate::cache::CachedToken;
use crate::keycloak::Endpoint;
use crate::keycloak::token::{self, TokenError};
use crate::keycloak::users::Owner;
use crate::rejection::Reason;

/// A token's life is at least this, where the key's end allows it.
const TOKEN_LIFE_MS_MIN: u64 = 60_000;

impl Pending {
    /// Signs both assertions, the owner's and the client's, and asks for the token.
    /// The owner's ends with the key at the latest, and Keycloak's token ends with it.
    pub(super) fn sign(&mut self, owner: Box<Owner>, env: &mut Env<'_>) -> Step {
        let config = Arc::clone(&env.worker.config);
        let key = Arc::clone(&env.worker.signing_key);
        let used_for = config.cache_ttl_ms + config.stale_if_error_ms;
        let life = (used_for + 2 * config.clock_skew_ms).max(TOKEN_LIFE_MS_MIN);
        let expires_at = owner.record.ends_at.min(env.now.plus_ms(life));
        if expires_at.as_seconds() <= env.now.as_seconds() {
            return Err(End::invalid(Reason::Expired));
        }
        let jti = env.jti(&self.key_id);
        let grant_assertion =
            token::grant_assertion(&config, &key, &owner.id, &jti, env.now, expires_at);
        let jti = env.jti(&self.key_id);
        let client_assertion = token::client_assertion(&config, &key, &jti, env.now);
        let (Ok(grant_assertion), Ok(client_assertion)) = (grant_assertion, client_assertion)
        else {
            return Err(End::refused(Reason::Signing));
        };
        let scope = owner.record.scopes.as_deref().or(config.scope.as_deref());
        let call = token::grant_call(&config, &grant_assertion, &client_assertion, scope);
        self.call(State::Granting { owner }, call, env)
    }

    pub(super) fn granted(&mut self, owner: &Owner, input: &Input<'_>, env: &mut Env<'_>) -> Step {
        let endpoint = Endpoint::Grant;
        let (status, body) = answer(endpoint, input)?;
        let config = Arc::clone(&env.worker.config);
        let token = match token::read_token_answer(&config, status, body, env.now) {
            Ok(token) => token,
            Err(TokenError::OwnerRefused(why)) => {
                return Err(End::invalid(Reason::OwnerRefused(why)));
            }
            Err(TokenError::Expired) if ends_with_key(owner, env) => {
                return Err(End::invalid(Reason::Expired));
            }
            Err(error) => return Err(End::refused(Reason::TokenFault { endpoint, error })),
        };
        if token.subject != owner.id {
            return Err(End::refused(Reason::ForeignSubject));
        }
        let revocations = env.worker.cache.revocations();
        if revocations.generation() != self.generation
            && revocations.kills(&owner.id, self.asked_at)
        {
            // Revoked since the owner was asked for: what was answered then is stale.
            return self.need_service_token(WAIT_MS_MIN, env);
        }
        let key_ends_at = owner.record.ends_at;
        if key_ends_at <= env.now {
            return Err(End::invalid(Reason::Expired));
        }
        if token.exp > key_ends_at.plus_ms(1000) {
            return Err(End::refused(Reason::TokenOutlivesKey));
        }
        let cached = CachedToken {
            authorization: format!("Bearer {}", token.jwt).into(),
            owner_id: owner.id.as_str().into(),
        };
        // A token shorter than the skew is used for half of its life: not to keep it
        // at all would send each request to Keycloak.
        let margin = config
            .clock_skew_ms
            .min(token.expires_at.since_ms(env.now) / 2);
        let ends_at = token.expires_at.minus_ms(margin);
        let ends_at = ends_at.min(key_ends_at);
        let cache = &mut env.worker.cache;
        cache.remember_token(
            &self.digest,
            cached.clone(),
            ends_at,
            self.asked_at,
            env.now,
            env.store,
        );
        let source = if self.first_use {
            Source::FirstUse
        } else {
            Source::Refresh
        };
        let remove = std::mem::take(&mut self.remove);
        let forward = Forward {
            authorization: cached.authorization,
            remove,
            source,
        };
        Ok((State::Over, Output::Forward(forward)))
    }
}

/// Whether a token that is over may be so because its key is: it ends with the key's whole
/// second, by a clock of Keycloak's that may be ahead of ours.
fn ends_with_key(owner: &Owner, env: &Env<'_>) -> bool {
    let ahead_ms = env.worker.config.clock_skew_ms.max(1000);
    owner.record.ends_at <= env.now.plus_ms(ahead_ms)
}
