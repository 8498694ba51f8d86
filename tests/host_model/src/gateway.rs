//! A gateway: the workers of a node with the filter in each, clients, a Keycloak, and the
//! time, which passes only while this loop waits for an answer.
//!
//! Kong has one machine per worker with a root context for each route; Envoy has a machine for
//! each route and worker. Callouts wait in a queue until [`Gateway::run`] answers them, each
//! as its fate says. When a gateway is dropped, [`super::check`] judges all that happened in
//! it.

use std::cell::RefCell;
use std::rc::Rc;

use apikeys_core::clock::UnixMillis;
use serde_json::{Value, json};

use super::abi::{Action, Pairs, pairs};
use super::check;
use super::flights::{Asked, Caller, Fate, FateOf, Flights};
use super::host::{Answer, ContextState, LocalResponse};
use super::keycloak_adapter::{FakeKeycloak, Keycloaks, User};
use super::keys::SIGNING_KEY;
use super::node::{Node, Profile, Random, SharedNode};
use super::truth::Truth;
use super::vm::{Trapped, Vm};

/// The end of a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It went on to the service, with these headers.
    Forwarded(Pairs),
    /// The filter answered.
    Answered(LocalResponse),
    /// The filter trapped before the request was held: the host answers with an error of its
    /// own.
    Crashed(String),
    /// The filter trapped while it held the request, and the host lets it go on with these
    /// headers and this body. Kong does (K10); for Envoy the model assumes the worst.
    LetGo(Pairs, Vec<u8>),
    /// The client went away.
    HungUp,
}

pub struct Request {
    pub worker: usize,
    pub route: usize,
    pub context: u32,
    /// Its id in the gateway.
    pub id: String,
    pub sent: Pairs,
    pub outcome: Option<Outcome>,
    /// The time of its end.
    pub ended_at: Option<UnixMillis>,
    /// The number of its ends: how often it was forwarded or answered.
    pub ends: u32,
    pub in_flight_max: usize,
}

/// Faults of the filter that a scenario allows.
#[derive(Clone, Copy, Default)]
pub struct Allowed {
    pub traps: bool,
    pub keys_upstream: bool,
}

struct Route {
    configuration: Vec<u8>,
    manages: bool,
}

/// The body of a request.
#[derive(Clone, Default)]
pub struct Body {
    /// On Kong they arrive as one.
    pub chunks: Vec<Vec<u8>>,
    /// Kong's nginx writes it to a file.
    pub in_file: bool,
    /// It never arrives: the client dawdles, or Envoy holds it with the head.
    pub never: bool,
}

impl Body {
    pub fn whole(bytes: &[u8]) -> Self {
        Self {
            chunks: vec![bytes.to_vec()],
            ..Self::default()
        }
    }
}

#[derive(Default)]
struct Worker {
    vms: Vec<Vm>,
    /// For each route: its machine, its root context, and whether the filter accepted it.
    roots: Vec<(usize, u32, bool)>,
}

pub struct Gateway {
    pub node: SharedNode,
    pub keycloaks: Rc<RefCell<Keycloaks>>,
    pub requests: Vec<Request>,
    pub allowed: Allowed,
    pub truth: Truth,
    /// The keys that the management API made.
    pub made: Vec<String>,
    /// The filter stands in the chain twice.
    pub twice: bool,
    /// The filter traps in `on_configure`.
    pub ends_at_start: bool,
    /// Decides the fate of each callout.
    pub fate: FateOf,
    pub flights: Flights,
    profile: Profile,
    routes: Vec<Route>,
    workers: Vec<Worker>,
}

/// A configuration for the realm `demo`, with changes.
pub fn configuration(profile: Profile, changes: &Value) -> Value {
    let (keycloak, turn, key) = match profile {
        Profile::Kong => ("127.0.0.1:9080", "127.0.0.1:9081", "ngx.apikey_signing_key"),
        Profile::Envoy => ("keycloak", "yield", "env.APIKEY_SIGNING_KEY"),
    };
    let mut configuration = json!({
        "keycloak_url": "https://login.example.com",
        "realm": "demo",
        "keycloak_upstream": keycloak,
        "yield_upstream": turn,
        "signing_key_property": key,
    });
    for (field, value) in changes.as_object().into_iter().flatten() {
        configuration[field] = value.clone();
    }
    if changes.get("signing_key").is_some() {
        let fields = configuration.as_object_mut().unwrap();
        fields.remove("signing_key_property");
    }
    configuration
}

