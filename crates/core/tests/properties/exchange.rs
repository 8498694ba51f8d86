//! The exchange led through anything: answers of any status and body, failures, turns,
//! clock steps, clients that hang up, a store that is tampered with.
//!
//! It never panics, one input gives one output, every effect has a bounded time, it ends, and
//! it holds nothing after. It forwards only a token that came in an answer to this key's grant,
//! with the subject that the look-up before it named, and only before the end of the token and
//! of the key. When all is over the worker serves on.
//!
//! The input is a programme: each step takes two bytes, the act and its request; a made-up
//! answer takes more.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use apikeys_core::api_key::hash::{StoredHash, hash_bcrypt, hash_sha256};
use apikeys_core::api_key::record::{index_value, key_value};
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::exchange::credentials::Headers;
use apikeys_core::exchange::gate::Gate;
use apikeys_core::exchange::{Env, Exchange, Forward, Output, Pass, Worker};
use apikeys_core::keycloak::Call;
use apikeys_core::machine::{Effect, Event};
use apikeys_core::signing_key::SigningKey;
use apikeys_core::store::slots::SharedStore;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::outgoing::SIGNING_KEY;
use super::{contains, oracle, strict_json, users};

const NO_HEADERS: &Headers = &[];

const START: UnixMillis = UnixMillis(1_800_000_000_000);
const STEPS_MAX: usize = 300;
const REQUESTS_MAX: usize = 6;
/// A step of the clock is up to 255 of these.
const UNITS_MS: [u64; 4] = [1, 100, 1000, 100_000];
/// More turns than any request may take.
const TURNS_MAX: u32 = 20_000;
const ISSUER: &str = "https://login.example.com/realms/demo";
const FAR_SECONDS: u64 = START.0 / 1000 + 3_000_000_000;

/// A key with its owner: the third has none.
struct Known {
    key: String,
    owner: &'static str,
    hash: String,
    ends_at: u64,
}

static KEYS: LazyLock<[Known; 3]> = LazyLock::new(|| {
    let [one, two, three] = [1, 2, 3].map(oracle::key);
    let bcrypt = hash_bcrypt(one.as_bytes(), 4, [9; 16]).unwrap();
    let sha256 = hash_sha256(two.as_bytes());
    let known = |key, owner, hash, ends_at| Known {
        key,
        owner,
        hash,
        ends_at,
    };
    [
        known(one, "alice", bcrypt, FAR_SECONDS),
        known(two, "bob", sha256, START.0 / 1000 + 100_000),
        known(three, "", String::new(), 0),
    ]
});

static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(|| {
    let config = json!({
        "keycloak_url": "https://login.example.com", "realm": "demo",
        "keycloak_upstream": "keycloak", "yield_upstream": "yield", "signing_key": SIGNING_KEY,
        "l2_slots": 8, "fallback_until": "2027-01-16T00:00:00Z",
    });
    Arc::new(Config::from_json(config.to_string().as_bytes()).unwrap())
});
static SIGNING: LazyLock<Arc<SigningKey>> =
    LazyLock::new(|| Arc::new(SigningKey::parse(SIGNING_KEY).unwrap()));

#[derive(Default)]
struct Shared(HashMap<String, Vec<u8>>);

impl SharedStore for Shared {
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
        self.0.get(name).map(|value| (value.clone(), Some(1)))
    }
    fn set(&mut self, name: &str, value: &[u8], _: Option<u32>) -> bool {
        self.0.insert(name.to_owned(), value.to_vec());
        true
    }
}

/// One request under way.
struct Request {
    exchange: Exchange,
    output: Output,
    key: usize,
    worker: usize,
    /// The owner and the key's end, as the last look-up's answer named them.
    owner: Option<(String, u64)>,
}

struct World {
    workers: [(Worker, Gate); 2],
    store: Shared,
    now: UnixMillis,
    latest: UnixMillis,
    nonces: u64,
    issued: u64,
    /// Tokens that may be forwarded for a key, each with its end.
    allowed: HashMap<(usize, String), u64>,
    /// Keys that Keycloak said nobody owns.
    unknown: HashSet<usize>,
}

/// The programme's bytes.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }
    fn or_zero(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }
}

