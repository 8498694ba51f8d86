//! The changes that a realm needs: a pure comparison of its state with the required state.
//!
//! A plan never loosens a bound that an administrator made tighter, never turns on again a
//! switch that was turned off, and never takes over an object that serves another purpose.
//! Those are [`Conflicts`]: setup reports all of them at once, and changes nothing.

use serde_json::{Value, json};

use super::amend::{Change, Setting, amend};
use super::clients::WantedClient;
use super::state::{State, text};
use super::trust::{Trust, kid_of};
use apikeys_core::api_key::record::{INDEX_ATTRIBUTE, KEYS_ATTRIBUTE};

/// The first release with the grant out of preview.
const VERSION_MIN: (u64, u64) = (26, 6);
/// How long Keycloak keeps events if the realm sets nothing: every exchange is an event, and
/// without an end the table would grow for ever.
const EVENTS_KEPT_SECONDS: u64 = 30 * 24 * 3600;
const ISSUE_EVENT: &str = "JWT_AUTHORIZATION_GRANT";

/// The state that setup must reach.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The client that exchanges keys.
    pub(crate) gateway: WantedClient,
    /// The client that manages keys, unless it is left out.
    pub(crate) manager: Option<WantedClient>,
    pub(crate) identity_provider: String,
    pub(crate) assertion_issuer: String,
    pub(crate) replace_signing_key: bool,
}

impl Wanted {
    /// The wanted clients, in the order in which setup makes them.
    pub(crate) fn clients(&self) -> impl Iterator<Item = &WantedClient> {
        [Some(&self.gateway), self.manager.as_ref()]
            .into_iter()
            .flatten()
    }
}

/// The steps to the required state, in their order.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Warnings for an administrator, even when nothing changes.
    pub(crate) warnings: Vec<String>,
}

/// One object that setup makes or changes.
#[derive(Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) object: String,
    pub(crate) action: Action,
    pub(crate) changes: Vec<Change>,
}

impl Step {
    /// The step, for programs.
    pub(crate) fn document(&self) -> Value {
        let change = |change: &Change| {
            json!({
                "field": change.field, "is": change.is, "becomes": change.becomes,
                "why": change.why,
            })
        };
        let changes: Vec<Value> = self.changes.iter().map(change).collect();
        json!({ "object": self.object, "action": self.verb(), "changes": changes })
    }

    /// The change to the object, as "made" or "changed".
    pub(crate) fn verb(&self) -> &'static str {
        match self.action {
            Action::CreateProvider(_) | Action::CreateClient(_) => "made",
            _ => "changed",
        }
    }
}

/// The write of a step. An object is written whole.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    WriteUserProfile(Value),
    WriteEvents(Value),
    CreateProvider(Value),
    WriteProvider(Value),
    CreateClient(Value),
    WriteClient(Value),
    /// Gives these roles of client `realm-management` to the client's service account.
    GrantRoles(RolesOf),
    /// Takes these roles away from it.
    TakeRoles(RolesOf),
    /// Lets the client's tokens carry these roles.
    MapRoles(RolesOf),
}

/// Roles of client `realm-management`, and the client that gets or loses them.
#[derive(Debug, PartialEq)]
pub(crate) struct RolesOf {
    pub(crate) client_id: String,
    pub(crate) roles: Vec<String>,
}

/// Why setup changes nothing, each conflict with its advice.
#[derive(Debug, thiserror::Error)]
#[error("nothing was changed:\n  {}", .0.join("\n  "))]
pub(crate) struct Conflicts(pub(crate) Vec<String>);

impl Plan {
    pub(crate) fn new(state: &State, wanted: &Wanted) -> Result<Self, Conflicts> {
        let mut plan = Self::default();
        let mut conflicts = Vec::new();
        check_server(state, &mut conflicts);
        plan.user_profile(state, &mut conflicts);
        plan.events(state);
        plan.identity_provider(state, wanted, &mut conflicts);
        plan.lock_provider(state, &mut conflicts);
        for client in wanted.clients() {
            plan.client(state, wanted, client, &mut conflicts);
        }
        if conflicts.is_empty() {
            Ok(plan)
        } else {
            Err(Conflicts(conflicts))
        }
    }

    fn user_profile(&mut self, state: &State, conflicts: &mut Vec<String>) {
        let declared = state
            .user_profile
            .get("attributes")
            .and_then(Value::as_array);
        for attribute in declared.into_iter().flatten() {
            let name = text(attribute, "name");
            let ours =
                name == KEYS_ATTRIBUTE || name == INDEX_ATTRIBUTE || name.starts_with("apiKey_");
            let editors = attribute
                .pointer("/permissions/edit")
                .and_then(Value::as_array);
            if ours && editors.is_some_and(|roles| roles.contains(&json!("user"))) {
                conflicts.push(format!(
                    "user profile: users may edit the attribute {name:?}, so each could give \
                     himself a key; take it out of the user profile"
                ));
            }
        }
        let policy = text(&state.user_profile, "unmanagedAttributePolicy");
        if policy == "ENABLED" {
            self.warnings.push(
                "user profile: unmanagedAttributePolicy is ENABLED, so users can write any \
                 attribute of their own, the records of API keys among them. It is set to \
                 ADMIN_EDIT: an attribute that users must go on writing has to be declared in the \
                 user profile"
                    .to_owned(),
            );
        }
        let mut profile = state.user_profile.clone();
        let changes = amend(
            &mut profile,
            &[Setting::new(
                &["unmanagedAttributePolicy"],
                json!("ADMIN_EDIT"),
                "keys are stored in attributes that administrators alone can write",
            )],
        );
        self.step("user profile", Action::WriteUserProfile(profile), changes);
    }

