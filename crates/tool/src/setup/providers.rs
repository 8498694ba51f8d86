//! The identity providers: one accepts assertions as grants, and links to the other lock owners.

use apikeys_core::manage::change::LOCK_PROVIDER;
use serde_json::{Value, json};

use super::PROVIDER_ID;
use super::amend::{Setting, amend};
use super::plan::{Action, Plan, Wanted};
use super::settings::{lock_settings, provider_settings};
use super::state::{State, text};
use super::trust::Trust;

impl Plan {
    pub(super) fn identity_provider(
        &mut self,
        state: &State,
        wanted: &Wanted,
        conflicts: &mut Vec<String>,
    ) {
        let alias = &wanted.identity_provider;
        let object = format!("identity provider {alias:?}");
        for other in &state.identity_providers {
            let issuer = other.pointer("/config/issuer").and_then(Value::as_str);
            if text(other, "alias") != alias && issuer == Some(wanted.assertion_issuer.as_str()) {
                conflicts.push(format!(
                    "identity provider {:?} has the issuer {:?} already, and an issuer belongs to \
                     one provider; choose another --assertion-issuer, or name that one by \
                     --identity-provider",
                    text(other, "alias"),
                    wanted.assertion_issuer
                ));
            }
        }
        let existing = state.identity_provider(alias);
        if let Some(provider) = existing {
            let kind = text(provider, "providerId");
            if kind != PROVIDER_ID {
                conflicts.push(format!(
                    "{object} exists and is of the type {kind:?}; choose another \
                     --identity-provider"
                ));
                return;
            }
            if provider.get("enabled") == Some(&json!(false)) {
                conflicts.push(format!(
                    "{object} is turned off, so no key is exchanged; if that is not on purpose, \
                     turn it on in the admin console, and run setup again"
                ));
            }
        }
        let mut provider = existing.cloned().unwrap_or_else(|| {
            json!({
                "alias": alias,
                "displayName": "API keys",
                "providerId": PROVIDER_ID,
                "enabled": true,
            })
        });
        let mut settings = provider_settings(&provider, wanted);
        let trusted = provider.pointer("/config/publicKeySignatureVerifier");
        let url = provider.pointer("/config/useJwksUrl") == Some(&json!("true"));
        let trust = if url {
            Trust::Other("the keys at an address".to_owned())
        } else {
            Trust::of(trusted, &wanted.gateway.signing_jwk)
        };
        let path = &["config", "publicKeySignatureVerifier"];
        let signer = (&wanted.gateway.signing_jwk, wanted.replace_signing_key);
        settings.extend(self.trust_setting(&object, path, trust, signer, conflicts));
        if url {
            settings.push(Setting::new(
                &["config", "useJwksUrl"],
                json!("false"),
                "the key is given here",
            ));
        }
        let changes = amend(&mut provider, &settings);
        let action = match existing {
            None => Action::CreateProvider(provider),
            Some(_) => Action::WriteProvider(provider),
        };
        self.step(&object, action, changes);
    }

    /// Plans the provider for the owners' locks, which are links to it. It is off, and of a type
    /// that nobody can log in by even if it were on. Keycloak accepts links to it all the same.
    pub(super) fn lock_provider(&mut self, state: &State, conflicts: &mut Vec<String>) {
        let alias = LOCK_PROVIDER;
        let object = format!("identity provider {alias:?}");
        let existing = state.identity_provider(alias);
        if let Some(provider) = existing
            && text(provider, "providerId") != PROVIDER_ID
        {
            conflicts.push(format!(
                "{object} exists and is of the type {:?}: its links are the locks of owners, \
                 so it must serve nothing else; delete it, and run setup again",
                text(provider, "providerId")
            ));
            return;
        }
        let mut provider = existing.cloned().unwrap_or_else(|| {
            json!({
                "alias": alias,
                "displayName": "Lock of a user's API keys",
                "providerId": PROVIDER_ID,
                // Keycloak demands an issuer, unique to each provider. Nobody signs as this one.
                "config": { "issuer": format!("https://{alias}.invalid") },
            })
        });
        let changes = amend(&mut provider, &lock_settings());
        let action = match existing {
            None => Action::CreateProvider(provider),
            Some(_) => Action::WriteProvider(provider),
        };
        self.step(&object, action, changes);
    }
}
