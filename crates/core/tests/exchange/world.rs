//! One worker of a gateway, its host's shared data, Keycloak, and the time.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use apikeys_core::background::{Background, Watch};
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::exchange::credentials::Headers;
use apikeys_core::exchange::gate::Gate;
use apikeys_core::exchange::{Env, Exchange, Forward, Output, Pass, Source, Worker};
use apikeys_core::keycloak::Call;
use apikeys_core::machine::{Effect, Event};
use apikeys_core::rejection::{Reason, Rejection};
use apikeys_core::revocation::NotShared;
use serde_json::Value;

use super::checksum::summed;
use super::keycloak::{FakeKeycloak, Reply, SIGNATURE, User, claims};
use super::keys::{SIGNING_KEY, keys_in, new_worker};
pub use super::keys::{START, config, id_of, key};
use super::store::Shared;
use super::sweep::Sweeper;

pub struct World {
    pub now: UnixMillis,
    pub config: Arc<Config>,
    pub worker: Worker,
    watch: Watch,
    pub gate: Gate,
    pub shared: Shared,
    pub keycloak: FakeKeycloak,
    pub yields: u32,
    /// The address that requests come from; none if the host does not say.
    pub address: Option<String>,
    /// The number of times that the host was asked for it.
    pub asked_for_address: Cell<u32>,
    /// The key id that the last request's exchange gave for the log.
    pub ended_key_id: Option<String>,
    nonces: Cell<u64>,
    secrets: Secrets,
}

/// The secrets of a scenario: none may ever appear in an output.
#[derive(Default)]
struct Secrets {
    known: BTreeSet<String>,
    /// Keys, hashes and the signing key: they may appear nowhere at all.
    nowhere: Sweeper,
    /// Tokens: they may appear in an entry and in the replaced header.
    tokens: Sweeper,
}

impl Secrets {
    fn learn(&mut self, secret: &str) {
        if self.known.insert(secret.to_owned()) {
            self.nowhere
                .add("a key, a hash or the signing key", secret.as_bytes());
        }
    }

    /// Learns the keys of a request.
    fn learn_keys(&mut self, headers: &Headers) {
        for (_, value) in headers {
            let text = String::from_utf8_lossy(value);
            keys_in(&text).into_iter().for_each(|key| self.learn(key));
        }
    }

    fn expect_unsaid(&self, place: &str, text: &str) {
        let mut found = self.nowhere.sweep(place, text.as_bytes());
        found.extend(self.tokens.sweep(place, text.as_bytes()));
        assert!(found.is_empty(), "{found:?}");
    }
}

/// How a request ended.
#[derive(Debug)]
pub enum Ended {
    Forwarded(Forward),
    Passed(Pass),
    Rejected(Rejection, Reason),
}

impl Ended {
    #[track_caller]
    pub fn forwarded(self) -> Forward {
        match self {
            Self::Forwarded(forward) => forward,
            other => panic!("forwarded, not {other:?}"),
        }
    }

    #[track_caller]
    pub fn rejected(self) -> (Rejection, Reason) {
        match self {
            Self::Rejected(rejection, reason) => (rejection, reason),
            other => panic!("rejected, not {other:?}"),
        }
    }
}

pub fn subject(forward: &Forward) -> String {
    let jwt = forward.authorization.strip_prefix("Bearer ").unwrap();
    claims(jwt)["sub"].as_str().unwrap().to_owned()
}

/// A key with the id of `key` and another secret, shaped and summed right.
pub fn other_secret(key: &str, number: u32) -> String {
    summed(&format!("{}_{}{number:08}", &key[..20], "z".repeat(24)))
}

pub fn headers(pairs: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect()
}

impl World {
    pub fn new(users: Vec<User>) -> Self {
        Self::with(users, &Value::Null)
    }

    /// A world with these changes to the filter's configuration.
    pub fn with(users: Vec<User>, changes: &Value) -> Self {
        let config = config(changes);
        let mut secrets = Secrets::default();
        secrets.learn(&SIGNING_KEY[48..]);
        secrets.tokens.add("a token", SIGNATURE.as_bytes());
        for value in users.iter().flat_map(|user| &user.attributes["apiKeys"]) {
            secrets.learn(value.splitn(3, ':').last().unwrap());
        }
        let worker = new_worker(&config, b"worker 1");
        Self {
            secrets,
            now: START,
            watch: Watch::new(&worker),
            worker,
            config,
            gate: Gate::new(),
            shared: Shared::default(),
            keycloak: FakeKeycloak::new(users),
            yields: 0,
            address: None,
            asked_for_address: Cell::new(0),
            ended_key_id: None,
            nonces: Cell::new(0),
        }
    }