pub fn holds(data: &[u8]) {
    let mut world = World::new();
    let mut requests: Vec<Request> = Vec::new();
    let mut bytes = Bytes(data);
    for _ in 0..STEPS_MAX {
        let Some(what) = bytes.next() else { break };
        let which = bytes.or_zero();
        let at = usize::from(which) % requests.len().max(1);
        match what % 12 {
            0 | 1 if requests.len() < REQUESTS_MAX => {
                requests.push(world.send(usize::from(which) % 3, usize::from(which) / 3 % 2));
            }
            8 => world.pass_time(u64::from(which) * UNITS_MS[usize::from(what) / 12 % 4]),
            9 => {
                world.now = world
                    .now
                    .minus_ms(u64::from(which) * UNITS_MS[usize::from(what) / 12 % 4])
            }
            10 => world.tamper_with_the_store(which, bytes.or_zero()),
            action if !requests.is_empty() => {
                let mut request = requests.swap_remove(at);
                match action {
                    2..=4 => world.answer(&mut request, None),
                    5 | 6 => {
                        let how = bytes.or_zero();
                        world.answer(&mut request, Some((how, &mut bytes)));
                    }
                    7 => world.input(&mut request, Event::Failed("timed out")),
                    _ if which % 2 == 0 => world.abort(&mut request),
                    _ => world.begin_again(&mut request),
                }
                if world.goes_on(&mut request) {
                    requests.push(request);
                }
            }
            _ => {}
        }
    }
    for mut request in requests {
        world.lead_to_its_end(&mut request);
    }
    world.assert_it_serves_on();
}

impl World {
    fn new() -> Self {
        let worker = |seed: &[u8]| Worker::new(Arc::clone(&CONFIG), Arc::clone(&SIGNING), seed);
        Self {
            workers: [(worker(b"1"), Gate::new()), (worker(b"2"), Gate::new())],
            store: Shared::default(),
            now: START,
            latest: START,
            nonces: 0,
            issued: 0,
            allowed: HashMap::new(),
            unknown: HashSet::new(),
        }
    }

    fn pass_time(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.latest = self.latest.max(self.now);
    }

