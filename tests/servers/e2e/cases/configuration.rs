//! Gateways with other configurations than the stack's.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Request, Response};
use crate::echo;
use crate::expect::is_gone;
use crate::gateway::{Spec, member};
use crate::owner::{Key, rfc3339};
use crate::wait::{self, now_seconds};
use crate::world::{Case, Host, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("configuration::on_missing_key_pass", pass),
        Case::new("configuration::on_missing_key_reject", reject),
        Case::new("configuration::a_preflight_passes_if_told_to", preflight),
        Case::new(
            "configuration::the_gateways_own_cors_answers_preflights_before",
            cors_before,
        )
        .needs(Need::OwnEnvoy),
        Case::new(
            "configuration::an_internal_redirect_comes_through_and_reject_refuses_it",
            internal_redirect,
        )
        .needs(Need::OwnEnvoy),
        Case::new(
            "configuration::until_the_fallback_ends_an_unknown_key_passes",
            fallback,
        ),
        Case::new(
            "configuration::a_known_key_does_not_fall_back_once_the_role_is_lost",
            fallback_without_role,
        ),
        Case::new("configuration::other_headers_may_carry_the_key", headers).not_on(
            &[Host::Nginx, Host::Caddy, Host::Haproxy],
            "the gateway's own file also names the headers, and it has the default names here",
        ),
        Case::new("configuration::another_prefix", prefix),
        Case::new(
            "configuration::a_missing_role_is_named_and_503",
            missing_role,
        ),
        Case::new(
            "configuration::a_role_that_finds_nothing_is_503",
            role_that_finds_nothing,
        ),
        Case::new("configuration::another_signing_key_is_503", foreign_key),
        Case::new(
            "configuration::a_yield_that_does_not_answer_is_503",
            no_yield,
        )
        .not_on(
            &Host::NATIVE,
            "apikeys serve and the module never yield: bcrypt runs on separate threads",
        ),
        Case::new(
            "configuration::a_wrong_field_is_named_and_nothing_passes",
            wrong_field,
        ),
    ]
    .into_iter()
    .map(|case| case.needs(Need::OwnGateway))
    .collect()
}

/// The headers that a service without a validator received.
#[track_caller]
fn echoed(answer: &Response) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.describe());
    answer.json()["headers"].clone()
}

fn pass(world: &World) {
    let spec = Spec::default().field("on_missing_key", "pass");
    let gateway = world.start_gateway(&spec.serving(world.echo()));
    let nothing = echoed(&gateway.target.send(&Request::orders()));
    assert!(nothing["authorization"].is_null(), "{nothing}");
    for value in ["Bearer a.b.c", "Basic eDp5"] {
        let request = Request::orders().header("Authorization", value);
        assert_eq!(
            echoed(&gateway.target.send(&request))["authorization"],
            value
        );
    }
    // A key is still exchanged.
    let (_, key) = world.owner();
    let seen = echoed(&gateway.target.orders(&key.text));
    let authorization = seen["authorization"].as_str().unwrap();
    assert!(authorization.starts_with("Bearer eyJ"), "no token");
    gateway.target.orders(&Key::random().text).invalid_api_key();
    // And it does not pass in the guise of another credential.
    for value in [
        key.text.clone(),
        format!("Token {}", key.text),
        format!("Bearer x{}", key.text),
    ] {
        for name in ["Authorization", "X-Other"] {
            let answer = gateway.target.send(&Request::orders().header(name, &value));
            assert_eq!(answer.status, 401, "{name}: {}", answer.describe());
        }
    }
}

fn reject(world: &World) {
    let spec = Spec::default().field("on_missing_key", "reject");
    let gateway = world.start_gateway(&spec);
    let token = world.keycloak.password_token("demo-cli", "bob", "bob");
    for request in [Request::orders(), Request::orders().bearer(&token)] {
        let answer = gateway.target.send(&request);
        answer.problem(401, "missing_credentials");
    }
    gateway.target.orders(&world.api_key).orders();
}

/// A browser's preflight for a request from this origin.
fn preflight_of(origin: &str) -> Request {
    Request::orders()
        .method("OPTIONS")
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization")
}

