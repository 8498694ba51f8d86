//! `apikeys setup`: its changes, and the settings that it leaves alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::world::{Realm, http, keycloak_url};

const PROVIDER: &str = "identity-provider/instances/api-keys";

#[test]
fn a_second_run_has_nothing_to_change() {
    let realm = Realm::new();
    let first = realm.setup(&[]).succeeded();
    assert!(
        first
            .stdout
            .contains("client \"api-key-gateway\" will be made"),
        "{}",
        first.stdout
    );
    assert!(first.stdout.contains("verified: "), "{}", first.stdout);
    for proof in [
        "and may grant; its token carries query-groups, query-users, view-events, view-users",
        "and may write users' keys; its token carries manage-users, view-events",
    ] {
        assert!(first.stdout.contains(proof), "{}", first.stdout);
    }
    let between = realm.snapshot();
    let second = realm.setup(&[]).succeeded();
    assert!(
        second.stdout.starts_with("nothing to change"),
        "{}",
        second.stdout
    );
    assert!(second.stdout.contains("verified: "), "{}", second.stdout);
    assert_eq!(realm.snapshot(), between);
    assert_eq!(realm.setup(&["--dry-run", "--exit-code"]).status, 0);
}

#[test]
fn a_program_is_told_what_changes_and_what_was_proven() {
    let realm = Realm::new();
    let json = |extra: &[&str]| {
        let run = realm.setup(&[extra, &["--output", "json"]].concat());
        run.succeeded().json()
    };
    let shown = json(&["--dry-run"]);
    assert_eq!(shown["dry_run"], true);
    assert_eq!(shown["verified"], serde_json::json!([]));
    assert_eq!(shown["signing_keys_made"][0], realm.file("key.pem"));
    let steps = shown["steps"].as_array().unwrap();
    let client = steps
        .iter()
        .find(|step| step["object"] == "client \"api-key-gateway\"");
    let client = client.unwrap_or_else(|| panic!("no client in {shown:#}"));
    assert_eq!(client["action"], "made");
    let change = &client["changes"][0];
    for member in ["field", "is", "becomes", "why"] {
        assert!(change[member].is_string(), "{member}: {change}");
    }
    let done = json(&[]);
    assert_eq!(done["steps"].as_array().unwrap().len(), steps.len());
    assert_eq!(done["verified"].as_array().unwrap().len(), 2, "{done:#}");
    let again = json(&[]);
    assert_eq!(again["steps"], serde_json::json!([]));
    assert_eq!(again["signing_keys_made"], serde_json::json!([]));
}

#[test]
fn a_dry_run_shows_the_changes_and_makes_none() {
    let realm = Realm::new();
    let before = realm.snapshot();
    let shown = realm.setup(&["--dry-run"]).succeeded();
    assert!(
        shown
            .stdout
            .contains("unmanagedAttributePolicy: not set -> ADMIN_EDIT")
    );
    assert!(
        shown.stdout.contains("this was a dry run"),
        "{}",
        shown.stdout
    );
    assert_eq!(realm.setup(&["--dry-run", "--exit-code"]).status, 3);
    assert_eq!(realm.snapshot(), before);
    assert!(!realm.folder.join("key.pem").exists());
}

#[test]
fn the_signing_key_is_made_for_its_owner_alone_and_refused_when_others_can_read_it() {
    let realm = Realm::prepared();
    let path = realm.folder.join("key.pem");
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    realm.setup(&[]).refused_with("chmod 600");
}