pub fn pem() -> String {
    format!("-----BEGIN PRIVATE KEY-----\\n{SIGNING_KEY}\\n-----END PRIVATE KEY-----")
}

impl Gateway {
    /// One worker, one route, the realm `demo` with these users.
    pub fn new(profile: Profile, users: Vec<User>) -> Self {
        Self::with(profile, users, &Value::Null)
    }

    pub fn with(profile: Profile, users: Vec<User>, changes: &Value) -> Self {
        let mut gateway = Self::empty(profile);
        gateway.add_realm("demo", users);
        gateway.add_worker();
        gateway.add_route(&configuration(profile, changes));
        gateway
    }

    /// No worker, no route, no realm.
    pub fn empty(profile: Profile) -> Self {
        let mut node = Node::new(profile);
        for name in ["apikey_signing_key", "APIKEY_SIGNING_KEY"] {
            node.variables.push((name.to_owned(), pem()));
        }
        Self {
            node: Rc::new(RefCell::new(node)),
            keycloaks: Rc::default(),
            requests: Vec::new(),
            allowed: Allowed::default(),
            truth: Truth::default(),
            made: Vec::new(),
            twice: false,
            ends_at_start: false,
            fate: Box::new(|_, _| Fate::Answered),
            flights: Flights::default(),
            profile,
            routes: Vec::new(),
            workers: Vec::new(),
        }
    }

    pub fn add_realm(&mut self, name: &str, users: Vec<User>) {
        self.truth.learn(name, &users);
        let realm = FakeKeycloak::of_realm(name, users);
        self.keycloaks.borrow_mut().realms.push(realm);
    }

    /// Adds a worker with all routes.
    pub fn add_worker(&mut self) -> usize {
        self.workers.push(Worker::default());
        let worker = self.workers.len() - 1;
        for route in 0..self.routes.len() {
            self.configure(worker, route);
        }
        worker
    }

    /// Adds a route; returns its number.
    pub fn add_route(&mut self, configuration: &Value) -> usize {
        self.truth.add_route(configuration);
        let manages = configuration["mode"] == "manage";
        let configuration = configuration.to_string().into_bytes();
        self.routes.push(Route {
            configuration,
            manages,
        });
        let route = self.routes.len() - 1;
        for worker in 0..self.workers.len() {
            self.configure(worker, route);
        }
        route
    }

    fn configure(&mut self, worker: usize, route: usize) {
        let number = self.workers.iter().map(|worker| worker.vms.len()).sum();
        let random = self.random_of(number);
        let worker = &mut self.workers[worker];
        if worker.vms.is_empty() || self.profile == Profile::Envoy {
            worker.vms.push(Vm::start(Rc::clone(&self.node), random));
        }
        let vm = worker.vms.len() - 1;
        if self.ends_at_start {
            // After the callbacks that create and start the context.
            worker.vms[vm].ends_in = Some((worker.vms[vm].callbacks + 3, 1));
        }
        let configured = worker.vms[vm].configure(&self.routes[route].configuration);
        let (root, accepted) = configured.unwrap_or((0, false));
        worker.roots.push((vm, root, accepted));
    }

    /// On Kong all workers may begin with the same state; on Envoy no two machines do.
    fn random_of(&self, number: usize) -> Random {
        match self.node.borrow().random.clone() {
            Random::Seeded(seed) if self.profile == Profile::Envoy => {
                Random::Seeded(seed + 1000 * number as u64)
            }
            random => random,
        }
    }

    /// Ends a worker's machines and starts them anew, with empty memory.
    pub fn restart(&mut self, worker: usize) {
        self.workers[worker] = Worker::default();
        for route in 0..self.routes.len() {
            self.configure(worker, route);
        }
    }

    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// Whether a route belongs to the management API.
    pub fn manages(&self, route: usize) -> bool {
        self.routes[route].manages
    }

    pub fn accepts(&self, route: usize) -> bool {
        self.workers.iter().all(|worker| worker.roots[route].2)
    }

    pub fn vm(&mut self, worker: usize, route: usize) -> &mut Vm {
        let worker = &mut self.workers[worker];
        &mut worker.vms[worker.roots[route].0]
    }

    pub fn vms(&mut self) -> impl Iterator<Item = &mut Vm> {
        self.workers.iter_mut().flat_map(|worker| &mut worker.vms)
    }

    pub fn now(&self) -> UnixMillis {
        self.node.borrow().clock.unwrap_or_default()
    }

