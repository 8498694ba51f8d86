//! A gateway's node in virtual time: the core as it ships, its workers with their background work,
//! their host's shared data, and a made-up Keycloak.
//!
//! Lean, so that an hour with millions of requests takes a minute: nothing fails here and nothing
//! is checked, because `crates/core/tests/sim/` does both.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use apikeys_core::background::{Background, Watch};
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::exchange::gate::Gate;
use apikeys_core::exchange::{Env, Exchange, Output, Source, Worker};
use apikeys_core::keycloak::Call;
use apikeys_core::machine::{self, Effect};
use serde_json::json;

use crate::traffic::{Traffic, Usage};
use crate::virtual_realm::{Realm, START};
use test_kit::keycloak::{Reply, asked};
use test_kit::keys;
use test_kit::store::Shared;

/// The time between two ticks of a worker, as on both hosts.
const TICK_US: u64 = 200_000;
/// A turn of the host's loop: the time of a yield without a wait.
const TURN_US: u64 = 200;
/// A slower request has waited for more than its own calls and hash.
pub const HELD_UP_MS: u64 = 250;
/// The default of `l1_entries`.
pub const L1_ENTRIES: usize = 10_000;

/// A node and its load.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub usage: Usage,
    pub workers: usize,
    pub cache_ttl_seconds: u64,
    /// None leaves the default.
    pub l1_entries: Option<usize>,
    pub l2_slots: Option<u32>,
    /// The time of a call to Keycloak, there and back.
    pub call_ms: u64,
    /// The calls that Keycloak works on at once; it queues the others. None: no limit.
    pub keycloak_at_once: Option<usize>,
    pub hash: Hash,
    /// The keys were verified on this node before; no token is there either way.
    pub known: bool,
    /// Run before the counted seconds.
    pub warm_up_seconds: u64,
    pub seconds: u64,
    pub seed: u64,
}

impl Scenario {
    /// A node of one worker that has seen all of its keys before, with room for them.
    ///
    /// All tokens begin at about the same time, and a token in steady use is renewed after 0.85 of
    /// the TTL on average. Counting begins in the middle of the tokens' second round and lasts so
    /// many rounds: otherwise nearly all tokens would count a round too many, or too few.
    pub const fn steady(usage: Usage, ttl_seconds: u64, rounds: u64) -> Self {
        Self {
            usage,
            workers: 1,
            cache_ttl_seconds: ttl_seconds,
            l1_entries: Some(if usage.keys < L1_ENTRIES {
                L1_ENTRIES
            } else {
                usage.keys
            }),
            l2_slots: None,
            call_ms: 10,
            keycloak_at_once: None,
            hash: Hash::Sha256,
            known: true,
            warm_up_seconds: ttl_seconds * 1275 / 1000,
            seconds: ttl_seconds * rounds * 85 / 100,
            seed: 1,
        }
    }
}

/// How the keys are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha256,
    /// bcrypt, with the milliseconds for each verification.
    Bcrypt {
        verification_ms: u64,
    },
}

/// The outcomes of the requests, and the calls to Keycloak meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    pub requests: u64,
    /// Requests that went on at once with a cached token.
    pub hits: u64,
    /// Requests refused because too many keys came at once.
    pub refused: u64,
    pub yields: u64,
    /// Requests that led a first use, or a refresh.
    pub first_uses: u64,
    pub refreshes: u64,
    pub lookups: u64,
    pub grants: u64,
    /// All calls, with polls, self-checks and the gateway's own token.
    pub calls: u64,
    pub renewals: u64,
    pub seconds: u64,
}

impl Outcome {
    pub fn hit_rate(&self) -> f64 {
        self.hits as f64 / self.requests as f64
    }

    pub fn calls_per_1k_requests(&self) -> f64 {
        self.calls as f64 * 1000.0 / self.requests as f64
    }

    pub fn grants_per_second(&self) -> f64 {
        self.grants as f64 / self.seconds as f64
    }

    fn and(&self, other: &Self, join: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            requests: join(self.requests, other.requests),
            hits: join(self.hits, other.hits),
            refused: join(self.refused, other.refused),
            yields: join(self.yields, other.yields),
            first_uses: join(self.first_uses, other.first_uses),
            refreshes: join(self.refreshes, other.refreshes),
            lookups: join(self.lookups, other.lookups),
            grants: join(self.grants, other.grants),
            calls: join(self.calls, other.calls),
            renewals: join(self.renewals, other.renewals),
            seconds: join(self.seconds, other.seconds),
        }
    }
}

/// The next events, each with the time at which it is due.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Tick,
    /// The answer to an exchange's call, or its turn.
    Answer(usize),
    /// The answer to a call that a worker made between requests.
    Told(usize),
}

struct InFlight {
    worker: usize,
    key: usize,
    began_us: u64,
    exchange: Exchange,
    /// None for a turn.
    reply: Option<Reply>,
}

struct NodeWorker {
    worker: Worker,
    gate: Gate,
    background: Background,
    watch: Watch,
    reply: Option<Reply>,
}