#[test]
fn what_setup_has_no_business_with_stays_as_it_was() {
    let realm = Realm::prepared();
    let client_path = realm.client_path("api-key-gateway");
    realm.edit(&client_path, |client| {
        client["attributes"]["extra"] = json!("kept");
        client["description"] = json!("ours");
        client["standardFlowEnabled"] = json!(true);
        client["redirectUris"] = json!(["https://kept.example/"]);
    });
    realm.edit(PROVIDER, |provider| {
        provider["config"]["extra"] = json!("kept");
        provider["config"]["jwtAuthorizationGrantMaxAllowedAssertionExpiration"] = json!("300");
        provider["config"]["jwtAuthorizationGrantLimitAccessTokenExp"] = json!("false");
    });
    realm.edit("users/profile", |profile| {
        profile["unmanagedAttributePolicy"] = json!("ADMIN_VIEW");
        profile["attributes"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "nickname", "permissions": {"view": ["user"], "edit": ["user"]}}));
    });
    realm.edit("events/config", |events| {
        events["adminEventsEnabled"] = json!(false);
        events["eventsExpiration"] = json!(77);
    });
    let before = realm.snapshot();
    realm.setup(&[]).succeeded();
    let after = realm.snapshot();
    let mut expected = before;
    expected["client"]["standardFlowEnabled"] = json!(false);
    for provider in expected["providers"].as_array_mut().unwrap() {
        if provider["alias"] == "api-keys" {
            provider["config"]["jwtAuthorizationGrantLimitAccessTokenExp"] = json!("true");
        }
    }
    expected["profile"]["unmanagedAttributePolicy"] = json!("ADMIN_EDIT");
    expected["events"]["adminEventsEnabled"] = json!(true);
    expected["realm"]["adminEventsEnabled"] = json!(true);
    for part in [
        "client",
        "providers",
        "profile",
        "events",
        "realm",
        "alice",
        "roles",
        "manager",
        "manager_roles",
    ] {
        assert_eq!(after[part], expected[part], "{part}");
    }
}

#[test]
fn a_profile_that_users_can_write_is_closed_and_said_loudly() {
    let realm = Realm::new();
    realm.edit("users/profile", |profile| {
        profile["unmanagedAttributePolicy"] = json!("ENABLED");
    });
    let run = realm.setup(&[]).succeeded();
    assert!(run.stderr.contains("WARNING") && run.stderr.contains("users can write any attribute"));
    assert!(
        run.stdout
            .contains("unmanagedAttributePolicy: ENABLED -> ADMIN_EDIT")
    );
    assert_eq!(
        realm.get("users/profile")["unmanagedAttributePolicy"],
        "ADMIN_EDIT"
    );
}

#[test]
fn objects_of_another_kind_are_a_conflict_and_nothing_is_changed() {
    let realm = Realm::new();
    let foreign = json!({"alias": "api-keys", "providerId": "oidc", "enabled": true, "config": {
        "clientId": "x", "authorizationUrl": "https://a.example/", "tokenUrl": "https://a.example/"}});
    realm.admin("POST", "identity-provider/instances", Some(&foreign));
    let before = realm.snapshot();
    realm.setup(&[]).refused_with("of the type \"oidc\"");
    realm
        .setup(&[
            "--identity-provider",
            "other",
            "--client-id",
            "billing-service",
        ])
        .refused_with("serves something else");
    assert_eq!(realm.snapshot(), before);
    assert!(
        !realm.folder.join("key.pem").exists(),
        "no key is made for a realm left alone"
    );
    realm.setup(&["--identity-provider", "other"]).succeeded();
}

#[test]
fn another_signing_key_is_trusted_only_when_asked() {
    let realm = Realm::prepared();
    let before = realm.snapshot();
    fs::rename(realm.folder.join("key.pem"), realm.folder.join("old.pem")).unwrap();
    realm.setup(&[]).refused_with("--replace-signing-key");
    assert_eq!(realm.snapshot(), before);
    realm.setup(&["--replace-signing-key"]).succeeded();
    realm.service_token();
    fs::rename(realm.folder.join("old.pem"), realm.folder.join("key.pem")).unwrap();
    realm.setup(&[]).refused_with("--replace-signing-key");
}

#[test]
fn what_was_turned_off_is_not_turned_on_again() {
    let realm = Realm::prepared();
    realm.edit(PROVIDER, |provider| provider["enabled"] = json!(false));
    realm.setup(&[]).refused_with("is turned off");
    assert_eq!(realm.get(PROVIDER)["enabled"], json!(false));
}

#[test]
fn the_service_account_is_left_with_its_two_roles() {
    let realm = Realm::prepared();
    let management = realm.client_path("realm-management");
    let manage_users = realm.get(&format!("{management}/roles/manage-users"));
    let account = realm.user_path("service-account-api-key-gateway");
    let held = format!(
        "{account}/role-mappings/clients/{}",
        management.trim_start_matches("clients/")
    );
    realm.admin("POST", &held, Some(&json!([manage_users])));
    let run = realm.setup(&[]).succeeded();
    assert!(
        run.stdout
            .contains("roles manage-users of realm-management: held -> taken away")
    );
    assert_eq!(
        realm.snapshot()["roles"],
        json!(["view-events", "view-users"])
    );
}