    /// Lets time pass; no callout is answered.
    pub fn pass(&mut self, ms: u64) {
        self.flights.time_ms += ms;
        let mut node = self.node.borrow_mut();
        node.clock = node.clock.map(|now| now.plus_ms(ms));
    }

    /// Ticks each root context of a worker.
    pub fn tick(&mut self, worker: usize) {
        for (vm, root, accepted) in self.workers[worker].roots.clone() {
            if accepted {
                // A trap's effects are seen when the gateway is judged.
                let _ = self.workers[worker].vms[vm].tick(root);
                self.take_off_of(worker, root);
            }
        }
    }

    /// Lets time pass, with a tick of each worker every 200 ms, and answers each callout when
    /// its answer is due.
    pub fn pass_ticking(&mut self, ms: u64) {
        let end = self.flights.time_ms + ms;
        while self.flights.time_ms < end {
            let tick = end.min(self.flights.time_ms + 200);
            while self.flights.next_due_ms().is_some_and(|due| due <= tick) {
                self.step();
            }
            self.pass(tick.saturating_sub(self.flights.time_ms));
            for worker in 0..self.workers.len() {
                self.tick(worker);
            }
        }
        self.run();
    }

    /// Collects the callouts that a root context made.
    fn take_off_of(&mut self, worker: usize, context: u32) {
        let caller = Caller::Root { worker, context };
        for vm in &mut self.workers[worker].vms {
            let callouts = vm.host().in_flight.values();
            let callouts = callouts.filter(|callout| callout.context == context);
            let callouts = callouts.map(|callout| (caller, callout.clone())).collect();
            self.flights
                .take_off(callouts, self.profile, &mut self.fate);
        }
    }

    /// Answers a root context's callout.
    fn answer_root(&mut self, worker: usize, context: u32, token: u32, answer: Answer) {
        // None if the worker was restarted since.
        let mut vms = self.workers[worker].vms.iter_mut();
        let waits = |vm: &mut &mut Vm| vm.host().take_callout(token, &answer);
        let vm = vms.by_ref().find_map(|mut vm| waits(&mut vm).then_some(vm));
        if let Some(vm) = vm {
            let _ = vm.call_response(context, token, answer);
            self.take_off_of(worker, context);
        }
    }

    // --- requests ------------------------------------------------------------------

    /// Sends a request to a worker and route, and runs it to its first pause.
    pub fn send(&mut self, worker: usize, route: usize, headers: &Pairs) -> usize {
        self.send_with(worker, route, headers, None)
    }

    /// The same with a body.
    pub fn send_with(
        &mut self,
        worker: usize,
        route: usize,
        headers: &Pairs,
        body: Option<&Body>,
    ) -> usize {
        if self.vm(worker, route).trapped.is_some() {
            self.restart(worker);
        }
        let mut sent = pairs(&[
            (":method", "GET"),
            (":path", "/orders"),
            (":authority", "api.example.com"),
            (":scheme", "http"),
        ]);
        sent.retain(|(name, _)| headers.iter().all(|(given, _)| given != name));
        sent.extend(headers.iter().cloned());
        let request_id = format!("{:032x}", self.node.borrow_mut().next_id());
        let state = ContextState {
            request_id: request_id.clone().into_bytes(),
            request_headers: sent.clone(),
            body_in_file: body.is_some_and(|body| body.in_file),
            ..ContextState::default()
        };
        let index = self.requests.len();
        self.requests.push(Request {
            worker,
            route,
            context: 0,
            id: request_id,
            sent,
            outcome: None,
            ended_at: None,
            ends: 0,
            in_flight_max: 0,
        });
        let (_, root, accepted) = self.workers[worker].roots[route];
        if !accepted {
            // Kong lets each request go on without its filters (K3), and Envoy's listener does
            // not start.
            let outcome = match self.profile {
                Profile::Kong => Outcome::Forwarded(self.requests[index].sent.clone()),
                Profile::Envoy => Outcome::Crashed("not configured".into()),
            };
            self.requests[index].ends = 1;
            self.ended(index, outcome);
            return index;
        }
        let vm = self.vm(worker, route);
        let began = vm.new_request(root, state).and_then(|context| {
            let action = vm.request_headers(context, body.is_some())?;
            Ok((context, action))
        });
        match began {
            Ok((context, action)) => {
                self.requests[index].context = context;
                self.go_on(index, action, body);
            }
            Err(trapped) => self.crashed(index, &trapped),
        }
        index
    }