const SHOP: &str = "https://shop.example.com";

fn preflight(world: &World) {
    let spec = Spec::default().field("on_missing_key", "reject");
    let spec = spec.serving(world.echo());
    let refusing = world.start_gateway(&spec);
    let answer = refusing.target.send(&preflight_of(SHOP));
    answer.problem(401, "missing_credentials");
    let passing = world.start_gateway(&spec.field("preflight", "pass"));
    let seen = echoed(&passing.target.send(&preflight_of(SHOP)));
    assert_eq!(seen["access-control-request-method"], "POST");
    assert!(seen["authorization"].is_null(), "{seen}");
    let keyed = preflight_of(SHOP).header("X-API-Key", &world.api_key);
    let seen = echoed(&passing.target.send(&keyed));
    let authorization = seen["authorization"].as_str().unwrap();
    assert!(authorization.starts_with("Bearer eyJ"), "no token");
    for like in [
        preflight_of(SHOP).method("GET"),
        Request::orders().method("OPTIONS"),
        preflight_of(SHOP).header("Authorization", "Basic eDp5"),
    ] {
        let answer = passing.target.send(&like);
        answer.problem(401, "missing_credentials");
    }
}

fn cors_before(world: &World) {
    let spec = Spec::default().edit(|resources, _| {
        let (filters, route) = gateway_of(resources);
        filters.as_array_mut().unwrap().insert(
            0,
            json!({
                "name": "envoy.filters.http.cors",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors",
                },
            }),
        );
        route["typed_per_filter_config"] = json!({
            "envoy.filters.http.cors": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
                "allow_origin_string_match": [{ "exact": SHOP }],
                "allow_methods": "POST",
                "allow_headers": "authorization",
            },
        });
    });
    let gateway = world.start_gateway(&spec);
    let answer = gateway.target.send(&preflight_of(SHOP));
    assert_eq!(answer.status, 200, "{}", answer.describe());
    assert_eq!(answer.header("access-control-allow-origin"), Some(SHOP));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    let foreign = gateway
        .target
        .send(&preflight_of("https://evil.example.com"));
    foreign.problem(401, "missing_credentials");
}

/// Envoy follows a redirect of the service itself, and the filter meets its own token.
fn internal_redirect(world: &World) {
    let service = echo::serve(|path, headers| {
        if path == "/orders" {
            let redirect = "302 Found\r\nlocation: http://orders.internal/elsewhere";
            return (redirect, json!({}));
        }
        ("200 OK", json!({ "path": path, "headers": headers }))
    });
    let spec = |policy: &str| {
        Spec::default()
            .field("on_missing_key", policy)
            .serving(service)
            .edit(|resources, _| {
                let (_, route) = gateway_of(resources);
                route["route"]["internal_redirect_policy"] = json!({
                    "redirect_response_codes": [302],
                    "allow_cross_scheme_redirect": true,
                });
            })
    };
    let gateway = world.start_gateway(&spec("bearer"));
    let answer = gateway.target.orders(&world.api_key);
    let seen = echoed(&answer);
    assert_eq!(answer.json()["path"], "/elsewhere");
    let authorization = seen["authorization"].as_str().unwrap();
    assert!(authorization.starts_with("Bearer eyJ"), "no token");
    assert!(
        !answer.describe().contains(&world.api_key),
        "the key went on"
    );
    let gateway = world.start_gateway(&spec("reject"));
    let answer = gateway.target.orders(&world.api_key);
    answer.problem(401, "missing_credentials");
}

/// The filters of the gateway's listener, and the route of its service.
pub(super) fn gateway_of(resources: &mut Value) -> (&mut Value, &mut Value) {
    let listeners = resources["listeners"].as_array_mut().unwrap();
    let gateway = listeners.iter_mut().find(|one| one["name"] == "gateway");
    let manager = member(gateway.unwrap(), "/filter_chains/0/filters/0/typed_config");
    let Value::Object(manager) = manager else {
        panic!("a connection manager");
    };
    let mut found = (None, None);
    for (name, value) in manager {
        match name.as_str() {
            "http_filters" => found.0 = Some(value),
            "route_config" => found.1 = Some(member(value, "/virtual_hosts/0/routes")),
            _ => {}
        }
    }
    let (Some(filters), Some(routes)) = found else {
        panic!("filters and routes");
    };
    let routes = routes.as_array_mut().unwrap();
    let orders = routes.iter_mut().find(|route| route["name"] == "orders");
    (filters, orders.unwrap())
}