#[test]
fn the_management_client_may_write_users_and_read_events_and_nothing_else() {
    let realm = Realm::prepared();
    assert_eq!(
        realm.snapshot()["manager_roles"],
        json!(["manage-users", "view-events"])
    );
    let token = realm.client_token("api-key-manager");
    let call = |method: &str, path: &str, body: Option<&Value>| {
        let url = format!("{}/admin/realms/{}/{path}", keycloak_url(), realm.name);
        let body = body.map(|body| ("application/json", body.to_string()));
        http(method, &url, Some(&token), body).0
    };
    let alice = realm.user_path("alice");
    let id = alice.trim_start_matches("users/");
    let user = realm.get(&alice);
    assert_eq!(call("GET", &alice, None), 200);
    assert_eq!(call("PUT", &alice, Some(&user)), 204);
    assert_eq!(call("GET", "events?max=1", None), 200);
    for provider in ["api-keys", "api-keys-lock"] {
        let link = json!({"identityProvider": provider, "userId": id, "userName": "x"});
        let path = format!("{alice}/federated-identity/{provider}");
        assert_eq!(call("POST", &path, Some(&link)), 204, "{provider}");
        let links = realm.get(&format!("{alice}/federated-identity"));
        assert_eq!(links, json!([link]), "kept as it was sent");
        let holders = format!("users?idpAlias={provider}&idpUserId={id}");
        assert_eq!(call("GET", &holders, None), 200);
        assert_eq!(call("DELETE", &path, None), 204);
        assert_eq!(call("DELETE", &path, None), 404);
    }
    let group = json!({"name": "a lock's", "attributes": {"holder": ["x@1"]}});
    assert_eq!(call("POST", "groups", Some(&group)), 201);
    assert_eq!(call("POST", "groups", Some(&group)), 409);
    let search = "groups?search=a%20lock%27s&exact=true&briefRepresentation=false";
    assert_eq!(call("GET", search, None), 200);
    let found = realm.get(search);
    assert_eq!(found[0]["attributes"], group["attributes"]);
    let group = format!("groups/{}", found[0]["id"].as_str().unwrap());
    assert_eq!(call("DELETE", &group, None), 204);
    assert_eq!(call("DELETE", &group, None), 404);
    for path in [
        "clients",
        "client-scopes",
        "identity-provider/instances",
        "roles",
    ] {
        assert_eq!(call("GET", path, None), 403, "{path}");
    }
    let grant = realm.grant_by("api-key-manager", id).unwrap_err();
    let refusal = grant["error_description"].as_str().unwrap();
    assert!(refusal.contains("not supported for the requested client"));
}

#[test]
fn a_lock_is_taken_by_one_of_eight() {
    let realm = Realm::prepared();
    let path = format!(
        "{}/federated-identity/api-keys-lock",
        realm.user_path("alice")
    );
    let url = format!("{}/admin/realms/{}/{path}", keycloak_url(), realm.name);
    let token = realm.client_token("api-key-manager");
    let mut answers: Vec<u16> = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..8)
            .map(|taker| {
                let (url, token) = (&url, &token);
                scope.spawn(move || {
                    let link = json!({"identityProvider": "api-keys-lock",
                        "userId": format!("taker{taker}"), "userName": format!("taker{taker}@1")});
                    let body = ("application/json", link.to_string());
                    http("POST", url, Some(token), Some(body)).0
                })
            })
            .collect();
        takers
            .into_iter()
            .map(|taker| taker.join().unwrap())
            .collect()
    });
    answers.sort_unstable();
    assert_eq!(answers, [204, 409, 409, 409, 409, 409, 409, 409]);
}

