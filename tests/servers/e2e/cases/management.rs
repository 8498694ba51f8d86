//! The life of a key, by the management API.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::expect::claims;
use crate::portal::{Caller, Made, expect_problem, post};
use crate::wait;
use crate::world::{Case, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("management::a_key_that_was_made_works_at_once", made),
        Case::new(
            "management::a_user_is_left_as_it_was_but_for_its_keys",
            left_alone,
        ),
        Case::new(
            "management::a_list_tells_the_newest_first_and_when_each_was_used",
            listed,
        ),
        Case::new("management::both_keys_work_until_the_graces_end", rotated),
        Case::new(
            "management::a_rotation_without_grace_ends_the_old_key_at_once",
            no_grace,
        ),
        Case::new(
            "management::a_revoked_key_is_refused_by_all_workers_at_once",
            revoked,
        ),
        Case::new(
            "management::a_keys_settings_are_changed_and_its_record_is_read_anew",
            updated,
        ),
        Case::new("management::the_last_keys_end_unlinks_the_owner", unlinked),
        Case::new("management::a_keys_scopes_are_in_its_tokens", scopes),
        Case::new(
            "management::a_service_principal_manages_its_own_keys",
            service,
        ),
        Case::new(
            "management::an_operator_acts_for_others_and_others_do_not",
            operator,
        ),
        Case::new("management::a_key_is_exchanged_on_demand", validated),
        Case::new(
            "management::of_many_at_once_no_more_than_the_limit_succeed",
            limit,
        ),
        Case::new("management::the_description_is_served", described),
        Case::new("management::the_pages_commands_print_what_it_says", page),
    ]
}

fn caller(world: &World) -> Caller {
    Caller::new_user(&world.keycloak, &world.gateway)
}

fn made(world: &World) {
    let caller = caller(world);
    let made = caller.create(&json!({"name": "Laptop", "expires_days": 30}));
    let orders = world.gateway.orders(&made.key).orders();
    assert_eq!(orders.subject, caller.id);
    assert_eq!(orders.username, caller.username);
    assert_eq!(made.body["name"], "Laptop");
    assert_eq!(made.body["state"], "active");
    let shown = caller.get(&format!("/{}", made.id));
    assert_eq!(shown.status, 200, "{}", shown.describe());
    let shown = shown.json();
    assert_eq!(shown["expires_at"], made.body["expires_at"]);
    assert!(shown.get("api_key").is_none(), "told once");
    let stored = world.keycloak.get(&format!("users/{}", caller.id));
    let hash = stored["attributes"]["apiKeys"][0].as_str().unwrap();
    assert!(hash.starts_with(&format!("key:{}:$2b$10$", made.id)));
    assert!(!shown.to_string().contains("$2b$"), "never a hash");
}

fn left_alone(world: &World) {
    let caller = caller(world);
    let path = format!("users/{}", caller.id);
    world.keycloak.edit_user(&caller.id, |user| {
        user["attributes"] = json!({"department": ["shipping", "billing"]});
    });
    let before = world.keycloak.get(&path);
    let made = caller.create(&json!({"name": "n"}));
    caller.delete(&format!("/{}", made.id));
    assert_eq!(world.keycloak.get(&path), before);
}

fn listed(world: &World) {
    let caller = caller(world);
    assert!(caller.keys().is_empty());
    let first = caller.create(&json!({"name": "first"}));
    wait::until("the next second", Duration::from_secs(5), || {
        let begun = first.body["created"].as_str().unwrap() < now().as_str();
        begun.then_some(()).ok_or_else(now)
    });
    let second = caller.create(&json!({"name": "second"}));
    let names = |keys: &[Value]| -> Vec<String> {
        let name = |key: &Value| key["name"].as_str().unwrap().to_owned();
        keys.iter().map(name).collect()
    };
    assert_eq!(names(&caller.keys()), ["second", "first"]);
    let page = caller.get("?limit=1").json();
    assert_eq!(page["next"], second.id.as_str());
    let rest = caller.get(&format!("?limit=1&after={}", second.id)).json();
    assert_eq!(rest["keys"][0]["key_id"], first.id.as_str());
    assert!(rest.get("next").is_none());
    assert!(rest["keys"][0].get("last_used").is_none());
    world.gateway.orders(&first.key).orders();
    wait::until("the event of the use", Duration::from_secs(20), || {
        let keys = caller.keys();
        let used: Vec<bool> = keys
            .iter()
            .map(|key| key.get("last_used").is_some())
            .collect();
        (used == [false, true])
            .then_some(())
            .ok_or(format!("{used:?}"))
    });
}