    /// Delivers a request's body, as each host gives it.
    fn go_on(&mut self, index: usize, action: Action, body: Option<&Body>) {
        let body = body.filter(|body| !body.never);
        let Some(body) = body else {
            return self.settle(index, action);
        };
        if self.profile == Profile::Envoy {
            self.settle(index, action);
            for (at, chunk) in body.chunks.iter().enumerate() {
                self.chunk(index, chunk, at + 1 == body.chunks.len());
            }
            return;
        }
        // Kong reads the whole body once the head may go on, and calls no filter for an empty
        // one.
        let whole = body.chunks.concat();
        if action == Action::Pause || whole.is_empty() {
            return self.settle(index, action);
        }
        self.chunk(index, &whole, true);
    }

    /// Another part of a body arrives, unless its request is over.
    pub fn chunk(&mut self, index: usize, bytes: &[u8], last: bool) {
        let Request {
            worker,
            route,
            context,
            ..
        } = self.requests[index];
        if self.requests[index].outcome.is_some() {
            return;
        }
        match self.vm(worker, route).request_body(context, bytes, last) {
            Ok(action) => self.settle(index, action),
            Err(trapped) => self.crashed(index, &trapped),
        }
    }

    /// The same on the first worker and route, with a key.
    pub fn send_key(&mut self, key: &str) -> usize {
        self.send(0, 0, &pairs(&[("x-api-key", key)]))
    }

    /// Sends a key to a worker and runs the request to its end.
    pub fn ask_worker(&mut self, worker: usize, key: &str) -> Outcome {
        let index = self.send(worker, 0, &pairs(&[("x-api-key", key)]));
        self.finish(index)
    }

    pub fn ask(&mut self, key: &str) -> Outcome {
        self.ask_worker(0, key)
    }

    pub fn ask_with(&mut self, headers: &[(&str, &str)]) -> Outcome {
        let index = self.send(0, 0, &pairs(headers));
        self.finish(index)
    }

    /// Sends a key to a full worker; nothing else goes on.
    pub fn ask_full(&mut self, key: &str) {
        let index = self.send_key(key);
        let outcome = self.requests[index].outcome.clone();
        outcome
            .expect("an answer at once")
            .expect_refusal(503, "overloaded");
    }

    /// Answers callouts until none is left.
    pub fn run(&mut self) {
        for _ in 0..1_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the gateway does not come to rest");
    }

    pub fn finish(&mut self, request: usize) -> Outcome {
        self.run();
        let outcome = self.requests[request].outcome.clone();
        outcome.expect("an answer to the request")
    }

    /// Answers the next callout that is due; false if there is none.
    pub fn step(&mut self) -> bool {
        let Some((caller, callout, fate)) = self.flights.next() else {
            return false;
        };
        let late_ms = callout.due_ms.saturating_sub(self.flights.time_ms);
        self.pass(late_ms);
        let now = self.now();
        let answer = {
            let keycloaks = &mut self.keycloaks.borrow_mut();
            fate.answer(&callout.sent, self.profile, now, keycloaks)
        };
        let index = match caller {
            Caller::Request(index) => index,
            Caller::Root { worker, context } => {
                self.answer_root(worker, context, callout.token, answer);
                return true;
            }
        };
        let Request {
            worker,
            route,
            context,
            ..
        } = self.requests[index];
        let goes_on = self.node.borrow().goes_on_after_failures();
        let vm = self.vm(worker, route);
        // Cancelled, by a local response or by the end of the request.
        if !vm.host().take_callout(callout.token, &answer) {
            return true;
        }
        if goes_on && matches!(answer, Answer::Failed(_)) {
            self.let_go(index);
            return true;
        }
        match vm.call_response(context, callout.token, answer) {
            Ok(()) => {
                self.go_on_after_an_answer(index);
                self.settle(index, Action::Pause);
            }
            Err(trapped) => self.crashed(index, &trapped),
        }
        true
    }

    /// After an answer to a held request, Kong goes on to the next filter of the chain (K13).
    fn go_on_after_an_answer(&mut self, index: usize) {
        let Request {
            worker,
            route,
            context,
            ..
        } = self.requests[index];
        let root = self.workers[worker].roots[route].1;
        let goes_on = self.twice && self.profile == Profile::Kong;
        let vm = self.vm(worker, route);
        let state = &vm.host().contexts[&context];
        if !goes_on || state.local_responses.is_empty() {
            return;
        }
        let next = ContextState {
            request_id: state.request_id.clone(),
            request_headers: state.request_headers.clone(),
            ..ContextState::default()
        };
        // A trap is seen when the gateway is judged.
        if let Ok(next) = vm.new_request(root, next)
            && vm.request_headers(next, false) == Ok(Action::Continue)
        {
            vm.end_request(next).expect("an end");
        }
    }