    /// Goes on with another route of the same node: it has its own memory, and the same shared
    /// data.
    pub fn reconfigure(&mut self, changes: &Value) {
        self.config = config(changes);
        self.worker = new_worker(&self.config, b"worker 1");
        self.watch = Watch::new(&self.worker);
    }

    /// Goes on with another worker of the same node: its memory is empty, the shared data
    /// stays.
    pub fn next_worker(&mut self) {
        self.worker = new_worker(&self.config, b"another worker");
        self.watch = Watch::new(&self.worker);
        self.gate = Gate::new();
    }

    /// The worker learns that an owner was changed in Keycloak.
    pub fn revoke(&mut self, owner: &str) -> Result<(), NotShared> {
        self.worker.revoke_owner(owner, self.now, &mut self.shared)
    }

    pub fn begin(&mut self, exchange: &mut Exchange, headers: &Headers) -> Output {
        let output = self.of_request(|env| exchange.begin(headers, env));
        self.secrets.learn_keys(headers);
        self.expect_secrecy(exchange, &output);
        output
    }

    pub fn input(&mut self, exchange: &mut Exchange, event: Event<'_>) -> Output {
        let output = self.of_request(|env| exchange.handle_event(event, env));
        self.expect_secrecy(exchange, &output);
        output
    }

