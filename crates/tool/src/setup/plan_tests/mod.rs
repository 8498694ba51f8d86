//! Plans for realms in every state.

mod clients;

use super::super::amend::{Change, set};
use super::super::clients::Duty;
use super::super::state::ClientState;
use super::*;
use apikeys_core::manage::change::LOCK_PROVIDER;

const OUR_KID: &str = "our-kid";
const GATEWAY: &str = "api-key-gateway";
const MANAGER: &str = "api-key-manager";

fn jwk(kid: &str) -> Value {
    json!({"kty": "EC", "crv": "P-256", "x": format!("x-{kid}"), "y": "y", "kid": kid,
           "alg": "ES256", "use": "sig"})
}

fn wanted() -> Wanted {
    Wanted {
        gateway: client(GATEWAY, Duty::Exchange),
        manager: Some(client(MANAGER, Duty::Manage)),
        identity_provider: "api-keys".into(),
        assertion_issuer: "https://api-key-gateway.invalid".into(),
        replace_signing_key: false,
    }
}

fn client(client_id: &str, duty: Duty) -> WantedClient {
    WantedClient {
        client_id: client_id.into(),
        duty,
        signing_jwk: jwk(OUR_KID),
    }
}

fn fresh_realm() -> State {
    State {
        server: Some(json!({"systemInfo": {"version": "26.7.5"}})),
        user_profile: json!({"attributes": [
            {"name": "email", "permissions": {"edit": ["admin", "user"]}}], "groups": ["g"]}),
        events: json!({"eventsEnabled": false, "adminEventsEnabled": false,
                       "eventsListeners": ["jboss-logging"],
                       "enabledEventTypes": ["LOGIN", "JWT_AUTHORIZATION_GRANT",
                                             "JWT_AUTHORIZATION_GRANT_ERROR"]}),
        identity_providers: vec![],
        clients: vec![],
    }
}

fn plan(state: &State) -> Plan {
    Plan::new(state, &wanted()).unwrap()
}

fn conflict(state: &State) -> String {
    Plan::new(state, &wanted()).unwrap_err().to_string()
}

/// The realm after the plan, as Keycloak would return it.
fn applied(state: &State, plan: &Plan) -> State {
    let mut state = state.clone();
    for step in &plan.steps {
        match &step.action {
            Action::WriteUserProfile(value) => state.user_profile = value.clone(),
            Action::WriteEvents(value) => state.events = value.clone(),
            Action::CreateProvider(value) | Action::WriteProvider(value) => {
                state
                    .identity_providers
                    .retain(|provider| text(provider, "alias") != text(value, "alias"));
                state.identity_providers.push(value.clone());
            }
            Action::CreateClient(value) => state.clients.push(ClientState {
                representation: value.clone(),
                ..ClientState::default()
            }),
            Action::WriteClient(value) => {
                client_of(&mut state, text(value, "clientId")).representation = value.clone();
            }
            Action::GrantRoles(of) => client_of(&mut state, &of.client_id)
                .service_roles
                .extend(of.roles.iter().cloned()),
            Action::TakeRoles(of) => client_of(&mut state, &of.client_id)
                .service_roles
                .retain(|role| !of.roles.contains(role)),
            Action::MapRoles(of) => client_of(&mut state, &of.client_id)
                .mapped_roles
                .extend(of.roles.iter().cloned()),
        }
    }
    state
}

fn ready_realm() -> State {
    let fresh = fresh_realm();
    applied(&fresh, &plan(&fresh))
}

fn fields(plan: &Plan) -> Vec<&str> {
    let changes = plan.steps.iter().flat_map(|step| &step.changes);
    changes.map(|change| change.field.as_str()).collect()
}

fn client_of<'a>(state: &'a mut State, client_id: &str) -> &'a mut ClientState {
    let mut clients = state.clients.iter_mut();
    clients
        .find(|client| text(&client.representation, "clientId") == client_id)
        .unwrap()
}