    /// The client goes away.
    pub fn hang_up(&mut self, request: usize) {
        assert!(self.requests[request].outcome.is_none(), "it is over");
        self.requests[request].ends += 1;
        self.end(request, Outcome::HungUp);
    }

    /// Collects the effects of a callback.
    fn settle(&mut self, index: usize, action: Action) {
        let Request {
            worker,
            route,
            context,
            ..
        } = self.requests[index];
        let host = self.vm(worker, route).host();
        let callouts = host.in_flight.values();
        let callouts = callouts.filter(|callout| callout.context == context);
        let caller = Caller::Request(index);
        let callouts = callouts.map(|callout| (caller, callout.clone())).collect();
        let headers = host.headers_to_service(context);
        let state = &host.contexts[&context];
        let resumed = state.resumed;
        let (answers, in_flight_max) = (state.local_responses.clone(), state.in_flight_max);
        let goes_on = u32::from(action == Action::Continue);
        let request = &mut self.requests[index];
        request.in_flight_max = in_flight_max;
        request.ends = goes_on + resumed + u32::try_from(answers.len()).unwrap();
        self.flights
            .take_off(callouts, self.profile, &mut self.fate);
        match answers.into_iter().next() {
            Some(answer) => self.end(index, Outcome::Answered(answer)),
            None if goes_on + resumed > 0 => self.end(index, Outcome::Forwarded(headers)),
            None => {}
        }
    }

    fn end(&mut self, index: usize, outcome: Outcome) {
        let Request {
            worker,
            route,
            context,
            ..
        } = self.requests[index];
        self.ended(index, outcome);
        let vm = self.vm(worker, route);
        let ended = vm.end_request(context);
        vm.host().contexts.remove(&context);
        if let Err(trapped) = ended {
            self.crashed(index, &trapped);
        }
    }

    fn ended(&mut self, index: usize, outcome: Outcome) {
        if let Outcome::Answered(answer) = &outcome
            && answer.status == 201
        {
            self.learn_made(answer);
        }
        let now = self.now();
        let request = &mut self.requests[index];
        request.outcome = Some(outcome);
        request.ended_at = Some(now);
    }

    /// A key was made: learns its owner from Keycloak.
    fn learn_made(&mut self, answer: &LocalResponse) {
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        self.made.push(body["api_key"].as_str().unwrap().to_owned());
        for realm in &self.keycloaks.borrow().realms {
            self.truth.learn(&realm.realm, &realm.users);
        }
    }

    /// A held request goes on as it stands, and the filter is not called again.
    fn let_go(&mut self, index: usize) {
        let Request {
            worker,
            route,
            context,
            ..
        } = self.requests[index];
        let host = self.vm(worker, route).host();
        let headers = host.headers_to_service(context);
        let body = host.contexts[&context].request_body.clone();
        self.requests[index].ends = 1;
        self.ended(index, Outcome::LetGo(headers, body));
    }

    /// A trap ends the machine. If the trap came while a request was read, that request gets
    /// an error; the host lets held requests go on.
    fn crashed(&mut self, index: usize, trapped: &Trapped) {
        let (worker, route) = (self.requests[index].worker, self.requests[index].route);
        let vm = self.workers[worker].roots[route].0;
        for other in 0..self.requests.len() {
            let request = &self.requests[other];
            let shares = request.worker == worker
                && self.workers[worker].roots[request.route].0 == vm
                && request.outcome.is_none();
            if other == index && !trapped.0.starts_with("proxy_on_http_call_response") {
                self.requests[other].ends = 1;
                self.ended(other, Outcome::Crashed(trapped.0.clone()));
            } else if shares {
                self.let_go(other);
            }
        }
    }

    // --- views for tests --------------------------------------------------------------

    pub fn count(&self, asked: Asked) -> usize {
        self.flights.count(asked)
    }

    pub fn logged(&self, text: &str) -> bool {
        !self.lines(text).is_empty()
    }

    /// The lines of the log that have this text.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let node = self.node.borrow();
        let lines = node.logs.iter().filter(|line| line.contains(text));
        lines.cloned().collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            check::judge(self);
        }
    }
}