#[test]
fn the_management_client_is_left_out_or_has_a_key_of_its_own_when_asked() {
    let realm = Realm::new();
    let run = realm.setup(&["--no-management"]).succeeded();
    assert!(!run.stdout.contains("api-key-manager"), "{}", run.stdout);
    assert_eq!(realm.client("api-key-manager"), Value::Null);
    let own = realm.file("manager.pem");
    let with_own = ["--management-signing-key-file", own.as_str()];
    let dry = realm
        .setup(&[&with_own, ["--dry-run"].as_slice()].concat())
        .succeeded();
    assert!(
        dry.stdout
            .contains(&format!("signing key would be made: {own}")),
        "{}",
        dry.stdout
    );
    realm.setup(&with_own).succeeded();
    assert!(
        realm
            .setup(&with_own)
            .succeeded()
            .stdout
            .starts_with("nothing to change")
    );
    realm.setup(&[]).refused_with("--replace-signing-key");
    realm.setup(&["--no-management"]).succeeded();
    let key = realm.file("key.pem");
    realm
        .setup(&["--management-signing-key-file", &key])
        .refused_with("leave it out");
    realm
        .setup(&["--management-client-id", "api-key-gateway"])
        .refused_with("must differ");
    realm
        .setup(&["--identity-provider", "api-keys-lock"])
        .refused_with("is the name of the owners' lock");
}

#[test]
fn a_narrowed_scope_stays_narrow_and_still_works() {
    let realm = Realm::prepared();
    let path = realm.client_path("api-key-gateway");
    realm.edit(&path, |client| client["fullScopeAllowed"] = json!(false));
    let run = realm.setup(&[]).succeeded();
    assert!(
        run.stdout.contains("not in the scope -> mapped"),
        "{}",
        run.stdout
    );
    assert_eq!(realm.get(&path)["fullScopeAllowed"], json!(false));
    assert!(
        realm
            .setup(&[])
            .succeeded()
            .stdout
            .starts_with("nothing to change")
    );
}