fn fallback(world: &World) {
    // Part of this time passes while the gateway starts.
    let until = now_seconds() + 30;
    let spec = Spec::default()
        .field("fallback_until", rfc3339(until))
        .serving(world.echo());
    let gateway = world.start_gateway(&spec);
    let (_, known) = world.owner();
    let unknown = Key::random();
    let ask = |key: &str| {
        let request = Request::orders().header("X-API-Key", key);
        gateway.target.send(&request)
    };
    let seen = echoed(&ask(&unknown.text));
    assert_eq!(seen["x-api-key"], unknown.text);
    assert!(seen["authorization"].is_null(), "{seen}");
    gateway.log.expect(&["fallback_until", &unknown.id]);
    // Only an unknown key passes.
    ask(&Key::with_id(&known.id).text).invalid_api_key();
    assert!(is_gone(&echoed(&ask(&known.text))["x-api-key"]));
    assert!(now_seconds() < until, "too slow to show anything");

    wait::until(
        "the unknown key is refused",
        Duration::from_secs(35),
        || {
            let answer = ask(&unknown.text);
            match answer.status {
                401 => Ok(answer.invalid_api_key()),
                _ => Err(answer.describe()),
            }
        },
    );
    assert!(now_seconds() >= until, "refused before the fallback's end");
    ask(&Key::random().text).invalid_api_key();
}

/// With an earlier token as well: Keycloak minds the roles of the moment.
fn fallback_without_role(world: &World) {
    let spec = Spec::default()
        .field("fallback_until", rfc3339(now_seconds() + 600))
        .serving(world.echo());
    let gateway = world.start_gateway(&spec);
    let (first, second) = (world.owner(), world.owner());
    let ask = |key: &str| {
        let request = Request::orders().header("X-API-Key", key);
        gateway.target.send(&request)
    };
    echoed(&ask(&first.1.text));
    let taken = RoleTaken::take(world, &["query-users"]);
    let request_id = ask(&second.1.text).unavailable();
    gateway.log.expect(&[&request_id, "view-users"]);
    ask(&Key::random().text).unavailable();
    drop(taken);
    assert!(is_gone(&echoed(&ask(&second.1.text))["x-api-key"]));
    let unknown = Key::random();
    assert_eq!(echoed(&ask(&unknown.text))["x-api-key"], unknown.text);
}

fn headers(world: &World) {
    let spec = Spec::default().field("headers", json!(["x-partner-key"]));
    let gateway = world.start_gateway(&spec);
    let request = Request::orders().header("X-Partner-Key", &world.api_key);
    let orders = gateway.target.send(&request).orders();
    assert_eq!(orders.username, "alice");
    assert!(orders.lacks("x-partner-key"), "it is left");
    let request = Request::orders().header("X-API-Key", &world.api_key);
    let answer = gateway.target.send(&request);
    answer.problem(401, "missing_credentials");
}

fn prefix(world: &World) {
    let gateway = world.start_gateway(&Spec::default().field("key_prefix", "acme_"));
    let request_id = gateway.target.orders(&world.api_key).invalid_api_key();
    gateway.log.expect(&[&request_id, "not the shape of a key"]);
}

/// The gateway's service account without one of its roles; dropping this gives the role
/// back.
pub(super) struct RoleTaken<'a> {
    world: &'a World,
    path: String,
    taken: Value,
    given: Value,
}

impl<'a> RoleTaken<'a> {
    /// Takes view-users, and gives others in its place.
    fn take(world: &'a World, instead: &[&str]) -> Self {
        Self::take_role(world, &["view-users"], instead)
    }