fn now() -> String {
    crate::owner::rfc3339(wait::now_seconds())
}

fn rotated(world: &World) {
    let caller = caller(world);
    let body = json!({"name": "CI", "expires_days": 2, "scopes": ["email"]});
    let old = caller.create(&body);
    world.gateway.orders(&old.key).orders();
    let answer = caller.post(&format!("/{}/rotate", old.id), &json!({"grace_seconds": 3}));
    let new = Made::of(&answer);
    for member in ["name", "scopes", "expires_at"] {
        assert_eq!(new.body[member], old.body[member], "{member}");
    }
    assert_eq!(new.body["replaces"]["state"], "rotating");
    assert_eq!(new.body["replaces"]["replaced_by"], new.id.as_str());
    for key in [&old.key, &new.key] {
        assert_eq!(world.gateway.orders(key).orders().subject, caller.id);
    }
    let again = caller.post(&format!("/{}/rotate", old.id), &json!({}));
    expect_problem(&again, 409, "key_rotating");
    // The token that was cached before the rotation is not used past the grace.
    wait::until("the grace's end", Duration::from_secs(20), || {
        let answer = world.gateway.orders(&old.key);
        (answer.status == 401)
            .then_some(())
            .ok_or(answer.describe())
    });
    let grace = new.body["replaces"]["grace_until"].as_str().unwrap();
    assert!(now().as_str() >= grace, "not before it");
    assert_eq!(world.gateway.orders(&new.key).orders().subject, caller.id);
    let states: Vec<Value> = caller
        .keys()
        .iter()
        .map(|key| key["state"].clone())
        .collect();
    assert!(states.contains(&json!("expired")) && states.contains(&json!("active")));
}

fn no_grace(world: &World) {
    let caller = caller(world);
    let old = caller.create(&json!({"name": "n"}));
    world.gateway.orders(&old.key).orders();
    let answer = caller.post(&format!("/{}/rotate", old.id), &json!({"grace_seconds": 0}));
    let new = Made::of(&answer);
    refused_by_all_workers(world, &old.key);
    world.gateway.orders(&new.key).orders();
    assert_eq!(caller.keys().len(), 1);
}

/// Asks every worker, by enough new connections to make that likely.
fn refused_by_all_workers(world: &World, key: &str) {
    for _ in 0..24 {
        world.gateway.orders(key).invalid_api_key();
    }
}

fn revoked(world: &World) {
    let caller = caller(world);
    let (kept, ended) = (
        caller.create(&json!({"name": "kept"})),
        caller.create(&json!({"name": "ended"})),
    );
    // Puts both into the memory of each worker.
    for key in [&kept.key, &ended.key] {
        for _ in 0..24 {
            world.gateway.orders(key).orders();
        }
    }
    let answer = caller.delete(&format!("/{}", ended.id));
    assert_eq!(answer.status, 204, "{}", answer.describe());
    assert!(answer.body.is_empty());
    refused_by_all_workers(world, &ended.key);
    world.gateway.orders(&kept.key).orders();
    let again = caller.delete(&format!("/{}", ended.id));
    assert_eq!(again.status, 204, "{}", again.describe());
    let gone = caller.get(&format!("/{}", ended.id));
    expect_problem(&gone, 404, "key_not_found");
}

