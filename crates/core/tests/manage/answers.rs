//! Every documented answer, with a scenario that leads to it: coverage both ways.

use std::collections::BTreeSet;

use apikeys_core::api_key::record::Field;
use apikeys_core::manage::problem::Code;
use serde_json::{Value, json};

use super::client::Client;
use super::keycloak::{User, sha256_of};
use super::keys::{id_of, key};
use super::openapi::Document;
use super::request::{KEYS, Request};
use super::told::Told;
use super::world::{START, World};

/// An operation, a status, the code of a refusal (or nothing), and a scenario that leads to it.
type Case = (&'static str, u16, &'static str, fn() -> Told);

const CASES: [Case; 100] = [
    ("describeApi", 200, "", || {
        ask(|_| Request::new("GET", "/api/v1/openapi.json"))
    }),
    ("describeApi", 400, "invalid_request", || {
        ask(|_| Request::new("GET", "/api/v1/openapi.json?page=1"))
    }),
    ("listApiKeys", 200, "", || {
        ask(|w| Request::list(&w.token("alice")))
    }),
    ("listApiKeys", 400, "invalid_request", || {
        ask(|w| Request::new("GET", &format!("{KEYS}?limit=0")).bearer(&w.token("alice")))
    }),
    ("listApiKeys", 401, "missing_credentials", || {
        ask(|_| Request::new("GET", KEYS))
    }),
    ("listApiKeys", 401, "invalid_token", || {
        ask(|w| Request::list(&expired(w)))
    }),
    ("listApiKeys", 403, "forbidden", || {
        ask(|w| Request::list(&w.token("alice")).for_user("bob"))
    }),
    ("listApiKeys", 404, "user_not_found", || {
        ask(|w| Request::list(&w.token("nobody")))
    }),
    ("listApiKeys", 409, "owner_record_unusable", || {
        large(|w| Request::list(&w.token("alice")))
    }),
    ("listApiKeys", 429, "throttled", || {
        suspect(|w| Request::list(&w.token("alice")))
    }),
    ("listApiKeys", 503, "identity_provider_unavailable", || {
        without_keycloak(|w| Request::list(&w.token("alice")))
    }),
    ("listApiKeys", 503, "overloaded", || {
        full(|w| Request::list(&w.token("alice")))
    }),
    ("showApiKey", 200, "", || {
        ask(|w| Request::show(&w.token("alice"), &id()))
    }),
    ("showApiKey", 400, "invalid_request", || {
        ask(|w| Request::show(&w.token("alice"), "abc?limit=1"))
    }),
    ("showApiKey", 401, "missing_credentials", || {
        ask(|w| Request::show(&w.token("alice"), &id()).without("authorization"))
    }),
    ("showApiKey", 401, "invalid_token", || {
        ask(|w| Request::show(&expired(w), &id()))
    }),
    ("showApiKey", 403, "forbidden", || {
        ask(|w| Request::show(&w.token("bob"), &id()).for_user("alice"))
    }),
    ("showApiKey", 404, "key_not_found", || {
        ask(|w| Request::show(&w.token("bob"), &id()))
    }),
    ("showApiKey", 404, "user_not_found", || {
        ask(|w| Request::show(&w.token("nobody"), &id()))
    }),
    ("showApiKey", 409, "owner_record_unusable", || {
        large(|w| Request::show(&w.token("alice"), &id()))
    }),
    ("showApiKey", 429, "throttled", || {
        suspect(|w| Request::show(&w.token("alice"), &id()))
    }),
    ("showApiKey", 503, "identity_provider_unavailable", || {
        without_keycloak(|w| Request::show(&w.token("alice"), &id()))
    }),
    ("updateApiKey", 200, "", || ask(|w| update(w))),
    ("updateApiKey", 400, "invalid_request", || {
        ask(|w| Request::update(&w.token("alice"), &id(), &json!({})))
    }),
    ("updateApiKey", 401, "missing_credentials", || {
        ask(|w| update(w).without("authorization"))
    }),
    ("updateApiKey", 401, "invalid_token", || {
        ask(|w| Request::update(&expired(w), &id(), &json!({ "disabled": true })))
    }),
    ("updateApiKey", 403, "forbidden", || {
        ask(|w| {
            let body = json!({ "disabled": true });
            Request::update(&w.token("bob"), &id(), &body).for_user("alice")
        })
    }),
    ("updateApiKey", 404, "key_not_found", || {
        ask(|w| Request::update(&w.token("bob"), &id(), &json!({ "disabled": true })))
    }),
    ("updateApiKey", 404, "user_not_found", || {
        ask(|w| Request::update(&w.token("nobody"), &id(), &json!({ "disabled": true })))
    }),
    ("updateApiKey", 409, "owner_record_unusable", || {
        refused(|w| update(w))
    }),
    ("updateApiKey", 411, "length_required", || {
        ask(|w| update(w).without("content-length"))
    }),
    ("updateApiKey", 413, "payload_too_large", || {
        ask(|w| update(w).replace("content-length", "16385"))
    }),
    ("updateApiKey", 415, "unsupported_media_type", || {
        ask(|w| update(w).replace("content-type", "application/json-patch+json"))
    }),
    ("updateApiKey", 429, "throttled", || suspect(update)),
    ("updateApiKey", 503, "busy", || locked(|w| update(w))),
    ("updateApiKey", 503, "outcome_unknown", || {
        unknown(|w| update(w))
    }),
    ("updateApiKey", 503, "identity_provider_unavailable", || {
        without_keycloak(|w| update(w))
    }),
    ("revokeApiKey", 204, "", || {
        ask(|w| Request::revoke(&w.token("alice"), &id()))
    }),
    ("revokeApiKey", 400, "invalid_request", || {
        ask(|w| Request::revoke(&w.token("alice"), "abc?now=1"))
    }),
    ("revokeApiKey", 401, "missing_credentials", || {
        ask(|w| Request::revoke(&w.token("alice"), &id()).without("authorization"))
    }),
    ("revokeApiKey", 401, "invalid_token", || {
        ask(|w| Request::revoke(&expired(w), &id()))
    }),
    ("revokeApiKey", 403, "forbidden", || {
        ask(|w| Request::revoke(&w.token("bob"), &id()).for_user("alice"))
    }),
    ("revokeApiKey", 404, "user_not_found", || {
        ask(|w| Request::revoke(&w.token("nobody"), &id()))
    }),
    ("revokeApiKey", 409, "owner_record_unusable", || {
        refused(|w| Request::revoke(&w.token("alice"), &id()))
    }),
    ("revokeApiKey", 429, "throttled", || {
        suspect(|w| Request::revoke(&w.token("alice"), &id()))
    }),
    ("revokeApiKey", 503, "busy", || {
        locked(|w| Request::revoke(&w.token("alice"), &id()))
    }),
    ("revokeApiKey", 503, "outcome_unknown", || {
        unknown(|w| Request::revoke(&w.token("alice"), &id()))
    }),
    ("revokeApiKey", 503, "identity_provider_unavailable", || {
        without_keycloak(|w| Request::revoke(&w.token("alice"), &id()))
    }),
    ("revokeAllApiKeys", 200, "", || {
        ask(|w| Request::revoke_all(&w.token("alice")))
    }),
    ("revokeAllApiKeys", 200, "", || {
        refused(|w| Request::revoke_all(&w.token("alice")))
    }),
    ("revokeAllApiKeys", 400, "invalid_request", || {
        ask(|w| Request::new("DELETE", KEYS).bearer(&w.token("alice")))
    }),
    ("revokeAllApiKeys", 401, "missing_credentials", || {
        ask(|w| Request::revoke_all(&w.token("alice")).without("authorization"))
    }),
    ("revokeAllApiKeys", 403, "forbidden", || {
        ask(|w| Request::revoke_all(&w.token("bob")).for_user("alice"))
    }),
    ("revokeAllApiKeys", 404, "user_not_found", || {
        ask(|w| Request::revoke_all(&w.token("nobody")))
    }),
    ("revokeAllApiKeys", 409, "owner_record_unusable", || {
        let mut world = World::new(users());
        let request = Request::revoke_all(&world.token("alice"));
        world.ask_with(&request, |what, reply| match what {
            "unlink" => Ok((400, Vec::new())),
            _ => Ok(reply),
        })
    }),
    ("revokeAllApiKeys", 429, "throttled", || {
        suspect(|w| Request::revoke_all(&w.token("alice")))
    }),
    ("revokeAllApiKeys", 503, "busy", || {
        locked(|w| Request::revoke_all(&w.token("alice")))
    }),
    ("createApiKey", 201, "", || {
        ask(|w| new_key(w, json!({ "name": "n" })))
    }),
    ("createApiKey", 400, "invalid_request", || {
        ask(|w| new_key(w, json!({})))
    }),
    ("createApiKey", 400, "invalid_scope", || {
        ask(|w| new_key(w, json!({ "name": "n", "scopes": ["admin:all"] })))
    }),
    ("createApiKey", 401, "missing_credentials", || {
        ask(|w| new_key(w, json!({ "name": "n" })).without("authorization"))
    }),
    ("createApiKey", 401, "invalid_token", || {
        ask(|w| Request::create(&expired(w), &json!({ "name": "n" })))
    }),
    ("createApiKey", 403, "forbidden", || {
        ask(|w| new_key(w, json!({ "name": "n" })).for_user("bob"))
    }),
    ("createApiKey", 404, "user_not_found", || {
        ask(|w| Request::create(&w.token("nobody"), &json!({ "name": "n" })))
    }),
    ("createApiKey", 409, "key_limit_reached", || {
        ask_of(&json!({ "max_keys_per_user": 1 }), |w| {
            new_key(w, json!({ "name": "n" }))
        })
    }),
    ("createApiKey", 409, "owner_not_eligible", || {
        ask(|w| {
            w.keycloak.user("alice").enabled = false;
            new_key(w, json!({ "name": "n" }))
        })
    }),
    ("createApiKey", 409, "owner_record_unusable", || {
        refused(|w| new_key(w, json!({ "name": "n" })))
    }),
    ("createApiKey", 411, "length_required", || {
        ask(|w| new_key(w, json!({ "name": "n" })).without("content-length"))
    }),
    ("createApiKey", 413, "payload_too_large", || {
        ask(|w| new_key(w, json!({ "name": "n".repeat(16_385) })))
    }),
    ("createApiKey", 415, "unsupported_media_type", || {
        ask(|w| new_key(w, json!({ "name": "n" })).replace("content-type", "text/json"))
    }),
    ("createApiKey", 429, "throttled", || {
        suspect(|w| new_key(w, json!({ "name": "n" })))
    }),
    ("createApiKey", 503, "overloaded", || {
        full(|w| new_key(w, json!({ "name": "n" })))
    }),
    ("createApiKey", 503, "busy", || {
        locked(|w| new_key(w, json!({ "name": "n" })))
    }),
    ("createApiKey", 503, "outcome_unknown", || {
        unknown(|w| new_key(w, json!({ "name": "n" })))
    }),
    ("rotateApiKey", 201, "", || {
        ask(|w| Request::rotate(&w.token("alice"), &id(), &json!({})))
    }),
    ("rotateApiKey", 400, "invalid_request", || {
        ask(|w| Request::rotate(&w.token("alice"), &id(), &json!({ "grace_seconds": -1 })))
    }),
    ("rotateApiKey", 401, "missing_credentials", || {
        ask(|_| Request::new("POST", &format!("{KEYS}/{}/rotate", id())))
    }),
    ("rotateApiKey", 401, "invalid_token", || {
        ask(|w| Request::rotate(&expired(w), &id(), &json!({})))
    }),
    ("rotateApiKey", 403, "forbidden", || {
        ask(|w| Request::rotate(&w.token("bob"), &id(), &json!({})).for_user("alice"))
    }),
    ("rotateApiKey", 404, "key_not_found", || {
        ask(|w| Request::rotate(&w.token("bob"), &id(), &json!({})))
    }),
    ("rotateApiKey", 409, "key_rotating", || {
        ask(|w| {
            let request = Request::rotate(&w.token("alice"), &id(), &json!({}));
            w.ask(&request).expect(201);
            request
        })
    }),
    ("rotateApiKey", 409, "key_disabled", || {
        ask(|w| {
            let request = update(w);
            w.ask(&request).expect(200);
            Request::rotate(&w.token("alice"), &id(), &json!({}))
        })
    }),
    ("rotateApiKey", 409, "key_ended", || {
        ask(|w| {
            w.pass(40 * 86_400_000);
            Request::rotate(&w.token("alice"), &id(), &json!({}))
        })
    }),
    ("rotateApiKey", 409, "owner_record_unusable", || {
        refused(|w| Request::rotate(&w.token("alice"), &id(), &json!({})))
    }),
    ("rotateApiKey", 411, "length_required", || {
        ask(|w| Request::rotate(&w.token("alice"), &id(), &json!({})).without("content-length"))
    }),
    ("rotateApiKey", 413, "payload_too_large", || {
        ask(|w| {
            let request = Request::rotate(&w.token("alice"), &id(), &json!({}));
            request.replace("content-length", "16385")
        })
    }),
    ("rotateApiKey", 415, "unsupported_media_type", || {
        ask(|w| {
            let request = Request::rotate(&w.token("alice"), &id(), &json!({}));
            request.without("content-type")
        })
    }),
    ("rotateApiKey", 429, "throttled", || {
        suspect(|w| Request::rotate(&w.token("alice"), &id(), &json!({})))
    }),
    ("rotateApiKey", 503, "overloaded", || {
        full(|w| Request::rotate(&w.token("alice"), &id(), &json!({})))
    }),
    ("validateApiKey", 200, "", || {
        ask(|_| Request::validate(&key(1)))
    }),
    ("validateApiKey", 400, "invalid_request", || {
        ask(|_| Request::validate("x").with_json(&json!({ "api_key": 1 })))
    }),
    ("validateApiKey", 401, "invalid_api_key", || {
        ask(|_| Request::validate(&key(9)))
    }),
    ("validateApiKey", 403, "address_not_allowed", || {
        ask(|w| {
            w.address = Some("192.0.2.7".to_owned());
            settings(w, json!({ "allowed_addresses": ["198.51.100.0/24"] }));
            Request::validate(&key(1))
        })
    }),
    ("validateApiKey", 411, "length_required", || {
        ask(|_| Request::validate(&key(1)).without("content-length"))
    }),
    ("validateApiKey", 413, "payload_too_large", || {
        ask(|_| Request::validate(&"k".repeat(16_384)))
    }),
    ("validateApiKey", 415, "unsupported_media_type", || {
        ask(|_| Request::validate(&key(1)).without("content-type"))
    }),
    ("validateApiKey", 429, "throttled", || {
        throttled(|_| Request::validate(&key(9)))
    }),
    ("validateApiKey", 429, "rate_limited", || {
        ask(|w| {
            settings(w, json!({ "rate_limit": "1/60" }));
            w.ask(&Request::validate(&key(1))).expect(200);
            Request::validate(&key(1))
        })
    }),
    (
        "validateApiKey",
        503,
        "identity_provider_unavailable",
        || without_keycloak(|_| Request::validate(&key(1))),
    ),
    ("validateApiKey", 503, "overloaded", || {
        full(|_| Request::validate(&key(1)))
    }),
];