    /// Takes roles, and gives others in their place.
    pub(super) fn take_role(world: &'a World, taken: &[&str], instead: &[&str]) -> Self {
        let admin = &world.keycloak;
        let account = admin.service_account_id("api-key-gateway");
        let management = admin.client_id("realm-management");
        let role = |name: &str| admin.get(&format!("clients/{management}/roles/{name}"));
        let this = Self {
            world,
            path: format!("users/{account}/role-mappings/clients/{management}"),
            taken: taken.iter().map(|name| role(name)).collect(),
            given: instead.iter().map(|name| role(name)).collect(),
        };
        admin.must("DELETE", &this.path, Some(&this.taken));
        admin.must("POST", &this.path, Some(&this.given));
        this
    }
}

impl Drop for RoleTaken<'_> {
    fn drop(&mut self) {
        let admin = &self.world.keycloak;
        admin.call("DELETE", &self.path, Some(&self.given));
        admin.call("POST", &self.path, Some(&self.taken));
    }
}

fn missing_role(world: &World) {
    without_role(world, &[]);
}

/// With query-users alone Keycloak answers every search with 200 and an empty list:
/// each key would look like an unknown one.
fn role_that_finds_nothing(world: &World) {
    without_role(world, &["query-users"]);
}

fn without_role(world: &World, instead: &[&str]) {
    let (owner, key) = world.owner();
    // Before the start: a gateway may sign in at once, and its token keeps the roles of that moment.
    let taken = RoleTaken::take(world, instead);
    let gateway = world.start_gateway(&Spec::default());
    let request_id = gateway.target.orders(&key.text).unavailable();
    gateway.log.expect(&[&request_id, "view-users"]);
    gateway.target.orders(&Key::random().text).unavailable();
    drop(taken);
    let orders = gateway.target.orders(&key.text).orders();
    assert_eq!(orders.subject, owner.id);
}

/// A key pair that Keycloak has never seen: made for this test, used nowhere else.
pub(super) fn foreign_pem() -> String {
    let pem = std::process::Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .output()
        .expect("openssl (apt-get install openssl)");
    let pem = String::from_utf8(pem.stdout).unwrap();
    register_key_body(&pem);
    pem
}

fn foreign_key(world: &World) {
    let spec = match world.host.is_served() {
        true => Spec::default().signing_key(&foreign_pem()),
        false => Spec::default()
            .field("signing_key_property", Value::Null)
            .field("signing_key", foreign_pem()),
    };
    let gateway = world.start_gateway(&spec);
    let request_id = gateway.target.orders(&world.api_key).unavailable();
    gateway.log.expect(&[&request_id, "invalid_client"]);
}

/// The base64 lines of a private key are the secret in it.
pub(super) fn register_key_body(pem: &str) {
    let lines: Vec<&str> = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    lines.iter().for_each(|line| crate::secrets::register(line));
    crate::secrets::register(&lines.concat());
}

fn no_yield(world: &World) {
    let gateway = world.start_gateway(&Spec::default().without_yield());
    let (_, key) = world.owner();
    let answer = gateway.target.orders(&key.text);
    let request_id = answer.problem(503, "overloaded");
    gateway.log.expect(&[&request_id, "yield_upstream"]);
}

fn wrong_field(world: &World) {
    for (field, value) in [
        ("cache_ttl", json!(300)),
        ("cache_ttl_seconds", json!("300")),
        ("on_missing_key", json!("ignore")),
        (
            "signing_key",
            json!("sk_live_0123456789ab_this-stands-in-the-wrong-place"),
        ),
    ] {
        let spec = Spec::default().field(field, value);
        let said = match world.try_start_gateway(&spec) {
            Err(said) => said,
            // Kong lets all requests pass a filter that refuses its configuration; so there
            // the filter itself refuses them.
            Ok(gateway) => {
                for request in [Request::orders(), Request::orders().api_key(&world.api_key)] {
                    gateway.target.send(&request).unavailable();
                }
                gateway.log.text()
            }
        };
        assert!(said.contains(field), "{field}: {said}");
        assert!(!said.contains("wrong-place"), "it repeats a value: {said}");
    }
}
