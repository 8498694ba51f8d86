//! The world of a run: nodes, realms, clients, the time, and all that is under way.
//!
//! A run is a queue of events by time. An event lets one exchange take one step, or
//! changes something; what follows from it goes into the queue. What comes at the
//! same time comes in the order in which it was queued. So one seed is one run.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use apikey_jwt_exchange::clock::UnixMillis;
use apikey_jwt_exchange::exchange::{Exchange, Forward, Input, Output};
use apikey_jwt_exchange::keycloak::Call;
use apikey_jwt_exchange::signing_key::SigningKey;

use super::callout::{Asks, Delivered, deliver};
use super::checkers::{self, Checker, Ended, Seen, Violation};
use super::dice::Dice;
use super::faults::{Fault, Faults};
use super::keycloak::{Reply, claims};
use super::node::{Node, With};
use super::request::{Credential, End, Form, Headers, Request};
use super::setup::{Realm, Route, SIGNING_KEY, START, Setup};
use super::tally::Tally;
use super::trace::Trace;
use super::truth::{Issued, Truth};
use super::workload;

/// More events than any run has: beyond it something goes on for ever.
const EVENTS_MAX: u64 = 400_000;
/// How long after the last fault all must be well again.
const HEALED_MS: u64 = 400_000;

static KEY: LazyLock<Arc<SigningKey>> =
    LazyLock::new(|| Arc::new(SigningKey::parse(SIGNING_KEY).unwrap()));

/// Something that is to happen.
enum Event {
    /// Clients send some requests.
    Burst,
    /// An edit or a fault.
    Happen,
    /// A callout comes to Keycloak.
    Arrive {
        id: u64,
        step: u32,
        asks: Asks,
        call: Call,
    },
    /// An answer comes to the gateway.
    Answer { id: u64, step: u32, fed: Fed },
    /// The client hangs up.
    HangUp { id: u64 },
    /// A key's grace ends in this realm.
    Look { realm: usize },
    /// From here on all is well.
    Heal,
    /// A good key, which now must get its token.
    Probe {
        node: usize,
        route: usize,
        key: usize,
    },
}

/// What an exchange is told.
#[derive(Clone)]
enum Fed {
    Request,
    Answer(Delivered),
    Failed(&'static str),
}

struct InFlight {
    request: Request,
    exchange: Exchange,
    sent_at: u64,
    /// Its inputs so far; an answer to an earlier one is too late.
    step: u32,
    turns: u32,
    waited: bool,
    rounds: u32,
}

pub struct World {
    pub now: u64,
    pub dice: Dice,
    pub faults: Faults,
    pub nodes: Vec<Node>,
    pub routes: Vec<Route>,
    pub realms: Vec<Realm>,
    pub tally: Tally,
    truth: Truth,
    trace: Trace,
    checkers: Vec<Box<dyn Checker>>,
    violation: Option<Violation>,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    in_flight: BTreeMap<u64, InFlight>,
    requests: u64,
    calm_since: Option<u64>,
    /// The last answer of each kind, in each realm.
    last: BTreeMap<(usize, &'static str), (Asks, Reply)>,
}

/// What a run left.
pub struct Run {
    pub trace: String,
    pub violation: Option<Violation>,
    pub tally: Tally,
}

impl World {
    pub fn new(seed: u64, faults_named: &str) -> Self {
        let mut dice = Dice::new(seed);
        let setup = Setup::drawn(&mut dice, faults_named);
        let calm_since = setup.faults.is_calm().then_some(START);
        let mut world = Self {
            now: START,
            dice,
            faults: setup.faults,
            nodes: setup.nodes,
            routes: setup.routes,
            realms: setup.realms,
            tally: Tally::default(),
            truth: Truth::default(),
            trace: Trace::default(),
            checkers: checkers::all(),
            violation: None,
            queue: BTreeMap::new(),
            queued: 0,
            in_flight: BTreeMap::new(),
            requests: 0,
            calm_since,
            last: BTreeMap::new(),
        };
        for at in 0..world.realms.len() {
            for (number, &end) in world.realms[at].ends.iter().enumerate() {
                let key = super::keys::ALL[number].text.clone();
                world.truth.ends.insert((at, key), end);
            }
            world.look(at);
        }
        for _ in 0..setup.requests {
            let at = START + world.dice.range(0, setup.length_ms);
            world.push(at, Event::Burst);
        }
        for _ in 0..setup.happenings {
            let at = START + world.dice.range(0, setup.length_ms);
            world.push(at, Event::Happen);
        }
        world.push(START + setup.length_ms, Event::Heal);
        world
    }

