//! The clients: the gateway's, which exchanges keys, and the management API's, which writes
//! them. Each signs in with a key and holds only the roles of its duty.

use serde_json::{Value, json};

use super::amend::{Change, amend};
use super::plan::{Action, Plan, RolesOf, Wanted};
use super::settings::client_settings;
use super::state::{State, text};
use super::trust::Trust;

/// The duty of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Finds the owners of keys and gets tokens for them. Changes nothing.
    Exchange,
    /// Writes the keys of users, and gets only its own token.
    Manage,
}

impl Duty {
    /// The roles of client `realm-management` that its service account holds. `manage-users`
    /// includes reading users (measured, 26.7.5).
    pub(crate) const fn roles(self) -> [&'static str; 2] {
        match self {
            Self::Exchange => ["view-events", "view-users"],
            Self::Manage => ["manage-users", "view-events"],
        }
    }

    const fn why_roles(self) -> &'static str {
        match self {
            Self::Exchange => "to find a key's owner, and to hear of revocations",
            Self::Manage => "to write users' keys, and to tell when a key was last used",
        }
    }

    const fn why_no_more(self) -> &'static str {
        match self {
            Self::Exchange => "the gateway reads; it must not be able to do more",
            Self::Manage => "it writes users; it must not be able to do more",
        }
    }
}

/// A client that the realm must have.
#[derive(Debug, Clone)]
pub(crate) struct WantedClient {
    pub(crate) client_id: String,
    pub(crate) duty: Duty,
    /// The public half of the key that it signs in with.
    pub(crate) signing_jwk: Value,
}

impl WantedClient {
    /// The option that names it.
    const fn option(&self) -> &'static str {
        match self.duty {
            Duty::Exchange => "--client-id",
            Duty::Manage => "--management-client-id",
        }
    }

    fn missing_among(&self, held: &[String]) -> Vec<String> {
        let roles = self.duty.roles().into_iter();
        roles
            .filter(|role| !held.iter().any(|held| held == role))
            .map(str::to_owned)
            .collect()
    }
}

impl Plan {
    pub(super) fn client(
        &mut self,
        state: &State,
        wanted: &Wanted,
        ours: &WantedClient,
        conflicts: &mut Vec<String>,
    ) {
        let object = format!("client {:?}", ours.client_id);
        let existing = state.client(&ours.client_id);
        if let Some(client) = existing {
            if let Some(use_) = other_use(client, ours.duty) {
                conflicts.push(format!(
                    "{object} exists and serves something else ({use_}); choose another {}",
                    ours.option()
                ));
                return;
            }
            if client.get("enabled") == Some(&json!(false)) {
                conflicts.push(turned_off(&object, ours.duty));
            }
        }
        let mut client = existing.cloned().unwrap_or_else(|| new_client(ours));
        let mut settings = client_settings(&client, ours.duty, &wanted.identity_provider);
        let trust = Trust::of(client.pointer("/attributes/jwks.string"), &ours.signing_jwk);
        let path = &["attributes", "jwks.string"];
        let signer = (&ours.signing_jwk, wanted.replace_signing_key);
        settings.extend(self.trust_setting(&object, path, trust, signer, conflicts));
        let changes = amend(&mut client, &settings);
        let narrowed = client.get("fullScopeAllowed") == Some(&json!(false));
        let action = match existing {
            None => Action::CreateClient(client),
            Some(_) => Action::WriteClient(client),
        };
        self.step(&object, action, changes);
        self.roles(state, ours, narrowed);
    }

    /// Plans the roles of the service account. If the client's scope is not full, also plans
    /// the roles that its tokens may carry.
    fn roles(&mut self, state: &State, ours: &WantedClient, narrowed: bool) {
        let object = format!("service account of {:?}", ours.client_id);
        let held = state.service_roles(&ours.client_id);
        let change = |is: &str, roles: &[String], becomes: &str, why| {
            vec![Change {
                field: format!("roles {} of realm-management", roles.join(", ")),
                is: is.to_owned(),
                becomes: becomes.to_owned(),
                why,
            }]
        };
        let of = |roles| RolesOf {
            client_id: ours.client_id.clone(),
            roles,
        };
        let missing = ours.missing_among(held);
        if !missing.is_empty() {
            let changes = change("missing", &missing, "held", ours.duty.why_roles());
            self.step(&object, Action::GrantRoles(of(missing)), changes);
        }
        let extra: Vec<String> = held
            .iter()
            .filter(|role| !ours.duty.roles().contains(&role.as_str()))
            .cloned()
            .collect();
        if !extra.is_empty() {
            let changes = change("held", &extra, "taken away", ours.duty.why_no_more());
            self.step(&object, Action::TakeRoles(of(extra)), changes);
        }
        let unmapped = ours.missing_among(state.mapped_roles(&ours.client_id));
        if narrowed && !unmapped.is_empty() {
            let why = "without full scope, tokens carry mapped roles alone";
            let changes = change("not in the scope", &unmapped, "mapped", why);
            let object = format!("scope of client {:?}", ours.client_id);
            self.step(&object, Action::MapRoles(of(unmapped)), changes);
        }
    }
}

fn new_client(ours: &WantedClient) -> Value {
    let (name, description) = match ours.duty {
        Duty::Exchange => (
            "API key gateway",
            "Exchanges API keys for tokens of their owners",
        ),
        Duty::Manage => ("API key management", "Writes the API keys of users"),
    };
    json!({
        "clientId": ours.client_id,
        "name": name,
        "description": description,
        "protocol": "openid-connect",
        "enabled": true,
        // The gateway's client gets owners' tokens; without full scope they would lack the
        // owner's roles. An administrator who wants fewer turns it off and maps some, and
        // setup keeps that. The management client gets tokens for itself alone.
        "fullScopeAllowed": ours.duty == Duty::Exchange,
    })
}

/// The other use of an existing client; `None` if it is ours. Ours signs in with a key, and
/// only the gateway's client of a realm uses the grant with a key.
fn other_use(client: &Value, duty: Duty) -> Option<&'static str> {
    let is = |name: &str| client.get(name) == Some(&json!(true));
    let attribute = |name: &str| {
        let value = client.pointer(&format!("/attributes/{name}"));
        value.and_then(Value::as_str).unwrap_or_default()
    };
    let grants = attribute("oauth2.jwt.authorization.grant.enabled") == "true";
    match duty {
        _ if !matches!(text(client, "protocol"), "openid-connect" | "") => {
            Some("not OpenID Connect")
        }
        _ if is("publicClient") => Some("a public client"),
        _ if is("bearerOnly") => Some("a bearer-only client"),
        _ if text(client, "clientAuthenticatorType") != "client-jwt" => {
            Some("it does not sign in with a signed JWT")
        }
        Duty::Exchange if !grants => Some("it does not use the JWT authorization grant"),
        Duty::Manage if grants => Some("it uses the JWT authorization grant"),
        Duty::Manage if attribute("jwks.string").is_empty() => {
            Some("it does not sign in with a key that is written in it")
        }
        _ => None,
    }
}

fn turned_off(object: &str, duty: Duty) -> String {
    let (so, else_) = match duty {
        Duty::Exchange => ("no key is exchanged", ""),
        Duty::Manage => (
            "the management API works no more",
            ", or give --no-management",
        ),
    };
    format!(
        "{object} is turned off, so {so}; if that is not on purpose, turn it on in the admin \
         console, and run setup again{else_}"
    )
}
