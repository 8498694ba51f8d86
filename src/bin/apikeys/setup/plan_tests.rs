//! The comparison held against realms of every kind.

use super::super::amend::set;
use super::*;

const OUR_KID: &str = "our-kid";

fn jwk(kid: &str) -> Value {
    json!({"kty": "EC", "crv": "P-256", "x": format!("x-{kid}"), "y": "y", "kid": kid,
           "alg": "ES256", "use": "sig"})
}

fn wanted() -> Wanted {
    Wanted {
        client_id: "api-key-gateway".into(),
        identity_provider: "api-keys".into(),
        assertion_issuer: "https://api-key-gateway.invalid".into(),
        signing_jwk: jwk(OUR_KID),
        replace_signing_key: false,
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
        client: None,
        service_roles: vec![],
        mapped_roles: vec![],
    }
}

fn plan(state: &State) -> Plan {
    Plan::new(state, &wanted()).unwrap()
}

fn conflict(state: &State) -> String {
    Plan::new(state, &wanted()).unwrap_err().to_string()
}

/// The realm after the plan was carried out, as Keycloak would give it back.
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
            Action::CreateClient(value) | Action::WriteClient(value) => {
                state.client = Some(value.clone());
            }
            Action::GrantRoles(roles) => state.service_roles.extend(roles.iter().cloned()),
            Action::TakeRoles(roles) => state.service_roles.retain(|role| !roles.contains(role)),
            Action::MapRoles(roles) => state.mapped_roles.extend(roles.iter().cloned()),
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

fn change_client(state: &mut State, path: &[&str], value: Value) {
    set(state.client.as_mut().unwrap(), path, &value);
}

fn change_provider(state: &mut State, path: &[&str], value: Value) {
    set(&mut state.identity_providers[0], path, &value);
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
            "client \"api-key-gateway\"",
            "service account of \"api-key-gateway\"",
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
    assert_eq!(after.client.unwrap()["attributes"]["extra"], "kept");
    assert_eq!(after.identity_providers[0]["config"]["extra"], "kept");
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
    assert_eq!(conflict(&state).matches("--replace-signing-key").count(), 2);
    assert!(conflict(&state).contains("their-kid"));
    let replacing = Wanted {
        replace_signing_key: true,
        ..wanted()
    };
    let plan = Plan::new(&state, &replacing).unwrap();
    assert_eq!(fields(&plan), ["publicKeySignatureVerifier", "jwks.string"]);
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
fn the_service_account_gets_its_two_roles_and_no_other() {
    let mut state = ready_realm();
    state.service_roles = vec!["view-users".into(), "manage-users".into()];
    let actions: Vec<Action> = plan(&state)
        .steps
        .into_iter()
        .map(|step| step.action)
        .collect();
    assert_eq!(
        actions,
        [
            Action::GrantRoles(vec!["view-events".into()]),
            Action::TakeRoles(vec!["manage-users".into()]),
        ]
    );
}

#[test]
fn a_narrowed_scope_stays_narrow_and_gets_the_two_roles_mapped() {
    let mut state = ready_realm();
    change_client(&mut state, &["fullScopeAllowed"], json!(false));
    let plan = plan(&state);
    let [step] = plan.steps.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!(
        step.action,
        Action::MapRoles(vec!["view-events".into(), "view-users".into()])
    );
    assert_eq!(
        super::Plan::new(&applied(&state, &plan), &wanted()).unwrap(),
        Plan::default()
    );
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
fn flows_that_the_gateway_does_not_use_are_turned_off_where_they_are_on() {
    let mut state = ready_realm();
    change_client(
        &mut state,
        &["attributes", "oidc.ciba.grant.enabled"],
        json!("true"),
    );
    change_client(&mut state, &["directAccessGrantsEnabled"], json!(true));
    assert_eq!(
        fields(&plan(&state)),
        ["directAccessGrantsEnabled", "oidc.ciba.grant.enabled"]
    );
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
