//! Keycloak's part of an exchange, without a gateway: the same two calls, on a kept
//! connection, with assertions that were signed before.

use std::sync::atomic::{AtomicU64, Ordering};

use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::keycloak::{Call, token, users};
use apikeys_core::signing_key::SigningKey;
use serde_json::json;

use crate::bench::Bench;
use crate::client::{Connection, Request, Response, Target};
use crate::secrets;
use crate::wait::now_ms;

/// A client that makes these calls.
pub(crate) struct Bare {
    config: Config,
    key: SigningKey,
    connection: Connection,
    service_token: String,
}

impl Bare {
    /// Signs in as the gateway's own client.
    pub(crate) fn new(bench: &Bench) -> Self {
        let demo = bench.stack.demo_env();
        let config = json!({
            "keycloak_url": demo["KEYCLOAK_URL"], "realm": demo["REALM"],
            "keycloak_upstream": "keycloak", "yield_upstream": "yield",
            "signing_key_property": "env.APIKEY_SIGNING_KEY",
        });
        let config = Config::from_json(config.to_string().as_bytes()).expect("a configuration");
        let key = std::fs::read_to_string(bench.stack.run_dir.join("signing-key.pem"));
        let mut bare = Self {
            config,
            key: SigningKey::parse(&key.expect("the signing key")).expect("a signing key"),
            connection: Target::parse(bench.admin.url()).connect(),
            service_token: String::new(),
        };
        let assertion = token::client_assertion(&bare.config, &bare.key, &new_id(), now());
        let call = token::service_token_call(&bare.config, &assertion.expect("a signature"));
        let answer = bare.send(&request(&call));
        let given = answer.json()["access_token"].as_str().map(str::to_owned);
        bare.service_token = given.unwrap_or_else(|| panic!("{}", answer.describe()));
        secrets::register(&bare.service_token);
        bare
    }

    /// Looks a key's owner up and gets a token; returns the milliseconds of each.
    pub(crate) fn exchange(&mut self, key_id: &str, owner_id: &str) -> [f64; 2] {
        let look_up = self.look_up(key_id);
        let (config, key, now) = (&self.config, &self.key, now());
        let ends_at = now.plus_ms(3_600_000);
        let client = token::client_assertion(config, key, &new_id(), now);
        let owner = token::grant_assertion(config, key, owner_id, &new_id(), now, ends_at);
        let (client, owner) = (client.expect("a signature"), owner.expect("a signature"));
        let call = token::grant_call(config, &owner, &client, None);
        let answer = self.send(&request(&call));
        assert_eq!(answer.status, 200, "{}", answer.describe());
        [look_up, milliseconds(&answer)]
    }

    /// Looks a key's owner up; returns the milliseconds.
    pub(crate) fn look_up(&mut self, key_id: &str) -> f64 {
        let call = users::lookup_call(&self.config, &self.service_token, key_id);
        let answer = self.send(&request(&call));
        let found = answer.json().as_array().map(Vec::len);
        assert_eq!(
            (answer.status, found),
            (200, Some(1)),
            "{}",
            answer.describe()
        );
        milliseconds(&answer)
    }

    fn send(&mut self, request: &Request) -> Response {
        self.connection.send(request)
    }
}

fn request(call: &Call) -> Request {
    let mut request = Request::orders().at(&call.path);
    if let Some(bearer) = &call.bearer {
        request = request.bearer(bearer);
    }
    match &call.form {
        Some(form) => request
            .header("Content-Type", "application/x-www-form-urlencoded")
            .post(form.clone().into_bytes()),
        None => request,
    }
}

/// Keycloak takes the id of an assertion once.
fn new_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("bench-{}-{}-{number}", std::process::id(), now_ms())
}

fn now() -> UnixMillis {
    UnixMillis(now_ms())
}

fn milliseconds(answer: &Response) -> f64 {
    answer.took.as_secs_f64() * 1000.0
}