    /// Takes the run to its end, or to the first violation.
    pub fn run(mut self) -> Run {
        let mut events = 0;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.restore_roles();
            events += 1;
            if events > EVENTS_MAX {
                let what = format!("still going on after {EVENTS_MAX} events");
                self.violation = Some(Violation { invariant: 7, what });
            }
            if self.violation.is_some() {
                break;
            }
            self.take(event);
        }
        if self.violation.is_none() {
            self.close();
        }
        Run {
            trace: self.trace.text().to_owned(),
            violation: self.violation,
            tally: self.tally,
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Burst => {
                for request in workload::burst(self) {
                    self.send(request);
                }
            }
            Event::Happen => workload::happen(self),
            Event::Arrive {
                id,
                step,
                asks,
                call,
            } => self.arrive(id, step, &asks, &call),
            Event::Answer { id, step, fed } => self.feed(id, step, &fed),
            Event::HangUp { id } => self.hang_up(id),
            Event::Look { realm } => self.look(realm),
            Event::Heal => self.heal(),
            Event::Probe { node, route, key } => {
                let request = Request {
                    id: self.next_request(),
                    node,
                    worker: 0,
                    route,
                    credential: Credential::Key(key),
                    form: Form::ApiKey,
                    hangs_up_after: None,
                };
                self.send(request);
            }
        }
    }