/// Refusals of requests for no operation, which no operation can list.
const OUTSIDE: [(&str, &str, u16, &str); 4] = [
    ("GET", "/api/v1/", 404, "not_found"),
    ("GET", "/api/v1/api-keys/a/b/c", 404, "not_found"),
    ("PUT", KEYS, 405, "method_not_allowed"),
    ("OPTIONS", KEYS, 405, "method_not_allowed"),
];

/// Alice holds a key, bob holds none.
fn users() -> Vec<User> {
    let ends_at = START.plus_ms(30 * 86_400_000);
    let alice = User::new("alice").with_key(&id(), &sha256_of(&key(1)), ends_at);
    let alice = alice.with_field(Field::Created, &id(), &START.to_rfc3339());
    vec![alice, User::new("bob")]
}

/// The id of alice's key.
fn id() -> String {
    id_of(&key(1)).to_owned()
}

fn ask(request: impl FnOnce(&mut World) -> Request) -> Told {
    ask_of(&Value::Null, request)
}

fn ask_of(changes: &Value, request: impl FnOnce(&mut World) -> Request) -> Told {
    let mut world = World::with(users(), changes);
    let request = request(&mut world);
    let told = world.ask(&request);
    world.expect_nothing_held();
    told
}

fn new_key(world: &World, body: Value) -> Request {
    Request::create(&world.token("alice"), &body)
}

