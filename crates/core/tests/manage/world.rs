//! The workers of some nodes, a Keycloak, and the time.
//!
//! When a world ends, all its outputs are swept. No key, hash, token or assertion stands in a
//! `Debug` output, a report, a path or a problem; no key and no caller's token in a call to
//! Keycloak.

use std::cell::Cell;
use std::collections::BTreeSet;

use apikeys_core::clock::UnixMillis;
use apikeys_core::exchange::gate::Gate;
use apikeys_core::exchange::{self, Env, Exchange, Source, Worker};
use apikeys_core::keycloak::Call;
use apikeys_core::machine::{Effect, Event};
use apikeys_core::manage::{Manage, ManageEnv, Manager, Output, RequestHead};
use serde_json::{Value, json};

use super::client::Client;
use super::keycloak::{FakeKeycloak, RealmKey, Reply, SIGNATURE, User, claims, form};
use super::keys::{SIGNING_KEY, config, keys_in, new_worker, signing_key};
use super::openapi::Document;
use super::request::Request;
use super::store::Shared;
use super::sweep::Sweeper;
use super::told::Told;

pub const START: UnixMillis = UnixMillis(1_800_000_000_000);
pub const AUDIENCE: &str = "key-api";
pub const ADMIN_ROLE: &str = "api-key-admin";

/// The time between two ticks of a worker.
const TICK_MS: u64 = 200;

/// A worker of a gateway, in either mode.
pub struct Member {
    pub worker: Worker,
    pub manager: Option<Manager>,
    pub gate: Gate,
    node: usize,
}

