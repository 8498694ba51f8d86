//! Keycloak, or a server in its place, misbehaves: 503, nothing remembered, and all is
//! well with the next request once it behaves again.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::faults::{Endpoint, Fault};
use crate::gateway::Spec;
use crate::owner::{Key, Owner, Record, attributes};
use crate::wait::{self, now_seconds};
use crate::world::{Case, Faulty, Need, World};

const HTML: &str = "<!DOCTYPE html><html><body>Bad gateway</body></html>";
const FLOOD_BYTES: u64 = 200_000_000;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (endpoint, name) in [
        (Endpoint::ServiceToken, "service_token"),
        (Endpoint::LookUp, "look_up"),
        (Endpoint::Grant, "grant"),
    ] {
        for (what, fault) in faults_of_any_answer() {
            cases.push(Case::new(format!("faults::{name}_{what}"), move |world| {
                let disturbed = Disturbed::new(world);
                disturbed.meets(endpoint, &fault);
            }));
        }
    }
    cases.extend([
        Case::new(
            "faults::service_token_already_expired",
            expired_service_token,
        ),
        Case::new("faults::look_up_wrong_owner_in_the_answer", foreign_record),
        Case::new("faults::redirects_are_not_followed", redirect),
        Case::new("faults::an_answer_of_200_mb_is_not_read", |world| {
            flood(world, &Fault::Flood(FLOOD_BYTES));
        }),
        Case::new(
            "faults::an_answer_of_200_mb_in_chunks_is_not_read",
            |world| {
                flood(world, &Fault::ChunkedFlood(FLOOD_BYTES));
            },
        ),
        Case::new("faults::a_slow_keycloak_is_given_up_in_time", slow),
        Case::new(
            "faults::nothing_listens_at_keycloaks_address",
            nothing_listens,
        ),
        Case::new(
            "faults::a_clients_token_is_not_split_into_headers",
            no_injection,
        ),
    ]);
    let needs = |case: Case| case.needs(Need::OwnGateway);
    cases.into_iter().map(needs).collect()
}

/// Answers that are no good from any of Keycloak's endpoints, as far as a host could take them
/// otherwise than its model does: all others are in `tests/kit/src/scenarios.rs`.
fn faults_of_any_answer() -> Vec<(&'static str, Fault)> {
    [bad_statuses(), bad_bodies(), bad_connections()].concat()
}

fn bad_statuses() -> Vec<(&'static str, Fault)> {
    let html = &["content-type: text/html"][..];
    let elsewhere = &["location: http://127.0.0.1:9/elsewhere"][..];
    let answer = Fault::answer::<&[u8]>;
    vec![
        ("answers_204", answer("204 No Content", &[], b"")),
        ("answers_302", answer("302 Found", elsewhere, b"")),
        (
            "answers_503_html",
            answer("503 Service Unavailable", html, HTML.as_bytes()),
        ),
    ]
}

fn bad_bodies() -> Vec<(&'static str, Fault)> {
    let html = Fault::answer("200 OK", &["content-type: text/html"], HTML);
    vec![
        ("answers_html", html),
        ("answers_nothing", Fault::json("")),
        (
            "answers_more_than_is_read",
            Fault::json(format!("[{}]", " ".repeat(700_000))),
        ),
    ]
}