fn change(state: &mut State, client_id: &str, path: &[&str], value: Value) {
    set(
        &mut client_of(state, client_id).representation,
        path,
        &value,
    );
}

fn change_client(state: &mut State, path: &[&str], value: Value) {
    change(state, GATEWAY, path, value);
}

fn roles_of(client_id: &str, roles: &[&str]) -> RolesOf {
    RolesOf {
        client_id: client_id.into(),
        roles: roles.iter().map(|&role| role.to_owned()).collect(),
    }
}

fn change_provider(state: &mut State, path: &[&str], value: Value) {
    change_provider_named(state, "api-keys", path, value);
}

fn change_provider_named(state: &mut State, alias: &str, path: &[&str], value: Value) {
    let mut providers = state.identity_providers.iter_mut();
    let provider = providers.find(|provider| text(provider, "alias") == alias);
    set(provider.unwrap(), path, &value);
}

#[test]
fn a_fresh_realm_gets_everything_and_then_nothing_more() {
    let fresh = fresh_realm();
    let first = plan(&fresh);
    let objects: Vec<&str> = first
        .steps
        .iter()
        .map(|step| step.object.as_str())
        .collect();
    assert_eq!(
        objects,
        [
            "user profile",
            "event settings",
            "identity provider \"api-keys\"",
            "identity provider \"api-keys-lock\"",
            "client \"api-key-gateway\"",
            "service account of \"api-key-gateway\"",
            "client \"api-key-manager\"",
            "service account of \"api-key-manager\"",
            "scope of client \"api-key-manager\"",
        ]
    );
    let second = plan(&applied(&fresh, &first));
    assert_eq!(second, Plan::default());
}

#[test]
fn what_is_not_ours_in_an_object_is_written_back_as_it_was() {
    let mut state = ready_realm();
    change_client(&mut state, &["attributes", "extra"], json!("kept"));
    change_client(&mut state, &["standardFlowEnabled"], json!(true));
    change_provider(&mut state, &["config", "extra"], json!("kept"));
    change_provider(
        &mut state,
        &["config", "issuer"],
        json!("https://old.example"),
    );
    state.user_profile["unmanagedAttributePolicy"] = json!("ADMIN_VIEW");
    let plan = plan(&state);
    assert_eq!(
        fields(&plan),
        ["unmanagedAttributePolicy", "issuer", "standardFlowEnabled"]
    );
    let after = applied(&state, &plan);
    assert_eq!(
        after.client(GATEWAY).unwrap()["attributes"]["extra"],
        "kept"
    );
    let provider = after.identity_provider("api-keys").unwrap();
    assert_eq!(provider["config"]["extra"], "kept");
    assert_eq!(after.user_profile["groups"], json!(["g"]));
    assert_eq!(
        after.user_profile["attributes"].as_array().unwrap().len(),
        1
    );
    assert_eq!(after.events["eventsListeners"], json!(["jboss-logging"]));
}

#[test]
fn a_profile_that_users_can_write_is_closed_and_said_loudly() {
    let mut state = ready_realm();
    state.user_profile["unmanagedAttributePolicy"] = json!("ENABLED");
    let plan = plan(&state);
    assert_eq!(fields(&plan), ["unmanagedAttributePolicy"]);
    assert_eq!(plan.steps[0].changes[0].is, "ENABLED");
    assert!(plan.warnings[0].contains("users can write any attribute"));
}

#[test]
fn a_declared_attribute_that_users_can_write_is_a_conflict() {
    for name in ["apiKeys", "apiKeyIndex", "apiKey_abc123def456_expiresAt"] {
        let mut state = ready_realm();
        state.user_profile["attributes"] =
            json!([{"name": name, "permissions": {"edit": ["user"]}}]);
        assert!(conflict(&state).contains(name));
        state.user_profile["attributes"] =
            json!([{"name": name, "permissions": {"edit": ["admin"]}}]);
        assert_eq!(plan(&state), Plan::default());
    }
}