fn updated(world: &World) {
    let caller = caller(world);
    let made = caller.create(&json!({"name": "n", "rate_limit": "1000/1", "labels": "a=b"}));
    world.gateway.orders(&made.key).orders();
    let patch = json!({
        "name": "CI", "labels": null, "environment": "live",
        "allowed_addresses": ["127.0.0.1/8", "::1"],
    });
    let answer = caller.patch(&format!("/{}", made.id), &patch);
    assert_eq!(answer.status, 200, "{}", answer.describe());
    let told = answer.json();
    assert_eq!(told["name"], "CI");
    assert_eq!(told["rate_limit"], "1000/1");
    assert_eq!(told["allowed_addresses"], json!(["127.0.0.0/8", "::1/128"]));
    assert_eq!(told["environment"], "live");
    assert!(told.get("labels").is_none());
    let shown = caller.get(&format!("/{}", made.id)).json();
    assert_eq!(shown["name"], told["name"]);
    assert_eq!(shown["allowed_addresses"], told["allowed_addresses"]);
    assert_eq!(world.gateway.orders(&made.key).orders().subject, caller.id);
    let stranger = self::caller(world);
    let refused = stranger.patch(&format!("/{}", made.id), &json!({"disabled": true}));
    expect_problem(&refused, 404, "key_not_found");
    let empty = caller.patch(&format!("/{}", made.id), &json!({}));
    expect_problem(&empty, 400, "invalid_request");
}

fn unlinked(world: &World) {
    let caller = caller(world);
    let linked = || {
        let path = format!("users/{}/federated-identity", caller.id);
        let links = world.keycloak.get(&path);
        let aliases: Vec<String> = links
            .as_array()
            .unwrap()
            .iter()
            .map(|link| link["identityProvider"].as_str().unwrap().to_owned())
            .collect();
        aliases
    };
    let made = caller.create(&json!({"name": "n"}));
    assert_eq!(linked(), ["api-keys"], "linked, and the lock given back");
    caller.delete(&format!("/{}", made.id));
    assert!(linked().is_empty());
}

fn scopes(world: &World) {
    let caller = caller(world);
    let made = caller.create(&json!({"name": "n", "scopes": ["phone"]}));
    assert_eq!(made.body["scopes"], json!(["phone"]));
    let orders = world.gateway.orders(&made.key).orders();
    let scope = orders.claims["scope"].as_str().unwrap();
    assert!(scope.split(' ').any(|scope| scope == "phone"), "{scope}");
    let refused = caller.post("", &json!({"name": "n", "scopes": ["no:such"]}));
    expect_problem(&refused, 400, "invalid_scope");
}

fn service(world: &World) {
    let caller = Caller::service(&world.keycloak, &world.gateway);
    let made = caller.create(&json!({"name": "Nightly"}));
    let orders = world.gateway.orders(&made.key).orders();
    assert_eq!(orders.subject, caller.id);
    assert_eq!(orders.username, caller.username);
    let answer = caller.delete(&format!("/{}", made.id));
    assert_eq!(answer.status, 204, "{}", answer.describe());
    // The demo's own key of this account is still there.
    world.gateway.orders(&world.service_api_key).orders();
}

fn operator(world: &World) {
    let operator = Caller::operator(&world.keycloak, &world.gateway);
    let (alice, mallory) = (caller(world), caller(world));
    let for_alice = format!("?user_id={}", alice.id);
    let made = Made::of(&operator.post(&for_alice, &json!({"name": "by an operator"})));
    assert_eq!(world.gateway.orders(&made.key).orders().subject, alice.id);
    assert_eq!(alice.keys().len(), 1);
    let listed = operator.get(&for_alice);
    assert_eq!(listed.json()["keys"][0]["key_id"], made.id.as_str());
    expect_problem(&mallory.get(&for_alice), 403, "forbidden");
    let create = mallory.post(&for_alice, &json!({"name": "n"}));
    expect_problem(&create, 403, "forbidden");
    let end = mallory.delete(&format!("/{}{for_alice}", made.id));
    expect_problem(&end, 403, "forbidden");
    // Without the owner's id in the request, the key is not there for mallory.
    assert_eq!(mallory.delete(&format!("/{}", made.id)).status, 204);
    world.gateway.orders(&made.key).orders();
    let nobody = operator.get("?user_id=00000000-0000-0000-0000-000000000000");
    expect_problem(&nobody, 404, "user_not_found");
    let end = operator.delete(&format!("/{}{for_alice}", made.id));
    assert_eq!(end.status, 204, "{}", end.describe());
    refused_by_all_workers(world, &made.key);
}