fn bad_connections() -> Vec<(&'static str, Fault)> {
    let no_http = b"\x16\x03\x01\x02\x00 this is not HTTP\r\n\r\n";
    let cut_off = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n[{\"id\"";
    let long_head = ["x-filler: ", &"x".repeat(1_000_000)].concat();
    vec![
        (
            "drips_a_head",
            Fault::Drip(b"HTTP/1.1 200 OK\r\nx: ".to_vec()),
        ),
        ("drips_a_body", Fault::Drip(cut_off.to_vec())),
        (
            "answers_a_head_of_1_mb",
            Fault::answer("200 OK", &[&long_head], "[]"),
        ),
        ("answers_no_http", Fault::Answer(no_http.to_vec())),
        ("breaks_off_in_the_body", Fault::Answer(cut_off.to_vec())),
        ("resets_the_connection", Fault::Close),
    ]
}

/// A gateway, a cold key, and faults between them and Keycloak.
struct Disturbed {
    faulty: &'static Faulty,
    owner: Owner<'static>,
    key: Key,
}

impl Disturbed {
    fn new(world: &'static World) -> Self {
        let (owner, key) = world.owner();
        let faulty = world.faulty();
        Self { faulty, owner, key }
    }

    /// Shows the answer to a fault, and that the fault leaves nothing behind.
    #[track_caller]
    fn meets(&self, endpoint: Endpoint, fault: &Fault) {
        let proxy = &self.faulty.proxy;
        if endpoint == Endpoint::ServiceToken {
            // Otherwise a token of an earlier trial may still be valid for minutes.
            let no_token = Fault::answer("401 Unauthorized", &[], "");
            proxy.set_times(Endpoint::LookUp, no_token, 1);
        }
        proxy.set(endpoint, fault.clone());
        for _ in 0..2 {
            let answer = self.faulty.gateway.target.orders(&self.key.text);
            let request_id = answer.unavailable();
            let log = &self.faulty.gateway.log;
            log.expect(&[
                &request_id,
                r#""code":"identity_provider_unavailable""#,
                r#""reason":"#,
            ]);
            assert!(answer.took < Duration::from_secs(8), "{:?}", answer.took);
        }
        self.works_again();
    }

    #[track_caller]
    fn works_again(&self) {
        self.faulty.proxy.lift();
        let gateway = &self.faulty.gateway;
        let served = wait::until("it works again", Duration::from_secs(20), || {
            let answer = gateway.target.orders(&self.key.text);
            if answer.status == 503 {
                // Only the open circuit keeps it from Keycloak, and not for long.
                let request_id = answer.unavailable();
                gateway
                    .log
                    .expect(&[&request_id, "left alone for a moment"]);
                return Err(answer.describe());
            }
            Ok(answer)
        });
        let orders = served.orders();
        assert_eq!(orders.subject, self.owner.id);
        let sent: Vec<_> = orders
            .headers
            .keys()
            .filter(|name| *name == "x-injected")
            .collect();
        assert!(sent.is_empty());
    }
}

fn unsigned_jwt(claims: &Value) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!(
        "{}.{}.c2ln",
        encode(&json!({"alg": "RS256"})),
        encode(claims)
    )
}

fn expired_service_token(world: &'static World) {
    let claims = json!({
        "iss": world.keycloak.issuer(), "sub": "service", "exp": now_seconds() - 10,
        "resource_access": {"realm-management": {"roles": ["view-users"]}},
    });
    let answer = json!({
        "access_token": unsigned_jwt(&claims), "expires_in": 300, "token_type": "Bearer",
    });
    Disturbed::new(world).meets(Endpoint::ServiceToken, &Fault::json(answer.to_string()));
}

/// The search answers with a user without this key.
fn foreign_record(world: &'static World) {
    let disturbed = Disturbed::new(world);
    let other = Record::sha256(&Key::random());
    let user =
        json!([{"id": disturbed.owner.id, "enabled": true, "attributes": attributes(&[other])}]);
    let proxy = &disturbed.faulty.proxy;
    proxy.set(Endpoint::LookUp, Fault::json(user.to_string()));
    let answer = disturbed.faulty.gateway.target.orders(&disturbed.key.text);
    let request_id = answer.invalid_api_key();
    let log = &disturbed.faulty.gateway.log;
    log.expect(&[&request_id, "the owner holds no key of this id"]);
    disturbed.works_again();
}

fn redirect(world: &'static World) {
    let disturbed = Disturbed::new(world);
    let proxy = &disturbed.faulty.proxy;
    let elsewhere = world.proxy();
    let location = format!("location: http://{}/elsewhere", elsewhere.address);
    let fault = Fault::answer("302 Found", &[&location], "");
    proxy.set(Endpoint::LookUp, fault);
    let before = proxy.counts();
    disturbed
        .faulty
        .gateway
        .target
        .orders(&disturbed.key.text)
        .unavailable();
    let after = proxy.counts();
    assert_eq!(after.look_up - before.look_up, 1);
    assert_eq!(elsewhere.counts().other, 0, "it was followed");
    disturbed.works_again();
}

fn flood(world: &'static World, fault: &Fault) {
    for endpoint in [Endpoint::ServiceToken, Endpoint::LookUp, Endpoint::Grant] {
        let disturbed = Disturbed::new(world);
        let (gateway, proxy) = (&disturbed.faulty.gateway, &disturbed.faulty.proxy);
        let (memory_before, flooded_before) = (gateway.memory_peak(), proxy.flooded());
        disturbed.meets(endpoint, fault);
        let grown = gateway.memory_peak() - memory_before;
        assert!(
            grown < 50_000_000,
            "{endpoint:?}: {grown} bytes more at the peak"
        );
        let taken = proxy.flooded() - flooded_before;
        assert!(
            taken < FLOOD_BYTES / 4,
            "{endpoint:?}: {taken} bytes were taken"
        );
    }
}

fn slow(world: &'static World) {
    for endpoint in [Endpoint::ServiceToken, Endpoint::LookUp, Endpoint::Grant] {
        Disturbed::new(world).meets(endpoint, &Fault::Silence);
    }
}

fn nothing_listens(world: &World) {
    let proxy = world.proxy();
    let spec = Spec::default().through(&proxy);
    drop(proxy);
    let gateway = world.start_gateway(&spec);
    let answer = gateway.target.orders(&world.api_key);
    let request_id = answer.unavailable();
    gateway
        .log
        .expect(&[&request_id, r#""reason":"#, "service-token"]);
}

/// A line break in a token answer must not become a header for the service.
fn no_injection(world: &'static World) {
    let disturbed = Disturbed::new(world);
    let proxy = &disturbed.faulty.proxy;
    let claims = json!({
        "iss": world.keycloak.issuer(), "sub": disturbed.owner.id, "exp": now_seconds() + 300,
    });
    let token = format!("{}\r\nX-Injected: yes", unsigned_jwt(&claims));
    let split = json!({"access_token": token, "expires_in": 300, "token_type": "Bearer"});
    for body in [split.to_string(), format!("X-Injected: yes\r\n{split}")] {
        proxy.lift();
        proxy.set(Endpoint::Grant, Fault::json(body));
        let answer = disturbed.faulty.gateway.target.orders(&disturbed.key.text);
        answer.unavailable();
        assert!(
            answer.header("x-injected").is_none(),
            "{}",
            answer.describe()
        );
    }
    disturbed.works_again();
}