    fn events(&mut self, state: &State) {
        let mut events = state.events.clone();
        let mut settings = vec![
            Setting::new(
                &["adminEventsEnabled"],
                json!(true),
                "the gateway hears of revocations by them",
            ),
            Setting::new(
                &["eventsEnabled"],
                json!(true),
                "they tell which key was used, and when",
            ),
        ];
        let kept = events.get("eventsExpiration").and_then(Value::as_u64);
        let turned_on = events.get("eventsEnabled") != Some(&json!(true));
        if turned_on && kept.unwrap_or(0) == 0 {
            settings.push(Setting::new(
                &["eventsExpiration"],
                json!(EVENTS_KEPT_SECONDS),
                "seconds; each exchange is an event, and without an end they pile up",
            ));
        }
        let types = events.get("enabledEventTypes").and_then(Value::as_array);
        // An empty list stands for all types.
        if let Some(types) = types.filter(|types| !types.is_empty()) {
            let missing: Vec<Value> = [ISSUE_EVENT.to_owned(), format!("{ISSUE_EVENT}_ERROR")]
                .into_iter()
                .map(Value::from)
                .filter(|name| !types.contains(name))
                .collect();
            if !missing.is_empty() {
                let shown = format!("{} more", missing.len());
                let all = types.iter().cloned().chain(missing).collect();
                settings.push(Setting {
                    is: Some(format!("{} types", types.len())),
                    becomes: Some(shown),
                    ..Setting::new(
                        &["enabledEventTypes"],
                        Value::Array(all),
                        "JWT_AUTHORIZATION_GRANT is the event of an exchange",
                    )
                });
            }
        }
        if events.get("adminEventsDetailsEnabled") == Some(&json!(true)) {
            self.warnings.push(
                "event settings: admin events keep representations (adminEventsDetailsEnabled), the hashes \
                 of API keys among them; whoever has view-events can read those"
                    .to_owned(),
            );
        }
        let changes = amend(&mut events, &settings);
        self.step("event settings", Action::WriteEvents(events), changes);
    }

    pub(super) fn step(&mut self, object: &str, action: Action, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.steps.push(Step {
                object: object.to_owned(),
                action,
                changes,
            });
        }
    }

    /// The setting that makes an object trust our key, if it does not yet. Other keys beside
    /// ours are a warning; other keys without ours are a conflict.
    pub(super) fn trust_setting(
        &mut self,
        object: &str,
        path: &'static [&'static str],
        trust: Trust,
        (jwk, replace): (&Value, bool),
        conflicts: &mut Vec<String>,
    ) -> Option<Setting> {
        let ours = kid_of(jwk);
        let is = match trust {
            Trust::Ours { others } => {
                if !others.is_empty() {
                    self.warnings.push(format!(
                        "{object} trusts other signing keys beside the one given here: {}; once no \
                         gateway signs with them: apikeys signing-key retire",
                        others.join(", ")
                    ));
                }
                return None;
            }
            Trust::Nothing => "not set".to_owned(),
            Trust::Other(description) => {
                if !replace {
                    conflicts.push(format!(
                        "{object} trusts {description}, not the key of --signing-key-file ({ours}); \
                         name the file of that key, or give --replace-signing-key: gateways that \
                         sign with the old key are refused from then on"
                    ));
                }
                description
            }
        };
        Some(Setting {
            is: Some(is),
            becomes: Some(format!("key {ours}")),
            ..Setting::new(
                path,
                json!(json!({ "keys": [jwk] }).to_string()),
                "the public half of the signing key",
            )
        })
    }
}

fn check_server(state: &State, conflicts: &mut Vec<String>) {
    let Some(server) = &state.server else {
        return;
    };
    let version = server
        .pointer("/systemInfo/version")
        .and_then(Value::as_str);
    if let Some(version) = version
        && let Some(numbers) = major_minor(version)
        && numbers < VERSION_MIN
    {
        conflicts.push(format!(
            "Keycloak is {version}; the JWT authorization grant is supported from {}.{}: upgrade",
            VERSION_MIN.0, VERSION_MIN.1
        ));
        return;
    }
    let features = server.get("features").and_then(Value::as_array);
    let off = |feature: &Value| {
        text(feature, "name") == "JWT_AUTHORIZATION_GRANT"
            && feature.get("enabled") == Some(&json!(false))
    };
    if features.is_some_and(|features| features.iter().any(off)) {
        conflicts.push(
            "Keycloak runs with the feature jwt-authorization-grant turned off: take it out of \
             --features-disabled and start it again"
                .to_owned(),
        );
    }
}

fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
#[path = "plan_tests/mod.rs"]
mod tests;