#[test]
fn a_name_taken_by_something_else_is_a_conflict() {
    let mut state = ready_realm();
    change_provider(&mut state, &["providerId"], json!("oidc"));
    assert!(conflict(&state).contains("of the type \"oidc\""));
    for (name, value) in [
        ("protocol", json!("saml")),
        ("publicClient", json!(true)),
        ("bearerOnly", json!(true)),
        ("clientAuthenticatorType", json!("client-secret")),
    ] {
        let mut state = ready_realm();
        change_client(&mut state, &[name], value);
        assert!(conflict(&state).contains("serves something else"), "{name}");
    }
    let mut state = ready_realm();
    state
        .identity_providers
        .push(json!({"alias": "other", "config": {"issuer": wanted().assertion_issuer}}));
    assert!(conflict(&state).contains("\"other\""));
}

#[test]
fn what_was_turned_off_stays_off() {
    let mut state = ready_realm();
    change_provider(&mut state, &["enabled"], json!(false));
    change_client(&mut state, &["enabled"], json!(false));
    let conflict = conflict(&state);
    assert!(
        conflict.contains("provider \"api-keys\" is turned off"),
        "{conflict}"
    );
    assert!(
        conflict.contains("client \"api-key-gateway\" is turned off"),
        "{conflict}"
    );
}

#[test]
fn another_signing_key_is_replaced_only_when_asked() {
    let theirs = json!({"keys": [jwk("their-kid")]}).to_string();
    let mut state = ready_realm();
    change_provider(
        &mut state,
        &["config", "publicKeySignatureVerifier"],
        json!(theirs),
    );
    change_client(&mut state, &["attributes", "jwks.string"], json!(theirs));
    change(
        &mut state,
        MANAGER,
        &["attributes", "jwks.string"],
        json!(theirs),
    );
    assert_eq!(conflict(&state).matches("--replace-signing-key").count(), 3);
    assert!(conflict(&state).contains("their-kid"));
    let replacing = Wanted {
        replace_signing_key: true,
        ..wanted()
    };
    let plan = Plan::new(&state, &replacing).unwrap();
    assert_eq!(
        fields(&plan),
        ["publicKeySignatureVerifier", "jwks.string", "jwks.string"]
    );
    let after = applied(&state, &plan);
    assert_eq!(Plan::new(&after, &wanted()).unwrap(), Plan::default());
    // A PEM, a key of the same name with other numbers, an address: all foreign.
    let mut forged = jwk("other");
    forged["kid"] = json!(OUR_KID);
    for stored in [
        "-----BEGIN PUBLIC KEY-----",
        &json!({"keys": [forged]}).to_string(),
    ] {
        let mut state = ready_realm();
        change_provider(
            &mut state,
            &["config", "publicKeySignatureVerifier"],
            json!(stored),
        );
        assert!(Plan::new(&state, &wanted()).is_err(), "{stored}");
    }
    let mut state = ready_realm();
    change_provider(&mut state, &["config", "useJwksUrl"], json!("true"));
    assert!(conflict(&state).contains("the keys at an address"));
    let plan = Plan::new(&state, &replacing).unwrap();
    assert!(fields(&plan).contains(&"useJwksUrl"), "{:?}", fields(&plan));
}

#[test]
fn a_second_key_beside_ours_is_kept_and_told() {
    let both = json!({"keys": [jwk("next-kid"), jwk(OUR_KID)]}).to_string();
    let mut state = ready_realm();
    change_provider(
        &mut state,
        &["config", "publicKeySignatureVerifier"],
        json!(both),
    );
    let plan = plan(&state);
    assert!(plan.steps.is_empty());
    assert!(plan.warnings[0].contains("next-kid"));
}

