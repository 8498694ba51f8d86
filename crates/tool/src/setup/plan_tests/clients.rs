//! Plans for the two clients and for the roles of their service accounts.

use super::*;

#[test]
fn each_service_account_gets_its_two_roles_and_no_other() {
    let mut state = ready_realm();
    client_of(&mut state, GATEWAY).service_roles = vec!["view-users".into(), "manage-users".into()];
    client_of(&mut state, MANAGER).service_roles =
        vec!["realm-admin".into(), "manage-users".into()];
    let actions: Vec<Action> = plan(&state)
        .steps
        .into_iter()
        .map(|step| step.action)
        .collect();
    assert_eq!(
        actions,
        [
            Action::GrantRoles(roles_of(GATEWAY, &["view-events"])),
            Action::TakeRoles(roles_of(GATEWAY, &["manage-users"])),
            Action::GrantRoles(roles_of(MANAGER, &["view-events"])),
            Action::TakeRoles(roles_of(MANAGER, &["realm-admin"])),
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
        Action::MapRoles(roles_of(GATEWAY, &["view-events", "view-users"]))
    );
    assert_eq!(
        super::Plan::new(&applied(&state, &plan), &wanted()).unwrap(),
        Plan::default()
    );
}

#[test]
fn the_management_client_gets_tokens_for_itself_alone_with_its_two_roles() {
    let state = ready_realm();
    let client = state.client(MANAGER).unwrap();
    for flow in [
        "standardFlowEnabled",
        "implicitFlowEnabled",
        "directAccessGrantsEnabled",
        "publicClient",
        "fullScopeAllowed",
    ] {
        assert_eq!(client[flow], json!(false), "{flow}");
    }
    let attributes = client["attributes"].as_object().unwrap();
    assert!(attributes.keys().all(|name| !name.contains("grant")));
    assert_eq!(
        state.service_roles(MANAGER),
        ["manage-users", "view-events"]
    );
    assert_eq!(state.mapped_roles(MANAGER), ["manage-users", "view-events"]);
    // A scope that was widened stays wide: the account holds no other roles.
    let mut wide = state.clone();
    change(&mut wide, MANAGER, &["fullScopeAllowed"], json!(true));
    assert_eq!(plan(&wide), Plan::default());
}

#[test]
fn a_client_of_somebody_elses_does_not_become_the_management_client() {
    let ready = ready_realm();
    for (path, value) in [
        (&["publicClient"][..], json!(true)),
        (&["clientAuthenticatorType"], json!("client-secret")),
        (
            &["attributes", "oauth2.jwt.authorization.grant.enabled"],
            json!("true"),
        ),
        (&["attributes", "jwks.string"], json!("")),
    ] {
        let mut state = ready.clone();
        change(&mut state, MANAGER, path, value);
        let conflict = conflict(&state);
        assert!(
            conflict.contains("serves something else") && conflict.contains("--management-client"),
            "{conflict}"
        );
    }
    let mut off = ready;
    change(&mut off, MANAGER, &["enabled"], json!(false));
    assert!(conflict(&off).contains("--no-management"));
}

#[test]
fn without_a_management_client_none_is_made_looked_at_or_taken_away() {
    let alone = Wanted {
        manager: None,
        ..wanted()
    };
    let fresh = fresh_realm();
    let plan = Plan::new(&fresh, &alone).unwrap();
    let after = applied(&fresh, &plan);
    assert!(after.client(MANAGER).is_none() && after.client(GATEWAY).is_some());
    assert!(after.identity_provider(LOCK_PROVIDER).is_some());
    let mut foreign = ready_realm();
    change(&mut foreign, MANAGER, &["publicClient"], json!(true));
    assert_eq!(Plan::new(&foreign, &alone).unwrap(), Plan::default());
}

#[test]
fn a_management_key_of_its_own_is_trusted_by_its_client_alone() {
    let mut own = wanted();
    own.manager.as_mut().unwrap().signing_jwk = jwk("managers-kid");
    let fresh = fresh_realm();
    let after = applied(&fresh, &Plan::new(&fresh, &own).unwrap());
    let trusted = |value: &Value| value.as_str().unwrap().contains("managers-kid");
    assert!(trusted(
        &after.client(MANAGER).unwrap()["attributes"]["jwks.string"]
    ));
    assert!(!trusted(
        &after.client(GATEWAY).unwrap()["attributes"]["jwks.string"]
    ));
    let provider = after.identity_provider("api-keys").unwrap();
    assert!(!trusted(&provider["config"]["publicKeySignatureVerifier"]));
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
fn what_keeps_the_grant_from_being_given_is_turned_off_where_it_is_on() {
    let bound = [
        "client.use.lightweight.access.token.enabled",
        "dpop.bound.access.tokens",
        "tls.client.certificate.bound.access.tokens",
    ];
    for client in [GATEWAY, MANAGER] {
        let mut state = ready_realm();
        for attribute in bound {
            change(
                &mut state,
                client,
                &["attributes", attribute],
                json!("true"),
            );
        }
        let plan = plan(&state);
        assert_eq!(fields(&plan), bound, "{client}");
        assert_eq!(
            Plan::new(&applied(&state, &plan), &wanted()).unwrap(),
            Plan::default()
        );
    }
    let mut state = ready_realm();
    change_client(&mut state, &["consentRequired"], json!(true));
    assert_eq!(fields(&plan(&state)), ["consentRequired"]);
    // The management client gets no tokens for others.
    let mut state = ready_realm();
    change(&mut state, MANAGER, &["consentRequired"], json!(true));
    assert_eq!(plan(&state), Plan::default());
}