    fn push(&mut self, at: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), event);
    }

    pub fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.now - START, what);
    }

    /// Notes who holds which key now.
    pub fn look(&mut self, realm: usize) {
        let keycloak = &self.realms[realm].keycloak;
        self.truth.look(realm, keycloak, self.now);
    }

    pub fn look_again_at(&mut self, at: u64, realm: usize) {
        self.push(at, Event::Look { realm });
    }

    fn restore_roles(&mut self) {
        for realm in &mut self.realms {
            if realm.role_back_at <= self.now {
                realm.role_back_at = u64::MAX;
                realm.keycloak.management_roles.push("view-users");
            }
        }
    }

    // ---- requests -------------------------------------------------------------

    fn send(&mut self, request: Request) {
        let id = request.id;
        self.note(format_args!(
            "#{id} {:?} as {:?} to node {} worker {} route {}",
            request.credential, request.form, request.node, request.worker, request.route
        ));
        if let Some(after) = request.hangs_up_after {
            self.push(self.now + after, Event::HangUp { id });
        }
        let in_flight = InFlight {
            request,
            exchange: Exchange::new(),
            sent_at: self.now,
            step: 0,
            turns: 0,
            waited: false,
            rounds: 0,
        };
        self.in_flight.insert(id, in_flight);
        self.feed(id, 0, &Fed::Request);
    }

    /// Tells an exchange what happened, and does what it says.
    fn feed(&mut self, id: u64, step: u32, fed: &Fed) {
        let Some(mut flight) = self.in_flight.remove(&id) else {
            return;
        };
        if flight.step != step {
            self.in_flight.insert(id, flight);
            return;
        }
        flight.step += 1;
        let headers = flight.request.headers();
        let (input, poison) = match fed {
            Fed::Request => (Input::Request { headers: &headers }, None),
            Fed::Failed(why) => (Input::Failed(why), None),
            Fed::Answer(delivered) => {
                flight.rounds = delivered.rounds.unwrap_or(flight.rounds);
                let (status, body) = (delivered.status, delivered.body.as_deref());
                (Input::Answer { status, body }, delivered.poison)
            }
        };
        let output = self.act(&mut flight, |exchange, env| {
            exchange.handle_input(&input, env)
        });
        let seen = Seen::Step {
            output: &output,
            poison,
        };
        see(&mut self.checkers, &mut self.violation, &seen, &self.truth);
        let said = format!("{output:?}");
        self.say(&said);
        self.obey(id, flight, output);
    }

    fn act<T>(
        &mut self,
        flight: &mut InFlight,
        act: impl FnOnce(&mut Exchange, &mut apikey_jwt_exchange::exchange::Env<'_>) -> T,
    ) -> T {
        let Request {
            id,
            node,
            worker,
            route,
            ..
        } = flight.request;
        let mut with = With {
            now: self.now,
            config: &self.routes[route].config,
            signing_key: &KEY,
            dice: &mut self.dice,
            faults: &self.faults,
            request_id: id,
        };
        self.nodes[node].act((worker, route), &mut with, &mut flight.exchange, act)
    }

    fn obey(&mut self, id: u64, mut flight: InFlight, output: Output) {
        match output {
            Output::Callout { call, timeout_ms } => {
                self.dispatch(id, flight.step, call, timeout_ms);
            }
            Output::Yield {
                wait_ms,
                timeout_ms,
            } => {
                flight.turns += u32::from(wait_ms.is_none());
                flight.waited |= wait_ms.is_some();
                self.wait(id, flight.step, wait_ms, timeout_ms);
            }
            Output::Forward(forward) => {
                let end = forwarded(flight.request.headers(), &forward);
                return self.ended(&flight, &end);
            }
            Output::Pass(why) => {
                let headers = flight.request.headers();
                return self.ended(&flight, &End::Passed { headers, why });
            }
            Output::Reject { rejection, reason } => {
                let body = rejection.body(&id.to_string());
                self.say(&format!("{reason} {body} {:?}", rejection.headers("demo")));
                let reason = reason.to_string();
                return self.ended(&flight, &End::Rejected { rejection, reason });
            }
        }
        self.in_flight.insert(id, flight);
    }

    fn ended(&mut self, flight: &InFlight, end: &End) {
        let request = &flight.request;
        let key_id = flight.exchange.key_id().unwrap_or("-").to_owned();
        self.say(&format!("key_id={key_id}"));
        match end {
            End::Forwarded { source, .. } => {
                let subject = end.token().and_then(|token| self.truth.tokens.get(token));
                let subject = subject
                    .map_or("nobody known", |issued| &issued.subject)
                    .to_owned();
                self.note(format_args!(
                    "#{} goes on as {subject}, {source:?}",
                    request.id
                ));
            }
            other => self.note(format_args!("#{} {}", request.id, brief(other))),
        }
        self.tally.ended(end);
        let route = &self.routes[request.route];
        let node = &self.nodes[request.node];
        let ended = Ended {
            request,
            end,
            config: &route.config,
            realm: route.realm,
            now: self.now,
            node_now: node.now(self.now),
            sent_at: flight.sent_at,
            clock: &node.clock,
            turns: flight.turns,
            waited: flight.waited,
            rounds: flight.rounds,
            calm_since: self.calm_since,
        };
        see(
            &mut self.checkers,
            &mut self.violation,
            &Seen::Ended(&ended),
            &self.truth,
        );
        self.measure(request.node, request.worker);
    }

    /// Shows how much a worker holds, and that it holds nothing for nobody.
    fn measure(&mut self, node: usize, worker: usize) {
        let here =
            |flight: &InFlight| (flight.request.node, flight.request.worker) == (node, worker);
        let idle = !self.in_flight.values().any(here);
        let state = &self.nodes[node].workers[worker];
        let places = state.gate.places();
        for (route, held) in self.routes.iter().zip(&state.routes) {
            let Some(held) = held else {
                continue;
            };
            let worker = held.sizes();
            let seen = Seen::Sizes {
                worker,
                places,
                config: &route.config,
            };
            see(&mut self.checkers, &mut self.violation, &seen, &self.truth);
            if idle {
                let seen = Seen::Idle { worker, places };
                see(&mut self.checkers, &mut self.violation, &seen, &self.truth);
            }
        }
    }

    fn say(&mut self, text: &str) {
        see(
            &mut self.checkers,
            &mut self.violation,
            &Seen::Said(text),
            &self.truth,
        );
    }

    fn hang_up(&mut self, id: u64) {
        if let Some(mut flight) = self.in_flight.remove(&id) {
            self.tally.hung_up += 1;
            self.note(format_args!("#{id} hangs up"));
            self.act(&mut flight, |exchange, env| exchange.abort(env));
            self.measure(flight.request.node, flight.request.worker);
        }
    }

    /// A worker dies, or a whole node, and with it the requests that it holds.
    pub fn crash(&mut self, node: usize, worker: Option<usize>) {
        self.in_flight.retain(|_, flight| {
            let request = &flight.request;
            request.node != node || worker.is_some_and(|worker| request.worker != worker)
        });
        match worker {
            Some(worker) => self.nodes[node].crash(worker),
            None => self.nodes[node].restart(),
        }
    }

    // ---- callouts -------------------------------------------------------------

    fn dispatch(&mut self, id: u64, step: u32, call: Call, timeout_ms: u64) {
        let asks = Asks::of(&call);
        self.note(format_args!("#{id} asks: {}, {timeout_ms} ms", asks.kind()));
        let said = format!("{call:?} {}", call.path);
        self.say(&said);
        let (faults, dice) = (&self.faults, &mut self.dice);
        let mut hits = |fault| faults.hits(fault, dice);
        let [refused, lost, slow, reset] = [
            Fault::CalloutRefused,
            Fault::CalloutLost,
            Fault::CalloutSlow,
            Fault::CalloutReset,
        ]
        .map(&mut hits);
        let way = if slow {
            self.dice.range(timeout_ms / 3, timeout_ms * 5 / 4)
        } else {
            self.dice.range(1, 8)
        };
        let mut fail = |after, why| {
            let fed = Fed::Failed(why);
            self.push(self.now + after, Event::Answer { id, step, fed });
        };
        if refused {
            return fail(0, "the host could not send it");
        }
        fail(timeout_ms, "timed out");
        if reset {
            let after = self.dice.range(1, timeout_ms);
            let fed = Fed::Failed("connection reset");
            self.push(self.now + after, Event::Answer { id, step, fed });
        }
        if !lost {
            self.push(
                self.now + way,
                Event::Arrive {
                    id,
                    step,
                    asks,
                    call,
                },
            );
        }
    }

    /// A callout comes to Keycloak, which answers by what is true at this moment.
    fn arrive(&mut self, id: u64, step: u32, asks: &Asks, call: &Call) {
        let back = self.now + self.dice.range(1, 8);
        let Some(request) = self.request_or_gone(id) else {
            return;
        };
        let at = self.routes[request.route].realm;
        let realm = &mut self.realms[at];
        if self.now < realm.down_until {
            let fed = Fed::Failed("connection refused");
            return self.push(back, Event::Answer { id, step, fed });
        }
        let outlives = self.faults.hits(Fault::TokenOutlivesKey, &mut self.dice);
        realm.keycloak.limits_tokens = !outlives;
        let reply = realm.keycloak.answer(call, UnixMillis(self.now));
        self.tally.called(asks.kind());
        if let Asks::Grant { .. } = asks
            && reply.0 == 200
        {
            self.issue(at, &reply);
        }
        let other = self.last.get(&(at, asks.kind()));
        let with = (&self.faults, &mut self.dice);
        let keycloak = &self.realms[at].keycloak;
        let delivered = deliver(asks, reply.clone(), other, keycloak, with);
        self.tally.poisoned += u32::from(delivered.poison.is_some());
        self.last.insert((at, asks.kind()), (asks.clone(), reply));
        self.note(format_args!(
            "#{id} is answered {}{}",
            delivered.status,
            delivered
                .poison
                .map_or(String::new(), |poison| format!(" with {poison}"))
        ));
        if !self.faults.hits(Fault::AnswerLost, &mut self.dice) {
            let fed = Fed::Answer(delivered);
            self.push(back, Event::Answer { id, step, fed });
        }
    }

    fn request_or_gone(&self, id: u64) -> Option<Request> {
        self.in_flight.get(&id).map(|flight| flight.request.clone())
    }

    /// Notes whose a token is.
    fn issue(&mut self, realm: usize, reply: &Reply) {
        let answer: serde_json::Value = serde_json::from_slice(&reply.1).unwrap();
        let token = answer["access_token"].as_str().unwrap();
        let claims = claims(token);
        let issued = Issued {
            realm,
            subject: claims["sub"].as_str().unwrap().to_owned(),
            exp: claims["exp"].as_u64().unwrap() * 1000,
            life: answer["expires_in"].as_u64().unwrap(),
        };
        self.truth.tokens.insert(token.to_owned(), issued);
    }

    fn wait(&mut self, id: u64, step: u32, wait_ms: Option<u64>, timeout_ms: u64) {
        let failed = self.faults.hits(Fault::YieldFailed, &mut self.dice);
        let slow = self.faults.hits(Fault::YieldSlow, &mut self.dice);
        let late = self.dice.range(1, 8_000);
        let after = wait_ms.unwrap_or(1) + if slow { late } else { 0 };
        self.push(
            self.now + timeout_ms,
            Event::Answer {
                id,
                step,
                fed: Fed::Failed("timed out"),
            },
        );
        let turn = Delivered {
            status: 204,
            body: Some(Vec::new()),
            poison: None,
            rounds: None,
        };
        let full = Delivered {
            status: 503,
            ..turn.clone()
        };
        let fed = Fed::Answer(if failed { full } else { turn });
        self.push(self.now + after, Event::Answer { id, step, fed });
    }

    // ---- the end --------------------------------------------------------------

    /// Ends all faults; after a while every good key must get its token at once.
    fn heal(&mut self) {
        self.note(format_args!("from here on all is well"));
        self.faults = Faults::NONE;
        self.calm_since = Some(self.calm_since.unwrap_or(self.now));
        for realm in &mut self.realms {
            realm.down_until = 0;
            realm.role_back_at = realm.role_back_at.min(self.now);
        }
        for node in &mut self.nodes {
            node.mend_clock(self.now);
        }
        let mut at = self.now + HEALED_MS;
        for key in 0..super::keys::KEYS {
            at += 3_000;
            let node = self.dice.below(self.nodes.len());
            let route = self.dice.below(self.routes.len());
            self.push(at, Event::Probe { node, route, key });
        }
    }

    fn close(&mut self) {
        let reuses = self.realms.iter().map(|realm| realm.keycloak.reuses).sum();
        let seen = Seen::Closed {
            unanswered: self.in_flight.len(),
            reuses,
        };
        see(&mut self.checkers, &mut self.violation, &seen, &self.truth);
        let slots = self
            .routes
            .iter()
            .map(|route| route.config.l2_slots)
            .max()
            .unwrap_or(0);
        for node in &self.nodes {
            for (name, value) in node.data.texts() {
                let (entries, slots_max) = (node.data.len(), 3 * slots as usize);
                let seen = Seen::Shared {
                    entries,
                    slots_max,
                    name,
                    value,
                };
                see(&mut self.checkers, &mut self.violation, &seen, &self.truth);
            }
        }
    }
}

fn see(
    checkers: &mut [Box<dyn Checker>],
    violation: &mut Option<Violation>,
    seen: &Seen<'_>,
    truth: &Truth,
) {
    for checker in checkers {
        if let Err(what) = checker.see(seen, truth)
            && violation.is_none()
        {
            let invariant = checker.invariant();
            *violation = Some(Violation { invariant, what });
        }
    }
}

/// What a shell does with a token: it replaces the header and removes others.
fn forwarded(mut headers: Headers, forward: &Forward) -> End {
    headers.retain(|(name, _)| name != "authorization" && !forward.remove.contains(name));
    let value = forward.authorization.as_bytes().to_vec();
    headers.push(("authorization".to_owned(), value));
    End::Forwarded {
        headers,
        source: forward.source,
    }
}

fn brief(end: &End) -> String {
    match end {
        End::Forwarded { source, .. } => format!("goes on, {source:?}"),
        End::Passed { why, .. } => format!("passes, {why:?}"),
        End::Rejected { rejection, reason } => {
            format!("is refused, {}: {reason}", rejection.code())
        }
    }
}