    fn with_env<T>(&mut self, worker: usize, step: impl FnOnce(&mut Env<'_>) -> T) -> T {
        self.nonces += 1;
        let nonce = self.nonces.to_be_bytes().to_vec();
        let (worker, gate) = &mut self.workers[worker];
        step(&mut Env {
            now: self.now,
            worker,
            gate,
            store: &mut self.store,
            nonce: &|| nonce.clone(),
            source: &|| None,
        })
    }

    fn send(&mut self, key: usize, worker: usize) -> Request {
        let headers = [("x-api-key".to_owned(), KEYS[key].key.clone().into_bytes())];
        let mut exchange = Exchange::new();
        let output = self.with_env(worker, |env| exchange.begin(&headers, env));
        Request {
            exchange,
            output,
            key,
            worker,
            owner: None,
        }
    }

    fn input(&mut self, request: &mut Request, event: Event<'_>) {
        let exchange = &mut request.exchange;
        request.output = self.with_env(request.worker, |env| exchange.handle_event(event, env));
    }

    /// A head where none is waited for.
    fn begin_again(&mut self, request: &mut Request) {
        let exchange = &mut request.exchange;
        request.output = self.with_env(request.worker, |env| exchange.begin(NO_HEADERS, env));
    }

    fn abort(&mut self, request: &mut Request) {
        let exchange = &mut request.exchange;
        self.with_env(request.worker, |env| exchange.abort(env));
        assert!(!request.exchange.is_pending());
        // An event after the end is answered with a refusal.
        self.input(request, Event::Failed("gone"));
        assert!(matches!(request.output, Output::Reject { .. }));
    }

    /// Whether the request waits for something; checks how it ended if not.
    fn goes_on(&mut self, request: &mut Request) -> bool {
        match &request.output {
            Output::Await(Effect::Call { call, timeout_ms }) => {
                assert!((1..=2000).contains(timeout_ms), "{timeout_ms}");
                assert!(call.form.is_some() == (call.method == "POST"));
                assert!(!contains(
                    call.path.as_bytes(),
                    KEYS[request.key].key.as_bytes()
                ));
            }
            Output::Await(Effect::Yield {
                wait_ms,
                timeout_ms,
            }) => {
                assert!((1..=4000).contains(timeout_ms), "{timeout_ms}");
                assert!(wait_ms.unwrap_or(0) <= 2000, "{wait_ms:?}");
            }
            Output::Await(Effect::Compute { .. }) => unreachable!("this host computes in slices"),
            Output::Forward(forward) => self.assert_may_forward(request, forward),
            Output::Pass(why) => {
                assert_eq!(*why, Pass::Fallback);
                let until = CONFIG.fallback_until.unwrap();
                assert!(self.now < until && self.unknown.contains(&request.key));
            }
            Output::Reject { rejection, reason } => {
                assert!((400..=503).contains(&rejection.status()));
                assert!(!reason.to_string().contains(&KEYS[request.key].key));
            }
        }
        let waits = matches!(request.output, Output::Await(_));
        assert_eq!(request.exchange.is_pending(), waits, "{:?}", request.output);
        if !waits {
            self.input(
                request,
                Event::Answer {
                    status: 200,
                    body: Some(b"[]"),
                },
            );
            assert!(
                matches!(request.output, Output::Reject { .. }),
                "over is over"
            );
            assert!(!request.exchange.is_pending());
        }
        waits
    }

    fn assert_may_forward(&self, request: &Request, forward: &Forward) {
        let jwt = forward.authorization.strip_prefix("Bearer ").unwrap();
        let ends_at = self.allowed.get(&(request.key, jwt.to_owned()));
        let ends_at = ends_at.expect("a token that no answer gave for this key's owner");
        assert!(self.now.0 < *ends_at, "it is over");
        assert_eq!(forward.remove, ["x-api-key"]);
    }

    /// Gives the request the event that it waits for: a sound one, or another.
    fn answer(&mut self, request: &mut Request, how: Option<(u8, &mut Bytes<'_>)>) {
        let (mut status, mut body) = match &request.output {
            Output::Await(Effect::Call { call, .. }) => self.honest(call, request),
            _ => (204, Vec::new()),
        };
        let mut whole = true;
        if let Some((how, bytes)) = how {
            let which = bytes.or_zero();
            match how % 8 {
                0 => status = u16::from(which) * 3,
                1 => status = [301, 400, 401, 403, 404, 429, 500, 503][usize::from(which) % 8],
                2 => whole = false,
                3 => body.truncate(usize::from(which) * 4),
                4 => {
                    let length = bytes.0.len().min(usize::from(which));
                    let (made_up, rest) = bytes.0.split_at(length);
                    (body, bytes.0) = (made_up.to_vec(), rest);
                }
                5 => {
                    let at = (usize::from(which) + usize::from(how) * 3) % body.len().max(1);
                    body.iter_mut()
                        .skip(at)
                        .take(1)
                        .for_each(|byte| *byte = bytes.or_zero());
                }
                6 => body = self.foreign(which),
                _ => body = doctored(&body, which),
            }
        }
        let given = whole.then_some(body.as_slice());
        if let (Output::Await(Effect::Call { call, .. }), Some(body)) = (&request.output, given) {
            let (is_lookup, is_grant) = (call.method == "GET", is_grant(call));
            self.note(request, is_lookup, is_grant, status, body);
        }
        self.input(
            request,
            Event::Answer {
                status,
                body: given,
            },
        );
    }

    /// Notes the tokens that the answer allows, as a strict reader sees it.
    fn note(
        &mut self,
        request: &mut Request,
        is_lookup: bool,
        is_grant: bool,
        status: u16,
        body: &[u8],
    ) {
        let answer: Value = strict_json(body).unwrap_or(Value::Null);
        let known = &KEYS[request.key];
        if is_lookup {
            let id = &known.key[8..20];
            let strict = users::strict(&answer, id).filter(|_| status == 200);
            // Its spare bits and its version may differ.
            let parse = |hash: &str| StoredHash::parse(hash).ok();
            let verified = strict.filter(|(_, (hash, ..))| parse(hash) == parse(&known.hash));
            request.owner = verified.map(|(owner, (_, ends_at, _))| (owner, ends_at));
            if status == 200 && answer == json!([]) {
                self.unknown.insert(request.key);
            }
        } else if is_grant && status == 200 {
            let (Some(jwt), Some((owner, key_ends_at))) =
                (answer["access_token"].as_str(), &request.owner)
            else {
                return;
            };
            let payload = jwt
                .split('.')
                .nth(1)
                .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
            let claims: Value = payload
                .and_then(|text| strict_json(&text))
                .unwrap_or_default();
            let ours = claims["iss"] == ISSUER && claims["sub"] == owner.as_str();
            if let (true, Some(exp)) = (ours, claims["exp"].as_u64()) {
                // The key's end is to the second, and Keycloak rounds.
                if exp * 1000 <= key_ends_at + 1000 {
                    let ends_at = (exp * 1000).min(*key_ends_at);
                    self.allowed.insert((request.key, jwt.to_owned()), ends_at);
                }
            }
        }
    }

    fn honest(&mut self, call: &Call, request: &Request) -> (u16, Vec<u8>) {
        let now = self.now.as_seconds();
        let known = &KEYS[request.key];
        if call.method == "GET" {
            return (
                200,
                if known.owner.is_empty() {
                    b"[]".to_vec()
                } else {
                    lookup(known)
                },
            );
        }
        if is_grant(call) {
            let exp = known.ends_at.min(now + 300);
            return (200, self.token(known.owner, exp));
        }
        (200, self.token("gateway", now + 300))
    }

    /// A whole answer that belongs to another call, another key or another time.
    fn foreign(&mut self, which: u8) -> Vec<u8> {
        let now = self.now.as_seconds();
        match which % 8 {
            0 => lookup(&KEYS[0]),
            1 => lookup(&KEYS[1]),
            2 => b"[]".to_vec(),
            3 => self.token("alice", now + 300),
            4 => self.token("bob", now + 60),
            5 => self.token("alice", now),
            6 => self.token("bob", KEYS[1].ends_at + 2),
            _ => br#"{"error":"invalid_grant","error_description":"User not found"}"#.to_vec(),
        }
    }

    fn token(&mut self, subject: &str, exp: u64) -> Vec<u8> {
        self.issued += 1;
        let claims = json!({
            "iss": ISSUER, "sub": subject, "exp": exp, "jti": self.issued,
            "resource_access": { "realm-management": { "roles": ["view-users"] } },
        });
        let jwt = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let life = exp.saturating_sub(self.now.as_seconds());
        json!({ "access_token": jwt, "expires_in": life, "token_type": "Bearer" })
            .to_string()
            .into_bytes()
    }

    /// Drops, flips or swaps entries that the workers of the node share.
    fn tamper_with_the_store(&mut self, how: u8, which: u8) {
        let mut names: Vec<String> = self.store.0.keys().cloned().collect();
        names.sort();
        let Some(name) = names.get(usize::from(which) % names.len().max(1)) else {
            return;
        };
        let other = names[usize::from(how / 4) % names.len()].clone();
        match how % 4 {
            0 => _ = self.store.0.remove(name),
            1 => {
                let value = self.store.0.get_mut(name).unwrap();
                let at = usize::from(which) * 7 % value.len();
                value[at] ^= 1 << (how / 4 % 8);
            }
            2 => _ = self.store.0.insert(other, self.store.0[name].clone()),
            _ => {
                let (one, two) = (self.store.0[name].clone(), &self.store.0[&other]);
                let cut = (usize::from(how) * 3).min(one.len()).min(two.len());
                let torn = [&one[..cut], &two[cut..]].concat();
                self.store.0.insert(other, torn);
            }
        }
    }

    /// Each wait takes its full time and each callout fails: the request must end by itself.
    fn lead_to_its_end(&mut self, request: &mut Request) {
        for _ in 0..TURNS_MAX {
            match &request.output {
                Output::Await(Effect::Yield { wait_ms, .. }) => {
                    self.pass_time(wait_ms.unwrap_or(1));
                    self.answer(request, None);
                }
                _ => self.input(request, Event::Failed("reset")),
            }
            if !self.goes_on(request) {
                return;
            }
        }
        panic!("it does not end: {:?}", request.output);
    }

    /// A day later, with a sound Keycloak, each worker serves the key.
    fn assert_it_serves_on(&mut self) {
        self.now = self.latest.plus_ms(86_400_000);
        for worker in [0, 1] {
            let mut request = self.send(0, worker);
            for _ in 0..TURNS_MAX {
                if let Output::Forward(forward) = &request.output {
                    self.assert_may_forward(&request, forward);
                    break;
                }
                self.pass_time(1);
                self.answer(&mut request, None);
            }
            assert!(
                matches!(request.output, Output::Forward(_)),
                "{:?}",
                request.output
            );
        }
    }
}

fn is_grant(call: &Call) -> bool {
    call.form
        .as_deref()
        .is_some_and(|form| form.contains("&assertion="))
}

fn lookup(known: &Known) -> Vec<u8> {
    let id = &known.key[8..20];
    let expires_at = format!("apiKey_{id}_expiresAt");
    json!([{ "id": known.owner, "enabled": true, "attributes": {
        "apiKeys": [key_value(id, &known.hash)],
        "apiKeyIndex": [index_value(id)],
        expires_at: [UnixMillis::from_seconds(known.ends_at).to_rfc3339()],
    } }])
    .to_string()
    .into_bytes()
}

/// The answer with one part changed, and otherwise whole.
fn doctored(body: &[u8], which: u8) -> Vec<u8> {
    let text = String::from_utf8_lossy(body);
    let (from, to) = [
        ("\"enabled\":true", "\"enabled\":false"),
        ("\"alice\"", "\"bob\""),
        ("\"bob\"", "\"alice\""),
        ("$2b$", "$2x$"),
        ("key:", "kez:"),
        ("\"Bearer\"", "\"mac\""),
        ("expiresAt", "graceUntil"),
        ("....\"", "...\""),
    ][usize::from(which) % 8];
    text.replace(from, to).into_bytes()
}