/// Switches alice's key off.
fn update(world: &World) -> Request {
    Request::update(&world.token("alice"), &id(), &json!({ "disabled": true }))
}

/// Gives alice's key these settings.
fn settings(world: &mut World, settings: Value) {
    let request = Request::update(&world.token("alice"), &id(), &settings);
    world.ask(&request).expect(200);
}

fn expired(world: &World) -> String {
    let mut claims = world.claims("alice");
    claims["exp"] = json!(world.now.as_seconds() - 31);
    super::keycloak::RealmKey::Es256.sign(&claims)
}

/// No call is answered.
fn without_keycloak(request: impl FnOnce(&mut World) -> Request) -> Told {
    let mut world = World::new(users());
    let request = request(&mut world);
    world.ask_with(&request, |_, _| Err("connection reset"))
}

/// The most requests that may wait are waiting.
fn full(request: impl FnOnce(&mut World) -> Request) -> Told {
    let mut world = World::new(users());
    let token = world.token("bob");
    let mut waiting: Vec<Client> = (0..apikeys_core::exchange::PENDING_MAX)
        .map(|_| Client::send(&mut world, &Request::list(&token)))
        .collect();
    let request = request(&mut world);
    let told = world.ask(&request);
    for client in &mut waiting {
        client.hang_up(&mut world);
    }
    world.expect_nothing_held();
    told
}