#[test]
fn tighter_bounds_are_kept_and_looser_ones_are_not() {
    let age = "jwtAuthorizationGrantMaxAllowedAssertionExpiration";
    let skew = "jwtAuthorizationGrantAllowedClockSkew";
    for (name, value, kept) in [
        (age, "300", true),
        (age, "86400", false),
        (age, "10", false),
        (age, "x", false),
        (skew, "0", true),
        (skew, "600", false),
    ] {
        let mut state = ready_realm();
        change_provider(&mut state, &["config", name], json!(value));
        let expected: &[&str] = if kept { &[] } else { &[name] };
        assert_eq!(fields(&plan(&state)), expected, "{name} {value}");
    }
}

#[test]
fn a_lock_is_a_provider_of_no_other_use_and_is_turned_off_where_it_is_on() {
    let state = ready_realm();
    let lock = state.identity_provider(LOCK_PROVIDER).unwrap();
    assert_eq!(lock["enabled"], json!(false));
    assert_eq!(lock["hideOnLogin"], json!(true));
    assert_eq!(
        lock["config"]["jwtAuthorizationGrantEnabled"],
        json!("false")
    );
    assert_eq!(lock["config"].get("publicKeySignatureVerifier"), None);
    // Keycloak gives an issuer to one provider only.
    let gateways = state.identity_provider("api-keys").unwrap();
    assert_ne!(lock["config"]["issuer"], gateways["config"]["issuer"]);
    let mut on = state.clone();
    change_provider_named(&mut on, LOCK_PROVIDER, &["enabled"], json!(true));
    change_provider_named(
        &mut on,
        LOCK_PROVIDER,
        &["config", "issuer"],
        json!("https://kept.example"),
    );
    assert_eq!(fields(&plan(&on)), ["enabled"]);
    let mut foreign = state;
    change_provider_named(&mut foreign, LOCK_PROVIDER, &["providerId"], json!("oidc"));
    assert!(conflict(&foreign).contains("delete it"));
}

#[test]
fn events_that_are_turned_on_get_an_end_and_others_keep_theirs() {
    let mut state = fresh_realm();
    assert!(fields(&plan(&state)).contains(&"eventsExpiration"));
    state.events["eventsExpiration"] = json!(60);
    assert!(!fields(&plan(&state)).contains(&"eventsExpiration"));
    let mut state = ready_realm();
    state.events["eventsExpiration"] = json!(0);
    assert_eq!(plan(&state), Plan::default());
    state.events["enabledEventTypes"] = json!(["LOGIN"]);
    let after = applied(&state, &plan(&state));
    assert_eq!(
        after.events["enabledEventTypes"],
        json!([
            "LOGIN",
            "JWT_AUTHORIZATION_GRANT",
            "JWT_AUTHORIZATION_GRANT_ERROR"
        ])
    );
    state.events["enabledEventTypes"] = json!([]);
    assert_eq!(plan(&state), Plan::default());
    state.events["adminEventsDetailsEnabled"] = json!(true);
    assert!(plan(&state).warnings[0].contains("hashes"));
}

#[test]
fn an_older_keycloak_is_refused_by_its_version() {
    for (version, refused) in [
        ("26.5.4", true),
        ("25.0.6", true),
        ("26.6.0", false),
        ("27.0.0", false),
        ("26.4.0.redhat-00001", true),
        ("nightly", false),
    ] {
        let mut state = ready_realm();
        state.server = Some(json!({"systemInfo": {"version": version}}));
        assert_eq!(Plan::new(&state, &wanted()).is_err(), refused, "{version}");
    }
    let mut state = ready_realm();
    state.server = Some(json!({"features": [
        {"name": "JWT_AUTHORIZATION_GRANT", "enabled": false}]}));
    assert!(conflict(&state).contains("--features-disabled"));
    state.server = None;
    assert_eq!(plan(&state), Plan::default());
}

#[test]
fn a_change_reads_as_one_plain_line() {
    let change = Change {
        field: "eventsEnabled".into(),
        is: "false".into(),
        becomes: "true".into(),
        why: "they tell",
    };
    assert_eq!(
        change.to_string(),
        "eventsEnabled: false -> true (they tell)"
    );
}
