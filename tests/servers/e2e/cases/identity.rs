//! Who called: the headers for the service, and the names for Envoy's logs and limits
//! (docs/identity.md, docs/rate-limits.md).

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::install::yaml;
use crate::client::{Request, Target, find};
use crate::gateway::{Spec, member, socket_address};
use crate::owner::{Key, Owner, Record};
use crate::wait;
use crate::world::{Case, Host, Need, World};

const IDENTITY: &str = include_str!("../../../../docs/identity.md");
const RATE_LIMITS: &str = include_str!("../../../../docs/rate-limits.md");
const HTTP_FILTERS: &str = "/filter_chains/0/filters/0/typed_config/http_filters";
const NAMES: [&str; 3] = ["x-api-key-id", "x-api-key-owner", "x-api-key-name"];

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "identity::the_service_learns_the_key_and_not_what_a_client_claims",
            told,
        )
        .needs(Need::OwnGateway),
        Case::new("identity::a_claim_is_taken_out_of_every_request", taken_out),
        Case::new("identity::a_claim_made_twice_is_refused", twice),
        Case::new("identity::envoys_access_log_names_the_key", logged).needs(Need::OwnEnvoy),
        Case::new("identity::envoys_rbac_tells_keys_apart", by_key).needs(Need::OwnEnvoy),
        Case::new("identity::envoys_local_limit_counts_each_key", local_limit)
            .needs(Need::OwnEnvoy),
        Case::new(
            "identity::envoys_global_limit_asks_by_the_key_and_not_by_a_claim",
            global_limit,
        )
        .needs(Need::OwnEnvoy),
    ]
}

fn identified() -> Spec {
    Spec::default().field("identity_headers", true)
}

/// A request that claims to be another key's.
fn claiming(request: Request) -> Request {
    let names = [
        "X-API-Key-ID",
        "x-api-key-owner",
        "X-Api-Key-Name",
        "X_API_Key_ID",
    ];
    names
        .into_iter()
        .fold(request, |request, name| request.header(name, "forged"))
}

/// An owner with one new key of this name.
fn named<'a>(world: &'a World, name: &str) -> (Owner<'a>, Key) {
    let key = Key::random();
    let record = Record::sha256(&key).with("name", name);
    (world.owner_of(&[record]), key)
}

fn told(world: &World) {
    let gateway = world.start_gateway(&identified());
    let (owner, key) = named(world, "Bäckerei, 24/7");
    // Cold and from a cache.
    for _ in 0..2 {
        let request = claiming(Request::orders().api_key(&key.text));
        let seen = gateway.target.send(&request).orders();
        assert_eq!(
            NAMES.map(|name| seen.headers[name].clone()),
            [
                json!(key.id),
                json!(owner.id),
                json!("B%C3%A4ckerei%2C%2024%2F7"),
            ]
        );
        assert!(seen.lacks("x_api_key_id"));
    }
}

fn taken_out(world: &World) {
    let by_key = Request::orders().api_key(&world.api_key);
    let token = world.gateway.send(&by_key).orders().token;
    // With a key, and with a token that passes.
    for request in [by_key, Request::orders().bearer(&token)] {
        let seen = world.gateway.send(&claiming(request)).orders();
        for name in NAMES {
            assert!(seen.lacks(name), "{name}");
        }
        assert!(seen.lacks("x_api_key_id"));
    }
}

fn twice(world: &World) {
    let request = Request::orders().api_key(&world.api_key);
    let request = request
        .header("X-API-Key-ID", "one")
        .header("x-api-key-id", "two");
    let answer = world.gateway.send(&request);
    answer.problem(400, "ambiguous_credentials");
}

/// A block of YAML on a page.
fn block(page: &str, at: usize) -> Value {
    yaml(page).swap_remove(at)
}

/// Puts filters between ours and the router.
fn add_filters(resources: &mut Value, added: &Value) {
    let filters = member(gateway_listener(resources), HTTP_FILTERS);
    let filters = filters.as_array_mut().expect("filters");
    let router = filters.len() - 1;
    filters.splice(router..router, added.as_array().expect("a list").clone());
}

fn gateway_listener(resources: &mut Value) -> &mut Value {
    let listeners = resources["listeners"].as_array_mut().expect("listeners");
    let found = listeners
        .iter_mut()
        .find(|listener| listener["name"] == "gateway");
    found.expect("the gateway's listener")
}

/// A block of the page, in the module's terms on the module.
fn in_terms_of(host: Host, block: &Value) -> Value {
    let mut text = block.to_string();
    if host == Host::EnvoyModule {
        for (of_wasm, of_module) in [
            (
                "FILTER_STATE(wasm.x-api-key-id:PLAIN)",
                "DYNAMIC_METADATA(apikey-jwt-exchange:key_id)",
            ),
            (
                "FILTER_STATE(wasm.x-api-key-owner:PLAIN)",
                "DYNAMIC_METADATA(apikey-jwt-exchange:owner_id)",
            ),
            (
                "FILTER_STATE(wasm.x-api-key-name:PLAIN)",
                "DYNAMIC_METADATA(apikey-jwt-exchange:key_name)",
            ),
            (
                r#"{"filter_state":{"key":"wasm.x-api-key-id","string_match":{"exact":"k7x2m9p4q8r1"}}}"#,
                r#"{"metadata":{"filter":"apikey-jwt-exchange","path":[{"key":"key_id"}],"value":{"string_match":{"exact":"k7x2m9p4q8r1"}}}}"#,
            ),
        ] {
            text = text.replace(of_wasm, of_module);
        }
    }
    serde_json::from_str(&text).expect("JSON")
}