fn validated(world: &World) {
    let caller = caller(world);
    let made = caller.create(&json!({"name": "n"}));
    let body = json!({"api_key": made.key}).to_string();
    let answer = world.gateway.send(&post("/validate", body.as_bytes()));
    assert_eq!(answer.status, 200, "{}", answer.describe());
    let told = answer.json();
    let token = told["access_token"].as_str().unwrap();
    crate::secrets::register(token);
    assert_eq!(told["token_type"], "Bearer");
    assert_eq!(told["user_id"], caller.id.as_str());
    assert_eq!(told["username"], caller.username.as_str());
    assert_eq!(told["key_id"], made.id.as_str());
    let life = claims(token)["exp"].as_u64().unwrap() - wait::now_seconds();
    let told_life = told["expires_in"].as_u64().unwrap();
    assert!(told_life.abs_diff(life) <= 2, "{told_life} and {life}");
    let used = crate::client::Request::orders().bearer(token);
    assert_eq!(world.gateway.send(&used).orders().subject, caller.id);
    let other = crate::owner::Key::random();
    for key in [other.mistyped(), other.text, "x".to_owned()] {
        let body = json!({"api_key": key}).to_string();
        let refused = world.gateway.send(&post("/validate", body.as_bytes()));
        expect_problem(&refused, 401, "invalid_api_key");
    }
}

fn limit(world: &World) {
    let caller = caller(world);
    let answers: Vec<_> = thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|at| {
                let caller = &caller;
                scope.spawn(move || caller.post("", &json!({"name": format!("{at}")})))
            })
            .collect();
        tries.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 5, "max_keys_per_user");
    for answer in refused {
        expect_problem(answer, 409, "key_limit_reached");
        assert!(
            answer.json()["detail"]
                .as_str()
                .unwrap()
                .contains("may hold 5")
        );
    }
    let mut told: Vec<String> = made.iter().map(|answer| Made::of(answer).id).collect();
    let mut listed: Vec<String> = caller
        .keys()
        .iter()
        .map(|key| key["key_id"].as_str().unwrap().to_owned())
        .collect();
    told.sort();
    listed.sort();
    assert_eq!(told, listed, "none lost");
    for answer in made {
        world.gateway.orders(&Made::of(answer).key).orders();
    }
}

fn described(world: &World) {
    let request = crate::client::Request::orders().at("/api/v1/openapi.json");
    let answer = world.gateway.send(&request);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let file = include_str!("../../../../crates/core/src/manage/openapi.json");
    // Kong ends a filter's answer with a line break.
    assert_eq!(
        String::from_utf8_lossy(&answer.body).trim_end(),
        file.trim_end()
    );
}

/// In a folder with this run's `.run`.
fn page(world: &World) {
    let steps = crate::page::steps(include_str!("../../../../docs/management-api.md"));
    let expecting = steps.iter().filter(|step| step.expected.is_some());
    assert!(expecting.count() >= 8, "the page's answers are found");
    let folder = world.folder().join("page");
    std::fs::create_dir_all(&folder).expect("a folder");
    let run = folder.join(".run");
    if !run.exists() {
        std::os::unix::fs::symlink(world.folder(), &run).expect("a link");
    }
    crate::page::run(
        &steps,
        &folder,
        std::process::Command::new("bash"),
        crate::secrets::redact,
    );
    // It holds keys.
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}