pub struct World {
    pub now: UnixMillis,
    pub keycloak: FakeKeycloak,
    /// The first manages keys.
    pub members: Vec<Member>,
    /// The shared data of each node.
    pub nodes: Vec<Shared>,
    /// The calls to Keycloak, in order, each with its time.
    pub calls: Vec<(&'static str, UnixMillis)>,
    /// Workers have their ticks.
    pub ticks: bool,
    /// The address that requests come from, as a host gives it.
    pub address: Option<String>,
    ticked_at: UnixMillis,
    changes: Value,
    nonces: Cell<u64>,
    said: BTreeSet<(&'static str, String)>,
    sent: BTreeSet<String>,
    secrets: Secrets,
}

#[derive(Default)]
struct Secrets {
    /// Keys and callers' tokens: Keycloak is not sent them either.
    ours: BTreeSet<String>,
    /// Hashes and assertions, which Keycloak is sent.
    others: BTreeSet<String>,
}

impl World {
    pub fn new(users: Vec<User>) -> Self {
        Self::with(users, &Value::Null)
    }

    /// A world with these changes to the filter's configuration.
    pub fn with(users: Vec<User>, changes: &Value) -> Self {
        let mut keycloak = FakeKeycloak::new(users);
        keycloak.keys = vec![RealmKey::Es256];
        let mut world = Self {
            now: START,
            keycloak,
            members: Vec::new(),
            nodes: vec![Shared::default()],
            calls: Vec::new(),
            ticks: true,
            address: None,
            ticked_at: START,
            changes: changes.clone(),
            nonces: Cell::new(0),
            said: BTreeSet::new(),
            sent: BTreeSet::new(),
            secrets: Secrets::default(),
        };
        world.add_manager(0);
        world
    }

    /// Adds a worker that manages keys to a node.
    pub fn add_manager(&mut self, node: usize) -> usize {
        let own =
            json!({ "mode": "manage", "audience": AUDIENCE, "bcrypt_cost": 4, "usage": true });
        self.add(node, own, true)
    }

    /// Adds a worker that exchanges them.
    pub fn add_gateway(&mut self, node: usize) -> usize {
        self.add(node, json!({ "usage": true }), false)
    }

    pub fn add_node(&mut self) -> usize {
        self.nodes.push(Shared::default());
        self.nodes.len() - 1
    }

    fn add(&mut self, node: usize, mut fields: Value, manages: bool) -> usize {
        for (field, value) in self.changes.as_object().into_iter().flatten() {
            if manages || !["cors_origins", "max_keys_per_user"].contains(&field.as_str()) {
                fields[field] = value.clone();
            }
        }
        let seed = format!("worker {}", self.members.len());
        self.members.push(Member {
            worker: new_worker(&config(&fields), seed.as_bytes()),
            manager: manages.then(|| Manager::new(signing_key(), seed.as_bytes())),
            gate: Gate::new(),
            node,
        });
        self.members.len() - 1
    }

    /// Time goes by, and workers have their ticks.
    pub fn pass(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        if self.now.since_ms(self.ticked_at) >= TICK_MS && self.ticks {
            self.ticked_at = self.now;
            for member in &mut self.members {
                let store = &mut self.nodes[member.node];
                member.worker.tick(self.now, store);
                member.worker.take_usage(self.now, store);
            }
        }
    }

    // --- callers -------------------------------------------------------------------

    /// The claims of this user's access token, as the realm gives it to a console.
    pub fn claims(&self, user: &str) -> Value {
        let now = self.now.as_seconds();
        json!({
            "iss": self.keycloak.issuer(), "sub": user, "aud": [AUDIENCE, "account"],
            "typ": "Bearer", "azp": "console", "iat": now, "exp": now + 300,
            "jti": "onrtac:one-of-a-token", "preferred_username": user,
            "realm_access": { "roles": ["offline_access"] },
        })
    }

    pub fn token(&self, user: &str) -> String {
        RealmKey::Es256.sign(&self.claims(user))
    }

    /// The same with a byte of its signature changed.
    pub fn forged(&self, user: &str) -> String {
        let mut token = self.token(user);
        let (at, next) = (token.len() - 10, token.len() - 9);
        let other = if &token[at..next] == "A" { "B" } else { "A" };
        token.replace_range(at..next, other);
        token
    }

    /// The token of an administrator, who may act for others.
    pub fn admin(&self) -> String {
        let mut claims = self.claims("operator");
        claims["realm_access"]["roles"] = json!([ADMIN_ROLE]);
        RealmKey::Es256.sign(&claims)
    }

    // --- requests ------------------------------------------------------------------

    /// Sends a request and takes it to its end.
    pub fn ask(&mut self, request: &Request) -> Told {
        self.ask_at(0, request)
    }

    pub fn ask_at(&mut self, at: usize, request: &Request) -> Told {
        let client = Client::send_at(self, at, request);
        client.finish_with(self, |_, reply| Ok(reply))
    }

    /// The same, with Keycloak's answers passed through `tamper`, which gets the name of the
    /// call and may lose the answer.
    pub fn ask_with(
        &mut self,
        request: &Request,
        tamper: impl FnMut(&'static str, Reply) -> Result<Reply, &'static str>,
    ) -> Told {
        Client::send(self, request).finish_with(self, tamper)
    }

    /// Makes a key for a user.
    pub fn make(&mut self, user: &str) -> (String, String) {
        let token = self.token(user);
        let request = Request::create(&token, &json!({ "name": "a key" }));
        self.ask(&request).made()
    }

    pub fn begin(&mut self, at: usize, manage: &mut Manage, head: RequestHead<'_>) -> Output {
        for (_, value) in head.headers {
            self.learn_from(&String::from_utf8_lossy(value));
        }
        self.say("a Debug output", format!("{head:?}"));
        let output = self.with_env(at, |env| manage.begin(head, env));
        self.look(at, manage, output)
    }

    pub fn body(&mut self, at: usize, manage: &mut Manage, body: Option<&[u8]>) -> Output {
        self.learn_from(&String::from_utf8_lossy(body.unwrap_or_default()));
        let output = self.with_env(at, |env| manage.read_body(body, env));
        self.look(at, manage, output)
    }

    pub fn input(&mut self, at: usize, manage: &mut Manage, event: Event<'_>) -> Output {
        self.say("a Debug output", format!("{event:?}"));
        let output = self.with_env(at, |env| manage.handle_event(event, env));
        self.look(at, manage, output)
    }

    /// Nothing that is said holds a secret.
    fn look(&mut self, at: usize, manage: &Manage, output: Output) -> Output {
        self.say("a Debug output", format!("{output:?} {manage:?}"));
        self.say("a report", format!("{:?}", manage.report()));
        let env = &self.members[at];
        self.say("a Debug output", format!("{:?}", env.manager));
        if let Output::Await(Effect::Call { call, .. }) = &output {
            self.calls.push((super::keycloak::asked(call), self.now));
            self.note_call(&call.clone());
        }
        output
    }

    pub fn abort(&mut self, at: usize, manage: &mut Manage) {
        self.with_env(at, |env| manage.abort(env));
        self.with_env(at, |env| manage.abort(env));
    }

    fn with_env<T>(&mut self, at: usize, act: impl FnOnce(&mut ManageEnv<'_, '_>) -> T) -> T {
        let nonce = || {
            self.nonces.set(self.nonces.get() + 1);
            self.nonces.get().to_be_bytes().to_vec()
        };
        let member = &mut self.members[at];
        let mut exchange = Env {
            now: self.now,
            worker: &mut member.worker,
            gate: &mut member.gate,
            store: &mut self.nodes[member.node],
            nonce: &nonce,
            source: &|| self.address.clone().map(String::into_bytes),
        };
        act(&mut ManageEnv {
            exchange: &mut exchange,
            manager: member.manager.as_mut().expect("a worker that manages"),
        })
    }

    /// Sends a key through a gateway: its owner and where the token was, or the code.
    pub fn exchange(&mut self, at: usize, key: &str) -> Result<(String, Source), &'static str> {
        let headers = [("x-api-key".to_owned(), key.as_bytes().to_vec())];
        let mut exchange = Exchange::new();
        let mut answered: Option<(u16, Vec<u8>)> = None;
        loop {
            let member = &mut self.members[at];
            let mut env = Env {
                now: self.now,
                worker: &mut member.worker,
                gate: &mut member.gate,
                store: &mut self.nodes[member.node],
                nonce: &|| {
                    self.nonces
                        .replace(self.nonces.get() + 1)
                        .to_be_bytes()
                        .to_vec()
                },
                source: &|| self.address.clone().map(String::into_bytes),
            };
            let output = match &answered {
                None => exchange.begin(&headers, &mut env),
                Some((status, body)) => {
                    let (status, body) = (*status, Some(body.as_slice()));
                    exchange.handle_event(Event::Answer { status, body }, &mut env)
                }
            };
            self.pass(5);
            answered = Some(match output {
                exchange::Output::Await(Effect::Call { call, .. }) => {
                    self.keycloak.answer(&call, self.now)
                }
                exchange::Output::Await(Effect::Yield { .. } | Effect::Compute { .. }) => {
                    (204, Vec::new())
                }
                exchange::Output::Forward(forward) => {
                    let token = forward.authorization.strip_prefix("Bearer ").unwrap();
                    let owner = claims(token)["sub"].as_str().unwrap().to_owned();
                    return Ok((owner, forward.source));
                }
                exchange::Output::Pass(why) => panic!("passed: {why:?}"),
                exchange::Output::Reject { rejection, .. } => return Err(rejection.code()),
            });
        }
    }

    // --- the checks at the end -------------------------------------------------------

    /// No request waits, so nothing is held.
    #[track_caller]
    pub fn expect_nothing_held(&self) {
        for member in &self.members {
            let sizes = member.worker.sizes();
            assert_eq!((sizes.pending, sizes.flights), (0, 0));
            assert_eq!(member.gate.places(), 0);
            // Claims on the manager show in its Debug output.
            let manager = format!("{:?}", member.manager);
            for claim in ["fetcher: Some", "lease_until: Some"] {
                assert!(!manager.contains(claim), "{manager}");
            }
            assert!(
                member.manager.is_none() || manager.contains("Owners({})"),
                "{manager}"
            );
        }
    }

    /// No change left its lock in Keycloak.
    #[track_caller]
    pub fn expect_no_lock(&self) {
        for user in &self.keycloak.users {
            let locks = user.links.keys().filter(|name| name.contains("lock"));
            assert_eq!(locks.count(), 0, "{} is locked", user.id);
        }
    }

    /// How often Keycloak was asked for this.
    pub fn count(&self, what: &str) -> usize {
        self.calls
            .iter()
            .filter(|(known, _)| *known == what)
            .count()
    }

    fn say(&mut self, place: &'static str, text: String) {
        self.said.insert((place, text));
    }

    fn learn_from(&mut self, text: &str) {
        for key in keys_in(text) {
            self.secrets.ours.insert(key.to_owned());
        }
        if let Some((_, token)) = text.split_once("earer ")
            && token.len() > 60
        {
            self.secrets.ours.insert(token.to_owned());
            let signature = token.rsplit('.').next().unwrap();
            if signature.len() > 60 {
                self.secrets.ours.insert(signature.to_owned());
            }
        }
    }

    fn note_call(&mut self, call: &Call) {
        self.say("a path", call.path.clone());
        self.sent.extend(call.json.clone());
        if call.form.is_some() {
            for (name, value) in form(call) {
                if name.ends_with("assertion") {
                    self.secrets.others.insert(value.clone());
                }
                self.sent.insert(value);
            }
        }
        let body: Value = serde_json::from_str(call.json.as_deref().unwrap_or("null")).unwrap();
        for stored in body["attributes"]["apiKeys"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let hash = stored.as_str().unwrap().splitn(3, ':').last().unwrap();
            // A record of another tool may hold anything.
            if hash.len() > 20 {
                self.secrets.others.insert(hash.to_owned());
            }
        }
    }

    /// Takes an answer to a client: it is as documented, and holds no secret but those meant
    /// for the client.
    pub fn told(&mut self, told: &Told) {
        Document::get().check(told);
        for (name, value) in &told.headers {
            self.say("a header", format!("{name}: {value}"));
        }
        let mut body = told.body();
        let members = body.as_object_mut();
        let made = members.and_then(|members| members.remove("api_key"));
        if let Some(key) = made.as_ref().and_then(Value::as_str) {
            assert_eq!(told.status, 201, "a key is told once, when it is made");
            self.secrets.ours.insert(key.to_owned());
        }
        if let (200, Some(members)) = (told.status, body.as_object_mut()) {
            members.remove("access_token");
        }
        self.say("a body", body.to_string());
        self.say("a reason", format!("{:?}", told.reason));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut everywhere = Sweeper::default();
        let mut at_keycloak = Sweeper::default();
        everywhere.add("the signing key", &SIGNING_KEY.as_bytes()[48..]);
        everywhere.add("a token of Keycloak's", SIGNATURE.as_bytes());
        for secret in &self.secrets.ours {
            everywhere.add("a key or a caller's token", secret.as_bytes());
            at_keycloak.add("a key or a caller's token", secret.as_bytes());
        }
        for secret in &self.secrets.others {
            everywhere.add("a hash or an assertion", secret.as_bytes());
        }
        for (place, text) in &self.said {
            assert_eq!(everywhere.sweep(place, text.as_bytes()), []);
        }
        for sent in &self.sent {
            assert_eq!(
                at_keycloak.sweep("what Keycloak is sent", sent.as_bytes()),
                []
            );
        }
        for (name, value) in self.nodes.iter().flat_map(|node| &node.0) {
            assert_eq!(
                everywhere.sweep("a name in shared data", name.as_bytes()),
                []
            );
            assert_eq!(at_keycloak.sweep("shared data", value), []);
        }
    }
}