/// Alice's phone number is not valid any more, since the user profile was changed.
fn refused(request: impl FnOnce(&mut World) -> Request) -> Told {
    ask(|world| {
        world.keycloak.user("alice").refused =
            Some(r#"{"errors":[{"field":"phone","errorMessage":"error-pattern-no-match"}]}"#);
        request(world)
    })
}

/// Alice's attributes are larger than the limit.
fn large(request: impl FnOnce(&mut World) -> Request) -> Told {
    ask(|world| {
        let picture = vec!["x".repeat(140_000)];
        let attributes = &mut world.keycloak.user("alice").attributes;
        attributes.insert("picture".to_owned(), picture);
        request(world)
    })
}

/// The answer to an address that has sent too many keys that were refused.
fn throttled(request: impl Fn(&World) -> Request) -> Told {
    ask(|world| {
        world.address = Some("192.0.2.7".to_owned());
        for _ in 0..20 {
            let refused = world.ask(&Request::validate("sk_live_no"));
            refused.refused(401, "invalid_api_key");
        }
        request(world)
    })
}

/// The answer to an address that has sent too many forged tokens.
fn suspect(request: impl Fn(&World) -> Request) -> Told {
    ask(|world| {
        world.address = Some("192.0.2.7".to_owned());
        let forged = Request::list(&world.forged("alice"));
        while world.ask(&forged).status == 401 {}
        request(world)
    })
}

/// Another tool holds alice's lock, and goes on holding it.
fn locked(request: impl FnOnce(&mut World) -> Request) -> Told {
    let mut world = World::new(users());
    let holder = ("another".to_owned(), format!("another@{}", START.0));
    let links = &mut world.keycloak.user("alice").links;
    links.insert("api-keys-lock".into(), holder);
    let request = request(&mut world);
    world.ask(&request)
}

/// The answer to the write is lost, and so is the one to the look after it.
fn unknown(request: impl FnOnce(&mut World) -> Request) -> Told {
    let mut world = World::new(users());
    let request = request(&mut world);
    let mut written = false;
    world.ask_with(&request, |what, reply| {
        written |= what == "write";
        if written { Err("timed out") } else { Ok(reply) }
    })
}

#[test]
fn every_documented_answer_is_given_and_none_that_is_not() {
    let document = Document::get();
    let (mut given, mut codes) = (BTreeSet::new(), BTreeSet::new());
    for (operation, status, code, ask) in CASES {
        let told = ask();
        let known = document.operation(&told.request.method, &told.request.path);
        let (known, _) = known.unwrap();
        assert_eq!(known, operation);
        match code {
            "" => drop(told.expect(status)),
            code => drop(told.refused(status, code)),
        }
        given.insert((operation.to_owned(), status));
        codes.insert(code.to_owned());
    }
    for (method, path, status, code) in OUTSIDE {
        ask(|_| Request::new(method, path)).refused(status, code);
        codes.insert(code.to_owned());
    }
    codes.remove("");
    assert_eq!(given, document.documented());
    assert_eq!(codes, document.codes());
}

#[test]
fn the_document_lists_the_codes_that_there_are() {
    let there_are = Code::ALL.map(|code| code.word().to_owned());
    let there_are: BTreeSet<String> = there_are.into_iter().collect();
    assert_eq!(there_are.len(), Code::ALL.len());
    assert_eq!(Document::get().codes(), there_are);
}

#[test]
fn a_method_that_a_path_does_not_take_is_told_which_it_takes() {
    for (method, path, allow) in [
        ("PUT", KEYS, "GET, POST, DELETE"),
        ("HEAD", KEYS, "GET, POST, DELETE"),
        ("PUT", "/api/v1/api-keys/abc", "GET, PATCH, DELETE"),
        ("PATCH", KEYS, "GET, POST, DELETE"),
        ("GET", "/api/v1/api-keys/abc/rotate", "POST"),
        ("DELETE", "/api/v1/api-keys/validate", "POST"),
        ("POST", "/api/v1/openapi.json", "GET"),
        ("OPTIONS", KEYS, "GET, POST, DELETE"),
    ] {
        let told = ask(|_| Request::new(method, path));
        told.refused(405, "method_not_allowed");
        assert_eq!(told.header("allow"), Some(allow), "{method} {path}");
    }
}