struct VirtualNode<'a> {
    wait: &'a dyn Fn(),
    now_us: u64,
    workers: Vec<NodeWorker>,
    shared: Shared,
    realm: Realm,
    call_us: u64,
    /// The instants at which each of Keycloak's workers is free; empty without a limit.
    hands_us: Vec<u64>,
    /// The time of each slice of a verification.
    slice_us: u64,
    held_up_until_us: u64,
    in_flight: HashMap<usize, InFlight>,
    exchanges: usize,
    events: BinaryHeap<Reverse<(u64, usize, Event)>>,
    pushed: usize,
    outcome: Outcome,
}

/// The outcomes: before counting began, and after.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub warm_up: Outcome,
    pub counted: Outcome,
    /// The latest end of a request that was refused or took longer than [`HELD_UP_MS`].
    pub held_up_until_seconds: f64,
}

impl Run {
    pub fn whole(&self) -> Outcome {
        self.warm_up.and(&self.counted, |one, other| one + other)
    }
}

/// Lets the time pass, and returns the outcomes of the requests. It calls `wait` at each tick;
/// `wait` returns when the run may go on.
pub fn run(scenario: &Scenario, wait: &dyn Fn()) -> Run {
    let mut node = VirtualNode::new(scenario, wait);
    let mut traffic = Traffic::new(&scenario.usage, scenario.seed);
    let mut headers = vec![("authorization".to_owned(), Vec::new())];
    node.push(0, Event::Tick);
    let warm_up = node.until(scenario.warm_up_seconds, &mut traffic, &mut headers);
    let end = scenario.warm_up_seconds + scenario.seconds;
    let all = node.until(end, &mut traffic, &mut headers);
    Run {
        warm_up,
        counted: all.and(&warm_up, |one, other| one - other),
        held_up_until_seconds: node.held_up_until_us as f64 / 1e6,
    }
}

impl<'a> VirtualNode<'a> {
    fn new(scenario: &Scenario, wait: &'a dyn Fn()) -> Self {
        let config = config(scenario);
        // Long, so that `cache_ttl_seconds` ends a token's use, and not the token's own end.
        let token_life_seconds = 2 * scenario.cache_ttl_seconds + 120;
        let realm = Realm::new(scenario.usage.keys, token_life_seconds, scenario.hash);
        let slice_us = match scenario.hash {
            Hash::Sha256 => 0,
            Hash::Bcrypt { verification_ms } => verification_ms * 1000 / Realm::slices(),
        };
        let mut shared = Shared::default();
        let workers = (0..scenario.workers).map(|number| {
            let seed = format!("worker {number}");
            let mut worker = keys::new_worker(&config, seed.as_bytes());
            if scenario.known {
                realm.make_known(&mut worker, &mut shared);
            }
            NodeWorker {
                watch: Watch::new(&worker),
                worker,
                gate: Gate::new(),
                background: Background::default(),
                reply: None,
            }
        });
        Self {
            wait,
            now_us: 0,
            workers: workers.collect(),
            shared,
            realm,
            call_us: scenario.call_ms * 1000,
            hands_us: vec![0; scenario.keycloak_at_once.unwrap_or(0)],
            slice_us,
            held_up_until_us: 0,
            in_flight: HashMap::new(),
            exchanges: 0,
            events: BinaryHeap::new(),
            pushed: 0,
            outcome: Outcome::default(),
        }
    }

    /// Lets the time pass up to this second; returns the outcomes of all requests until then.
    fn until(
        &mut self,
        seconds: u64,
        traffic: &mut Traffic,
        headers: &mut [(String, Vec<u8>)],
    ) -> Outcome {
        let end_us = seconds * 1_000_000;
        loop {
            let request_at = traffic.next_at_us();
            let event_at = self.events.peek().map_or(u64::MAX, |Reverse(next)| next.0);
            let at = request_at.min(event_at);
            if at >= end_us {
                break;
            }
            self.now_us = at;
            if event_at <= request_at {
                self.handle_event();
            } else {
                let (key, worker) = traffic.take(self.workers.len());
                self.send(headers, key, worker);
            }
        }
        self.outcome.seconds = seconds;
        self.outcome
    }

    fn now(&self) -> UnixMillis {
        START.plus_ms(self.now_us / 1000)
    }

    fn push(&mut self, after_us: u64, event: Event) {
        self.pushed += 1;
        let at = self.now_us + after_us;
        self.events.push(Reverse((at, self.pushed, event)));
    }

    fn send(&mut self, headers: &mut [(String, Vec<u8>)], key: usize, worker: usize) {
        self.outcome.requests += 1;
        let header = self.realm.header(key);
        headers[0].1.clear();
        headers[0].1.extend_from_slice(header);
        let mut exchange = Exchange::new();
        let output = self.with_env(worker, |_, _, env| exchange.begin(headers, env));
        if let Output::Forward(forward) = &output
            && matches!(forward.source, Source::L1 | Source::L2)
        {
            self.outcome.hits += 1;
            return;
        }
        self.exchanges += 1;
        let flight = InFlight {
            worker,
            key,
            began_us: self.now_us,
            exchange,
            reply: None,
        };
        self.obey(self.exchanges, flight, output);
    }