#[test]
fn a_token_without_its_roles_or_its_name_is_told_with_what_is_missing() {
    for (scope, words) in [
        ("roles", "default scope \"roles\""),
        ("profile", "preferred_username"),
    ] {
        let realm = Realm::prepared();
        let scopes = realm.get("client-scopes");
        let scope = scopes
            .as_array()
            .unwrap()
            .iter()
            .find(|found| found["name"] == scope);
        let id = scope.unwrap()["id"].as_str().unwrap();
        let client = realm.client_path("api-key-gateway");
        realm.admin(
            "DELETE",
            &format!("{client}/default-client-scopes/{id}"),
            None,
        );
        let run = realm.setup(&[]);
        assert_eq!(run.status, 1);
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
}

#[test]
fn consent_that_nobody_can_give_is_turned_off_and_doctor_tells_of_it() {
    let realm = Realm::prepared();
    let path = realm.client_path("api-key-gateway");
    realm.edit(&path, |client| client["consentRequired"] = json!(true));
    let doctor = realm.run("doctor", &[]);
    assert_eq!(doctor.status, 5, "{}", doctor.stdout);
    assert!(doctor.stdout.contains("consentRequired is true"));
    let run = realm.setup(&[]).succeeded();
    assert!(run.stdout.contains("consentRequired: true -> false"));
    assert_eq!(realm.get(&path)["consentRequired"], json!(false));
}

#[test]
fn lightweight_tokens_are_turned_off_and_a_policy_that_wants_them_is_named() {
    let realm = Realm::prepared();
    let key = realm.file("key.pem");
    let doctor = || realm.run("doctor", &["--signing-key-file", &key]);
    let switch = "client.use.lightweight.access.token.enabled";
    for client in ["api-key-gateway", "api-key-manager"] {
        let path = realm.client_path(client);
        realm.edit(&path, |client| client["attributes"][switch] = json!("true"));
        let run = doctor();
        assert_eq!(run.status, 5, "{}", run.stdout);
        let said = format!("client \"{client}\": {switch} is true");
        assert!(run.stdout.contains(&said), "{}", run.stdout);
        let run = realm.setup(&[]).succeeded();
        let said = format!("{switch}: true -> false");
        assert!(run.stdout.contains(&said), "{}", run.stdout);
    }
    let profiles = json!({"profiles": [{"name": "light", "executors": [
        {"executor": "use-lightweight-access-token", "configuration": {}}]}]});
    realm.admin("PUT", "client-policies/profiles", Some(&profiles));
    let policies = json!({"policies": [{"name": "all", "enabled": true, "profiles": ["light"],
        "conditions": [{"condition": "any-client", "configuration": {}}]}]});
    realm.admin("PUT", "client-policies/policies", Some(&policies));
    let words = "executor use-lightweight-access-token";
    let run = realm.setup(&[]);
    assert!(
        run.status == 1 && run.stderr.contains(words),
        "{}",
        run.stderr
    );
    let run = doctor();
    assert!(
        run.status == 5 && run.stdout.contains(words),
        "{}",
        run.stdout
    );
}

/// Users that setup made to prove the grant, and that still exist.
fn left_of_proofs(realm: &Realm) -> Vec<Value> {
    let found = realm.get("users?username=apikeys-proof-");
    found.as_array().unwrap().clone()
}

#[test]
fn the_very_grant_is_proven_with_an_owner_that_is_gone_afterwards() {
    let realm = Realm::prepared();
    realm.edit("", |settings| {
        settings["registrationEmailAsUsername"] = json!(true);
    });
    realm.edit(
        "authentication/required-actions/TERMS_AND_CONDITIONS",
        |action| {
            action["enabled"] = json!(true);
            action["defaultAction"] = json!(true);
        },
    );
    realm.admin("DELETE", "admin-events", None);
    let run = realm.setup(&[]).succeeded();
    assert!(
        run.stderr.contains("each new user do TERMS_AND_CONDITIONS"),
        "{}",
        run.stderr
    );
    assert_eq!(left_of_proofs(&realm), [] as [Value; 0]);
    let events = realm.get("admin-events?resourceTypes=USER");
    let made = |operation: &str| {
        let events = events.as_array().unwrap().iter();
        let of_a_user = |event: &&Value| {
            let path = event["resourcePath"].as_str().unwrap();
            event["operationType"] == operation && path.matches('/').count() == 1
        };
        events.filter(of_a_user).count()
    };
    assert_eq!((made("CREATE"), made("DELETE")), (1, 1), "{events}");
}

#[test]
fn a_grant_that_is_refused_once_the_owner_is_found_fails_the_proof() {
    let realm = Realm::prepared();
    // Each step of the plan holds; the provider's mappers belong to Keycloak alone.
    let mapper = json!({"name": "no sub", "protocol": "openid-connect",
        "protocolMapper": "oidc-hardcoded-claim-mapper",
        "config": {"claim.name": "sub", "claim.value": "somebody", "jsonType.label": "String",
                   "access.token.claim": "true"}});
    let path = realm.client_path("api-key-gateway");
    realm.admin(
        "POST",
        &format!("{path}/protocol-mappers/models"),
        Some(&mapper),
    );
    let run = realm.setup(&[]);
    assert_eq!(run.status, 1);
    assert!(
        run.stderr.contains("do not name the owner"),
        "{}",
        run.stderr
    );
    assert_eq!(left_of_proofs(&realm), [] as [Value; 0]);
}

#[test]
fn where_no_owner_can_be_made_setup_says_what_it_did_not_prove() {
    let realm = Realm::prepared();
    realm.edit("users/profile", |profile| {
        profile["attributes"].as_array_mut().unwrap().push(json!({
            "name": "costCentre", "required": {"roles": ["admin", "user"]},
            "permissions": {"view": ["admin"], "edit": ["admin"]}}));
    });
    let run = realm.setup(&[]).succeeded();
    assert!(
        run.stderr.contains("tried for nobody alone"),
        "{}",
        run.stderr
    );
    assert!(run.stdout.contains("and may grant"), "{}", run.stdout);
}

#[test]
fn a_realm_that_is_not_there_is_not_made() {
    let mut realm = Realm::new();
    let name = std::mem::replace(&mut realm.name, "no-such-realm".to_owned());
    realm.setup(&[]).refused_with("there is no realm");
    realm
        .create(&["--owner", "alice"])
        .refused_with("there is no realm");
    assert!(!realm.folder.join("key.pem").exists());
    realm.name = name;
}

#[test]
fn tokens_of_an_owner_are_as_after_a_login() {
    let realm = Realm::prepared();
    let role = json!({"name": "buyer"});
    realm.admin("POST", "roles", Some(&role));
    let role = realm.get("roles/buyer");
    let alice = realm.user_path("alice");
    realm.admin(
        "POST",
        &format!("{alice}/role-mappings/realm"),
        Some(&json!([role])),
    );
    realm.create(&["--owner", "alice"]).succeeded();
    let claims = realm.grant(alice.trim_start_matches("users/")).unwrap();
    assert_eq!(claims["preferred_username"], "alice");
    let roles = claims["realm_access"]["roles"].as_array().unwrap();
    assert!(roles.contains(&json!("buyer")), "{claims}");
    assert_eq!(
        claims["resource_access"].get("realm-management"),
        None::<&Value>
    );
}