fn logged(world: &World) {
    let (owner, key) = named(world, "Nightly report");
    let file = world.folder().join(format!("who-called-{}.log", key.id));
    let path = json!(file);
    let log = in_terms_of(world.host, &block(IDENTITY, 0));
    let spec = identified().edit(move |resources, _| {
        let mut log = log.clone();
        *member(&mut log, "/0/typed_config/path") = path.clone();
        let listener = gateway_listener(resources);
        *member(
            listener,
            "/filter_chains/0/filters/0/typed_config/access_log",
        ) = log;
    });
    let gateway = world.start_gateway(&spec);
    let at = |path| claiming(Request::orders().at(path));
    gateway.target.send(&at("/with-a-key").api_key(&key.text));
    gateway
        .target
        .send(&at("/with-none"))
        .problem(401, "missing_credentials");
    let line = |path: &str| {
        wait::until("a line of the access log", Duration::from_secs(10), || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let line = text.lines().find(|line| line.contains(path));
            let line = line.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            line.ok_or(text)
        })
    };
    let (with_a_key, with_none) = (line("/with-a-key"), line("/with-none"));
    for (name, value) in [
        ("key_id", key.id.as_str()),
        ("key_owner", &owner.id),
        ("key_name", "Nightly%20report"),
    ] {
        assert_eq!(with_a_key[name], value, "{name}");
        assert_eq!(with_none[name], Value::Null, "{name}");
    }
}

fn by_key(world: &World) {
    let (_one, allowed) = world.owner();
    let (_other, refused) = world.owner();
    let id = allowed.id.clone();
    let filter = in_terms_of(world.host, &block(IDENTITY, 1));
    assert_eq!(
        filter.to_string().contains("filter_state"),
        world.host == Host::Envoy
    );
    let spec = identified().edit(move |resources, _| {
        let text = filter.to_string().replace("k7x2m9p4q8r1", &id);
        add_filters(resources, &serde_json::from_str(&text).expect("JSON"));
    });
    let gateway = world.start_gateway(&spec);
    let partner = |key: &Key| {
        let request = Request::orders().at("/partner/orders").api_key(&key.text);
        gateway.target.send(&claiming(request)).status
    };
    assert_eq!(partner(&refused), 403);
    assert_ne!(partner(&allowed), 403);
    gateway.target.orders(&refused.text).orders();
}

/// A key's requests until Envoy refuses one, which it does without a problem's body.
#[track_caller]
fn served(target: &Target, key: &Key) -> usize {
    // Another claim in each request.
    let request = |at: usize| {
        let request = Request::orders().api_key(&key.text);
        request.header("X-API-Key-ID", at.to_string())
    };
    let answers = (0..500).map(|at| target.send(&request(at)));
    answers
        .take_while(|answer| answer.status != 429)
        .inspect(|answer| {
            answer.orders();
        })
        .count()
}

fn local_limit(world: &World) {
    let local = block(RATE_LIMITS, 0);
    let spec = identified().workers(2).edit(move |resources, _| {
        let mut local = local.clone();
        // No token is earned while the trial runs.
        *member(
            &mut local,
            "/0/typed_config/descriptors/0/token_bucket/fill_interval",
        ) = json!("86400s");
        add_filters(resources, &local);
    });
    let gateway = world.start_gateway(&spec);
    let keys = [world.owner(), world.owner()];
    for (_owner, key) in &keys {
        assert_eq!(served(&gateway.target, key), 100);
    }
}

/// The limiter of this trial takes each question and answers none: Envoy lets the request through.
fn global_limit(world: &World) {
    let limiter = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = limiter.local_addr().expect("its address");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    thread::spawn(move || {
        for stream in limiter.incoming().flatten() {
            let hears = Arc::clone(&hears);
            thread::spawn(move || hear(stream, &hears));
        }
    });
    let (filters, cluster) = (block(RATE_LIMITS, 1), block(RATE_LIMITS, 2)[0].clone());
    let spec = identified().edit(move |resources, _| {
        add_filters(resources, &filters);
        let mut cluster = cluster.clone();
        cluster["type"] = json!("STATIC");
        *member(
            &mut cluster,
            "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address",
        ) = socket_address(address);
        let clusters = resources["clusters"].as_array_mut();
        clusters.expect("clusters").push(cluster);
    });
    let gateway = world.start_gateway(&spec);
    let (_owner, key) = world.owner();
    let request = claiming(Request::orders().api_key(&key.text));
    gateway.target.send(&request).orders();
    // Fields of RateLimitRequest: the domain, and the entry of the descriptor.
    let asked = [
        b"\x0a\x08api-keys".to_vec(),
        [b"\x0a\x0aapi_key_id\x12\x0c", key.id.as_bytes()].concat(),
    ];
    wait::until("the question", Duration::from_secs(10), || {
        let heard = heard.lock().expect("bytes");
        let all = asked.iter().all(|part| find(&heard, part).is_some());
        all.then_some(()).ok_or(format!("{} bytes", heard.len()))
    });
    let heard = heard.lock().expect("bytes");
    assert!(find(&heard, b"forged").is_none(), "a claim was counted");
}

fn hear(mut stream: TcpStream, heard: &Mutex<Vec<u8>>) {
    let mut part = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut part) {
        heard.lock().expect("bytes").extend(&part[..length]);
    }
}