    /// Gives a request's exchange its environment.
    fn of_request(&mut self, act: impl FnOnce(&mut Env<'_>) -> Output) -> Output {
        let nonce = || {
            self.nonces.set(self.nonces.get() + 1);
            self.nonces.get().to_be_bytes().to_vec()
        };
        let source = || {
            self.asked_for_address.set(self.asked_for_address.get() + 1);
            self.address.clone().map(String::into_bytes)
        };
        act(&mut Env {
            now: self.now,
            worker: &mut self.worker,
            gate: &mut self.gate,
            store: &mut self.shared,
            nonce: &nonce,
            source: &source,
        })
    }

    /// No output and no entry holds a secret (invariant 5).
    fn expect_secrecy(&self, exchange: &Exchange, output: &Output) {
        let secrets = &self.secrets;
        secrets.expect_unsaid("an output", &format!("{output:?} {exchange:?}"));
        secrets.expect_unsaid("an id", exchange.key_id().unwrap_or_default());
        match output {
            Output::Reject { rejection, reason } => {
                let said = format!("{reason} {}", rejection.body("id"));
                secrets.expect_unsaid("a rejection", &said);
            }
            Output::Await(Effect::Call { call, .. }) => secrets.expect_unsaid("a path", &call.path),
            _ => {}
        }
        if !matches!(output, Output::Await(_)) {
            for (name, value) in &self.shared.0 {
                secrets.expect_unsaid("the name of an entry", name);
                assert_eq!(secrets.nowhere.sweep("an entry", value), []);
            }
        }
    }

    pub fn abort(&mut self, exchange: &mut Exchange) {
        let mut env = Env {
            now: self.now,
            worker: &mut self.worker,
            gate: &mut self.gate,
            store: &mut self.shared,
            nonce: &Vec::new,
            source: &|| None,
        };
        exchange.abort(&mut env);
    }

    /// An act outside of a request, where no address can be asked for.
    pub fn with_env<T>(&mut self, act: impl FnOnce(&mut Env<'_>) -> T) -> T {
        let nonce = || {
            self.nonces.set(self.nonces.get() + 1);
            self.nonces.get().to_be_bytes().to_vec()
        };
        act(&mut Env {
            now: self.now,
            worker: &mut self.worker,
            gate: &mut self.gate,
            store: &mut self.shared,
            nonce: &nonce,
            source: &|| panic!("outside of a request nobody comes from anywhere"),
        })
    }

    /// Goes on with another worker of the node, and keeps this one for later.
    pub fn take_the_other(&mut self, (worker, watch): &mut (Worker, Watch)) {
        std::mem::swap(&mut self.worker, worker);
        std::mem::swap(&mut self.watch, watch);
    }

    /// The same for the worker's own background work.
    pub fn with_watch<T>(&mut self, act: impl FnOnce(&mut Watch, &mut Env<'_>) -> T) -> T {
        let mut watch = std::mem::replace(&mut self.watch, Watch::new(&self.worker));
        let told = self.with_env(|env| act(&mut watch, env));
        self.watch = watch;
        told
    }

    /// A tick of the root context, and the answers to all that it asks for.
    pub fn tick(&mut self, background: &mut Background) {
        self.tick_with(background, |_, reply| Ok(reply));
    }

    /// The same, with Keycloak's answers passed through `tamper`.
    pub fn tick_with(
        &mut self,
        background: &mut Background,
        mut tamper: impl FnMut(&Call, Reply) -> Result<Reply, &'static str>,
    ) {
        self.worker.tick(self.now, &mut self.shared);
        let mut next = self.with_watch(|watch, env| background.tick(watch, env));
        while let Some(Effect::Call { call, .. }) = next {
            let reply = tamper(&call, self.keycloak.answer(&call, self.now));
            self.now = self.now.plus_ms(5);
            next = self.with_watch(|watch, env| match &reply {
                Ok((status, body)) => {
                    let (status, body) = (*status, Some(body.as_slice()));
                    background.handle_event(Event::Answer { status, body }, watch, env)
                }
                Err(why) => background.handle_event(Event::Failed(why), watch, env),
            });
        }
        let said = format!("{background:?} {:?}", self.worker);
        self.secrets
            .expect_unsaid("what is done between requests", &said);
    }

    /// Sends a request and takes it to its end.
    pub fn request(&mut self, pairs: &[(&str, &str)]) -> Ended {
        self.request_with(pairs, |_, reply| Ok(reply))
    }

    /// The same with a key as `Authorization: ApiKey`.
    pub fn key_request(&mut self, key: &str) -> Ended {
        self.request(&[("authorization", &format!("ApiKey {key}"))])
    }

    /// The same, with Keycloak's answers passed through `tamper`, which is told the
    /// call's number (from 0) and may fail the callout.
    pub fn request_with(
        &mut self,
        pairs: &[(&str, &str)],
        mut tamper: impl FnMut(u32, Reply) -> Result<Reply, &'static str>,
    ) -> Ended {
        let mut calls = 0;
        self.request_led(pairs, |effect, answer| match effect {
            Effect::Call { .. } => {
                calls += 1;
                tamper(calls - 1, answer())
            }
            Effect::Yield { .. } | Effect::Compute { .. } => Ok(answer()),
        })
    }

    /// The same, with each effect answered by `lead`, which is given the proper answer to it.
    pub fn request_led(
        &mut self,
        pairs: &[(&str, &str)],
        mut lead: impl FnMut(&Effect, &mut dyn FnMut() -> Reply) -> Result<Reply, &'static str>,
    ) -> Ended {
        let headers = headers(pairs);
        let mut exchange = Exchange::new();
        let mut output = self.begin(&mut exchange, &headers);
        loop {
            let effect = match output {
                Output::Await(effect) => effect,
                Output::Forward(forward) => {
                    return self.ended(&exchange, Ended::Forwarded(forward));
                }
                Output::Pass(why) => return self.ended(&exchange, Ended::Passed(why)),
                Output::Reject { rejection, reason } => {
                    return self.ended(&exchange, Ended::Rejected(rejection, reason));
                }
            };
            if let Effect::Compute { mut job, .. } = effect {
                let same = job.run(u32::MAX).unwrap();
                self.now = self.now.plus_ms(60);
                output = self.input(&mut exchange, Event::Computed(same));
                continue;
            }
            let (keycloak, now) = (&mut self.keycloak, self.now);
            let reply = lead(&effect, &mut || match &effect {
                Effect::Call { call, .. } => keycloak.answer(call, now),
                Effect::Yield { .. } | Effect::Compute { .. } => (204, Vec::new()),
            });
            let took_ms = match effect {
                Effect::Call { timeout_ms, .. } => {
                    assert!((1..=2000).contains(&timeout_ms), "{timeout_ms}");
                    5
                }
                Effect::Yield { wait_ms, .. } => {
                    self.yields += 1;
                    wait_ms.unwrap_or(1)
                }
                Effect::Compute { .. } => unreachable!("computed above"),
            };
            self.now = self.now.plus_ms(took_ms);
            output = match reply {
                Ok((status, body)) => {
                    let body = (body.len() <= 512 * 1024).then_some(body.as_slice());
                    self.input(&mut exchange, Event::Answer { status, body })
                }
                Err(why) => self.input(&mut exchange, Event::Failed(why)),
            };
        }
    }

    fn ended(&mut self, exchange: &Exchange, ended: Ended) -> Ended {
        assert!(
            !exchange.is_pending(),
            "an exchange that is over holds nothing"
        );
        self.ended_key_id = exchange.key_id().map(str::to_owned);
        ended
    }

    #[track_caller]
    pub fn expect_source(&mut self, key: &str, source: Source, owner: &str) {
        let forward = self.key_request(key).forwarded();
        assert_eq!(
            (forward.source, subject(&forward).as_str()),
            (source, owner)
        );
    }
}