    fn handle_event(&mut self) {
        let Some(Reverse((_, _, event))) = self.events.pop() else {
            return;
        };
        match event {
            Event::Tick => {
                (self.wait)();
                for worker in 0..self.workers.len() {
                    self.tick(worker);
                }
                self.push(TICK_US, Event::Tick);
            }
            Event::Answer(id) => {
                let mut flight = self.in_flight.remove(&id).expect("an exchange");
                let reply = flight.reply.take().unwrap_or((204, Vec::new()));
                let (status, body) = (reply.0, Some(reply.1.as_slice()));
                let event = machine::Event::Answer { status, body };
                let exchange = &mut flight.exchange;
                let output =
                    self.with_env(flight.worker, |_, _, env| exchange.handle_event(event, env));
                self.obey(id, flight, output);
            }
            Event::Told(worker) => {
                let (status, body) = self.workers[worker].reply.take().expect("an answer");
                let body = Some(body.as_slice());
                self.go_on(worker, Some(machine::Event::Answer { status, body }));
            }
        }
    }

    fn with_env<T>(
        &mut self,
        worker: usize,
        act: impl FnOnce(&mut Background, &mut Watch, &mut Env<'_>) -> T,
    ) -> T {
        let now = self.now();
        let nonce = self.pushed.to_be_bytes();
        let NodeWorker {
            worker,
            gate,
            background,
            watch,
            ..
        } = &mut self.workers[worker];
        let mut env = Env {
            now,
            worker,
            gate,
            store: &mut self.shared,
            nonce: &|| nonce.to_vec(),
            source: &|| None,
        };
        act(background, watch, &mut env)
    }

    fn obey(&mut self, id: usize, mut flight: InFlight, output: Output) {
        match output {
            Output::Await(Effect::Call { call, .. }) => {
                flight.reply = Some(self.ask(&call));
                let after_us = self.call_us();
                self.push(after_us, Event::Answer(id));
            }
            Output::Await(Effect::Yield { wait_ms, .. }) => {
                self.outcome.yields += 1;
                let turn_us = if flight.exchange.is_verifying() {
                    self.slice_us
                } else {
                    TURN_US
                };
                let wait_us = wait_ms.map_or(turn_us, |ms| ms * 1000);
                self.push(wait_us, Event::Answer(id));
            }
            Output::Await(Effect::Compute { .. }) => unreachable!("this node computes in slices"),
            Output::Forward(forward) => {
                if self.now_us - flight.began_us > HELD_UP_MS * 1000 {
                    self.held_up_until_us = self.now_us;
                }
                match forward.source {
                    Source::FirstUse => self.outcome.first_uses += 1,
                    Source::Refresh => self.outcome.refreshes += 1,
                    // Another request led, or the token was in the cache when this request's turn
                    // came.
                    Source::L1 | Source::L2 | Source::Stale => {}
                }
                return;
            }
            Output::Reject { .. } => {
                self.outcome.refused += 1;
                self.held_up_until_us = self.now_us;
                return;
            }
            Output::Pass(why) => panic!("key {}: {why:?}", flight.key),
        }
        self.in_flight.insert(id, flight);
    }

    fn tick(&mut self, worker: usize) {
        let now = self.now();
        self.workers[worker].worker.tick(now, &mut self.shared);
        self.go_on(worker, None);
    }

    /// Gives an answer, or a tick, to a worker's background work.
    fn go_on(&mut self, worker: usize, event: Option<machine::Event<'_>>) {
        let call = self.with_env(worker, |background, watch, env| {
            let before = background.renewed().done;
            let call = match event {
                Some(event) => background.handle_event(event, watch, env),
                None => background.tick(watch, env),
            };
            (call, background.renewed().done - before)
        });
        self.outcome.renewals += call.1;
        if let Some(Effect::Call { call, .. }) = call.0 {
            self.workers[worker].reply = Some(self.ask(&call));
            let after_us = self.call_us();
            self.push(after_us, Event::Told(worker));
        }
    }

    /// The time until a call that goes out now is answered.
    fn call_us(&mut self) -> u64 {
        let Some(hand) = self.hands_us.iter_mut().min() else {
            return self.call_us;
        };
        *hand = self.now_us.max(*hand) + self.call_us;
        *hand - self.now_us
    }

    fn ask(&mut self, call: &Call) -> Reply {
        self.outcome.calls += 1;
        match asked(call) {
            "look-up" => self.outcome.lookups += 1,
            "grant" => self.outcome.grants += 1,
            _ => {}
        }
        self.realm.answer(call, self.now())
    }
}

fn config(scenario: &Scenario) -> Arc<Config> {
    let mut changes = json!({
        "cache_ttl_seconds": scenario.cache_ttl_seconds,
        "revocation_poll_seconds": 5,
    });
    if let Some(entries) = scenario.l1_entries {
        changes["l1_entries"] = json!(entries);
    }
    if let Some(slots) = scenario.l2_slots {
        changes["l2_slots"] = json!(slots);
    }
    keys::config(&changes)
}
